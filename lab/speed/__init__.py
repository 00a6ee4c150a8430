"""How fast replies are written, side by side with the same work done otherwise."""
