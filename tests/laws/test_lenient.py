"""A name that somebody knows and nobody reads is told of and changes nothing; one that nobody knows is an error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import suture

from ..cli.test_cli import run
from ..support.catalogue import DEFAULTS, SPECS, Case, Config, configure
from ..support.checkpoints import llama_family, read_checkpoint

#: Parameters of every method together.
ALL = {p["name"] for spec in SPECS.values() for p in spec["parameters"]}
#: What is no parameter and mergekit or a relative of it reads.
KEYS = ("random_seed", "allow_negative_weights", "lora_merge_cache", "merge_method", "gate_mode", "smooth")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return llama_family(tmp_path_factory.mktemp("models"), layers=2, n=3, hidden=8, heads=2, kv_heads=1, ff=8, vocab=8)


def planned(config: Config, out: Path, **settings: Any) -> suture.Report:
    return suture.merge(config, out, settings=suture.Settings(**settings), dry_run=True)


def decides(report: suture.Report) -> list[Any]:
    """What a plan makes of every tensor."""
    return [{k: v for k, v in t.items() if k != "from"} for t in report.data["tensors"]]


def places(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where parameters stand, each in a copy of the config of its own."""
    for name in ("all", "each"):
        made = json.loads(json.dumps(config))
        targets = [made] if name == "all" else made["models"]
        yield name, {"config": made, "targets": [t.setdefault("parameters", {}) for t in targets]}


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_parameters_of_other_methods_are_told_and_change_nothing(
    case: Case, models: list[Path], tmp_path: Path
) -> None:
    """One warning a name, however often it is set, which names the method."""
    config = configure(case, models, only_required=True)
    plain = planned(config, tmp_path / "out")
    foreign = sorted(ALL - case.names)
    assert foreign
    for _, place in places(config):
        for target in place["targets"]:
            target.update(dict.fromkeys(foreign, 0.5))
        found = planned(place["config"], tmp_path / "out")
        assert decides(found) == decides(plain)
        told = [w for w in found.warnings if "is not read" in w]
        assert [w.split("`")[1] for w in told] == foreign
        assert all(f"is not read by {case.name} (" in w for w in told)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("place", ["top", "model", "parameters"])
def test_keys_that_somebody_reads_are_told(key: str, place: str, models: list[Path], tmp_path: Path) -> None:
    """A key of mergekit or of one of its relatives, where it means nothing, is a warning."""
    config = configure(Case("linear"), models)
    if key == "gate_mode" and place == "top":
        pytest.skip("makes it a config of mergekit-moe")
    {"top": config, "model": config["models"][0], "parameters": config["parameters"]}[place].setdefault(key, "linear")
    told = [w for w in planned(config, tmp_path / "out").warnings if "is not read" in w]
    assert len(told) == (0 if (key, place) == ("merge_method", "top") else 1)


@pytest.mark.parametrize("place", ["top", "model", "slice", "module", "parameters"])
@pytest.mark.parametrize("name", ["densty", "colour", "wieght", "int_space"])
def test_a_name_that_nobody_knows_is_refused_or_ignored(
    name: str, place: str, models: list[Path], tmp_path: Path
) -> None:
    """An error with its place; with `ignore_unknown` a warning, and the same tensors."""
    sources = [{"model": str(m), "layer_range": [0, 2], "parameters": {"weight": 0.5}} for m in models[:2]]
    slices = [{"sources": sources}]
    plain = {"merge_method": "linear", "modules": {"default": {"slices": slices}}}
    config = json.loads(json.dumps(plain))
    module = config["modules"]["default"]
    target = {
        "top": config,
        "module": module,
        "slice": module["slices"][0],
        "model": module["slices"][0]["sources"][0],
        "parameters": module["slices"][0]["sources"][0]["parameters"],
    }[place]
    target[name] = 1
    with pytest.raises(suture.UsageError, match=name) as error:
        planned(config, tmp_path / "out")
    assert error.value.at
    found = planned(config, tmp_path / "out", ignore_unknown=True)
    assert [w.split("`")[1] for w in found.warnings] == [name]
    assert decides(found) == decides(planned(plain, tmp_path / "out"))


NUMBERS = ("1e-3", "1E-3", ".5", "0.5", " 0.25 ", "1.", "+0.5", "5e-1")


@pytest.mark.parametrize("text", NUMBERS)
@pytest.mark.parametrize("shape", ["value", "gradient", "filter", "layers", "shared"])
def test_text_that_is_a_number_is_one(text: str, shape: str, models: list[Path], tmp_path: Path) -> None:
    """YAML 1.1 reads `1e-3` as text, and people quote numbers: in every form of a value both are the number."""

    def config(value: Any) -> Config:
        made = configure(Case("ties"), models)
        forms = {
            "gradient": [value, 0.5, value],
            "filter": [{"filter": "mlp", "value": value}, {"value": 0.5}],
            "layers": {"layers": {"0": value}, "default": 0.5},
        }
        if shape == "shared":
            made["parameters"]["lambda"] = value
        else:
            made["models"][0]["parameters"]["weight"] = forms.get(shape, value)
        return made

    assert decides(planned(config(text), tmp_path / "o")) == decides(planned(config(float(text)), tmp_path / "o"))
    for wrong in ("nan", "inf", "1e999", "half", "", "0x10", "1,5"):
        with pytest.raises(suture.UsageError, match="expected a number"):
            planned(config(wrong), tmp_path / "o")


@pytest.mark.parametrize("form", ["models", "slices"])
@pytest.mark.parametrize("method", [name for name, spec in SPECS.items() if spec["base"] in ("none", "input")])
def test_a_base_that_a_method_has_no_use_for(method: str, form: str, models: list[Path], tmp_path: Path) -> None:
    """It gives config and side files, and is told; where a method takes all models alike it is one of them."""
    case = Case(method)
    config = configure(case, models, only_required=True)
    if form == "slices":
        sources = [{**entry, "layer_range": [0, 2]} for entry in config.pop("models")]
        config["slices"] = [{"sources": sources}]
    lender = tmp_path / "lender"
    lender.mkdir()
    for path in models[0].iterdir():
        (lender / path.name).write_bytes(path.read_bytes())
    (lender / "config.json").write_text(json.dumps(json.loads((lender / "config.json").read_text()) | {"mark": 7}))
    based = config | {"base_model": str(lender)}
    suture.merge(config, tmp_path / "plain")
    report = suture.merge(based, tmp_path / "out")
    (told,) = [w for w in report.warnings if w.startswith("base_model: ")]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["mark"] == 7
    if SPECS[method]["base"] == "none":
        assert read_checkpoint(tmp_path / "out") == read_checkpoint(tmp_path / "plain")
        assert "gives the config" in told
    else:
        key, entries = ("models", config["models"]) if form == "models" else ("sources", config["slices"][0]["sources"])
        listed = [*entries, {**entries[0], "model": str(lender)}]
        both = {**config, **({"models": listed} if key == "models" else {"slices": [{"sources": listed}]})}
        suture.merge(both, tmp_path / "both")
        assert read_checkpoint(tmp_path / "out") == read_checkpoint(tmp_path / "both")
        assert "is merged as one of the models" in told


RELATIVES: dict[str, tuple[str, Config]] = {
    "experts": ("mergekit-moe", {"base_model": "m", "experts": [{"source_model": "m", "positive_prompts": ["a"]}]}),
    "method moe": ("mergekit-moe", {"merge_method": "moe", "models": [{"model": "m"}]}),
    "genome": ("mergekit-evolve", {"genome": {"models": ["m"]}, "tasks": []}),
    "swap": ("suture swap", {"swap": {"into": "m"}}),
    "anything": ("no merge config", {"model_type": "llama"}),
    "a method of a fork": ("none of this name", {"merge_method": "frankenmerge", "models": [{"model": "."}]}),
}


@pytest.mark.parametrize("name", RELATIVES)
def test_configs_of_others_are_named(name: str, tmp_path: Path) -> None:
    """What is taken for a merge config and is another tool's is called so."""
    says, config = RELATIVES[name]
    with pytest.raises(suture.UsageError, match=says):
        suture.merge(config, tmp_path / "out")


NEGATIVE = (
    "allow-crimes", "async-write", "clone-tensors", "cuda", "gpu-rich", "lazy-unpickle", "low-cpu-memory", "multi-gpu",
    "read-to-gpu", "trust-remote-code", "write-model-card", "lazy",
)  # fmt: skip


def test_flags_of_scripts_are_taken(models: list[Path], tmp_path: Path) -> None:
    """Negative flags of mergekit-yaml and the options of mergekit-multi; OUT must be one."""
    path = tmp_path / "c.json"
    path.write_text(json.dumps(configure(Case("linear"), models)))
    done = run("merge", path, "--out-path", tmp_path / "out", "-I", tmp_path / "way", *(f"--no-{n}" for n in NEGATIVE))
    assert done.returncode == 0, done.stderr
    assert "--intermediate-dir has no effect" in done.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert run("merge", path).returncode == 2
    assert run("merge", path, tmp_path / "a", "--out-path", tmp_path / "b").returncode == 2
    unknown = tmp_path / "u.json"
    unknown.write_text(json.dumps(configure(Case("linear"), models) | {"colour": "red"}))
    assert run("merge", unknown, tmp_path / "u").returncode == 2
    assert run("merge", unknown, tmp_path / "u", "--ignore-unknown").returncode == 0


def test_anchors_stand_for_what_they_name(models: list[Path], tmp_path: Path) -> None:
    """`&name`, `*name` and `<<` are YAML, and people use them: the same plan as written out, with lines in errors."""
    a, b, c = models[:3]
    text = (
        "merge_method: linear\nmodels:\n"
        f"- {{model: {a}, parameters: &p {{weight: 0.25}}}}\n- {{model: {b}, parameters: *p}}\n"
        f"- {{model: {c}, parameters: {{<<: *p, weight: 0.5}}}}\n"
    )
    listed = [{"model": str(m), "parameters": {"weight": w}} for m, w in ((a, 0.25), (b, 0.25), (c, 0.5))]
    path = tmp_path / "c.yml"
    path.write_text(text)
    found = suture.merge(path, tmp_path / "out", dry_run=True)
    assert decides(found) == decides(planned({"merge_method": "linear", "models": listed}, tmp_path / "out"))
    path.write_text(text.replace("0.25}", "0.25, wieght: 1}"))
    with pytest.raises(suture.UsageError, match=r"c\.yml:3: .*wieght"):
        suture.merge(path, tmp_path / "out", dry_run=True)


@pytest.mark.parametrize("form", ["models", "slices"])
def test_a_base_alone_is_the_base(form: str, tmp_path: Path) -> None:
    """So people fold adapters by a merge: a method of changes with no model besides the base gives the base back."""
    base, *_ = llama_family(tmp_path / "models", layers=2, n=1, hidden=8, heads=2, kv_heads=1, ff=8, vocab=16)
    entry = {"model": str(base), "parameters": {"weight": 1}}
    listed = {"models": [entry]} if form == "models" else {"slices": [{"sources": [entry | {"layer_range": [0, 2]}]}]}
    report = suture.merge({"merge_method": "task_arithmetic", "base_model": str(base), **listed}, tmp_path / "out")
    assert {t.action for t in report.tensors} == {"copy"}
