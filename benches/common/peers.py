"""The tools that suture is compared with, each in an environment of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from common.places import HERE, say
from common.processes import Workplace

MERGEKIT_FLAGS = "--no-copy-tokenizer --no-write-model-card --quiet"
#: A peer's command, the folder of its environment and what is installed there.
PEERS = {
    "mergekit-yaml": ("venv", ("-r", str(HERE / "peers.txt"))),
    "mergelens": ("lens", ("mergelens==2.0.3",)),
}


def beside_python(name: str) -> str | None:
    candidate = Path(sys.executable).parent / name
    return str(candidate) if candidate.exists() else shutil.which(name)


def peer_command(place: Workplace, given: Path | None, peer: str = "mergekit-yaml") -> str:
    """A peer's command from an environment of its own; made once, from its requirements, unless a command is given."""
    if given:
        return str(given.absolute())
    folder, wanted = PEERS[peer]
    venv = place.folder("peers") / folder
    command = venv / "bin" / peer
    if not command.exists():
        say(f"installing {peer} (large: it brings torch)")
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(venv / "bin" / "pip"), "install", "-q", *wanted], check=True)
    return str(command)
