"""The laboratory: what measures speed, quality and learning, what is under trial, and what made the zoo."""
