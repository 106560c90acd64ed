"""Law 9: the README's line makes each shell complete verbs, options, values and paths; tried in the real shells."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
#: What is typed, and what stands there once the shell has completed it.
TYPED = {
    "suture insp": "suture inspect",
    "suture help rev": "suture help revert",
    "suture methods task_ari": "suture methods task_arithmetic",
    "suture diff a b --met": "suture diff a b --metric",
    "suture diff a b --metric relative_l": "suture diff a b --metric relative_l2",
    "suture diff a b --sort gi": "suture diff a b --sort gini",
    "suture diff a b --by neu": "suture diff a b --by neuron",
    "suture swap --non-layer mea": "suture swap --non-layer mean",
    "suture merge c.yml out --dtype bfl": "suture merge c.yml out --dtype bfloat16",
    "suture inspect my-mod": "suture inspect my-model",
    "suture diff my-model my-oth": "suture diff my-model my-other",
    "suture swap --into my-model --from my-oth": "suture swap --into my-model --from my-other",
    "suture swap --into my-model --from my-other out --auto my-b": "suture swap --into my-model --from my-other out "
    "--auto my-base",
    "suture diff my-model my-other --html rep": "suture diff my-model my-other --html report.html",
}


def line(shell: str) -> str:
    """The README's line for this shell, as it stands there."""
    found = re.search(rf"^    (.+?) +# {shell}$", README, re.MULTILINE)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models in it, and `suture` on the way to programs."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("my-model", "my-other", "my-base", "bin", "home"):
        (folder / name).mkdir()
    (folder / "report.html").touch()
    program = folder / "bin" / "suture"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m suture "$@"\n')
    program.chmod(0o755)
    return folder


def environment(place: Path) -> dict[str, str]:
    home = str(place / "home")
    kept = {name: value for name, value in os.environ.items() if name not in ("PROMPT_COMMAND", "ENV", "BASH_ENV")}
    return kept | {
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "HOME": home,
        "ZDOTDIR": home,
        "XDG_CONFIG_HOME": home,
        "TERM": "xterm",
        "PS1": "> ",
    }


class Shell:
    """A shell on a terminal of its own."""

    def __init__(self, command: list[str], place: Path) -> None:
        self.ours, theirs = pty.openpty()
        options = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "cwd": place, "env": environment(place)}
        self.process = subprocess.Popen(command, start_new_session=True, **options)  # type: ignore[call-overload]
        os.close(theirs)
        self.seen = ""

    def type(self, text: str) -> None:
        """Press these keys."""
        self.seen = ""
        os.write(self.ours, text.encode())

    def wait_for(self, pattern: str, seconds: float = 30) -> bool:
        """Read what the shell shows until it has this, without what moves the cursor."""
        end = time.monotonic() + seconds
        while not re.search(pattern, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r|\x07", "", self.seen)):
            if time.monotonic() > end:
                return False
            if select.select([self.ours], [], [], 0.2)[0]:
                self.seen += os.read(self.ours, 65536).decode(errors="replace")
        return True

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


@pytest.mark.parametrize(("shell", "command"), [("bash", ["--norc", "--noprofile", "-i"]), ("zsh", ["-f", "-i"])])
def test_the_line_of_the_readme_completes(shell: str, command: list[str], place: Path) -> None:
    """What is typed is completed at the press of a key."""
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    terminal = Shell([shell, *command], place)
    try:
        terminal.type(f"{line(shell)}\necho rea''dy\n")
        assert terminal.wait_for(r"\nready"), terminal.seen
        for typed, completed in TYPED.items():
            terminal.type(f"{typed}\t")
            assert terminal.wait_for(re.escape(completed)), (typed, terminal.seen)
            terminal.type("\x15")  # the line is deleted
    finally:
        terminal.close()


def test_the_line_of_the_readme_completes_in_fish(place: Path) -> None:
    """The same, by the command with which fish tells what it would complete."""
    if not shutil.which("fish"):
        pytest.skip("fish is not installed")
    asked = "; ".join(f"echo '= {typed}'; complete -C '{typed}'" for typed in TYPED)
    command = ["fish", "--no-config", "-c", f"{line('fish')}; {asked}"]
    done = subprocess.run(
        command, cwd=place, env=environment(place), capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    offered = {part.split("\n")[0]: part.split("\n")[1:] for part in done.stdout.removeprefix("= ").split("\n= ")}
    for typed, completed in TYPED.items():
        last = completed.rpartition(" ")[2]
        assert any(word.partition("\t")[0].startswith(last) for word in offered[typed]), (typed, offered[typed])
