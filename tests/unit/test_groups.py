"""A plan of groups: exactly its outputs, each the single merge; a table without gaps; sizes by arithmetic."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

import suture
from suture.recipe.groups import ROUTING

from ..support.adapters import write_adapter
from ..support.checkpoints import llama_family, read_checkpoint, write_checkpoint
from ..support.lora import read_lora
from ..support.refusals import listing, refusal

Config = dict[str, Any]
LANGUAGES = ("de", "nl", "fr", "it")
GROUPS = {"germanic": ["de", "nl"], "romance": ["fr", "it"]}
TIES = {"merge_method": "ties", "parameters": {"weight": 0.7, "density": 0.4}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and an expert for each of four languages in two directions."""
    folder = tmp_path_factory.mktemp("models")
    return llama_family(folder, layers=2, n=8, hidden=16, heads=4, kv_heads=2, ff=24, vocab=12, dtype="bf16")


def experts(models: list[Path], first: int) -> dict[str, str]:
    return {language: str(models[first + i]) for i, language in enumerate(LANGUAGES)}


def plan(models: list[Path], /, **more: Any) -> Config:
    """Four languages, two directions: one merged in groups, one kept."""
    return {
        "base_model": str(models[0]),
        "dtype": "float32",
        "groups": GROUPS,
        "directions": {"xx-en": {"merge": TIES}, "en-xx": "keep"},
        "experts": {"xx-en": experts(models, 1), "en-xx": experts(models, 5)},
    } | more


def single(models: list[Path], numbers: list[int], /, **more: Any) -> Config:
    """The merge of a group as one would write it alone."""
    listed = [{"model": str(models[n])} for n in numbers]
    return {**TIES, "base_model": str(models[0]), "dtype": "float32", "models": listed} | more


def same(folder: Path, alone: Path) -> None:
    """Every file, and every report but for how it went."""
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in alone.iterdir())
    for file in (p for p in alone.iterdir() if p.name != "suture.json"):
        assert (folder / file.name).read_bytes() == file.read_bytes(), file
    found, want = (json.loads((place / "suture.json").read_text()) for place in (folder, alone))
    for report in (found, want):
        del report["run"]
    assert found == want


def elements(folder: Path) -> int:
    return sum(math.prod(raw.shape) for raw in read_checkpoint(folder).values())


def test_four_languages_in_two_directions(models: list[Path], tmp_path: Path) -> None:
    """The reference's acceptance: the files listed, each group's model the single merge to the byte, all languages."""
    out = tmp_path / "out"
    report = suture.merge(plan(models), out)
    assert sorted(p.name for p in out.iterdir()) == [
        "outputs.json", "routing.json", "xx-en.germanic", "xx-en.romance",
    ]  # fmt: skip
    for group, numbers in (("germanic", [1, 2]), ("romance", [3, 4])):
        suture.merge(single(models, numbers), tmp_path / group)
        same(out / f"xx-en.{group}", tmp_path / group)
    table = json.loads((out / ROUTING).read_text())
    assert table == report.beside[ROUTING]
    assert table["groups"] == GROUPS
    assert list(table["routes"]) == ["xx-en", "en-xx"]
    for direction, routes in table["routes"].items():
        assert sorted(routes) == sorted(LANGUAGES)
        for i, language in enumerate(LANGUAGES):
            route, group = routes[language], "germanic" if i < 2 else "romance"
            assert route["group"] == group
            place = (out / route["model"]["path"]).resolve()
            if direction == "xx-en":
                assert route["output"] == f"xx-en.{group}"
                assert place == (out / f"xx-en.{group}").resolve()
            else:
                assert route["output"] is None
                assert place == models[5 + i].resolve()
    whole = elements(models[0])
    sizes = table["sizes"]
    assert sizes["base"] == whole
    assert sizes["experts"] == {"models": 8, "parameters": 8 * whole}
    assert sizes["served"] == {"models": 6, "parameters": 6 * whole}
    assert suture.verify(out)["differing"] == []


def test_what_is_the_base_is_counted_once(models: list[Path], tmp_path: Path) -> None:
    """Tensors that outputs take from the base as they are: each once, however many outputs have it."""
    report = suture.merge(plan(models, dtype=None, exclude=["mlp"]), tmp_path / "out")
    whole = elements(models[0])
    mlp = sum(math.prod(raw.shape) for name, raw in read_checkpoint(models[0]).items() if "mlp" in name)
    sizes = report.beside[ROUTING]["sizes"]
    assert {m["own"] for m in sizes["models"] if m["name"].startswith("xx-en")} == {whole - mlp}
    assert sizes["served"] == {"models": 6, "parameters": 2 * (whole - mlp) + 4 * whole + mlp}


def test_experts_with_adapters(models: list[Path], tmp_path: Path) -> None:
    """Adapters on one base: it is counted once, and they are; kept, they are routed to with their base."""
    base = read_checkpoint(models[0])
    for number, language in enumerate(LANGUAGES):
        write_adapter(tmp_path / language, base, ("self_attn.q_proj",), range(2), seed=number)
    named = {language: f"{models[0]}+{tmp_path / language}" for language in LANGUAGES}
    out = tmp_path / "out"
    report = suture.merge(plan(models, experts={"xx-en": named, "en-xx": named}), out)
    listed = [{"model": named[language]} for language in ("de", "nl")]
    suture.merge(single(models, [], models=listed), tmp_path / "alone")
    same(out / "xx-en.germanic", tmp_path / "alone")
    sizes, whole = report.beside[ROUTING]["sizes"], elements(models[0])
    of_adapter = sum(math.prod(raw.shape) for raw in read_lora(tmp_path / "de").values())
    assert sizes["experts"] == {"models": 4, "parameters": whole + 4 * of_adapter}
    # Two whole models, and the base once with four adapters.
    assert sizes["served"] == {"models": 6, "parameters": 2 * whole + whole + 4 * of_adapter}
    place = report.beside[ROUTING]["routes"]["en-xx"]["de"]["model"]
    assert (out / place["path"]).resolve() == models[0].resolve()
    assert [(out / a["path"]).resolve() for a in place["adapters"]] == [(tmp_path / "de").resolve()]


def test_kept_as_copies(models: list[Path], tmp_path: Path) -> None:
    """`keep: copy` puts experts into OUT bit for bit, whatever dtype the merges have; a shared one once."""
    its = {**experts(models, 5), "it": str(models[7])}
    config = plan(models, experts={"xx-en": experts(models, 1), "en-xx": its})
    config["directions"] = {"xx-en": {"merge": TIES}, "en-xx": {"keep": "copy"}}
    report = suture.merge(config, tmp_path / "out")
    assert list(report.parts) == ["xx-en.germanic", "xx-en.romance", "en-xx.de", "en-xx.nl", "en-xx.fr"]
    for i, language in enumerate(("de", "nl", "fr")):
        assert read_checkpoint(tmp_path / "out" / f"en-xx.{language}") == read_checkpoint(models[5 + i])
    routes = report.beside[ROUTING]["routes"]["en-xx"]
    assert [routes[one]["output"] for one in LANGUAGES] == ["en-xx.de", "en-xx.nl", "en-xx.fr", "en-xx.fr"]
    assert routes["it"]["model"] == {"path": "en-xx.fr"}
    assert report.beside[ROUTING]["sizes"]["experts"]["models"] == 7
    assert report.beside[ROUTING]["sizes"]["served"]["models"] == 5


def test_each_direction_has_its_way(models: list[Path], tmp_path: Path) -> None:
    """A method for the plan, another for a direction, weights for single experts; each is the single merge."""
    its: dict[str, Any] = experts(models, 1)
    its["nl"] = {"model": its["nl"], "parameters": {"weight": 0.1}}
    directions = {
        "xx-en": "merge",
        "en-xx": {"merge": {"merge_method": "linear", "include": "mlp", "dtype": "bfloat16"}},
    }
    config = plan(models, **TIES, directions=directions, experts={"xx-en": its, "en-xx": experts(models, 5)})
    suture.merge(config, tmp_path / "out")
    listed = [{"model": str(models[1])}, {"model": str(models[2]), "parameters": {"weight": 0.1}}]
    suture.merge(single(models, [], models=listed), tmp_path / "one")
    same(tmp_path / "out" / "xx-en.germanic", tmp_path / "one")
    more = {"merge_method": "linear", "include": "mlp", "dtype": "bfloat16"}
    suture.merge(single(models, [5, 6], **more), tmp_path / "two")
    same(tmp_path / "out" / "en-xx.germanic", tmp_path / "two")


def test_a_dry_run_has_the_table(models: list[Path], tmp_path: Path) -> None:
    """The plan of everything, and the same routes and sizes as afterwards; nothing is written."""
    before = listing(tmp_path)
    look = suture.merge(plan(models), tmp_path / "out", dry_run=True)
    assert listing(tmp_path) == before
    done = suture.merge(plan(models), tmp_path / "out")
    assert look.beside == done.beside
    assert list(look.parts) == list(done.parts)


def at(config: Config, *path: str, value: Any) -> Config:
    """A plan with one thing changed."""
    made: Config = json.loads(json.dumps(config))
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return made


WRONG: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "two groups": (("groups", "romance"), ["fr", "it", "de"], "`de` is in `germanic` and in `romance`"),
    "twice": (("groups", "romance"), ["fr", "it", "fr"], "`fr` is twice in `romance`"),
    "no group": (("groups", "romance"), ["fr"], "experts.xx-en.it: `it` is in none of the groups"),
    "no expert": (("experts", "en-xx", "nl"), None, "experts.en-xx: no expert of `nl`, which is in group `germanic`"),
    "no experts": (("experts", "en-xx"), None, "experts.en-xx: is missing"),
    "no direction": (("experts", "enxx"), {}, "experts.enxx: no such direction; did you mean `en-xx`?"),
    "empty group": (("groups", "slavic"), [], "groups.slavic: expected a list of languages"),
    "norwegian": (("groups", "slavic"), [False], "put the language into quotes"),
    "norwegian expert": (("experts", "en-xx", "False"), "x", "put the language into quotes"),
    "language": (("groups", "slavic"), [""], "expected a language"),
    "place": (("groups", "../x"), ["xx"], "expected a name that can be a folder's"),
    "one file": (("groups", "safetensors"), ["xx"], "no expert of `xx`"),
    "way": (("directions", "en-xx"), "kept", "expected `merge`, `keep`, or a mapping"),
    "two ways": (("directions", "en-xx"), {"keep": None, "merge": {}}, "expected `merge`, `keep`, or a mapping"),
    "no such way": (("directions", "en-xx"), {"kep": "copy"}, "kep: unknown key; did you mean `keep`?"),
    "keep": (("directions", "en-xx"), {"keep": "link"}, "directions.en-xx.keep: expected copy or route"),
    "nothing made": (("directions", "xx-en"), "keep", "nothing is merged and nothing copied"),
    "no method": (("directions", "xx-en"), "merge", "`merge_method` is missing"),
    "method": (("directions", "xx-en", "merge", "merge_method"), "tise", "did you mean ties"),
    "parameter": (("directions", "xx-en", "merge", "parameters", "densty"), 1, "density"),
    "key of a merge": (("directions", "xx-en", "merge", "includ"), "a", "include"),
    "models of a merge": (("directions", "xx-en", "merge", "models"), [], "the models of a plan are its `experts`"),
    "models": (("models",), [{"model": "a"}], "models: the models of a plan are its `experts`"),
    "slices": (("slices",), [], "slices: the models of a plan are its `experts`"),
    "outputs": (("outputs",), {"a": {}}, "outputs: a plan makes an output for each group"),
    "name": (("name",), "a", "name: a plan stands alone"),
    "methods": (("methods",), ["ties"], "`suture merge --all-of`"),
    "key": (("diretions",), {}, "diretions: unknown key; did you mean `directions`?"),
    "model": (("experts", "en-xx", "nl"), "nowhere", "experts.en-xx.nl: `nowhere`: no such file or folder"),
    "no model": (("experts", "en-xx", "nl"), 7, "experts.en-xx.nl: expected a model, found `7`"),
    "key of an expert": (("experts", "xx-en", "nl"), {"modl": "a", "parameters": {}}, "did you mean `model`?"),
    "groups": (("groups",), ["de"], "groups: expected a mapping"),
    "no groups": (("groups",), None, "groups: expected a mapping"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_refused(name: str, models: list[Path], tmp_path: Path) -> None:
    """Law 8: a gap or an overlap by its languages, a key by the nearest name, before anything is written."""
    path, value, says = WRONG[name]
    error = refusal(suture.merge, at(plan(models), *path, value=value), tmp_path / "out")
    assert error is not None
    assert says in error.replace("`ties`", "ties"), error
    assert not list(tmp_path.iterdir())


def test_the_same_model_twice_in_a_group(models: list[Path], tmp_path: Path) -> None:
    """As in a merge: refused, at the expert's line."""
    config = at(plan(models), "experts", "xx-en", "nl", value=str(models[1]))
    (tmp_path / "plan.yml").write_text(json.dumps(config, indent=1))
    error = refusal(suture.merge, tmp_path / "plan.yml", tmp_path / "out")
    assert error is not None
    lines = (tmp_path / "plan.yml").read_text().splitlines()
    number = int(error.removeprefix(f"{tmp_path / 'plan.yml'}:").split(":")[0])
    assert '"nl"' in lines[number - 1]


def test_outputs_of_one_name(models: list[Path], tmp_path: Path) -> None:
    """Directions and groups whose names come to the same folder are refused; so is the table's own name."""
    groups = {"b": ["de", "nl"], "a.b": ["fr", "it"]}
    directions = {"x": {"merge": TIES}, "x.a": {"merge": TIES}}
    its = {"x": experts(models, 1), "x.a": experts(models, 5)}
    error = refusal(suture.merge, plan(models, groups=groups, directions=directions, experts=its), tmp_path / "out")
    assert error is not None
    assert "two outputs would be called `x.a.b`" in error
    groups = {"json": ["de", "nl"], "b": ["fr", "it"]}
    for direction in ("routing", "outputs"):
        config = plan(models, groups=groups, directions={direction: {"merge": TIES}})
        error = refusal(suture.merge, config | {"experts": {direction: experts(models, 1)}}, tmp_path / "out")
        assert error is not None
        assert f"{direction}.json" in error
    assert not list(tmp_path.iterdir())


def test_a_kept_expert_is_looked_at_first(models: list[Path], tmp_path: Path) -> None:
    """What is only routed to is opened too, before anything is made: a broken one is an error, dry and done."""
    broken = write_checkpoint(tmp_path / "broken", read_checkpoint(models[5]))
    (broken / "model.safetensors").write_bytes(b"none")
    config = at(plan(models), "experts", "en-xx", "de", value=str(broken))
    before = listing(tmp_path)
    for dry in (False, True):
        error = refusal(suture.merge, config, tmp_path / "out", dry_run=dry)
        assert error is not None
        assert str(broken) in error
        assert listing(tmp_path) == before


def test_several_documents_and_one_file(models: list[Path], tmp_path: Path) -> None:
    """A plan stands alone, and makes a folder."""
    path = tmp_path / "two.yml"
    path.write_text("\n---\n".join(json.dumps(plan(models)) for _ in range(2)))
    error = refusal(suture.merge, path, tmp_path / "out")
    assert error is not None
    assert "stands alone in its file" in error
    error = refusal(suture.merge, plan(models), tmp_path / "out.safetensors")
    assert error is not None
    assert "writes a folder" in error
    error = refusal(suture.merge, plan(models), tmp_path / "out", all_of=True)
    assert error is not None
    assert "a plan of groups is no set" in error


def test_what_was_there_is_kept(models: list[Path], tmp_path: Path) -> None:
    """Law 6: a finished plan, and a file of somebody's called routing.json, which not even --overwrite takes."""
    out = tmp_path / "out"
    suture.merge(plan(models), out)
    before = listing(tmp_path)
    assert refusal(suture.merge, plan(models), out) is not None
    assert listing(tmp_path) == before
    suture.merge(plan(models), out, settings=suture.Settings(overwrite=True))
    assert listing(tmp_path).keys() == before.keys()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ROUTING).write_text('{"roads": []}')
    before = listing(tmp_path)
    for overwrite in (False, True):
        how = suture.Settings(overwrite=overwrite)
        assert refusal(suture.merge, plan(models), tmp_path / "mine", settings=how) is not None
        assert listing(tmp_path) == before
        look = suture.merge(plan(models), tmp_path / "mine", settings=how, dry_run=True)
        assert any(str(tmp_path / "mine") in w for w in look.warnings)


def test_the_same_command_goes_on(models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 6: interrupted between two outputs, the same plan ends in the same bytes; nothing else is left."""
    out = tmp_path / "out"

    def stop(*_: int) -> None:
        if (out / "xx-en.germanic").exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("suture.surgery.job.MOST_TOGETHER", 1)
        with pytest.raises(KeyboardInterrupt):
            suture.merge(plan(models), out, progress=stop)
    assert not (out / ROUTING).exists()
    suture.merge(plan(models), out)
    suture.merge(plan(models), tmp_path / "whole")
    for path in (p for p in (tmp_path / "whole").rglob("*") if p.is_file() and p.name != "suture.json"):
        assert (out / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()
    assert sorted(p.name for p in out.iterdir()) == ["outputs.json", ROUTING, "xx-en.germanic", "xx-en.romance"]


def test_paths_from_the_config_and_through_links(models: list[Path], tmp_path: Path) -> None:
    """Experts beside the config; the table's paths hold from where the table lies, also below a link."""
    for i, language in enumerate(LANGUAGES):
        (tmp_path / language).symlink_to(models[1 + i])
        (tmp_path / f"to-{language}").symlink_to(models[5 + i])
    its = {"xx-en": {one: one for one in LANGUAGES}, "en-xx": {one: f"to-{one}" for one in LANGUAGES}}
    (tmp_path / "plan.yml").write_text(json.dumps(plan(models, experts=its)))
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    suture.merge(tmp_path / "plan.yml", tmp_path / "link" / "out")
    table = json.loads((tmp_path / "deep" / "er" / "out" / ROUTING).read_text())
    for i, language in enumerate(LANGUAGES):
        path = table["routes"]["en-xx"][language]["model"]["path"]
        assert not os.path.isabs(path)
        assert (tmp_path / "deep" / "er" / "out" / path).resolve() == models[5 + i].resolve()


def test_paths_that_are_not_text(models: list[Path], tmp_path: Path) -> None:
    """A path that is not UTF-8 is in the table as its bytes, and leads there."""
    odd = tmp_path / os.fsdecode(b"model-\xff")
    try:
        write_checkpoint(odd, read_checkpoint(models[5]))
    except OSError:
        pytest.skip("this file system takes only text")
    config = at(plan(models), "experts", "en-xx", "de", value="x")
    config["experts"]["en-xx"]["de"] = str(odd)
    suture.merge(config, tmp_path / "out")
    told = json.loads((tmp_path / "out" / ROUTING).read_text())["routes"]["en-xx"]["de"]["model"]["path"]
    path = os.fsdecode(bytes.fromhex(told["bytes"]))
    assert (tmp_path / "out" / path).resolve() == odd.resolve()
