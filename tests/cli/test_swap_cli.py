"""`suture swap --auto`, several donors, `suture revert`: as a user types them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import suture

from ..reference import proposal
from ..support.checkpoints import llama_family, read_checkpoint
from ..support.planted import in_layers, planted
from ..support.swapping import same
from .test_cli import one_error, run

LAYERS = 8
NUMBER = re.compile(r"(?<![\w.])[-+]?\d*\.?\d+(?:e[-+]?\d+)?", re.IGNORECASE)


@pytest.fixture(scope="module")
def plants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A recipient that changed in the middle, a donor that changed outside, each by its own amount."""
    into = {layer: 0.01 + layer / 1000 for layer in (3, 4)}
    donor = {layer: 0.01 + layer / 1000 for layer in (0, 1, 7)}
    return planted(tmp_path_factory.mktemp("plants"), in_layers(into, "self_attn.q_proj"), in_layers(donor))


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("family")
    folders = llama_family(folder, layers=4, hidden=16, heads=4, kv_heads=2, ff=24, vocab=20, n=3)
    return dict(zip(("base", "into", "first", "second"), folders, strict=True))


def between(plants: dict[str, Path]) -> list[str | Path]:
    return ["swap", "--into", plants["into"], "--from", plants["donor"]]


def scored(plants: dict[str, Path], by: str) -> dict[proposal.Unit, tuple[float, float]]:
    """The oracle's shares of recipient and donor."""
    values = {label: {n: raw.values() for n, raw in read_checkpoint(path).items()} for label, path in plants.items()}
    into, donor = (proposal.normalised(proposal.scores(values["base"], values[m], by)) for m in ("into", "donor"))
    return {unit: (into[unit], donor[unit]) for unit in into}


def shows(numbers: list[float], wanted: float) -> bool:
    """Whether one of the numbers is this one, to the digits that are printed: two at least."""
    return any(abs(number - wanted) <= max(0.005 * abs(wanted), 5e-5) for number in numbers)


@pytest.mark.parametrize("by", ["layer", "module"])
def test_a_dry_run_shows_scores_margins_and_choices(by: str, plants: dict[str, Path], tmp_path: Path) -> None:
    """A row for each layer, or each block of one, with both shares, the margin and whose it will be; no file."""
    done = run(*between(plants), tmp_path / "out", "--auto", plants["base"], "--auto-by", by, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
    lines = done.stdout.splitlines()
    for (layer, block), (into, donor) in scored(plants, by).items():
        choice = proposal.chosen(into, donor, 0.001)
        words = {"into", "recipient"} if choice == "into" else {choice}
        fitting = [
            line
            for line in lines
            if line.split()[:1] == [str(layer)] and words & set(line.split()) and (block is None or block in line)
        ]
        assert fitting, f"no line for layer {layer} {block or ''}: {choice}\n{done.stdout}"
        numbers = [float(text) for text in NUMBER.findall(fitting[0].replace("%", ""))]
        for wanted in (into, donor, abs(abs(donor - into) - 0.001)):
            assert shows(numbers, wanted) or shows([number / 100 for number in numbers], wanted), (wanted, fitting[0])


def test_a_dry_run_shows_edges(plants: dict[str, Path], tmp_path: Path) -> None:
    """With `--auto-by edges` the swap that is proposed is said in the words of the options."""
    done = run(*between(plants), tmp_path / "out", "--auto", plants["base"], "--auto-by", "edges", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    for word, number in (("bottom", 2), ("top", 1)):
        assert re.search(rf"{word}\W+{number}\b", done.stdout), done.stdout


@pytest.mark.parametrize("by", ["layer", "module", "edges"])
def test_auto_is_the_functions(by: str, plants: dict[str, Path], tmp_path: Path) -> None:
    """The command and `suture.swap(auto=...)` write the same bytes, with tau and alpha as given."""
    options: list[str | Path] = ["--auto", plants["base"], "--auto-by", by, "--tau", "0.02", "--alpha", "0.25"]
    done = run(*between(plants), tmp_path / "cli", *options)
    assert (done.returncode, done.stdout) == (0, "")
    suture.swap(plants["into"], plants["donor"], tmp_path / "api", auto=by, base=plants["base"], tau=0.02, alpha=0.25)
    same(read_checkpoint(tmp_path / "cli"), read_checkpoint(tmp_path / "api"))


def test_auto_is_by_layers_unless_said(plants: dict[str, Path], tmp_path: Path) -> None:
    """`--auto BASE` alone is the published rule for layers."""
    assert run(*between(plants), tmp_path / "cli", "--auto", plants["base"]).returncode == 0
    suture.swap(plants["into"], plants["donor"], tmp_path / "api", auto="layer", base=plants["base"])
    same(read_checkpoint(tmp_path / "cli"), read_checkpoint(tmp_path / "api"))


def test_auto_as_json(plants: dict[str, Path], tmp_path: Path) -> None:
    """Law 8: with `--json` stdout is the plan alone."""
    done = run(*between(plants), tmp_path / "out", "--auto", plants["base"], "--dry-run", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["hash"]


def test_several_donors(family: dict[str, Path], tmp_path: Path) -> None:
    """`--from PATH=LAYERS` again and again: each donor gives its layers."""
    donors = ["--from", f"{family['first']}=0-1", "--from", f"{family['second']}=3"]
    done = run("swap", "--into", family["into"], *donors, tmp_path / "out", "--non-layer", "mean")
    assert (done.returncode, done.stdout) == (0, "")
    given: Any = {str(family["first"]): "0-1", str(family["second"]): "3"}
    suture.swap(family["into"], given, tmp_path / "api", non_layer="mean")
    same(read_checkpoint(tmp_path / "out"), read_checkpoint(tmp_path / "api"))
    first, found = read_checkpoint(family["first"]), read_checkpoint(tmp_path / "out")
    assert all(found[name] == raw for name, raw in first.items() if "layers.1." in name)


def test_a_donor_with_its_layers_in_a_path_with_equals_signs(family: dict[str, Path], tmp_path: Path) -> None:
    """The layers stand behind the last `=`; a path may hold others."""
    odd = tmp_path / "lr=1e-5"
    odd.symlink_to(family["first"], target_is_directory=True)
    done = run("swap", "--into", family["into"], "--from", f"{odd}=0", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found, first = read_checkpoint(tmp_path / "out"), read_checkpoint(family["first"])
    assert all(found[name] == raw for name, raw in first.items() if "layers.0." in name)
    done = run("swap", "--into", family["into"], "--from", odd, tmp_path / "plain", "--layers", "0")
    assert done.returncode == 0, done.stderr
    same(read_checkpoint(tmp_path / "plain"), found)


def test_the_new_options_are_the_functions(family: dict[str, Path], tmp_path: Path) -> None:
    """Every option of the command reaches the function under its own name."""
    calls: list[tuple[list[str | Path], dict[str, Any]]] = [
        (
            ["--bottom", "1", "--transition-bottom", "2", "--blend", "ramp"],
            {"bottom": 1, "transition_bottom": 2, "blend": "ramp"},
        ),
        (["--top", "1", "--transition-top", "1", "--blend", "0.3"], {"top": 1, "transition_top": 1, "blend": 0.3}),
        (["--layers", "0,3", "--heads", "0-1"], {"layers": "0,3", "heads": "0-1"}),
        (
            ["--bottom", "1", "--base", family["base"], "--non-layer", "base"],
            {"bottom": 1, "base": family["base"], "non_layer": "base"},
        ),
        (
            ["--bottom", "1", "--base", family["base"], "--donor-base", family["second"]],
            {"bottom": 1, "base": family["base"], "donor_base": family["second"]},
        ),
    ]
    for number, (options, keywords) in enumerate(calls):
        done = run("swap", "--into", family["into"], "--from", family["first"], tmp_path / f"cli-{number}", *options)
        assert done.returncode == 0, done.stderr
        suture.swap(family["into"], family["first"], tmp_path / f"api-{number}", **keywords)
        same(read_checkpoint(tmp_path / f"cli-{number}"), read_checkpoint(tmp_path / f"api-{number}"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--from", "first=0", "--from", "second"], ("second", "LAYERS")),
        (["--from", "first=0-1", "--from", "second=1"], ("layer 1", "first", "second")),
        (["--from", "first=0", "--from", "second=9"], ("9", "4")),
        (["--from", "first=0", "--from", "second=1", "--non-layer", "from"], ("donor", "into")),
        (["--from", "first", "--bottom", "1", "--blend", "slope"], ("blend", "ramp", "slope")),
        (["--from", "first", "--layers", "0", "--blend", "ramp"], ("ramp", "layers")),
        (["--from", "first", "--layers", "0", "--heads", "0"], ("heads",)),
        (["--from", "first", "--bottom", "1", "--non-layer", "base"], ("base",)),
        (["--from", "first", "--bottom", "1", "--donor-base", "second"], ("base",)),
        (["--from", "first", "--auto", "base", "--bottom", "1"], ("auto", "bottom")),
        (["--from", "first", "--auto", "base", "--tau", "-1"], ("tau", "-1")),
    ],
    ids=str,
)
def test_wrong_options_are_refused(
    options: list[str], said: tuple[str, ...], family: dict[str, Path], tmp_path: Path
) -> None:
    """Law 8: exit code 2, one line that says what was expected and found; nothing is written."""
    names = {"base": "base", "into": "tuned-1", "first": "tuned-2", "second": "tuned-3"}
    for label, folder in names.items():
        (tmp_path / label).symlink_to(family["base"].with_name(folder), target_is_directory=True)
    before = sorted(tmp_path.iterdir())
    line = one_error(run("swap", "--into", "into", *options, "out", cwd=tmp_path), 2)
    assert [part for part in said if part not in line] == [], line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "keywords"),
    [
        (["--layers", "0-1,3"], {"layers": "0-1,3"}),
        (["--layers", "2", "--modules", "mlp.*"], {"layers": "2", "modules": "mlp.*"}),
        (["--layers", "0", "--outside"], {"layers": "0", "outside": True}),
        (["--outside"], {"outside": True}),
    ],
    ids=str,
)
def test_revert(options: list[str], keywords: dict[str, Any], family: dict[str, Path], tmp_path: Path) -> None:
    """The command writes what the function writes, and says what it did on stderr alone."""
    done = run("revert", family["base"], family["into"], tmp_path / "cli", *options)
    assert (done.returncode, done.stdout) == (0, "")
    assert str(tmp_path / "cli") in done.stderr
    suture.revert(family["base"], family["into"], tmp_path / "api", **keywords)
    same(read_checkpoint(tmp_path / "cli"), read_checkpoint(tmp_path / "api"))


def test_revert_like_any_verb_that_writes(family: dict[str, Path], tmp_path: Path) -> None:
    """A dry run writes nothing and has the plan of the run; `--json` is alone on stdout; OUT is kept."""
    call: list[str | Path] = ["revert", family["base"], family["into"], tmp_path / "out", "--layers", "1"]
    plan = run(*call, "--dry-run", "--json")
    assert (plan.returncode, plan.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
    done = run(*call, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["plan"] == json.loads(plan.stdout)["hash"]
    assert "--overwrite" in one_error(run(*call), 1)
    assert run(*call, "--overwrite", "--quiet").returncode == 0
    assert json.loads(run("verify", tmp_path / "out", "--json").stdout)["differing"] == []


@pytest.mark.parametrize(
    ("options", "said"), [(["--layers", "9"], "4"), (["--layers", "3-1"], "3-1"), ([], "layers")], ids=str
)
def test_wrong_reverts_are_refused(options: list[str], said: str, family: dict[str, Path], tmp_path: Path) -> None:
    """Law 8: exit code 2 and one line; nothing is written."""
    done = run("revert", family["base"], family["into"], tmp_path / "out", *options)
    assert said in one_error(done, 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        (
            "swap",
            ("--auto", "--auto-by", "--tau", "--alpha", "--base", "--donor-base", "--transition-bottom",
             "--transition-top", "--heads"),
        ),
        ("convert", ("--dtype", "--shard-size", "--dry-run", "--memory", "--overwrite", "--json")),
        ("revert", ("--layers", "--modules", "--outside", "--dry-run", "--memory", "--overwrite", "--json")),
    ],
)  # fmt: skip
def test_help_lists_the_options(verb: str, options: tuple[str, ...]) -> None:
    """Every option is in the help of its verb, and the verb in the help of all."""
    done = run(verb, "--help", env={"COLUMNS": "100"})
    assert done.stdout.startswith(f"Usage: suture {verb} ")
    assert [option for option in options if not re.search(rf"{option}\b", done.stdout)] == []
    assert re.search(rf"^  {verb}  +\w", run("--help").stdout, re.MULTILINE)


def test_a_swap_that_chose_says_how(plants: dict[str, Path], tmp_path: Path) -> None:
    """Nothing is decided silently: the swap itself, not only its dry run, shows scores, margins and choices."""
    done = run("swap", "--into", plants["into"], "--from", plants["donor"], tmp_path / "out", "--auto", plants["base"])
    assert done.returncode == 0, done.stderr
    for said in ("margin", "difference", "as edges"):
        assert said in done.stderr
