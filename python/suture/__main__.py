"""``python -m suture``."""

from suture.start import main

main()
