"""``python -m suture``."""

from suture.cli import main

main()
