"""A store in one SQLite file. Read ``place``, then ``connections``; ``database`` says which traps there are."""
