"""``python -m personalign.cli`` is the command ``personalign``."""

from personalign.cli import main

main()
