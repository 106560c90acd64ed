"""Several merges in a config: checked as a whole before anything is made, and nothing of anybody's lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import suture
from suture.cli.merge import merge as verb
from suture.surgery.room import check_room

from ..support.checkpoints import llama_family, read_checkpoint, write_checkpoint, write_json
from ..support.refusals import listing, refusal

Config = dict[str, Any]


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """A base and two fine-tunes."""
    return llama_family(tmp_path / "models", layers=2, n=2, hidden=8, heads=2, kv_heads=1, ff=12, vocab=10, dtype="f32")


def linear(*models: Path | str, **more: Any) -> Config:
    return {
        "merge_method": "linear",
        "models": [{"model": str(m), "parameters": {"weight": 1.0}} for m in models],
    } | more


def write(path: Path, *documents: Config) -> Path:
    path.write_text("\n---\n".join(json.dumps(d) for d in documents))
    return path


#: Every way to have several, and the places below OUT's folder where they go.
FORMS: dict[str, tuple[Callable[[list[Path], Path], Path], tuple[str, ...]]] = {
    "outputs": (
        lambda m, folder: write(
            folder / "c.yml",
            linear(*m) | {"outputs": {"a": {}, "b": {"models": [{"model": str(m[0]), "parameters": {"weight": 1}}]}}},
        ),
        ("out/a", "out/b"),
    ),
    "one output": (lambda m, folder: write(folder / "c.yml", linear(*m) | {"outputs": {"a": {}}}), ("out/a",)),
    "documents": (
        lambda m, folder: write(folder / "c.yml", linear(*m, name="a"), linear(m[0], name="b")),
        ("out/a", "out/b"),
    ),
    "chain": (
        lambda m, folder: write(folder / "c.yml", linear("a", m[0], name="b"), linear(*m, name="a")),
        ("out/a", "out/b"),
    ),
    "stages": (
        lambda m, folder: write(folder / "c.yml", linear("a", "b"), linear(*m, name="a"), linear("a", m[0], name="b")),
        (".out.suture-stages/a", ".out.suture-stages/b", "out"),
    ),
}
PLACES = [(form, place) for form, (_, places) in FORMS.items() for place in places]


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def beside(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name not in ("models", "c.yml"))


@pytest.mark.parametrize(("form", "at"), PLACES)
def test_what_was_there_is_kept(form: str, at: str, models: list[Path], tmp_path: Path) -> None:
    """Law 6: a checkpoint of somebody's, at any place, is refused before anything is made; a dry run warns of it."""
    config = FORMS[form][0](models, tmp_path)
    place = write_checkpoint(tmp_path / at, {"precious": np.arange(4, dtype=np.float32)})
    before = listing(tmp_path)
    error = refusal(suture.merge, config, tmp_path / "out")
    assert error is not None
    assert str(place) in error
    assert listing(tmp_path) == before
    report = suture.merge(config, tmp_path / "out", dry_run=True)
    assert any(str(place) in w and "--overwrite" in w for w in report.warnings)
    assert listing(tmp_path) == before
    suture.merge(config, tmp_path / "out", settings=suture.Settings(overwrite=True))
    assert not (tmp_path / at / "model.safetensors").exists() or "precious" not in read_checkpoint(tmp_path / at)


def stop_at(place: Path) -> Callable[[int, int], None]:
    def stop(*_: int) -> None:
        if place.exists():
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("form", [f for f in FORMS if f != "one output"])
@pytest.mark.parametrize("kept", [False, True])
def test_the_same_command_goes_on(kept: bool, form: str, models: list[Path], tmp_path: Path) -> None:
    """Law 6: what an interrupted run made is made again by the same config alone; then nothing is left of it."""
    make, places = FORMS[form]
    config, first = make(models, tmp_path), tmp_path / places[0]
    # One after another: what is made side by side is there or not as a whole.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("suture.surgery.job.MOST_TOGETHER", 1)
        with pytest.raises(KeyboardInterrupt):
            suture.merge(config, tmp_path / "out", progress=stop_at(first))
    assert first.exists()
    if kept:
        # Another seed, another model: not the same any more.
        before = listing(first)
        assert refusal(suture.merge, config, tmp_path / "out", settings=suture.Settings(seed=1)) is not None
        assert listing(first) == before
        text = config.read_text()
        config.write_text(text.replace('"weight": 1.0', '"weight": 0.5'))
        assert refusal(suture.merge, config, tmp_path / "out") is not None
        assert listing(first) == before
        config.write_text(text)
    suture.merge(config, tmp_path / "out")
    whole = tmp_path / "whole"
    whole.mkdir()
    suture.merge(make(models, whole), whole / "out")
    assert listing(tmp_path / "out").keys() == listing(whole / "out").keys()
    for path in (whole / "out").rglob("*.safetensors"):
        assert (tmp_path / path.relative_to(whole)).read_bytes() == path.read_bytes()
    assert beside(tmp_path) == ["out", "whole"]


def test_a_mistake_in_any_document_is_seen_first(form: str, models: list[Path], tmp_path: Path) -> None:
    """A shape that does not fit, in the last of them, in what is made of what is not made yet: nothing is written."""
    make, _ = FORMS[form]
    config = make(models, tmp_path)
    odd = {n: np.ones((3, 5), np.float32) for n in read_checkpoint(models[0])}
    write_checkpoint(models[0], odd, config={"model_type": "x"})
    before = listing(tmp_path)
    for dry in (False, True):
        error = refusal(suture.merge, config, tmp_path / "out", dry_run=dry)
        assert error is not None
        assert "suture-" not in error.replace(".out.suture-stages", "")
        assert listing(tmp_path) == before


def test_the_room_of_all_is_asked_for_together(models: list[Path], tmp_path: Path) -> None:
    """Each output fits, both do not: refused with what they need, before anything is made."""
    disk = os.statvfs(tmp_path)
    each = int(disk.f_bavail * disk.f_frsize * 0.6) // 4096 * 4096
    header = json.dumps({"w": {"dtype": "U8", "shape": [each], "data_offsets": [0, each]}}).encode()
    holes = tmp_path / "models" / "holes"
    holes.mkdir()
    with (holes / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + each)
    copy = {"merge_method": "passthrough", "models": [{"model": str(holes)}]}
    several: list[list[Config]] = [
        [copy | {"outputs": {"a": {}, "b": {}}}],
        [copy | {"name": "a"}, copy | {"models": [{"model": "a"}]}],
    ]
    for documents in several:
        config = write(tmp_path / "c.yml", *documents)
        error = refusal(suture.merge, config, tmp_path / "out")
        assert error is not None
        assert "together" in error
        assert beside(tmp_path) == []
        assert any("together" in w for w in suture.merge(config, tmp_path / "out", dry_run=True).warnings)
        assert beside(tmp_path) == []


def test_room_is_free_again_when_an_output_is_replaced(tmp_path: Path) -> None:
    """What is replaced goes when its successor is whole: the next output may have its room."""
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    old = tmp_path / "a"
    old.mkdir()
    (old / "x").write_bytes(bytes(1 << 20))
    almost = free - (256 << 20)
    assert not check_room([(old, almost)])
    assert check_room([(tmp_path / "b", almost), (old, almost)])


@pytest.mark.parametrize("name", ["a", os.fsdecode(b"\xff"), "link"])
def test_room_that_an_output_has_begun_to_take_is_its_own(name: str, tmp_path: Path) -> None:
    """What an interrupted run has allotted is counted for the run that resumes it, whatever OUT is called."""
    place = tmp_path / name
    begun = tmp_path / f".{name}.suture-partial"
    if name == "link":
        (tmp_path / "real").mkdir()
        place.symlink_to("real")
        begun = tmp_path / ".real.suture-partial"
    begun.mkdir()
    with (begun / "model.safetensors").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 512 << 20)
    disk = os.statvfs(tmp_path)
    more = disk.f_bavail * disk.f_frsize + (256 << 20)
    assert not check_room([(place, more)])
    assert check_room([(tmp_path / "b", more)])


def test_warnings_of_every_document(form: str, models: list[Path], tmp_path: Path) -> None:
    """On stderr with the document's name, once; in the report, in what is written; dry and done."""
    make, _ = FORMS[form]
    config = make(models, tmp_path)
    text = config.read_text().replace('"weight": 1.0', '"weight": [{"filter": "nowhere", "value": 2}, 1.0]')
    config.write_text(text)
    names = {"outputs": ["a"], "one output": ["a"]}.get(form, ["a", "b"])
    for dry in (True, False):
        out = tmp_path / f"out-{dry}"
        options = ["--dry-run"] if dry else []
        done = CliRunner().invoke(verb, [str(config), str(out), *options])
        assert done.exit_code == 0, done.output
        lines = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
        assert len(lines) == len(set(lines))
        for name in names:
            assert any(line.startswith(f"warning: {name}: ") and "`nowhere`" in line for line in lines)
        quiet = CliRunner().invoke(verb, [str(config), str(tmp_path / f"quiet-{dry}"), *options, "--quiet"])
        assert quiet.stderr == ""
        if not dry:
            listed = out / ("suture.json" if form == "stages" else "outputs.json")
            assert [f"warning: {w}" for w in json.loads(listed.read_text())["warnings"]] == lines
        report = suture.merge(config, tmp_path / f"api-{dry}", dry_run=dry)
        assert [f"warning: {w}" for w in report.warnings] == lines


def test_what_a_chain_will_be_is_planned(models: list[Path], tmp_path: Path) -> None:
    """A plan of what uses what is not made yet is the plan of it, but for the hash."""
    config = FORMS["stages"][0](models, tmp_path)
    planned = suture.merge(config, tmp_path / "out", dry_run=True)
    assert beside(tmp_path) == []
    done = suture.merge(config, tmp_path / "out")
    told: Any = planned.data
    assert (told["hash"], told["plan"]) == (None, None)
    assert told["sidecars"] == [f for f in done.data["files"] if not f.endswith("safetensors") and f != "suture.json"]
    assert told["models"][0]["path"] == str(tmp_path / ".out.suture-stages" / "a")
    assert told["write_bytes"] == sum(p.stat().st_size for p in (tmp_path / "out").glob("*.safetensors"))
    assert [p.name for p in planned.tensors] == [d.name for d in done.tensors]


def test_what_is_none_of_ours_is_left(models: list[Path], tmp_path: Path) -> None:
    """The folder of stages goes when it is empty: what somebody put there stays."""
    config = FORMS["stages"][0](models, tmp_path)
    stages = tmp_path / ".out.suture-stages"
    stages.mkdir()
    (stages / "notes.txt").write_text("mine")

    def add(*_: int) -> None:
        if (stages / "a").exists():
            (stages / "a" / "thesis.tex").write_text("mine")

    report = suture.merge(config, tmp_path / "out", progress=add)
    assert listing(stages) == {"a": None, "a/thesis.tex": b"mine", "notes.txt": b"mine"}
    assert any(str(stages / "a") in w for w in report.warnings)


def test_an_output_cannot_be_called_as_the_list_of_them(models: list[Path], tmp_path: Path) -> None:
    """`outputs.json` is taken."""
    config = linear(*models) | {"outputs": {"outputs.json": {}, "b": {}}}
    with pytest.raises(suture.UsageError, match=r"outputs\.json"):
        suture.merge(config, tmp_path / "out")


def test_a_list_of_somebody_elses_is_kept(models: list[Path], tmp_path: Path) -> None:
    """`--overwrite` does not replace an outputs.json that is none."""
    (tmp_path / "out").mkdir()
    write_json(tmp_path / "out" / "outputs.json", {"mine": 1})
    config = linear(*models) | {"outputs": {"a": {}, "b": {}}}
    for overwrite in (False, True):
        error = refusal(suture.merge, config, tmp_path / "out", settings=suture.Settings(overwrite=overwrite))
        assert error is not None
        assert beside(tmp_path / "out") == ["outputs.json"]
