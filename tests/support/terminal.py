"""The command line on a terminal of its own, as wide as wanted."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path

_STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


# The bar hides the cursor first, and shows it again when it has wiped itself away.
_BAR = re.compile(r"\x1b\[\?25l.*?\x1b\[\?25h(\r?\x1b\[1A\x1b\[2K)*", re.DOTALL)


def run(*arguments: str | Path, columns: int = 80, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """The exit code of a call, and everything that it shows on stdout and stderr."""
    ours, theirs = pty.openpty()
    unset = ("NO_COLOR", "COLORFGBG", "SUTURE_BACKGROUND", "COLORTERM")
    clean = {name: value for name, value in os.environ.items() if name not in unset}
    clean |= {"TERM": "xterm-256color", "COLUMNS": str(columns), **(env or {})}
    command = [sys.executable, "-m", "suture", *map(str, arguments)]
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=clean)
    os.close(theirs)
    seen = bytearray()
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux says EIO where the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    return child.wait(timeout=120), seen.decode()


def shown(*arguments: str | Path, columns: int = 80, env: Mapping[str, str] | None = None) -> str:
    """Everything that a call shows, colours and all; the progress bar is left out."""
    return _BAR.sub("", run(*arguments, columns=columns, env=env)[1].replace("\r\n", "\n"))


def lines(text: str) -> list[str]:
    """The lines, without their colours."""
    return _STYLE.sub("", text).splitlines()


def cells(text: str) -> int:
    """The columns that a text takes."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.category(c) in ("Mn", "Me") for c in text)
