"""Law 8: what a verb shows fits the terminal, whatever names and however many models; no number is ever cut."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ..support.checkpoints import Tensor, write_checkpoint, write_json
from ..support.terminal import cells, lines, shown

HOSTILE = "\x1b[2J\u202e" + "猫" * 20 + "e\u0301" * 10
LONG = "a_module_with_a_name_of_a_kind_that_nobody_would_have_thought_of_but_somebody_did"
MODULES = [
    "self_attn.q_proj", "self_attn.k_proj", "cross_attn.q_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    "input_layernorm", "post_attention_layernorm", f"{LONG}.first", f"{LONG}.second", HOSTILE, "x" * 150,
    *(f"experts_of_a_mixture.projection_number_{i}" for i in range(6)),
]  # fmt: skip
WIDTHS = (40, 80, 120, 200)


def tensors(seed: int) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    names = [f"model.layers.{n}.{m}.weight" for n in range(3) for m in MODULES]
    names += ["model.embed_tokens.weight", f"model.{LONG}.{LONG}.weight", f"{HOSTILE}.weight"]
    base = np.random.default_rng(0)
    return {
        name: (base.normal(size=(8, 8)) + rng.normal(size=(8, 8)) * 10.0 ** -(i % 9)).astype(np.float32)
        for i, name in enumerate(names)
    }


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and five fine-tunes, of long names too."""
    root = tmp_path_factory.mktemp("m")
    config = {"model_type": "llama", "num_hidden_layers": 3, "hidden_size": 8, "num_attention_heads": 2}
    names = ["base", "one", "two", f"a-fine-tune-{'of-a-fine-tune-' * 5}", "four", "five"]
    return [write_checkpoint(root / name, tensors(i), config=config) for i, name in enumerate(names)]


@pytest.fixture(scope="module")
def calls(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str | Path]]:
    """Every verb, with what it shows people."""
    place = tmp_path_factory.mktemp("p")
    base, one, two, *_ = models
    config = place / "c.yml"
    listed = [{"model": str(m), "parameters": {"weight": 0.5}} for m in models[1:]]
    write_json(config, {"merge_method": "task_arithmetic", "base_model": str(base), "models": listed})
    diff: list[str | Path] = ["diff", base, one]
    again = "--overwrite"
    return {
        "inspect": ["inspect", base, "--tensors", "--stats"],
        "heat map": ["diff", *models],
        "by layer": [*diff, "--by", "layer", "--spread"],
        "by module": [*diff, "--by", "module"],
        "by tensor": [*diff, "--by", "tensor", "--spread", "--sort", "rms"],
        "several": ["diff", *models, "--by", "layer", "--spread"],
        "swap": ["swap", "--into", one, "--from", two, place / "s", "--bottom", "1", "--transition", "1", again],
        "swap dry": ["swap", "--into", one, "--from", two, place / "t", "--auto", base, "--dry-run"],
        "revert": ["revert", base, one, place / "r", "--layers", "1", again],
        "convert": ["convert", one, place / "c", again],
        "merge": ["merge", config, place / "m", again],
        "merge dry": ["merge", config, place / "n", "--dry-run", "--verbose"],
        "verify": ["verify", place / "s"],
        "methods": ["methods"],
        "method": ["methods", "ties"],
        "demo": ["demo", place / "demo"],
        "help": ["help", "swap"],
    }


NAMES = (
    "inspect", "heat map", "by layer", "by module", "by tensor", "several", "swap", "swap dry", "revert", "convert",
    "merge", "merge dry", "verify", "methods", "method", "demo", "help",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_lines_fit(name: str, calls: dict[str, list[str | Path]]) -> None:
    """No line is wider than the terminal, unless it is one word, such as a path: that stays whole, to be copied."""
    # The demo takes seconds; click lays out help for 50 columns at least; a method's example is a config, to be copied.
    for columns in {"demo": (80,), "help": WIDTHS[1:], "method": WIDTHS[1:]}.get(name, WIDTHS):
        found = lines(shown(*calls[name], columns=columns))
        assert found
        assert not any("Traceback" in line or "\N{HORIZONTAL ELLIPSIS}" in line for line in found)
        wide = [line for line in found if cells(line.rstrip()) > columns and len(line.split()) > 1]
        assert not wide, (columns, wide[:3])


@pytest.mark.parametrize("name", ["inspect", "by layer", "by module", "by tensor", "several"])
def test_numbers_are_never_cut(name: str, calls: dict[str, list[str | Path]]) -> None:
    """Every figure of a narrow table is one of the whole table, which a pipe gets."""
    command = [sys.executable, "-m", "suture", *map(str, calls[name])]
    whole = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    figures = set(re.findall(r"(?<=  )-?\d[\d.e+-]*(?= |$)", whole, re.MULTILINE))
    for columns in WIDTHS:
        text = "\n".join(line.rstrip() for line in lines(shown(*calls[name], columns=columns)))
        table = text.split("too narrow")[0]
        narrow = set(re.findall(r"(?<=  )-?\d+\.\d[\d.e+-]*(?= |$)", table, re.MULTILINE))
        assert narrow <= figures, narrow - figures
        assert len(narrow) > (2 if columns >= 80 else 0)


@pytest.mark.parametrize("name", ["inspect", "by layer", "by tensor"])
def test_columns_left_out_are_named(name: str, calls: dict[str, list[str | Path]]) -> None:
    """A wider terminal shows more columns; what a narrow one lacks is said, and where it is."""
    heads = []
    for columns in WIDTHS:
        text = "\n".join(lines(shown(*calls[name], columns=columns)))
        told = re.search(r"^too narrow for (.*?);\s[-\w\s]+\sall$", text, re.MULTILINE | re.DOTALL)
        heads.append(len(told[1].split(",")) if told else 0)
    assert heads == sorted(heads, reverse=True)
    assert heads[0] > heads[-1]


def test_what_is_sorted_by_is_shown(calls: dict[str, list[str | Path]]) -> None:
    """However narrow: a table sorted by a figure has the figure."""
    text = "\n".join(lines(shown(*calls["by tensor"], columns=40)))
    assert re.search(r"\brms\b", text.split("too narrow")[0])


def test_a_wide_terminal_is_used(calls: dict[str, list[str | Path]]) -> None:
    """At 200 columns a table is wider than at 120."""
    widest = [max(map(cells, lines(shown(*calls["by tensor"], columns=columns)))) for columns in (120, 200)]
    assert 120 < widest[1] <= 200
    assert widest[0] <= 120
