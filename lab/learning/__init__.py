"""What few answers tell of a person, on real sets and on simulated people."""
