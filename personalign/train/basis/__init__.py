"""Make a basis: ``build.py`` from prompts, ``fit.py`` from a log of many people's answers."""
