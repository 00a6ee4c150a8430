"""What steering gains people, and how far it moves the model."""
