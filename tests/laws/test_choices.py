"""Parameters that are words, over the registry: each of its words, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import suture

from ..support.catalogue import SPECS, Case, Config, configure
from ..support.layered import write_layered

CHOICES = [
    (name, p["name"], tuple(p["kind"]["words"]))
    for name, spec in SPECS.items()
    for p in spec["parameters"]
    if p["kind"]["kind"] == "choice"
]
SWITCHES = [
    (name, p["name"])
    for name, spec in SPECS.items()
    for p in spec["parameters"]
    if p["kind"]["kind"] == "switch"
]  # fmt: skip
WRONG = [0, 1, 0.5, -1, 2, "", "yes", "on", "off", "None", "NONE", " none", None, [], ["nonsense"], {}, {"value": 1}]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_layered(tmp_path_factory.mktemp("layered"))


def planned(method: str, parameter: str, value: Any, models: list[Path], *, own: bool = False) -> Config:
    """The parameter of every tensor, as the plan of a merge has it."""
    report = suture.merge(config(method, parameter, value, models, own=own), models[0].parent / "out", dry_run=True)
    return dict(report.data)


def config(method: str, parameter: str, value: Any, models: list[Path], *, own: bool = False) -> Config:
    """A merge with a parameter set to a value; with `own`, under the first model."""
    # The other parameters are those of the defaults: no two words that do not go together.
    found = configure(Case(method), models, only_required=True)
    if (method, parameter) == ("emr", "masks"):
        # The masks of which model has to be said.
        found["parameters"]["task"] = 1
    (found["models"][0]["parameters"] if own else found["parameters"])[parameter] = value
    return found


def refused(method: str, parameter: str, value: Any, models: list[Path]) -> str:
    """What a value is refused with, as wrong use."""
    with pytest.raises(suture.UsageError) as caught:
        planned(method, parameter, value, models)
    assert caught.value.exit_code == 2
    assert caught.value.at is not None
    assert caught.value.at.startswith(f"parameters.{parameter}")
    return str(caught.value)


@pytest.mark.parametrize(("method", "parameter", "words"), CHOICES, ids=str)
def test_each_word_is_taken(method: str, parameter: str, words: tuple[str, ...], models: list[Path]) -> None:
    """Law 8: what the registry lists is what a config may say, on its own, in a list and behind a filter."""
    for word in words:
        # The same behind the filter and beside it: what tensors share statistics for must be the same for all of them.
        for value in (word, [word], [word, word], [{"filter": "mlp", "value": word}, {"value": word}]):
            planned(method, parameter, value, models)


@pytest.mark.parametrize(("method", "parameter", "words"), CHOICES, ids=str)
def test_nothing_else_is_taken(method: str, parameter: str, words: tuple[str, ...], models: list[Path]) -> None:
    """Law 8: numbers, other words and other kinds are wrong use, and the message lists the words."""
    for value in [*WRONG, f"{words[0]}x", words[0].upper()]:
        if value in words:
            continue
        told = refused(method, parameter, value, models)
        # An empty list or a mapping is wrong before any word is looked for.
        if not isinstance(value, list | dict):
            assert [word for word in words if word not in told] == [], told


@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize(("method", "parameter", "words"), CHOICES, ids=str)
def test_on_and_off(method: str, parameter: str, words: tuple[str, ...], value: bool, models: list[Path]) -> None:
    """Law 8: `true` and `false` are for what can be switched off, `none`; elsewhere they are no words."""
    if "none" not in words:
        told = refused(method, parameter, value, models)
        assert [word for word in words if word not in told] == [], told
        return
    found = planned(method, parameter, value, models)
    same = [w for w in words if planned(method, parameter, w, models)["tensors"] == found["tensors"]]
    # `false` is the word `none`, and `true` some other.
    assert ("none" in same) == (not value)
    assert same != []


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize(("method", "parameter", "words"), CHOICES, ids=str)
def test_on_and_off_behind_a_filter(
    method: str, parameter: str, words: tuple[str, ...], value: bool, models: list[Path]
) -> None:
    """Law 8: a value is checked wherever it stands."""
    for nested in ([value], [{"filter": "mlp", "value": value}], {"layers": {"0": value}, "default": words[0]}):
        if "none" not in words:
            refused(method, parameter, nested, models)


@pytest.mark.parametrize(("method", "parameter"), SWITCHES, ids=str)
def test_switches(method: str, parameter: str, models: list[Path]) -> None:
    """Law 8: a switch is true or false, which YAML also writes as 1 and 0."""
    for value in (True, False, 0, 1):
        planned(method, parameter, value, models)
    for wrong in (2, -1, 0.5, "", "none", "yes", "true", None):
        refused(method, parameter, wrong, models)


@pytest.mark.parametrize("value", ["false", "true", "0", "nonsense"])
def test_the_command_line_says_so(value: str, models: list[Path], tmp_path: Path) -> None:
    """Law 8: exit code 2, the file, the line and the words."""
    text = json.dumps(config("sce", "mask", "deltas", models), indent=1)
    path = tmp_path / "merge.yml"
    path.write_text(text.replace('"mask": "deltas"', f'"mask": {value}'))
    line = next(n for n, part in enumerate(path.read_text().splitlines(), 1) if '"mask"' in part)
    command = [sys.executable, "-m", "suture", "merge", str(path), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert f"{path}:{line}: " in done.stderr
    assert ("deltas" in done.stderr, "weights" in done.stderr) == (True, True)
    assert not (tmp_path / "out").exists()
