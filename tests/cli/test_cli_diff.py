"""`suture diff` on the command line: slices, several fine-tunes, and what guards a frozen or trained part."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

import suture

from ..support.checkpoints import Raw, encode, llama_config, llama_family, llama_shapes, read_checkpoint
from ..support.checkpoints import write_checkpoint as write
from ..support.diffing import only, run

LAYERS = 4
SHAPES = llama_shapes(LAYERS, 16, 4, 2, 24, 30, tied=False)
CONFIG = llama_config(LAYERS, 16, 4, 2, 24, 30, False, "BF16")
SECTIONS = {
    "layer": "layers",
    "module": "modules",
    "tensor": "tensors",
    "head": "heads",
    "neuron": "neurons",
    "token": "tokens",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base, fine-tunes changed everywhere, and two with a change in chosen places alone."""
    folder = tmp_path_factory.mktemp("models")
    base, first, second = llama_family(folder, layers=LAYERS, hidden=16, heads=4, kv_heads=2, ff=24, vocab=30, n=2)
    tensors = read_checkpoint(base)
    return {
        "base": base,
        "first": first,
        "second": second,
        "inner": touched(folder / "inner", tensors, ".layers.1.mlp.up_proj.", ".layers.2.input_layernorm."),
        "outer": touched(folder / "outer", tensors, "lm_head.", ".layers.3.self_attn.q_proj."),
    }


def touched(folder: Path, base: dict[str, Raw], *parts: str) -> Path:
    """The base with one element of each of these tensors changed."""
    tensors = dict(base)
    for name, raw in base.items():
        if any(part in name for part in parts):
            values = raw.values().copy()
            values.flat[-1] += 0.01
            tensors[name] = encode(values, "BF16")
    return write(folder, tensors, config=CONFIG)


def test_what_is_not_read_is_not_called_unchanged(models: dict[str, Path]) -> None:
    """`--frozen` and `--trained` speak of what `--layers` reads, or are refused."""
    for options, code in (
        (["--layers", "0-1", "--frozen", "1"], 1),
        (["--layers", "0,3", "--frozen", "0"], 0),
        (["--layers", "0", "--frozen", "0-1"], 2),
        (["--layers", "0", "--trained", "0"], 2),
        (["--layers", "0", "--frozen", "0", "--trained", "0"], 2),
    ):
        done = run("diff", models["base"], models["inner"], *options)
        assert done.returncode == code, done.stderr
        assert code != 2 or "leave --layers out" in done.stderr


@pytest.mark.parametrize(
    ("tuned", "options", "code", "said"),
    [
        ("inner", ["--frozen", "0,3"], 0, []),
        ("inner", ["--frozen", "0,3,outside"], 0, []),
        ("inner", ["--frozen", "outside"], 0, []),
        ("inner", ["--frozen", "0-1"], 1, ["model.layers.1.mlp.up_proj.weight"]),
        ("inner", ["--frozen", "2"], 1, ["model.layers.2.input_layernorm.weight"]),
        ("inner", ["--frozen", "0-3"], 1, ["model.layers.1.mlp.up_proj.weight"]),
        ("inner", ["--trained", "1-2"], 0, []),
        ("inner", ["--trained", "1,2,outside"], 0, []),
        ("inner", ["--trained", "1"], 1, ["model.layers.2.input_layernorm.weight"]),
        ("inner", ["--trained", "outside"], 1, ["model.layers.1.mlp.up_proj.weight"]),
        ("inner", ["--trained", "1-2", "--frozen", "0,3,outside"], 0, []),
        ("inner", ["--trained", "1-2", "--frozen", "2"], 1, ["model.layers.2.input_layernorm.weight"]),
        ("outer", ["--frozen", "0-2"], 0, []),
        ("outer", ["--frozen", "outside"], 1, ["lm_head.weight"]),
        ("outer", ["--frozen", "3"], 1, ["model.layers.3.self_attn.q_proj.weight"]),
        ("outer", ["--trained", "3"], 1, ["lm_head.weight"]),
        ("outer", ["--trained", "3,outside"], 0, []),
        ("base", ["--frozen", "0-3,outside"], 0, []),
        ("base", ["--trained", "0"], 0, []),
        ("first", ["--trained", "0-3,outside"], 0, []),
        ("first", ["--frozen", "1"], 1, []),
    ],
    ids=str,
)
def test_frozen_and_trained(
    tuned: str, options: list[str], code: int, said: list[str], models: dict[str, Path]
) -> None:
    """Exit code 1 and an error that names a tensor where what was to stay has changed; 0 and no word where not."""
    for more in ([], ["--quiet"], ["--json"]):
        done = run("diff", models["base"], models[tuned], *options, *more)
        assert done.returncode == code, done.stderr
        if code:
            assert done.stderr.startswith("error: ")
            assert "Traceback" not in done.stderr
        else:
            assert done.stderr == ""
        for name in said:
            assert name in done.stderr


@pytest.mark.parametrize(
    ("option", "text"),
    [(option, text) for option in ("--frozen", "--trained") for text in ("inside", "3-1", "1-", "-", "1,,x", "1.5")]
    + [("--frozen", "4"), ("--frozen", "0-9")],
)
def test_a_list_of_layers_that_is_none_is_refused(option: str, text: str, models: dict[str, Path]) -> None:
    """Law 8: a check of layers that are not there would pass unseen: wrong usage, exit code 2."""
    done = run("diff", models["base"], models["base"], option, text)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


def test_frozen_holds_for_every_fine_tune(models: dict[str, Path]) -> None:
    """With several fine-tunes one that breaks the rule is enough, and it is named."""
    done = run("diff", models["base"], models["inner"], models["outer"], "--frozen", "0", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    done = run("diff", models["base"], models["inner"], models["outer"], "--frozen", "3", "--quiet")
    assert done.returncode == 1
    assert "outer" in done.stderr
    assert "lm_head" not in done.stderr


def test_frozen_sees_what_is_not_a_number_and_what_is_gone(models: dict[str, Path], tmp_path: Path) -> None:
    """A buffer of integers, a zero that became negative, a tensor that is gone or of another shape: all are changes."""
    base = read_checkpoint(models["base"])
    base["model.layers.0.counter"] = Raw("I64", (1,), bytes(8))
    norm = "model.layers.1.input_layernorm.weight"
    base[norm] = Raw("BF16", (16,), bytes(32))
    odd = {
        "counter": base | {"model.layers.0.counter": Raw("I64", (1,), b"\1" + bytes(7))},
        "negative": base | {norm: Raw("BF16", (16,), bytes(31) + b"\x80")},
        "gone": {name: raw for name, raw in base.items() if name != norm},
        "reshaped": base | {norm: Raw("BF16", (4, 4), bytes(32))},
        "new": base | {"model.layers.1.extra.weight": Raw("BF16", (16,), bytes(32))},
    }
    first = write(tmp_path / "base", base, config=CONFIG)
    assert run("diff", first, first, "--frozen", "0-3,outside", "-q").returncode == 0
    for name, tensors in odd.items():
        path = write(tmp_path / name, tensors, config=CONFIG)
        layer = "0" if name == "counter" else "1"
        assert run("diff", first, path, "--frozen", layer, "-q").returncode == 1, name
        assert run("diff", first, path, "--trained", "2", "-q").returncode == 1, name
        assert run("diff", first, path, "--frozen", "2,outside", "-q").returncode == 0, name
        assert run("diff", first, path, "--trained", layer, "-q").returncode == 0, name


@pytest.mark.parametrize("by", SECTIONS)
def test_by_has_a_table_of_its_own(by: str, models: dict[str, Path], tmp_path: Path) -> None:
    """`--by` alone asks for what it shows; `--csv` writes what `--json` says, digit by digit."""
    target = tmp_path / "table.csv"
    done = run("diff", models["base"], models["first"], "--by", by, "--csv", target, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = only(json.loads(done.stdout))[SECTIONS[by]]
    assert rows
    with target.open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert len(written) == len(rows)
    for line, row in zip(written, rows, strict=True):
        assert set(row) <= set(line) | {"shape"}
        assert [float(line[name]) for name in ("l2", "mean", "cosine", "elements")] == [
            float(row[name]) for name in ("l2", "mean", "cosine", "elements")
        ]
    shown = run("diff", models["base"], models["first"], "--by", by)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert len(shown.stdout.splitlines()) > min(len(rows), 10)


def test_numbers_of_groups_and_tokens(models: dict[str, Path]) -> None:
    """`--heads`, `--neurons N`, `--tokens K`, `--spread` and `--above` are those of the API."""
    options = ["--heads", "--neurons", "5", "--tokens", "3", "--spread", "--above", "1e-4,0.5x"]
    done = run("diff", models["base"], models["first"], *options, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = suture.diff(
        models["base"], models["first"], heads=True, neurons=5, tokens=3, spread=True, above="1e-4,0.5x"
    )
    assert json.loads(done.stdout) == found
    assert len(only(found)["neurons"]) == LAYERS * 3 * 5


@pytest.mark.parametrize(
    "options",
    [["--neurons", "-1"], ["--tokens", "-1"], ["--neurons", "x"], ["--spread", "--above", "much"], ["--by", "row"]],
    ids=" ".join,
)
def test_wrong_options_are_refused(options: list[str], models: dict[str, Path]) -> None:
    """Exit code 2, the error last on stderr, nothing on stdout."""
    done = run("diff", models["base"], models["first"], *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("options", [[], ["--by", "layer"], ["--by", "tensor", "--sort", "l2"], ["--spread"]], ids=str)
def test_several_fine_tunes_are_shown(options: list[str], models: dict[str, Path]) -> None:
    """Each fine-tune is shown by its label, and what their changes have in common."""
    paths = [models[name] for name in ("base", "first", "second", "inner")]
    done = run("diff", *paths, *options)
    assert (done.returncode, done.stderr) == (0, "")
    for label in ("tuned-1", "tuned-2", "inner"):
        assert label in done.stdout
    told = run("diff", *paths, *options, "--json")
    found = json.loads(told.stdout)
    assert [model["label"] for model in found["models"]] == ["tuned-1", "tuned-2", "inner"]
    assert len(found["pairs"]) == 3


def test_csv_of_several_fine_tunes_says_which(models: dict[str, Path], tmp_path: Path) -> None:
    """One table: the rows of each fine-tune, told apart."""
    target = tmp_path / "table.csv"
    paths = [models[name] for name in ("base", "first", "second")]
    done = run("diff", *paths, "--by", "layer", "--csv", target, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with target.open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 2 * (LAYERS + 1)
    column = next(name for name in written[0] if {line[name] for line in written} == {"tuned-1", "tuned-2"})
    found = suture.diff(*paths)
    for model in found["models"]:
        rows = [line for line in written if line[column] == model["label"]]
        assert [float(line["l2"]) for line in rows] == [row["l2"] for row in model["layers"]]


def test_strangers_are_told(models: dict[str, Path], tmp_path: Path) -> None:
    """A checkpoint that cannot be a fine-tune of the base is said to be none, and measured all the same."""
    (stranger,) = llama_family(tmp_path, layers=LAYERS, hidden=16, heads=4, kv_heads=2, ff=24, vocab=30, n=0, seed=77)
    done = run("diff", models["base"], stranger)
    assert done.returncode == 0
    assert "stranger" in done.stdout + done.stderr
    assert "stranger" not in run("diff", models["base"], models["first"]).stdout


@pytest.mark.parametrize("metric", ["q50", "gini", "above_0.1x"])
@pytest.mark.parametrize("by", ["layer", "head", "neuron", "token"])
def test_sorting_by_what_a_table_has_not(by: str, metric: str, models: dict[str, Path]) -> None:
    """Rows of slices have no spread: to sort them by it is wrong usage, not a crash."""
    done = run("diff", models["base"], models["first"], "--by", by, "--sort", metric, "--spread")
    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if by == "layer" else 2), done.stderr


def test_columns_keep_their_names(models: dict[str, Path]) -> None:
    """However many columns: in a pipe each has its whole name over it."""
    done = run("diff", models["base"], models["first"], "--by", "layer", "--spread")
    found = suture.diff(models["base"], models["first"], spread=True)
    names = [{"cosine": "cosine with base"}.get(metric["name"], metric["name"]) for metric in found["metrics"]]
    assert re.split(r" {2,}", done.stdout.splitlines()[0]) == ["layer", *names]
