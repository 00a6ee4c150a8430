"""The bundled model: the scripts that made it, and under ``tiny/`` its weights and its basis."""
