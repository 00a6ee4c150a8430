"""The demonstration: two simulated people of opposite tastes, onboarded and answered. ``run.py`` is the entrance."""
