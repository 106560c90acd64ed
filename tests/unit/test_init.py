"""Law: a config that `init` writes runs as it is, says all that can be set, and never replaces a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from jsonschema import Draft202012Validator

import suture
from suture.cli.init import init as verb

from ..support.catalogue import grams
from ..support.checkpoints import llama_family, read_checkpoint, write_checkpoint
from ..support.planted import in_layers, planted

SPECS = {spec["name"]: spec for spec in suture.methods()}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and three fine-tunes."""
    return llama_family(tmp_path_factory.mktemp("models"), layers=3, n=3, hidden=16, ff=24, vocab=12, dtype="f16")


def written(text: str, place: Path) -> Path:
    (place / "merge.yml").write_text(text, encoding="utf-8")
    return place / "merge.yml"


@pytest.mark.parametrize("method", SPECS)
def test_every_method_runs_as_written(method: str, models: list[Path], tmp_path: Path) -> None:
    """But for checkpoints that nobody but the user knows, which are named; every parameter is there."""
    spec = SPECS[method]
    base = models[0] if spec["base"] in ("required", "optional") else None
    count = min(spec["inputs"][1], 3)
    text = suture.init(*models[1 : 1 + count], base=base, method=method)
    config = yaml.safe_load(text)
    assert config["dtype"] == "float16"
    if any(p["kind"]["kind"] == "checkpoint" for p in spec["parameters"]):
        text = text.replace("path/to/fisher", str(models[1])).replace("path/to/masks", str(models[1]))
    text = text.replace("path/to/gram", str(grams(models[1], tmp_path)))
    suture.merge(written(text, tmp_path), tmp_path / "out")
    for p in spec["parameters"]:
        assert f"{p['name']}: " in text
        # Folded or not.
        assert " ".join(p["summary"].split()[:4]) in text


def test_comments_taken_away_change_nothing(models: list[Path], tmp_path: Path) -> None:
    """What is commented out is what holds anyway: with the marks gone the result is the same, but for what is none."""
    text = suture.init(*models[1:], base=models[0])
    live = "\n".join(
        line.replace("# ", "", 1) if line.strip().startswith("# ") and _is_key(line.strip()[2:]) else line
        for line in text.splitlines()
    )
    assert len(yaml.safe_load(live)["parameters"]) == sum(p["default"] is not None for p in SPECS["ties"]["parameters"])
    suture.merge(written(text, tmp_path), tmp_path / "plain")
    suture.merge(written(live, tmp_path), tmp_path / "live")
    assert read_checkpoint(tmp_path / "plain") == read_checkpoint(tmp_path / "live")


def _is_key(text: str) -> bool:
    return text.partition(":")[0] in {p["name"] for p in SPECS["ties"]["parameters"]} and len(text.split()) == 2


def test_the_method_is_chosen_by_the_models(models: list[Path]) -> None:
    """With a base task vectors, without spheres for two and averages for more."""
    base, one, two, three = models

    def method(*listed: Path, **options: Any) -> Any:
        return yaml.safe_load(suture.init(*listed, **options))["merge_method"]

    assert method(one, base=base) == "task_arithmetic"
    assert method(one, two, base=base) == "ties"
    assert method(one, two) == "slerp"
    assert method(one, two, three) == "linear"
    assert method(one, two, method="karcher") == "karcher"


def test_a_folder_of_models(models: list[Path]) -> None:
    """All that are in it; the one called base is the base."""
    config = yaml.safe_load(suture.init(models[0].parent))
    assert config["base_model"] == str(models[0])
    assert [m["model"] for m in config["models"]] == list(map(str, models[1:]))


def test_what_differs_is_a_comment(models: list[Path], tmp_path: Path) -> None:
    """What compat found, and why the dtype is left open."""
    held = {n: t.values() for n, t in read_checkpoint(models[1]).items()}
    stated = json.loads((models[1] / "config.json").read_text()) | {"rope_theta": 5e5}
    other = write_checkpoint(tmp_path / "other", held, config=stated)
    text = suture.init(models[1], other)
    assert "#   rope_theta: 500000.0, not 10000.0; the first model's is kept" in text
    assert "# dtype: float16  # models hold F16 and F32" in text or "# dtype: float32  # models hold" in text
    suture.merge(written(text, tmp_path), tmp_path / "out")


ODD = ["with space", "it's", 'quo"te', "colon: x", "# hash", "~tilde", "naïve", "line\nend", "- dash", "true", "1e3"]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_read_back(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is the same path in the config, whatever YAML would make of it."""
    monkeypatch.chdir(tmp_path)
    for n, folder in enumerate((name, "other")):
        write_checkpoint(tmp_path / folder, {"w": np.full((2, 2), n + 1, np.float32)})
    suture.merge(written(suture.init(name, "other", method="linear"), tmp_path), tmp_path / "out")
    assert read_checkpoint(tmp_path / "out")["w"].values().tolist() == [[1.5, 1.5]] * 2


def test_mistakes_are_told(models: list[Path], tmp_path: Path) -> None:
    """Too few models, a base that is missing or too many, models that do not go together."""
    base, one, two, _ = models
    wrong: list[tuple[list[Path], dict[str, Any], str]] = [
        ([], {}, "no models to merge"),
        ([one], {}, "one model alone"),
        ([one, two], {"method": "ties"}, "give --base"),
        ([one, two], {"base": base, "method": "linear"}, "has no base"),
        ([one, two], {"method": "tiess"}, "unknown method `tiess`"),
        (models[1:], {"method": "slerp"}, "takes 2 models, found 3"),
    ]
    for listed, options, said in wrong:
        with pytest.raises(suture.UsageError, match=said):
            suture.init(*listed, **options)
    stranger = write_checkpoint(tmp_path / "stranger", {"w": np.ones((2, 2), np.float32)})
    with pytest.raises(suture.SutureError, match=r"cannot be merged as they are: tensors: 31 names"):
        suture.init(one, stranger)


@pytest.mark.parametrize("auto", ["layer", "module", "edges"])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_a_proposal_as_a_config(auto: str, alpha: float, tmp_path: Path) -> None:
    """It says what the swap does: the values are the same, blends and all."""
    outside = {"embed_tokens": 0.003, "lm_head": 0.001}
    models = planted(tmp_path, in_layers({3: 0.02, 4: 0.01}) | outside, in_layers({0: 0.02, 1: 0.02, 7: 0.02, 4: 0.01}))
    plan = tmp_path / "plan.json"
    options: dict[str, Any] = {"auto": auto, "alpha": alpha, "base": models["base"], "tau": 0.05}
    plan.write_text(suture.swap(models["into"], models["donor"], tmp_path / "swap", dry_run=True, **options).text)
    call = ["--from-proposal", str(plan), "-o", str(tmp_path / "merge.yml")]
    assert CliRunner().invoke(verb, call).exit_code == 0
    suture.swap(models["into"], models["donor"], tmp_path / "swap", **options)
    suture.merge(tmp_path / "merge.yml", tmp_path / "merge")
    found, wanted = read_checkpoint(tmp_path / "merge"), read_checkpoint(tmp_path / "swap")
    assert found.keys() == wanted.keys()
    for name, raw in wanted.items():
        assert np.array_equal(found[name].values(), raw.values()), name
    document = json.loads(json.dumps(yaml.safe_load((tmp_path / "merge.yml").read_text())))
    assert not list(Draft202012Validator(suture.schema("config")).iter_errors(document))


def test_no_file_is_replaced(models: list[Path], tmp_path: Path) -> None:
    """Without --overwrite; a link counts as a file."""
    file = tmp_path / "m.yml"
    call = [str(models[1]), str(models[2]), "-o", str(file)]
    assert CliRunner().invoke(verb, call).exit_code == 0
    before = file.read_text()
    file.write_text("mine")
    found = CliRunner().invoke(verb, call)
    assert isinstance(found.exception, suture.SutureError)
    assert "exists already" in str(found.exception)
    assert file.read_text() == "mine"
    assert CliRunner().invoke(verb, [*call, "--overwrite"]).exit_code == 0
    assert file.read_text() == before
    (tmp_path / "l.yml").symlink_to(tmp_path / "nowhere")
    assert isinstance(CliRunner().invoke(verb, [*call[:3], str(tmp_path / "l.yml")]).exception, suture.SutureError)


def test_what_is_to_be_filled_in_is_told(models: list[Path], tmp_path: Path) -> None:
    """A method that needs what nobody knows but the user: a warning, and a place for it."""
    call = [str(models[1]), str(models[2]), "--method", "fisher", "-o", str(tmp_path / "m.yml")]
    found = CliRunner().invoke(verb, call)
    assert "fill in `fisher: path/to/fisher`" in found.output.replace("\n", " ")
    assert found.exit_code == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"proposal": 1}', "no json"])
def test_what_is_no_proposal(text: str, tmp_path: Path) -> None:
    """A usage error, and no traceback."""
    (tmp_path / "p.json").write_text(text)
    found = CliRunner().invoke(verb, ["--from-proposal", str(tmp_path / "p.json"), "-o", str(tmp_path / "m.yml")])
    assert isinstance(found.exception, suture.UsageError)
    assert not (tmp_path / "m.yml").exists()
