"""Law 8: help is where people look for it, and a mistake is answered with what was probably meant."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from suture.cli import VERBS, cli
from suture.cli.text.predict import predict


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line, as a user starts it."""
    command = [sys.executable, "-m", "suture", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_is_its_own(verb: str) -> None:
    """`suture help VERB` prints what `suture VERB --help` does."""
    done = run("help", verb)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run(verb, "--help").stdout


def test_help_alone_is_the_overview() -> None:
    """`suture help` prints what `suture --help` does."""
    assert run("help").stdout == run("--help").stdout


def test_help_lines_are_whole() -> None:
    """What a group says of its verbs fits a line, and is not cut off with dots."""
    command: click.Command | None
    with click.Context(cli) as context:
        groups = [(verb, cli.get_command(context, verb)) for verb in VERBS]
        groups += [("text predict", predict)]
    for name, command in groups:
        if isinstance(command, click.Group):
            shown = CliRunner().invoke(command, ["--help"]).output
            assert not re.search(r"^  .*\.\.\.$", shown.partition("Commands:")[2], re.MULTILINE), name


def test_the_manual_has_every_verb_and_option() -> None:
    """`suture help --man` is made of what the verbs say, and is the same each time: it has no date."""
    page = run("help", "--man")
    assert (page.returncode, page.stderr) == (0, "")
    assert page.stdout == run("help", "--man").stdout
    text = page.stdout.replace(r"\-", "-")
    for verb in VERBS:
        assert f".SS suture {verb}\n" in text
        for option in re.findall(r"^  (?:-\w, )?(--[\w-]+)", run(verb, "--help").stdout, re.MULTILINE):
            assert option == "--help" or re.search(rf"^\\fB.*{option}\b", text, re.MULTILINE), (verb, option)
    for title in ("NAME", "SYNOPSIS", "EXIT STATUS", "ENVIRONMENT"):
        assert f".SH {title}\n" in text


def test_the_manual_is_good_roff() -> None:
    """groff has nothing to complain of, and its words are those of the help."""
    if not shutil.which("groff"):
        pytest.skip("groff is not installed")
    page = run("help", "--man").stdout
    call = ["groff", "-man", "-ww", "-Tutf8", "-P-cbou"]
    done = subprocess.run(call, input=page, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert "suture swap --into math --from swahili merged --bottom 5 --top 2" in done.stdout
    assert "`suture methods`" in done.stdout


MEANT = [
    (["marge"], "unknown verb `marge`; did you mean `merge`?"),
    (["SWAP"], "unknown verb `SWAP`; did you mean `swap`?"),
    (["zzz"], "unknown verb `zzz`; `suture --help` lists them"),
    (["help", "inspcet"], "unknown verb `inspcet`; did you mean `inspect`?"),
    (["help", "merge", "--man"], "--man is of all verbs; give no VERB beside it"),
    (["methods", "tise"], "unknown method `tise`; did you mean `ties`?"),
    (["methods", "zzz"], "unknown method `zzz`; `suture methods` lists them"),
    (
        ["diff", "a", "b", "--metric", "relativel2"],
        "--metric: unknown metric `relativel2`; did you mean `relative_l2`?",
    ),
    (["diff", "a", "b", "--sort", "cosin"], "--sort: unknown metric `cosin`; did you mean `cosine`?"),
    (["diff", "a", "b", "--metric", "zzz"], "--metric: unknown metric `zzz`; expected one of `mean_abs`, "),
    (["diff", "a", "b", "--metric", "gini"], "--metric: `gini` is not there by layer and module at once; "),
    (["diff", "a", "b", "--sort", "gini"], "--sort: `gini` needs --spread"),
    (["diff", "a", "b", "--metrc", "l2"], "unknown option `--metrc`; did you mean `--metric`?"),
    (["diff", "a", "b", "--by", "size"], "invalid value for `--by`: `size` is not one of `layer`, "),
    (["diff", "a", "b", "--background", "red"], "invalid value for `--background`"),
    (["inspect", "a", "--zzz"], "unknown option `--zzz`; see `suture inspect --help`"),
    (["inspect", "a", "b c"], "unexpected argument `b c`; see `suture inspect --help`"),
    (["merge"], "missing argument `CONFIG`; see `suture merge --help`"),
    (["swap", "out"], "missing option `--into`; see `suture swap --help`"),
    (["swap", "--into", "a", "--from", "b", "--bottom", "x", "o"], "invalid value for `--bottom`: `x` is not a valid "),
    (["swap", "--into"], "option `--into` requires an argument"),
    (["swap", "--into", "a", "--from", "b", "--from", "c", "o"], "--from: expected DONOR=LAYERS for each of several "),
    (["swap", "--into", "a", "--from", "b=0", "--from", "b=1", "o"], "--from: `b` is given twice; "),
    (["swap", "--into", "a", "--from", "b", "o", "--auto", "x", "--base", "y"], "--base `y` and --auto `x` name two "),
    (["merge", "c", "o", "--out-shard-size", "much"], "--out-shard-size: expected a size such as"),
]


@pytest.mark.parametrize(("arguments", "said"), MEANT, ids=[" ".join(a) for a, _ in MEANT])
def test_a_mistake_is_answered(arguments: list[str], said: str, tmp_path: Path) -> None:
    """Exit code 2 and a line: what is wrong, in backticks, and what was meant or where to look; no full stop."""
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {said}")
    message = line.removeprefix("error: ")
    assert message[0].islower() or message.startswith("--")
    assert not message.endswith(".")
    assert not re.search(r"(?<!\w)'", message)
