"""Law 8: the heat map can be read on any terminal: its columns told apart, what changed most standing out."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from suture.render.names import cut, endings, heads
from suture.render.terminal import dark

from ..support.checkpoints import write_checkpoint
from ..support.terminal import lines, shown

TWINS = [
    "self_attn.q_proj", "cross_attn.q_proj", "a_very_long_name_of_a_module_that_ends_in_one",
    "a_very_long_name_of_a_module_that_ends_in_two", "input_layernorm", "in_norm", "z" * 70 + "1", "z" * 70 + "2",
]  # fmt: skip
#: Brightness of the colours of text and paper that a style sets.
PAPER = re.compile(r"48;2;(\d+);(\d+);(\d+)m\s*(-?\d+)")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base, and a fine-tune whose modules are changed by more and more."""
    root = tmp_path_factory.mktemp("models")
    names = [f"model.layers.{n}.{m}.weight" for n in range(2) for m in TWINS]
    base = {name: np.ones((4, 4), np.float32) for name in names}
    tuned = {name: np.full((4, 4), 1 + (i + 1) / 100, np.float32) for i, name in enumerate(names)}
    return [write_checkpoint(root / "base", base), write_checkpoint(root / "tuned", tuned)]


def columns_of(text: list[str]) -> list[str]:
    """The names over the columns of every block, each joined from its lines."""
    found = []
    for at in (n for n, line in enumerate(text) if line.startswith("  layer ")):
        end = next(n for n in range(at + 1, len(text)) if not text[n].startswith(" " * 8))
        row = text[end]
        count = len(re.findall(r"\d+", row)) - 1
        width = (len(row) - 8 + 1) // count - 1
        spans = [(8 + i * (width + 1), 8 + i * (width + 1) + width) for i in range(count)]
        found += ["".join(line[a:b].strip() for line in text[at:end]) for a, b in spans]
    return found


@pytest.mark.parametrize("columns", [40, 80, 120, 200, None])
def test_columns_are_told_apart(columns: int | None, models: list[Path]) -> None:
    """No two columns have the same head: a head is a whole name, over several lines, or a mark that is told below."""
    command = [sys.executable, "-m", "suture", "diff", *map(str, models)]
    if columns is None:
        text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    else:
        text = lines(shown("diff", *models, columns=columns))
        assert max(len(line) for line in text if "/" not in line) <= columns
    whole = re.sub(r"\s", "", "".join(text))
    seen = columns_of(text)
    assert len(set(seen)) == len(seen) == len(TWINS)
    assert set(seen) >= {"self_attn.q_proj", "cross_attn.q_proj", "input_layernorm", "in_norm"}
    for name in TWINS:
        assert name in seen or name in whole, name
    marks = [name for name in seen if name not in TWINS]
    assert all(re.fullmatch(r"\(\d\)", mark) and whole.count(mark) > 1 for mark in marks)


def brightness(text: str) -> list[tuple[int, int]]:
    """Every cell as its figure and the brightness of its paper, the smallest figure first."""
    return sorted((int(n), int(r) + int(g) + int(b)) for r, g, b, n in PAPER.findall(text))


@pytest.mark.parametrize(
    ("options", "env", "is_dark"),
    [
        ([], {}, True),
        ([], {"COLORFGBG": "15;0"}, True),
        ([], {"COLORFGBG": "0;15"}, False),
        ([], {"COLORFGBG": "0;default;7"}, False),
        ([], {"COLORFGBG": "15;default"}, True),
        ([], {"SUTURE_BACKGROUND": "light", "COLORFGBG": "15;0"}, False),
        (["--background", "dark"], {"SUTURE_BACKGROUND": "light"}, True),
        (["--background", "light"], {}, False),
    ],
    ids=str,
)
def test_most_change_stands_out(options: list[str], env: dict[str, str], is_dark: bool, models: list[Path]) -> None:
    """Brightest on a dark terminal, darkest on a light one; option goes before variable, that before a guess."""
    told = brightness(shown("diff", *models, *options, env={"COLORTERM": "truecolor", **env}))
    assert len(told) == 2 * len(TWINS)
    assert told[0][0] < 10
    assert told[-1][0] == 100
    papers = [paper for _, paper in told]
    assert papers == sorted(papers, reverse=not is_dark)
    assert len(set(papers)) > 5


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": "xterm"}], ids=str)
def test_without_colours_there_is_a_legend(env: dict[str, str], models: list[Path]) -> None:
    """A character stands for the shade, and a legend says for what: every figure has the one the legend gives it."""
    text = " ".join(" ".join(lines(shown("diff", *models, columns=200, env=env))).split())
    legend = re.search(r"shades: (.*) percent of the largest", text)
    assert legend
    starts = [(int(n), shade) for shade, n in re.findall(r"(\S) from (\d+)", legend[1])]
    cells = re.findall(r"(?<= )(\d+) ([.:\-=+*#@])(?= )", text[: legend.start()])
    assert len(cells) > len(TWINS)
    for figure, shade in cells:
        assert max((start, s) for start, s in starts if start <= int(figure))[1] == shade
    assert "48;" not in shown("diff", *models, env=env)


def test_with_colours_there_is_none(models: list[Path]) -> None:
    """Where colours tell it, nothing else has to."""
    assert "shades" not in shown("diff", *models)


def test_a_change_with_a_sign(models: list[Path], tmp_path: Path) -> None:
    """A figure of either sign is coloured by its size and says its sign; what is infinite is told."""
    names = [f"model.layers.0.m{i}.weight" for i in range(3)]
    base = {name: np.full((4, 4), float(i), np.float32) for i, name in enumerate(names)}
    tuned = {name: base[name] + np.float32((-1) ** i * (i + 1)) for i, name in enumerate(names)}
    pair = [write_checkpoint(tmp_path / "a", base), write_checkpoint(tmp_path / "b", tuned)]
    command = [sys.executable, "-m", "suture", "diff", *map(str, pair)]
    runs = [
        subprocess.run([*command, *more], capture_output=True, text=True, timeout=60, check=True).stdout
        for more in (["--metric", "mean"], [])
    ]
    assert re.search(r"^ +0 +33 : +-67 \* +100 @$", runs[0], re.MULTILINE)
    assert re.search(r"^ +0 +inf @ +100 @ +75 \*$", runs[1], re.MULTILINE)


def test_what_terminals_say_of_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 16 colours of COLORFGBG, and what is none."""
    light = {"7", "9", "10", "11", "12", "13", "14", "15"}
    for colour in [*map(str, range(16)), "default", "", "x", "99"]:
        monkeypatch.setenv("COLORFGBG", f"0;{colour}")
        assert dark(None) == (colour not in light)
    monkeypatch.delenv("COLORFGBG")
    assert dark(None)


def test_short_names_stay_different() -> None:
    """However much is left out of them."""
    names = [
        f"{a}.{b}" for a, b in itertools.product("xy", ("q" * 40 + "1", "q" * 40 + "2", "q" * 39 + "r" + "q", "v"))
    ]
    for short in (endings(names), heads(names), *(cut(endings(names), n) for n in (8, 12, 24))):
        assert len(set(short.values())) == len(names)
    assert max(map(len, cut(endings(names), 12).values())) <= 12
    assert heads(["a.input_layernorm", "a.in_norm"]) == {"a.input_layernorm": "input_layernorm", "a.in_norm": "in_norm"}
    assert heads(["a.input_layernorm", "a.b"])["a.input_layernorm"] == "in_norm"
