"""Tune a domain expert: ``train.py`` is the entrance."""
