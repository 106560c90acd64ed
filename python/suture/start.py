"""Where the command begins: Ctrl-C while it still loads is an interruption as any other."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit."""
    try:
        from suture.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()
