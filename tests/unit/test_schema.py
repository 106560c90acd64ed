"""Law: schemas say what is. What suture takes and prints is valid by them, and what it refuses by its keys is not."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from jsonschema import Draft202012Validator

import suture
from suture.analysis.schema import SCHEMAS
from suture.results.surgery import Done, Outputs, Shared

from ..support.catalogue import CASES, Case, configure
from ..support.checkpoints import llama_family, write_checkpoint
from .test_results import READS, WRITES

ROOT = Path(__file__).parents[2]
PUBLISHED = Path(os.environ.get("SUTURE_PUBLISHED_CONFIGS", "nowhere"))
CONFIG = Draft202012Validator(suture.schema("config"))
SET = Draft202012Validator(suture.schema("set"))


def problems(validator: Draft202012Validator, data: Any) -> list[str]:
    """What is wrong, by its place."""
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(data)]


def closed(schema: Any) -> Any:
    """The same, without leave for keys that it does not tell of."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    return made | ({"additionalProperties": False} if isinstance(made.get("properties"), dict) else {})


def texts(data: Any) -> Any:
    """YAML as JSON has it: keys are text."""
    if isinstance(data, dict):
        return {str(k): texts(v) for k, v in data.items()}
    return [texts(v) for v in data] if isinstance(data, list) else data


def documents(text: str) -> list[Any]:
    return [texts(document) for document in yaml.safe_load_all(text) if document is not None]


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_schemas(name: str) -> None:
    """Each by the meta-schema of its draft, and with every `$ref` there."""
    schema = suture.schema(name)
    assert schema["$schema"].endswith("draft/2020-12/schema")
    Draft202012Validator.check_schema(schema)
    refs = set(re.findall(r'"\$ref": "#/\$defs/([^"]*)"', json.dumps(schema)))
    assert {ref.replace("%20", " ") for ref in refs} <= schema.get("$defs", {}).keys()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_configs_of_every_method_are_valid(case: Case) -> None:
    """Every method with every choice of its parameters."""
    assert not problems(CONFIG, configure(case, [Path(f"m{i}") for i in range(4)]))


def blocks() -> list[str]:
    pages = [(ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("config", "sets-and-groups")]
    shown = re.findall(r"```yaml\n(.*?)```", "".join(pages), re.DOTALL)
    # What is to be searched is no config yet.
    paths = [p for p in sorted((ROOT / "examples").glob("*.yaml")) if p.stem != "search"]
    examples = [p.read_text(encoding="utf-8") for p in paths]
    return [
        *shown,
        *examples,
        *(p.read_text() for p in sorted((ROOT / "tests" / "goldens").glob("cases/*/config.yml"))),
    ]


@pytest.mark.parametrize("text", blocks())
def test_configs_of_the_repository_are_valid(text: str) -> None:
    """The examples, the goldens, and what the pages of configs, sets and plans show."""
    for document in documents(text):
        # A set has no method, or several; all else is a config.
        is_set = "models" in document and "merge_method" not in document and "outputs" not in document
        assert not problems(SET if is_set else CONFIG, document)


GOOD: dict[str, dict[str, Any]] = {
    "gradient": {"parameters": {"weight": [0.1, 0.9]}},
    "rules": {"parameters": {"weight": [{"filter": "glob:*mlp*", "value": [0, 1]}, {"value": 0.5}, 0.3]}},
    "layers": {"parameters": {"weight": {"layers": {"0": 1, "12": 0.5}, "default": 0}}},
    "file": {"parameters": {"weight": {"file": "w.json", "default": 1}}},
    "switch": {"parameters": {"weight": 1, "normalize": 0}},
    "nothing": {"parameters": None, "dtype": None, "include": None},
    "dtype": {"dtype": "torch.BFloat16", "out_dtype": "half"},
    "filters": {"include": "mlp", "exclude": ["regex:a", "!b"]},
    "name": {"name": "pair"},
    "slices": {"models": None, "slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}]}]},
    "outputs": {"outputs": {"a": {"dtype": "float16"}, "b": {"merge_method": "ties", "parameters": {"density": 0.5}}}},
    "model": {"models": [{"model": {"model": {"path": "a", "revision": None}}}]},
    "model of a hub": {"models": [{"model": {"model": {"path": "org/a", "revision": "main"}}}]},
    "adapter": {"models": [{"model": {"model": "a", "lora": {"path": "b"}}}, {"model": "a+b"}]},
    "model of a report": {"base_model": {"path": "a", "adapters": [{"path": "b", "weight": 0.5}], "name": "org/a"}},
    "numbers of YAML 1.1": {"parameters": {"weight": ["1e-9", 0.5]}},
    "nobody reads": {"random_seed": 7, "models": [{"model": "a", "density": 1}], "parameters": {"int8_mask": True}},
    "another method reads": {"parameters": {"density": 0.5}},
    "another method reads of a model": {"models": [{"model": "a", "parameters": {"density": 0.5}}]},
    "another method reads of an output": {"outputs": {"a": {"parameters": {"density": 0.5}}}},
    "unknown by leave": {"ignore_unknown": True, "dtyp": "float16", "parameters": {"wieght": 1}},
    "tokenizer_source": {"tokenizer_source": "union"},
    "tokenizer_source model": {"tokenizer_source": {"model": {"path": "a"}}},
    "tokenizer": {"tokenizer": {"source": None, "pad_to_multiple_of": 64}},
    "tokens": {
        "tokenizer": {
            "tokens": {
                "<a>": {"source": "base", "force": True},
                "<b>": {"source": {"kind": "zero"}},
                "<c>": {"source": {"kind": "model_token", "model": "b", "token": "<d>"}},
                "<d>": {"source": {"kind": "model_token", "model": {"model": {"path": "b"}}, "token_id": 0}},
            }
        }
    },
    "chat_template": {"chat_template": "chatml"},
    "missing": {"missing": "skip", "experts": "as-base", "routers_from": "a"},
}
BAD: dict[str, dict[str, Any]] = {
    "key": {"dtyp": "float16"},
    "parameter": {"parameters": {"wieght": 1}},
    "parameter of a model": {"models": [{"model": "a", "parameters": {"densty": 0.5}}]},
    "key of a model": {"models": [{"model": "a", "wieght": 0.5}]},
    "method": {"merge_method": "linera"},
    "type": {"parameters": {"weight": "much"}},
    "dtype": {"dtype": "int8"},
    "range": {"merge_method": "ties", "parameters": {"density": 2}},
    "word": {"merge_method": "ties", "parameters": {"sparsify": "some"}},
    "twice": {"slices": [{"sources": [{"model": "a"}]}]},
    "kind of a token": {"tokenizer": {"tokens": {"a": {"source": {"kind": "zeros"}}}}},
    "token of a model": {"tokenizer": {"tokens": {"a": {"source": {"kind": "model_token", "model": "b"}}}}},
    "key of a tokenizer": {"tokenizer": {"sources": "base"}},
    "padding": {"tokenizer": {"pad_to_multiple_of": -1}},
    "missing": {"missing": "ignore"},
    "experts": {"experts": "split"},
    "adapter": {"models": [{"model": {"model": "a", "lora": {"name": "b"}}}]},
    "force without a source": {"tokenizer": {"tokens": {"a": {"force": True}}}},
    "two tokenizers": {"tokenizer_source": "union", "tokenizer": {"source": "base"}},
    "template": {"chat_template": "vicuna"},
    "name": {"name": "foo/bar"},
    "layers of a model": {"models": [{"model": "a", "layer_range": [0, 1]}]},
    "slice without layers": {"models": None, "slices": [{"sources": [{"model": "a"}]}]},
    "revision in short": {"models": [{"model": {"path": "a", "revision": "main"}}]},
    "empty": {"models": []},
    "rule": {"parameters": {"weight": [{"filters": "a", "value": 1}]}},
    "outputs": {"outputs": {"a": {"dtyp": "float16"}}},
    "parameter of an output": {"outputs": {"a": {"parameters": {"densty": 0.5}}}},
    "parameter of an output's method": {"outputs": {"a": {"merge_method": "ties", "parameters": {"density": 2}}}},
}


def plan(change: Mapping[str, Any]) -> dict[str, Any]:
    """A plan of groups."""
    return {
        "base_model": "a",
        "groups": {"g": ["de", "nl"], "h": ["fr"]},
        "directions": {"in": {"merge": {"merge_method": "ties", "parameters": {"weight": 1}}}, "out": "keep"},
        "experts": {"in": {"de": "a", "nl": "b", "fr": "a"}, "out": {"de": "a", "nl": "a", "fr": {"model": "b"}}},
        **change,
    }


def a_set(change: Mapping[str, Any]) -> dict[str, Any]:
    """A set of models for several methods."""
    return {"base_model": "a", "models": [{"model": "b", "parameters": {"density": 0.5}}], **change}


MERGE = {"merge_method": "linear", "parameters": {"weight": 1}}
GOOD_PLANS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "shared": {"merge_method": "ties", "parameters": {"weight": 1}, "directions": {"in": "merge", "out": "keep"}},
    "copy": {"directions": {"in": {"merge": MERGE}, "out": {"keep": "copy"}}},
    "stored": {"directions": {"in": {"merge": {**MERGE, "experts": "as-base"}}, "out": {"keep": None}}},
    "weights": {
        "experts": {
            "in": {"de": {"model": "a", "parameters": {"weight": 1}}, "nl": "b", "fr": "a"},
            "out": {"de": "a", "nl": "a", "fr": "a"},
        }
    },
    "unread": {"random_seed": 7},
    "unknown by leave": {"ignore_unknown": True, "dtyp": "float16"},
}
BAD_PLANS: dict[str, dict[str, Any]] = {
    "key": {"dtyp": "float16"},
    "models": {"models": [{"model": "a"}]},
    "way": {"directions": {"in": "mrge", "out": "keep"}},
    "keep": {"directions": {"in": {"merge": MERGE}, "out": {"keep": "link"}}},
    "key of a merge": {"directions": {"in": {"merge": {**MERGE, "includ": "a"}}, "out": "keep"}},
    "models of a merge": {"directions": {"in": {"merge": {**MERGE, "models": []}}, "out": "keep"}},
    "parameter": {"directions": {"in": {"merge": {**MERGE, "parameters": {"wieght": 1}}}, "out": "keep"}},
    "range": {"directions": {"in": "merge", "out": "keep"}, "merge_method": "ties", "parameters": {"density": 2}},
    "language": {"groups": {"g": ["de", "nl"], "h": [False]}},
    "no experts": {"experts": None},
    "place": {"groups": {"../g": ["de", "nl", "fr"]}},
}
GOOD_SETS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "list": {"methods": ["ties", "weight_average"]},
    "mapping": {"methods": {"ties": None, "t": {"merge_method": "ties", "parameters": {"density": 0.5}}}},
    "parameters of several": {"parameters": {"density": 0.5, "lambda": 1, "select_topk": 0.1}},
}
BAD_SETS: dict[str, dict[str, Any]] = {
    "method": {"merge_method": "ties"},
    "key": {"dtyp": "float16"},
    "misspelt method": {"methods": ["tise"]},
    "key of a method": {"methods": {"ties": {"paramters": {}}}},
    "parameter": {"parameters": {"densty": 0.5}},
    "place": {"methods": {"a/b": {"merge_method": "ties"}}},
    "outputs": {"outputs": {"a": {}}},
}


@pytest.mark.parametrize("name", [f"plan {n}" for n in GOOD_PLANS] + [f"set {n}" for n in GOOD_SETS])
def test_plans_and_sets_are_valid(
    name: str, shapes: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By their schemas, and they are taken."""
    monkeypatch.chdir(two_models(shapes))
    kind, _, which = name.partition(" ")
    found = plan(GOOD_PLANS[which]) if kind == "plan" else a_set(GOOD_SETS[which])
    assert not problems(CONFIG if kind == "plan" else SET, found)
    suture.merge(found, tmp_path / "out", all_of=kind == "set", dry_run=True)


@pytest.mark.parametrize("name", [f"plan {n}" for n in BAD_PLANS] + [f"set {n}" for n in BAD_SETS])
def test_mistakes_in_plans_and_sets_are_not(
    name: str, shapes: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nor are they taken."""
    monkeypatch.chdir(two_models(shapes))
    kind, _, which = name.partition(" ")
    found = plan(BAD_PLANS[which]) if kind == "plan" else a_set(BAD_SETS[which])
    assert problems(CONFIG if kind == "plan" else SET, found)
    with pytest.raises(suture.UsageError):
        suture.merge(found, tmp_path / "out", all_of=kind == "set", dry_run=True)


def two_models(shapes: Callable[[int], Path]) -> Path:
    """The folder of two models, `a` and `b`."""
    folder = shapes(2).parent
    for model in ("a", "b"):
        if not (folder / model).exists():
            shutil.copytree(shapes(2), folder / model)
    return folder


def linear(change: Mapping[str, Any]) -> dict[str, Any]:
    return {"merge_method": "linear", "models": [{"model": "a"}, {"model": "b"}], **change}


@pytest.mark.parametrize("name", GOOD)
def test_every_form_is_valid(name: str) -> None:
    """What the reader of recipes takes, at every level."""
    assert not problems(CONFIG, linear(GOOD[name]))


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_not(name: str) -> None:
    """The test of the test: what is misspelt, out of range or misplaced."""
    assert problems(CONFIG, linear(BAD[name]))


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_refused(name: str, shapes: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not valid is not taken either."""
    monkeypatch.chdir(two_models(shapes))
    with pytest.raises(suture.UsageError):
        suture.merge(linear(BAD[name]), "out", dry_run=True)


def test_a_document_must_merge_something() -> None:
    """One of models, slices and modules, and a method; but for one that only has outputs."""
    assert problems(CONFIG, {})
    assert problems(CONFIG, {"merge_method": "linear"})
    assert problems(CONFIG, {"models": [{"model": "a"}]})
    assert not problems(CONFIG, {"outputs": {"a": linear({})}})


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A tiny model with so many layers, made once."""
    folder = tmp_path_factory.mktemp("layers")

    def made(layers: int) -> Path:
        place = folder / str(layers)
        if not place.exists():
            names = [f"model.layers.{i}.{m}.weight" for i in range(layers) for m in ("mlp.up_proj", "self_attn.q_proj")]
            names += ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
            config = {"model_type": "llama", "num_hidden_layers": layers}
            write_checkpoint(place, {name: np.ones((2, 2), np.float32) for name in names}, config=config)
        return place

    return made


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published configs are not here")
def test_published_configs(shapes: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every config that suture takes is valid; every one refused for an unknown key, parameter or word is not."""
    expected = json.loads((PUBLISHED / "expect.json").read_text(encoding="utf-8"))
    taken = 0
    for file, known in expected.items():
        text = (PUBLISHED / file).read_text(encoding="utf-8")
        folder = tmp_path / file
        for name in sorted(set(re.findall(r"\bm\d+\b", text))):
            (folder / name).mkdir(parents=True)
            for path in shapes(known["layers"]).iterdir():
                os.link(path, folder / name / path.name)
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        try:
            suture.merge(PUBLISHED / file, "out", dry_run=True)
        except suture.UsageError as e:
            if re.search(r"unknown (key|method)|has no parameter", str(e)):
                assert any(problems(CONFIG, d) for d in documents(text)), file
            continue
        except suture.SutureError:
            continue
        taken += 1
        assert not [p for d in documents(text) for p in problems(CONFIG, d)], file
    assert taken > 60


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two fine-tunes."""
    return llama_family(tmp_path_factory.mktemp("models"), layers=3, n=2, hidden=16, ff=24, vocab=12)


#: The schema of each thing that a verb which reads returns.
READ = {"inspect": "inspect", "inspect stats": "inspect", "diff": "diff", "diff all": "diff", "verify": "verify",
        "propose layer": "proposal", "propose module": "proposal", "mask": "mask"}  # fmt: skip


def strict(name: str) -> Draft202012Validator:
    return Draft202012Validator(closed(suture.schema(name)))


@pytest.mark.parametrize("name", READ)
def test_what_is_read_is_valid(name: str, models: list[Path], tmp_path: Path) -> None:
    """Every key has its place in the schema, and the number of the schema is there."""
    found = json.loads(json.dumps(READS[name][0](models, tmp_path / "out")))
    assert found["schema"] == 1
    assert not problems(strict(READ[name]), found)


@pytest.mark.parametrize("name", WRITES)
def test_what_is_written_is_valid(name: str, models: list[Path], tmp_path: Path) -> None:
    """Plans, reports, suture.json and outputs.json; a plan is no report."""
    for dry in (True, False):
        report = WRITES[name](models, tmp_path / "out", dry)
        for one in [report, *report.parts.values()]:
            data: Any = json.loads(one.text)
            of = ("plan" if dry else "report") if "title" in data else "outputs"
            assert not problems(strict(of), data)
            if of != "outputs":
                assert problems(strict("report" if dry else "plan"), data)


def test_tables_beside_outputs_are_valid(models: list[Path], tmp_path: Path) -> None:
    """all_of.json and routing.json, and the lists of outputs they lie beside."""
    entries = [{"model": str(m), "parameters": {"weight": 0.5}} for m in models[1:]]
    of_set = {"base_model": str(models[0]), "models": entries, "methods": ["ties", "linear"]}
    report = suture.merge(of_set, tmp_path / "set", all_of=True)
    assert not problems(strict("all_of"), report.beside["all_of.json"])
    its = dict(zip(("de", "nl"), map(str, models[1:]), strict=True))
    groups = {"groups": {"g": ["de", "nl"]}, "directions": {"in": "merge", "out": "keep"}}
    config = {"merge_method": "linear", "parameters": {"weight": 1}, "experts": {"in": its, "out": its}, **groups}
    report = suture.merge(config, tmp_path / "plan")
    assert not problems(strict("routing"), report.beside["routing.json"])
    assert not problems(strict("outputs"), json.loads(report.text))


def test_other_results_are_valid(models: list[Path], tmp_path: Path) -> None:
    """What compat and the comparison of two outputs return."""
    assert not problems(strict("compat"), suture.compat(*models))
    outs = [tmp_path / "one", tmp_path / "two"]
    for bottom, out in enumerate(outs, 1):
        suture.swap(models[1], models[2], out, bottom=bottom)
    assert not problems(strict("recipes"), suture.diff_recipes(*outs))


def test_comments_are_descriptions() -> None:
    """What a type says of a key, and of itself, is in the schema."""
    found = suture.schema("diff")
    assert "passed over" in found["properties"]["warnings"]["description"]
    assert "stack of layers" in found["$defs"]["Stack"]["description"]
    density = suture.schema("config")["$defs"]["parameters of ties"]["properties"]["density"]
    assert density["default"] == 1
    assert "share of the change" in density["description"]


def test_the_number_of_the_shape_is_told() -> None:
    """Plans, reports and lists of outputs have it."""
    assert "schema" in Shared.__annotations__
    assert "schema" in Outputs.__annotations__
    assert "schema" not in Done.__annotations__
    with pytest.raises(suture.UsageError, match="no schema of `reports`"):
        suture.schema("reports")
    assert copy.deepcopy(suture.schema("config")) == suture.schema("config")
