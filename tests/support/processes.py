"""Programs that are started to be interrupted."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence


def start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """A program in the background that hears SIGINT, even where the shell around these tests ignores it."""
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
