"""What our speed is measured against: each method as a straightforward program does it, and nothing more."""
