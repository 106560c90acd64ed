"""What suture adds to mergekit's grammar: filters, coefficient files, modules, several documents and outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

import suture
from suture.cli.merge import merge as verb
from suture.recipe import Config

from ..support.checkpoints import Raw, llama_family, read_checkpoint, write_checkpoint
from ..support.configs import SIZES, config, family, soup, write


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base and three fine-tunes of four layers, in f32."""
    return family(tmp_path_factory.mktemp("models"), "math", "lang", "code")


def shares(out: Path, models: Mapping[str, Path], tuned: str = "math") -> dict[str, float]:
    """How much of the model's change is in each tensor of the output."""
    found, base, own = (read_checkpoint(p) for p in (out, models["base"], models[tuned]))
    change = {n: own[n].values().astype(np.float64) - base[n].values() for n in base}
    moved = {n: found[n].values().astype(np.float64) - base[n].values() for n in base}
    sizes = {n: float((c**2).sum()) for n, c in change.items()}
    return {n: round(float((moved[n] * change[n]).sum()) / size, 3) for n, size in sizes.items() if size}


def weights(models: Mapping[str, Path], out: Path, weight: Any, **more: Any) -> dict[str, float]:
    """The weight that every tensor got."""
    suture.merge(config(models, weight, **more), out)
    return shares(out, models)


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        ("self_attn", lambda n: "self_attn" in n),
        ("layers.1", lambda n: "layers.1" in n),
        ("!mlp", lambda n: "mlp" not in n),
        ("glob:model.layers.*.mlp.*", lambda n: ".mlp." in n),
        ("!glob:model.layers.*", lambda n: ".layers." not in n),
        (r"regex:layers\.[12]\.", lambda n: ".layers.1." in n or ".layers.2." in n),
        (r"!regex:(norm|embed)", lambda n: "norm" not in n and "embed" not in n),
    ],
)
def test_filters(text: str, hit: Any, models: dict[str, Path], tmp_path: Path) -> None:
    """Part of the name, glob or expression, each turned round by `!`: the first that matches gives the value."""
    found = weights(models, tmp_path / "out", [{"filter": text, "value": 0.75}, {"value": 0.25}])
    assert found == {name: 0.75 if hit(name) else 0.25 for name in found}


@pytest.mark.parametrize("text", ["glob:[", "regex:(", "!regex:["])
def test_bad_filters_are_refused(text: str, models: dict[str, Path], tmp_path: Path) -> None:
    """Law 8: a pattern that is none is named."""
    with pytest.raises(suture.UsageError, match=r"models\[0\].parameters.weight\[0\].filter"):
        suture.merge(config(models, [{"filter": text, "value": 1}]), tmp_path / "out")


def test_what_is_not_selected_stays_the_base_bit_for_bit(models: dict[str, Path], tmp_path: Path) -> None:
    """`include` and `exclude`: everything else is the base's bytes, copied and not computed."""
    more = {"include": ["glob:model.layers.*"], "exclude": ["mlp", r"regex:layers\.0\."]}
    report = suture.merge(config(models, 1.0, **more), tmp_path / "out")
    found, base, math = (read_checkpoint(p) for p in (tmp_path / "out", models["base"], models["math"]))
    for name in found:
        merged = ".layers." in name and "mlp" not in name and ".layers.0." not in name
        assert report.data["tensors"][name]["action"] == ("task_arithmetic" if merged else "copy"), name
        if not merged:
            assert found[name] == base[name]
        else:
            np.testing.assert_allclose(found[name].values(), math[name].values(), rtol=0, atol=1e-7)


COEFFICIENTS = {
    "list.json": "[0.1, 0.2, 0.3, 0.4]",
    "map.json": '{"0": 0.1, "1": 0.2, "2": 0.3, "3": 0.4, "default": 0.9}',
    "map.yaml": "0: 0.1\n1: 0.2\n2: 0.3\n3: 0.4\ndefault: 0.9\n",
    "table.csv": "layer,value\n0,0.1\n1,0.2\n2,0.3\n3,0.4\n",
}


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_coefficient_files(name: str, models: dict[str, Path], tmp_path: Path) -> None:
    """A file gives a value for each layer; tensors outside the layers get its default, else the outer value."""
    (tmp_path / name).write_text(COEFFICIENTS[name])
    text = yaml.safe_dump(config(models, {"file": name}, parameters={"weight": 0.9}))
    (tmp_path / "config.yml").write_text(text)
    suture.merge(tmp_path / "config.yml", tmp_path / "out")
    for tensor, share in shares(tmp_path / "out", models).items():
        layer = tensor.split(".layers.")[1][0] if ".layers." in tensor else None
        assert share == (0.9 if layer is None else round(0.1 * (int(layer) + 1), 3)), tensor


@pytest.mark.parametrize(
    ("content", "says"),
    [('{"0": "much"}', "a number"), ("5", "for each layer"), ('{"first": 1}', "layer number"), ("{", "not valid")],
)
def test_bad_coefficient_files_are_refused(content: str, says: str, models: dict[str, Path], tmp_path: Path) -> None:
    """Law 8: the file and what is wrong with it."""
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(suture.UsageError, match=says):
        suture.merge(config(models, {"file": str(tmp_path / "c.json")}), tmp_path / "out")
    with pytest.raises(suture.UsageError, match="no such file"):
        suture.merge(config(models, {"file": "missing.json"}), tmp_path / "out")


def test_rules_that_decide_nothing_are_told(models: dict[str, Path], tmp_path: Path) -> None:
    """A filter that matches nothing, and a gradient with more values than layers, are warnings."""
    rules = [{"filter": "no_such_module", "value": 1.0}, {"value": [0.0, 1.0, 0.0, 1.0, 0.0]}]
    report = suture.merge(config(models, rules), tmp_path / "out")
    assert any("`no_such_module` decides 0 tensors" in w for w in report.warnings)
    assert any("more values than the 4 layers" in w for w in report.warnings)


def test_a_dry_run_tells_where_parameters_come_from(models: dict[str, Path], tmp_path: Path) -> None:
    """`--dry-run --verbose`: every tensor with its parameters and the lines they stand on."""
    text = f"""merge_method: ties
base_model: {models["base"]}
models:
  - model: {models["math"]}
    parameters:
      weight:
        - filter: mlp
          value: 0.25
        - value: 0.5
      density: 0.5
  - model: {models["lang"]}
parameters:
  weight: 0.75
"""
    (tmp_path / "config.yml").write_text(text)
    done = CliRunner().invoke(verb, [str(tmp_path / "config.yml"), str(tmp_path / "out"), "--dry-run", "-v"])
    assert done.exit_code == 0, done.output
    rows = {line.split()[0]: line for line in done.output.splitlines() if line.startswith("  model.layers.0.")}
    assert "weight=[0.25, 0.75] (8, 13)" in rows["model.layers.0.mlp.up_proj.weight"]
    assert "weight=[0.5, 0.75] (9, 13)" in rows["model.layers.0.self_attn.q_proj.weight"]
    assert "density=[0.5, 1.0] (10, default)" in rows["model.layers.0.self_attn.q_proj.weight"]
    assert not (tmp_path / "out").exists()


def test_documents_use_each_other(models: dict[str, Path], tmp_path: Path) -> None:
    """A named document is a model for the others, whatever their order; only the last result is left."""
    documents = [soup(models, "pair", "code"), {"name": "pair", **soup(models, "math", "lang")}]
    suture.merge(write(tmp_path / "c.yml", *documents), tmp_path / "out")
    suture.merge(soup(models, "math", "lang"), tmp_path / "pair")
    suture.merge(soup(models | {"pair": tmp_path / "pair"}, "pair", "code"), tmp_path / "expected")
    assert read_checkpoint(tmp_path / "out") == read_checkpoint(tmp_path / "expected")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.yml", "expected", "out", "pair"]


def test_documents_that_cannot_be_run_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    """Circles, results nobody uses, two results for one place, two of one name."""
    pair, other = {"name": "pair", **soup(models, "math")}, {"name": "other", **soup(models, "pair")}
    circle = {"name": "pair", **soup(models, "other")}
    for documents, says in [
        ((circle, other), "circle"),
        ((pair, soup(models, "math")), "no merge uses `pair`"),
        ((soup(models, "math"), soup(models, "code")), "without a `name`"),
        ((pair, pair), "two merges are called `pair`"),
        (({**pair, "name": "../up"},), "a folder's"),
    ]:
        with pytest.raises(suture.UsageError, match=says):
            suture.merge(write(tmp_path / "c.yml", *documents), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_several_outputs(models: dict[str, Path], tmp_path: Path) -> None:
    """Groups of experts, each merged into its own model: byte for byte what a merge of the group alone gives."""
    groups = {"near": ("math", "lang"), "far": ("lang", "code")}
    top = {"merge_method": "ties", "base_model": str(models["base"]), "parameters": {"weight": 1.0, "density": 0.5}}
    outputs = {name: {"models": [{"model": str(models[m])} for m in group]} for name, group in groups.items()}
    report = suture.merge(write(tmp_path / "c.yml", {**top, "outputs": outputs}), tmp_path / "out")
    assert report.parts.keys() == groups.keys()
    for name, own in outputs.items():
        suture.merge({**top, **own}, tmp_path / name)
        alone, part = ((p / name / "model.safetensors") for p in (tmp_path, tmp_path / "out"))
        assert part.read_bytes() == alone.read_bytes()
    listed = json.loads((tmp_path / "out" / "outputs.json").read_text())["outputs"]
    assert listed.keys() == groups.keys()
    with pytest.raises(suture.SutureError, match="exists already"):
        suture.merge(tmp_path / "c.yml", tmp_path / "out")


def test_modules_are_merged_each_in_its_own_way(tmp_path: Path) -> None:
    """`modules`: a tensor belongs to the module whose name is in its own; the one that names none has the rest."""
    rng = np.random.default_rng(2)
    folders = []
    for name in ("one", "two"):
        tensors = {
            f"{stack}.layers.{layer}.w.weight": rng.standard_normal((4, 6)).astype(np.float32)
            for stack, count in (("vision_tower", 2), ("model", 3))
            for layer in range(count)
        }
        tensors |= {"vision_tower.embed.weight": np.ones((2, 2), np.float32), "lm_head.weight": np.ones(3, np.float32)}
        folders.append(write_checkpoint(tmp_path / name, tensors))
    one, two = map(read_checkpoint, folders)
    recipe: dict[str, Any] = {
        "merge_method": "linear",
        "modules": {
            "vision_tower": {"models": [{"model": str(f)} for f in folders], "parameters": {"weight": 0.5}},
            "text_decoder": {
                "slices": [
                    {"sources": [{"model": str(folders[0]), "layer_range": [0, 2]}]},
                    {"sources": [{"model": str(folders[1]), "layer_range": [1, 3]}]},
                ],
                "parameters": {"weight": 1.0},
            },
        },
    }
    suture.merge(recipe, tmp_path / "out")
    found = read_checkpoint(tmp_path / "out")
    for name, raw in one.items():
        if name.startswith("vision_tower"):
            mean = (raw.values() + two[name].values()) / 2
            np.testing.assert_allclose(found[name].values(), mean, rtol=0, atol=1e-7)
    stacked = [one, one, two, two]
    for layer, (source, number) in enumerate(zip(stacked, (0, 1, 1, 2), strict=True)):
        assert found[f"model.layers.{layer}.w.weight"] == source[f"model.layers.{number}.w.weight"]
    del recipe["modules"]["text_decoder"]
    recipe["modules"]["model"] = {"models": [{"model": str(f)} for f in folders], "parameters": {"weight": 0.5}}
    with pytest.raises(suture.UsageError, match=r"`lm_head.weight` belongs to no module"):
        suture.merge(recipe, tmp_path / "new")


def test_models_without_a_common_ancestor_are_told(models: dict[str, Path], tmp_path: Path) -> None:
    """A stranger among the models is a warning with its cosine; fine-tunes of one base are none."""
    assert suture.merge(soup(models, "math", "lang"), tmp_path / "related").warnings == []
    stranger = llama_family(tmp_path / "s", n=0, tied=False, dtype="f32", seed=99, **SIZES)[0]
    report = suture.merge(soup(models | {"stranger": stranger}, "math", "stranger"), tmp_path / "out")
    assert any("tunings of one model" in w and stranger.name in w and "cosine" in w for w in report.warnings)


FLAGS = ["--cuda", "--low-cpu-memory", "--copy-tokenizer", "--lazy-unpickle", "--safe-serialization", "--async-write"]
FLAGS += ["--trust-remote-code", "--allow-crimes", "--transformers-cache", "x", "--lora-merge-cache", "y"]


def test_flags_of_mergekit_are_understood(models: dict[str, Path], tmp_path: Path) -> None:
    """Scripts written for mergekit-yaml run: seed and shard size are mapped, what has no effect is said or taken."""
    listed = [{"model": str(models["math"]), "parameters": {"weight": 1.0, "density": 0.5}}]
    recipe = {"merge_method": "dare_linear", "base_model": str(models["base"]), "models": listed}
    path = write(tmp_path / "c.yml", recipe)
    arguments = [str(path), str(tmp_path / "a"), *FLAGS, "--random-seed", "7", "--out-shard-size", "1K", "-j", "1"]
    done = CliRunner().invoke(verb, [*arguments, "--write-model-card"])
    assert done.exit_code == 0, done.output
    assert "--cuda has no effect" in done.output
    assert len(list((tmp_path / "a").glob("*.safetensors"))) > 1
    assert "suture" in (tmp_path / "a" / "README.md").read_text()
    suture.merge(path, tmp_path / "b", settings=suture.Settings(seed=7))
    assert read_checkpoint(tmp_path / "a") == read_checkpoint(tmp_path / "b")


@pytest.mark.parametrize("flag", ["--no-copy-tokenizer", "--load-in-4bit", "--no-safe-serialization"])
def test_flags_that_cannot_be_met_are_refused(flag: str, models: dict[str, Path], tmp_path: Path) -> None:
    """Law 8: a flag that would change the output is refused with what to do instead, never ignored."""
    path = write(tmp_path / "c.yml", soup(models, "math"))
    done = CliRunner().invoke(verb, [str(path), str(tmp_path / "out"), flag])
    assert isinstance(done.exception, suture.UsageError)
    assert flag in str(done.exception)


ROWS = {"a": np.ones((5, 1), np.float32), "b": np.full((3, 4), 2, np.float32)}


@pytest.mark.parametrize("method", [s["name"] for s in suture.methods() if s["base"] == "required"])
def test_models_that_changed_nothing_give_the_base(method: str, tmp_path: Path) -> None:
    """All-zero changes and rows of one element: the base, no NaN and no division by zero, in every method."""
    folders = [write_checkpoint(tmp_path / name, ROWS) for name in ("base", "x", "y")]
    spec = next(s for s in suture.methods() if s["name"] == method)
    count = min(2, spec["inputs"][1])
    required = [p for p in spec["parameters"] if p["default"] is None]
    beside = {p["name"] for p in required if p["kind"]["kind"] == "checkpoint"}
    own = {p["name"]: str(folders[0]) if p["name"] in beside else 0.5 for p in required if p["per_input"]}
    if any(p["name"] == "density" for p in spec["parameters"]):
        own["density"] = 0.4
    shared = {p["name"]: 1 for p in required if not p["per_input"]}
    listed = [{"model": str(f), "parameters": own} for f in folders[1 : 1 + count]]
    recipe = {"merge_method": method, "base_model": str(folders[0]), "models": listed, "parameters": shared}
    suture.merge(recipe, tmp_path / "out")
    found: dict[str, Raw] = read_checkpoint(tmp_path / "out")
    assert found == read_checkpoint(folders[0])


@pytest.mark.parametrize(
    ("method", "parameters", "says"),
    [
        ("ties", {"density": 0.0}, "density must be above 0"),
        ("ties", {"density": 1.5}, "from 0 to 1"),
        ("della", {"density": 0.1, "epsilon": 0.2}, r"outside \(0, 1\)"),
        ("della", {"density": 0.9, "epsilon": 0.15}, r"outside \(0, 1\)"),
        ("sce", {"select_topk": 0.0}, "select_topk must be above 0"),
        ("pcb", {"ratio": 0.0}, "ratio must be above 0"),
        ("emr", {"task": 3}, "there are 2"),
        ("tall_mask", {"task": 0}, "from 1"),
        ("cabs", {"block": 1.5}, "a whole number"),
    ],
)
def test_parameters_out_of_range(
    method: str, parameters: dict[str, Any], says: str, models: dict[str, Path], tmp_path: Path
) -> None:
    """Law 8: ranges are those of the method, and the message says them."""
    spec = next(s for s in suture.methods() if s["name"] == method)
    required = {p["name"]: 0.5 for p in spec["parameters"] if p["default"] is None and p["per_input"]}
    recipe = {
        "merge_method": method,
        "base_model": str(models["base"]),
        "models": [{"model": str(models[m])} for m in ("math", "lang")],
        "parameters": required | parameters,
    }
    with pytest.raises(suture.UsageError, match=says):
        suture.merge(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["top", "outputs", "second document", "mapping"])
def test_a_stray_swap_is_refused(place: str, models: dict[str, Path], tmp_path: Path) -> None:
    """`swap` is a verb, not a key: a config that has it is refused with its line, whatever else it says."""
    stray = {"swap": {"into": str(models["math"]), "donors": [{"from": str(models["lang"]), "bottom": 1}]}}
    whole = soup(models, "math")
    documents: dict[str, list[dict[str, Any]]] = {
        "top": [stray],
        "outputs": [whole | {"outputs": {"a": stray, "b": {}}}],
        "second document": [whole | {"name": "a"}, whole | stray | {"name": "b"}],
        "mapping": [whole | stray],
    }
    path = write(tmp_path / "c.yml", *documents[place])
    lines = path.read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if text.strip() == "swap:")
    with pytest.raises(suture.UsageError, match=rf"c\.yml:{line}: swap: .*`suture swap`"):
        suture.merge(path, tmp_path / "out")
    with pytest.raises(suture.UsageError, match=r"^swap: "):
        suture.merge(documents[place][0] if len(documents[place]) == 1 else stray, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "at", ["a", "a.b", "a[0]", "[x]", "a.[b].c", "a\n.b\n", "[", "]", ".", "", "a[0].b[red]", "é.\x1b["]
)
def test_every_key_path_has_an_end(at: str) -> None:
    """The line of a key path, or of the nearest thing around it, whatever characters keys have."""
    assert Config({}, None, {}).line(at) is None
    assert Config({}, None, {"a": 7}).line(at) == (7 if at.startswith("a") and at[1:2] in ("", ".", "[") else None)


def test_json_is_yaml(tmp_path: Path) -> None:
    """A rare character that JSON writes as two halves is one; a half alone is refused by its key."""
    folder = write_checkpoint(tmp_path / "\U0001f9ec", ROWS)
    recipe = {"merge_method": "passthrough", "models": [{"model": str(folder)}]}
    (tmp_path / "c.yml").write_text(json.dumps(recipe))
    suture.merge(tmp_path / "c.yml", tmp_path / "out")
    (tmp_path / "c.yml").write_text(json.dumps(recipe | {"include": ["\ud83e"]}))
    with pytest.raises(suture.UsageError, match=r"c\.yml:1: include\[0\]: .*half a character"):
        suture.merge(tmp_path / "c.yml", tmp_path / "new")
