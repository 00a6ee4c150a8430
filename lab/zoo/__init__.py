"""The scripts that made the bundled model, its expert and its basis."""
