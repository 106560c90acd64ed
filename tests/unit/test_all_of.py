"""A set of models for several methods: each output is the single merge, and the table is what its formulas say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture.recipe.all_of import TABLE
from suture.recipe.twelve import TWELVE
from suture.surgery import all_of

from ..support.adapters import write_adapter
from ..support.checkpoints import Raw, llama_family, read_checkpoint, write_checkpoint, write_json
from ..support.refusals import listing, refusal

Config = dict[str, Any]
WEIGHTS = (0.5, 0.3, 0.2)
HAVE = {spec["name"] for spec in suture.methods()}
#: Those of the twelve that this build has.
HERE = [name for name, (method, _) in TWELVE.items() if method in HAVE]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and three fine-tunes in bf16."""
    folder = tmp_path_factory.mktemp("models")
    return llama_family(folder, layers=3, n=3, hidden=16, heads=4, kv_heads=2, ff=24, vocab=12, dtype="bf16")


def entries(models: Iterable[Path | str]) -> list[Config]:
    return [{"model": str(m), "parameters": {"weight": w}} for m, w in zip(models, WEIGHTS, strict=False)]


def a_set(models: list[Path], /, **more: Any) -> Config:
    """Weights for each model, and a parameter of each kind that some methods read and others do not."""
    return {
        "base_model": str(models[0]),
        "models": entries(models[1:]),
        "parameters": {"density": 0.5, "epsilon": 0.1, "gamma": 0.02, "lambda": 0.9},
        "dtype": "float32",
    } | more


#: What each of the twelve reads of that set, written out by hand.
PIPELINE = {
    "task_arithmetic": (), "ties": ("density",), "dare_linear": ("density",), "dare_ties": ("density",),
    "della_linear": ("density", "epsilon"), "della": ("density", "epsilon"),
    "breadcrumbs": ("density", "gamma"), "breadcrumbs_ties": ("density", "gamma"),
}  # fmt: skip


def single(name: str, models: list[Path]) -> Config:
    """The config of one of the twelve, as one would write it alone."""
    given = a_set(models)
    config = {"merge_method": TWELVE[name][0], "base_model": given["base_model"], "dtype": "float32"}
    if name == "weight_average":
        return config | {"models": [{"model": str(m), "parameters": {"weight": 1}} for m in models[1:]]}
    if name == "model_stock":
        return config | {"models": [{"model": str(m)} for m in models[1:]]}
    shared = {key: given["parameters"][key] for key in PIPELINE.get(name, ())}
    if name != "rewarded_soup":
        shared["lambda"] = 0.9
    return config | {"models": given["models"], "parameters": shared}


def same(folder: Path, alone: Path) -> None:
    """Every file is the same, but for what suture.json says of the run and of how the parameters were written."""
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in alone.iterdir())
    for file in (p for p in alone.iterdir() if p.name != "suture.json"):
        assert (folder / file.name).read_bytes() == file.read_bytes(), file


def test_the_twelve_are_the_twelve() -> None:
    """The paper's list, in its names, and each once."""
    assert [title for _, title in TWELVE.values()] == [
        "Weight Average", "Rewarded Soup", "Model Stock", "Task Arithmetic", "TIES", "DARE", "DARE-TIES", "DELLA",
        "DELLA-TIES", "Breadcrumbs", "Breadcrumbs-TIES", "TSVM",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def made(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, suture.Report]:
    """A run of all."""
    out = tmp_path_factory.mktemp("made") / "out"
    return out, suture.merge(a_set(models), out, all_of=True)


def test_each_output_is_the_single_merge(made: tuple[Path, suture.Report], models: list[Path], tmp_path: Path) -> None:
    """Law 10: by every method, byte for byte; and what this build lacks is told, not passed over."""
    out, report = made
    assert list(report.parts) == HERE
    for name in HERE:
        suture.merge(single(name, models), tmp_path / name)
        same(out / name, tmp_path / name)
    assert sorted(p.name for p in out.iterdir()) == sorted([*HERE, TABLE, "outputs.json"])
    lacking = TWELVE.keys() - HERE
    assert report.beside[TABLE]["left_out"].keys() == lacking
    for name in lacking:
        assert any(w == f"{name}: left out, this build has no method `{name}`" for w in report.warnings)


def test_nothing_is_said_of_parameters_of_other_methods(made: tuple[Path, suture.Report]) -> None:
    """A parameter that some method of the set reads is no mistake where another does not."""
    told = [w for w in made[1].warnings if "is not read" in w or "does nothing" in w]
    assert not told


def flat(folder: Path, names: list[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    tensors = read_checkpoint(folder)
    return np.concatenate([np.asarray(tensors[n].values(), np.float64).ravel() for n in names])


def oracle(base: Path, experts: list[Path], out: Path, names: list[str]) -> dict[str, Any]:
    """The table's row from its formulas, in NumPy."""
    b, o = flat(base, names), flat(out, names)
    row: dict[str, Any] = {"l2": np.linalg.norm(o - b), "relative_l2": np.linalg.norm(o - b) / np.linalg.norm(b)}
    row["towards"] = []
    for expert in experts:
        e = flat(expert, names)
        cosine = (o - b) @ (e - b) / (np.linalg.norm(o - b) * np.linalg.norm(e - b))
        distance = np.linalg.norm(o - e)
        row["towards"].append((distance, distance / np.linalg.norm(e - b), cosine))
    return row


def check(row: Config, want: dict[str, Any]) -> None:
    assert math.isclose(row["l2"], want["l2"], rel_tol=1e-6)
    assert math.isclose(row["relative_l2"], want["relative_l2"], rel_tol=1e-6)
    for found, (distance, relative, cosine) in zip(row["towards"], want["towards"], strict=True):
        assert math.isclose(found["distance"], distance, rel_tol=1e-5, abs_tol=1e-12)
        assert math.isclose(found["relative_distance"], relative, rel_tol=1e-5, abs_tol=1e-12)
        assert math.isclose(found["cosine"], cosine, abs_tol=1e-6)


def test_the_table_is_what_its_formulas_say(made: tuple[Path, suture.Report], models: list[Path]) -> None:
    """Distances, lengths and cosines of every output and expert, against NumPy in f64; the file is the report's."""
    out, report = made
    table = json.loads((out / TABLE).read_text())
    assert table == report.beside[TABLE]
    assert table["experts"] == [m.name for m in models[1:]]
    assert [row["output"] for row in table["outputs"]] == HERE
    names = list(read_checkpoint(models[0]))
    for row in table["outputs"]:
        assert row["tensors"] == len(names)
        assert (row["merge_method"], row["title"]) == TWELVE[row["output"]]
        check(row, oracle(models[0], models[1:], out / row["output"], names))


def test_outputs_that_all_but_coincide_with_an_expert(models: list[Path], tmp_path: Path) -> None:
    """A difference of squares would lose all digits: the distance is still right where it is tiny, and zero is zero."""
    near = {"task_arithmetic": None, "less": {"merge_method": "task_arithmetic", "parameters": {"lambda": 1 - 1e-5}}}
    one = {"model": str(models[1]), "parameters": {"weight": 1}}
    config = a_set(models[:2], parameters={}, models=[one], methods=near)
    suture.merge(config, tmp_path / "out", all_of=True)
    whole, less = json.loads((tmp_path / "out" / TABLE).read_text())["outputs"]
    assert whole["towards"][0]["distance"] < 1e-7
    names = list(read_checkpoint(models[0]))
    want = oracle(models[0], [models[1]], tmp_path / "out" / "less", names)
    # A thousandth of a percent of a change: rounded to f32, of which the oracle reads the same bytes.
    assert 0 < want["towards"][0][0] < 1e-5
    check(less, want)


@pytest.mark.parametrize("scarce", ["rows", "memory"])
def test_any_number_of_readings_gives_the_same(
    scarce: str, made: tuple[Path, suture.Report], models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison is cut where rows or memory are scarce; the figures do not depend on where."""
    calls = []

    def counted(*given: Any, **options: Any) -> Any:
        calls.append(len(given))
        return suture.diff(*given, **options)

    monkeypatch.setattr(all_of, "diff", counted)
    settings = suture.Settings(threads=2, memory="200MiB" if scarce == "memory" else None)
    if scarce == "rows":
        monkeypatch.setattr(all_of, "_ROWS", 700)
    report = suture.merge(a_set(models), tmp_path / "out", all_of=True, settings=settings)
    assert report.beside[TABLE] == made[1].beside[TABLE]
    assert len(calls) > 1


def test_methods_with_parameters_of_their_own(models: list[Path], tmp_path: Path) -> None:
    """From the whole registry, by names of one's own; their parameters stand for the set's at every level."""
    methods = {
        "sparse": {"merge_method": "ties", "parameters": {"density": 0.2, "weight": 1}},
        "rewarded_soup": None,
        "karcher": {"parameters": {"max_iter": 3}},
        "DARE": {"merge_method": "dare_linear"},
    }
    report = suture.merge(a_set(models, methods=methods), tmp_path / "out", all_of=True)
    assert list(report.parts) == list(methods)
    alone: Config = {"merge_method": "ties", "base_model": str(models[0]), "dtype": "float32"}
    alone |= {"models": [{"model": str(m)} for m in models[1:]]}
    alone["parameters"] = {"density": 0.2, "weight": 1, "lambda": 0.9}
    suture.merge(alone, tmp_path / "sparse")
    same(tmp_path / "out" / "sparse", tmp_path / "sparse")
    rows = {row["output"]: row for row in report.beside[TABLE]["outputs"]}
    assert rows["sparse"]["merge_method"] == "ties"
    assert rows["rewarded_soup"]["title"] == "Rewarded Soup"
    assert report.beside[TABLE]["left_out"] == {}
    assert suture.verify(tmp_path / "out")["differing"] == []


def test_without_a_base(models: list[Path], tmp_path: Path) -> None:
    """What needs one is told in the plan and left out; the distances need none."""
    config = a_set(models, parameters={})
    del config["base_model"]
    look = suture.merge(config, tmp_path / "out", all_of=True, dry_run=True)
    assert sorted(look.parts) == ["rewarded_soup", "weight_average"]
    for name in TWELVE.keys() - look.parts.keys() - (TWELVE.keys() - HERE):
        assert f"{name}: left out, it needs a `base_model`, and the set has none" in look.warnings
    suture.merge(config, tmp_path / "out", all_of=True)
    table = json.loads((tmp_path / "out" / TABLE).read_text())
    assert table["base"] is None
    names = list(read_checkpoint(models[0]))
    for row in table["outputs"]:
        assert row["l2"] is None
        out = flat(tmp_path / "out" / row["output"], names)
        for expert, towards in zip(models[1:], row["towards"], strict=True):
            assert math.isclose(towards["distance"], np.linalg.norm(out - flat(expert, names)), rel_tol=1e-6)
            assert towards["cosine"] is None


def test_one_expert_and_no_weights(models: list[Path], tmp_path: Path) -> None:
    """What takes two is left out; what is not given and decides something is told."""
    config = {"base_model": str(models[0]), "models": [{"model": str(models[1])}]}
    look = suture.merge(config, tmp_path / "out", all_of=True, dry_run=True)
    assert "model_stock" not in look.parts
    assert "model_stock: left out, it merges at least 2 models, and the set has 1" in look.warnings
    assert any(w.startswith("weight: none is given") for w in look.warnings)
    cut = next(w for w in look.warnings if w.startswith("density: none is given"))
    assert "task_arithmetic" not in cut
    assert all(name in cut for name in ("ties", "dare_linear", "della", "breadcrumbs_ties"))
    assert not (tmp_path / "out").exists()
    assert look.beside == {}


#: Every other feature of a config, and what the same is called in a merge alone.
FEATURES: dict[str, Any] = {
    "include": {"include": "mlp"},
    "exclude": {"exclude": ["norm"]},
    "gradient": {"parameters": {"weight": [0.2, 0.8]}},
    "tokenizer": {"tokenizer": {"source": "base", "pad_to_multiple_of": 8}},
    "missing": {"missing": "base"},
    "ignored": {"ignore_unknown": True, "colour": "red"},
    "template": {"chat_template": "chatml"},
}


@pytest.mark.parametrize("feature", FEATURES)
def test_other_features_compose(feature: str, models: list[Path], tmp_path: Path) -> None:
    """Law 10: what a merge can be told holds for each of the set."""
    if feature == "tokenizer":
        words = {"model": {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(12)}, "unk_token": "w0"}}
        for model in models:
            write_json(model / "tokenizer.json", {"version": "1.0", "added_tokens": [], **words})
    shared: Config = {"base_model": str(models[0]), "models": [{"model": str(m)} for m in models[1:]]}
    shared |= {"parameters": {"weight": 0.5}, **FEATURES[feature]}
    suture.merge({**shared, "methods": ["task_arithmetic", "linear"]}, tmp_path / "out", all_of=True)
    for method in ("task_arithmetic", "linear"):
        suture.merge({**shared, "merge_method": method}, tmp_path / method)
        same(tmp_path / "out" / method, tmp_path / method)
    for model in models:
        (model / "tokenizer.json").unlink(missing_ok=True)


def test_slices_in_their_place_and_modules(models: list[Path], tmp_path: Path) -> None:
    """Slices whose base is among their sources: a method without a base does not take it for a model."""
    cuts = [(0, 1), (1, 3)]
    slices: list[Config] = [
        {"sources": [{"model": str(m), "layer_range": list(cut)} for m in models], "parameters": {"weight": 0.3 + i}}
        for i, cut in enumerate(cuts)
    ]
    config: Config = {"base_model": str(models[0]), "slices": slices, "methods": ["linear", "task_arithmetic"]}
    suture.merge(config, tmp_path / "out", all_of=True)
    table = json.loads((tmp_path / "out" / TABLE).read_text())
    assert table["experts"] == [m.name for m in models[1:]]
    alone: Config = {"merge_method": "task_arithmetic", "base_model": str(models[0]), "slices": slices}
    suture.merge(alone, tmp_path / "task_arithmetic")
    same(tmp_path / "out" / "task_arithmetic", tmp_path / "task_arithmetic")
    bare = [{**one, "sources": one["sources"][1:]} for one in slices]
    suture.merge(alone | {"merge_method": "linear", "slices": bare}, tmp_path / "linear")
    same(tmp_path / "out" / "linear", tmp_path / "linear")
    parts = {"layers": {"models": entries(models[1:])}, "rest": {"models": entries(models[2:])}}
    config = {"base_model": str(models[0]), "modules": parts}
    report = suture.merge({**config, "methods": ["linear", "ties"]}, tmp_path / "modules", all_of=True)
    assert report.beside[TABLE]["experts"] == [m.name for m in models[1:]]
    for method in ("linear", "ties"):
        suture.merge({**config, "merge_method": method}, tmp_path / f"modules-{method}")
        same(tmp_path / "modules" / method, tmp_path / f"modules-{method}")


def test_the_base_among_the_models(models: list[Path], tmp_path: Path) -> None:
    """It is the base, as mergekit's configs list it, and no model: of no method, and not in the table."""
    listed = [{"model": f"{models[0].parent}/./{models[0].name}"}, *entries(models[1:])]
    suture.merge(a_set(models, models=listed), tmp_path / "with", all_of=True)
    suture.merge(a_set(models), tmp_path / "without", all_of=True)
    for name in HERE:
        assert read_checkpoint(tmp_path / "with" / name) == read_checkpoint(tmp_path / "without" / name), name
    assert (tmp_path / "with" / TABLE).read_bytes() == (tmp_path / "without" / TABLE).read_bytes()


def test_a_weight_for_some(models: list[Path], tmp_path: Path) -> None:
    """No weight stands for one that is missing where others are given."""
    listed = [*entries(models[1:3]), {"model": str(models[3])}]
    error = refusal(suture.merge, a_set(models, models=listed), tmp_path / "out", all_of=True)
    assert error is not None
    assert "weight" in error
    assert "models[2]" in error or str(models[3].name) in error


def test_experts_with_adapters(models: list[Path], tmp_path: Path) -> None:
    """`base+adapter` is an expert as any other, under the name it has elsewhere; the table is of what it is folded."""
    base = read_checkpoint(models[0])
    for number, name in enumerate(("one", "two")):
        write_adapter(tmp_path / name, base, ("self_attn.q_proj",), range(3), seed=number)
    named = [f"{models[0]}+{tmp_path / name}" for name in ("one", "two")]
    config = {"base_model": str(models[0]), "models": entries(named), "dtype": "float32"}
    report = suture.merge({**config, "methods": ["task_arithmetic"]}, tmp_path / "out", all_of=True)
    suture.merge({**config, "merge_method": "task_arithmetic"}, tmp_path / "alone")
    same(tmp_path / "out" / "task_arithmetic", tmp_path / "alone")
    (row,) = report.beside[TABLE]["outputs"]
    assert [t["expert"] for t in row["towards"]] == ["base+one", "base+two"]
    for towards, name in zip(row["towards"], ("one", "two"), strict=True):
        suture.fold(models[0], [tmp_path / name], tmp_path / f"folded-{name}")
        names = list(base)
        folded, out = flat(tmp_path / f"folded-{name}", names), flat(tmp_path / "out" / "task_arithmetic", names)
        assert math.isclose(towards["distance"], np.linalg.norm(folded - out), rel_tol=1e-3)


def test_tensors_that_not_all_have(models: list[Path], tmp_path: Path) -> None:
    """The figures towards experts are over what all have, and their number is told."""
    tensors = read_checkpoint(models[1])
    del tensors["model.norm.weight"]
    short = write_checkpoint(tmp_path / "short", tensors, config={"model_type": "llama", "num_hidden_layers": 3})
    config = a_set([models[0], short, models[2]], missing="base", methods=["ties"])
    suture.merge(config, tmp_path / "out", all_of=True)
    (row,) = json.loads((tmp_path / "out" / TABLE).read_text())["outputs"]
    names = list(tensors)
    assert row["tensors"] == len(names)
    want = oracle(models[0], [short, models[2]], tmp_path / "out" / "ties", names)
    for found, (distance, _, cosine) in zip(row["towards"], want["towards"], strict=True):
        assert math.isclose(found["distance"], distance, rel_tol=1e-5)
        assert math.isclose(found["cosine"], cosine, abs_tol=1e-6)


#: What is wrong, and what the message says.
WRONG: dict[str, tuple[Config, str]] = {
    "method": ({"merge_method": "ties"}, "merge_method: a set is merged by every method"),
    "outputs": ({"outputs": {"a": {}}}, "outputs: a set makes one output for each method"),
    "name": ({"name": "a"}, "name: a set stands alone"),
    "groups": ({"groups": {"a": ["b"]}}, "groups: a plan of groups is no set"),
    "key": ({"dtyp": "float16"}, "dtyp: unknown key; did you mean `dtype`?"),
    "methods": ({"method": ["ties"]}, "method: unknown key; did you mean `methods`?"),
    "unknown": ({"methods": ["tise"]}, "methods[0]: unknown method `tise`; did you mean `ties`?"),
    "unknown of a name": ({"methods": {"a": {"merge_method": "lineer"}}}, "did you mean `linear`?"),
    "twice": ({"methods": ["ties", "ties"]}, "methods[1]: two outputs are called `ties`"),
    "mapping in a list": ({"methods": [{"ties": {}}]}, "methods[0]: expected the name of a method"),
    "nothing": ({"methods": []}, "methods: expected a list of methods"),
    "text": ({"methods": "ties"}, "methods: expected a list of methods"),
    "key of a method": ({"methods": {"ties": {"paramters": {}}}}, "did you mean `parameters`?"),
    "place": ({"methods": {"../a": {"merge_method": "ties"}}}, "expected a name that can be a folder's"),
    "table": ({"methods": {TABLE: {"merge_method": "ties"}}}, "`all_of.json` has the figures of all"),
    "list": ({"methods": {"outputs.json": {"merge_method": "ties"}}}, "expected another name"),
    "parameter": ({"parameters": {"densty": 0.5}}, "parameters.densty: unknown parameter; did you mean `density`?"),
    "own parameter": ({"methods": {"ties": {"parameters": {"densty": 0.5}}}}, "density"),
    "out of range": ({"methods": {"ties": {"parameters": {"density": 2}}}}, "density"),
    "no models": ({"models": []}, "at least one model"),
    "number of models": ({"methods": ["slerp"]}, "slerp"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_refused(name: str, models: list[Path], tmp_path: Path) -> None:
    """Law 8: by key, with the nearest name, before anything is written."""
    change, says = WRONG[name]
    error = refusal(suture.merge, a_set(models, **change), tmp_path / "out", all_of=True)
    assert error is not None
    assert says in error, error
    assert not list(tmp_path.iterdir())


def test_the_line_of_a_mistake(models: list[Path], tmp_path: Path) -> None:
    """Law 8: in the file, where it stands, also in what a method has of its own."""
    config = tmp_path / "set.yml"
    config.write_text(
        f"base_model: {models[0]}\nmodels:\n  - model: {models[1]}\n  - model: {models[2]}\n"
        "parameters: {weight: 1}\nmethods:\n  ties:\n    parameters:\n      density: 2\n"
    )
    error = refusal(suture.merge, config, tmp_path / "out", all_of=True)
    assert error is not None
    assert error.startswith(f"{config}:9: ")


def test_layers_that_move_are_refused(models: list[Path], tmp_path: Path) -> None:
    """What is compared by name would not be what it was made of."""
    slices = [{"sources": [{"model": str(m), "layer_range": [1, 3]} for m in models]}]
    error = refusal(suture.merge, {"base_model": str(models[0]), "slices": slices}, tmp_path / "out", all_of=True)
    assert error is not None
    assert "slices[0]: layers 1 to 2 would be layers from 0 on" in error


def test_a_set_without_the_flag_and_several_documents(models: list[Path], tmp_path: Path) -> None:
    """Each says what to do."""
    error = refusal(suture.merge, a_set(models, methods=["ties"]), tmp_path / "out")
    assert error is not None
    assert "`suture merge --all-of`" in error
    path = tmp_path / "two.yml"
    path.write_text("\n---\n".join(json.dumps(a_set(models)) for _ in range(2)))
    error = refusal(suture.merge, path, tmp_path / "out", all_of=True)
    assert error is not None
    assert "found 2 documents" in error
    error = refusal(suture.merge, a_set(models), tmp_path / "out.safetensors", all_of=True)
    assert error is not None
    assert "writes a folder" in error


def test_what_was_there_is_kept(models: list[Path], tmp_path: Path) -> None:
    """Law 6: a run that is done is refused without --overwrite; a file of somebody's by the table's name always."""
    config = a_set(models, methods=["ties", "linear"])
    suture.merge(config, tmp_path / "out", all_of=True)
    before = listing(tmp_path)
    assert refusal(suture.merge, config, tmp_path / "out", all_of=True) is not None
    assert listing(tmp_path) == before
    suture.merge(config, tmp_path / "out", all_of=True, settings=suture.Settings(overwrite=True))
    assert listing(tmp_path).keys() == before.keys()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / TABLE).write_text('{"weeks": "of work"}')
    before = listing(tmp_path)
    for overwrite in (False, True):
        how = suture.Settings(overwrite=overwrite)
        assert refusal(suture.merge, config, tmp_path / "mine", all_of=True, settings=how) is not None
        assert listing(tmp_path) == before


def test_interrupted_while_comparing(models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 6: the outputs are made, the table is not: the same command goes on to the same, another is refused."""
    config = a_set(models, methods=["ties", "linear"])

    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(all_of, "diff", interrupt)
        with pytest.raises(KeyboardInterrupt):
            suture.merge(config, tmp_path / "out", all_of=True)
    assert (tmp_path / "out" / "ties").exists()
    assert not (tmp_path / "out" / "outputs.json").exists()
    other = a_set(models, methods=["ties"], parameters={"density": 0.1})
    assert refusal(suture.merge, other, tmp_path / "out", all_of=True) is not None
    suture.merge(config, tmp_path / "out", all_of=True)
    suture.merge(config, tmp_path / "whole", all_of=True)
    for path in (p for p in (tmp_path / "whole").rglob("*") if p.is_file() and p.name != "suture.json"):
        assert (tmp_path / "out" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [TABLE, "linear", "outputs.json", "ties"]


def test_what_is_not_a_number_is_passed_on(models: list[Path], tmp_path: Path) -> None:
    """With `nan: allow` the table is still JSON, and says nothing wrong of what is left out."""
    tensors = read_checkpoint(models[1])
    odd = tensors["model.norm.weight"]
    tensors["model.norm.weight"] = Raw(odd.dtype, odd.shape, b"\xff\x7f" * (len(odd.data) // 2))
    nan = write_checkpoint(tmp_path / "nan", tensors, config={"model_type": "llama", "num_hidden_layers": 3})
    config = a_set([models[0], nan, models[2]], methods=["linear"])
    suture.merge(config, tmp_path / "out", all_of=True, settings=suture.Settings(nan="allow"))
    text = (tmp_path / "out" / TABLE).read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
