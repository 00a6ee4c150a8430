"""Measurements of speed and quality; each prints one JSON object last."""
