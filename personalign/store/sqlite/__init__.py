"""A store in one SQLite file. Read ``connections``; ``database`` says which traps there are."""
