"""A store in a PostgreSQL database, which several machines may share. Read ``connections``."""
