"""Nothing of the user's is lost, by whatever way an output is named: `--overwrite` replaces nothing but checkpoints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.checkpoints import read_checkpoint, write_checkpoint, write_json
from ..support.layered import write_layered
from ..support.refusals import listing, refusal

Call = Callable[[list[Path], Path, bool], Any]


def mean(models: list[Path], weight: float = 0.5) -> dict[str, Any]:
    """A linear merge."""
    entries = [{"model": str(m), "parameters": {"weight": w}} for m, w in zip(models, (weight, 1.0), strict=False)]
    return {"merge_method": "linear", "models": entries}


def merge(config: Any, out: Path, overwrite: bool) -> None:
    suture.merge(config, out, settings=suture.Settings(overwrite=overwrite))


def documents(folder: Path, *configs: dict[str, Any]) -> Path:
    """A file of several documents; JSON is YAML, too."""
    path = folder.parent / f"{folder.name}-config.yml"
    path.write_text("\n---\n".join(json.dumps(config) for config in configs))
    return path


def by_file(models: list[Path], out: Path, overwrite: bool) -> None:
    merge(documents(out, mean(models)), out, overwrite)


def by_outputs(models: list[Path], out: Path, overwrite: bool) -> None:
    outputs = {"en": {}, "de": {"parameters": {"normalize": False}}}
    merge(mean(models) | {"outputs": outputs}, out, overwrite)


def by_documents(models: list[Path], out: Path, overwrite: bool) -> None:
    config = mean(models)
    named = config | {"name": "de", "models": [{"model": "en", "parameters": {"weight": 1.0}}, config["models"][0]]}
    merge(documents(out, config | {"name": "en"}, named), out, overwrite)


def by_stages(models: list[Path], out: Path, overwrite: bool) -> None:
    config = mean(models)
    final = config | {"models": [{"model": "en", "parameters": {"weight": 1.0}}, config["models"][0]]}
    merge(documents(out, config | {"name": "en"}, final), out, overwrite)


def by_swap(models: list[Path], out: Path, overwrite: bool) -> None:
    suture.swap(models[0], models[1], out, layers=[1], settings=suture.Settings(overwrite=overwrite))


def by_revert(models: list[Path], out: Path, overwrite: bool) -> None:
    suture.revert(models[0], models[1], out, layers=[1], settings=suture.Settings(overwrite=overwrite))


def by_convert(models: list[Path], out: Path, overwrite: bool) -> None:
    suture.convert(models[0], out, settings=suture.Settings(overwrite=overwrite))


@dataclass(frozen=True)
class Way:
    """A way to name outputs, and where below OUT each goes."""

    call: Call
    targets: tuple[str, ...] = ("",)


WAYS = {
    "merge": Way(lambda m, o, w: merge(mean(m), o, w)),
    "file": Way(by_file),
    "outputs": Way(by_outputs, ("en", "de")),
    "documents": Way(by_documents, ("en", "de")),
    "stages": Way(by_stages),
    "swap": Way(by_swap),
    "revert": Way(by_revert),
    "convert": Way(by_convert),
}
PLACES = [(name, target) for name, way in WAYS.items() for target in way.targets]


@pytest.fixture
def models(place: Path) -> list[Path]:
    return write_layered(place / "models", count=1)


def strangers(folder: Path) -> Path:
    """A checkpoint that somebody else made."""
    return write_checkpoint(folder, {"precious": np.arange(4, dtype=np.float32)}, config={"model_type": "mine"})


def notes(folder: Path) -> Path:
    """No checkpoint at all."""
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("weeks of work")
    return folder


def of_suture(folder: Path) -> Path:
    """What another command of suture wrote."""
    source = strangers(folder.parent / "elsewhere")
    suture.merge({"merge_method": "passthrough", "models": [{"model": str(source)}]}, folder)
    shutil.rmtree(source)
    return folder


THERE: dict[str, Callable[[Path], Path]] = {"a checkpoint": strangers, "notes": notes, "an output": of_suture}


def beside(out: Path) -> set[str]:
    """What lies beside an output, but for what the tests put there."""
    return {p.name for p in out.parent.iterdir()} - {"models", f"{out.name}-config.yml"}


def assert_untouched(error: str | None, out: Path, before: dict[str, bytes | None], way: Way) -> None:
    """Refused before anything was made: what was there is there, to the byte, and nothing else is."""
    assert error is not None, "it was written over"
    assert str(out) in error
    assert listing(out) == before
    assert beside(out) == {out.name}


@pytest.mark.parametrize("there", THERE)
@pytest.mark.parametrize(("name", "target"), PLACES)
def test_an_existing_folder_is_kept(name: str, target: str, there: str, models: list[Path], place: Path) -> None:
    """Law 6: without --overwrite a folder that is there is refused, before any other output is made."""
    out = place / "out"
    THERE[there](out / target)
    before = listing(out)
    error = refusal(WAYS[name].call, models, out, False)
    assert_untouched(error, out, before, WAYS[name])


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(("name", "target"), PLACES)
def test_a_file_in_the_place_of_an_output_is_kept(
    name: str, target: str, overwrite: bool, models: list[Path], place: Path
) -> None:
    """Law 6: a file is never replaced by a folder."""
    out = place / "out"
    (out / target).parent.mkdir(exist_ok=True)
    (out / target).write_text("mine")
    error = refusal(WAYS[name].call, models, out, overwrite)
    assert error is not None
    assert (out / target).read_text() == "mine"
    if target:
        assert [p.name for p in out.iterdir()] == [target]
    assert beside(out) == {"out"}


#: What a user may keep beside weights. No tool writes a checkpoint of files so called.
KEPT = {
    "notes": "notes.txt",
    "a thesis": "thesis.md",
    "a table": "results.xlsx",
    "a hidden file": ".todo",
    "a folder": "runs/january/log.txt",
    "a repository": ".git/HEAD",
    "a folder of texts": "drafts/chapter.md",
}
#: And what is no part of an output that says what it consists of.
UNLISTED = {
    "weights": "adapter_model.safetensors",
    "an older shard": "model-00007-of-00009.safetensors",
    "a list": "words.json",
    "a file of a name that is known": "vocab.txt",
}


def keep(folder: Path, name: str) -> None:
    """Put a file of the user's into a folder."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("weeks of work")


@pytest.mark.parametrize("kept", [*KEPT, *UNLISTED])
@pytest.mark.parametrize(("name", "target"), PLACES)
def test_overwrite_keeps_what_no_report_lists(
    name: str, target: str, kept: str, models: list[Path], place: Path
) -> None:
    """Law 6: beside a `suture.json` only what it lists is replaced; with anything else there nothing is."""
    out = place / "out"
    of_suture(out / target)
    keep(out / target, (KEPT | UNLISTED)[kept])
    before = listing(out)
    error = refusal(WAYS[name].call, models, out, True)
    assert_untouched(error, out, before, WAYS[name])


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize(("name", "target"), PLACES)
def test_overwrite_keeps_what_is_no_checkpoint(
    name: str, target: str, kept: str, models: list[Path], place: Path
) -> None:
    """Law 6: of a checkpoint from elsewhere only files that checkpoints consist of are replaced."""
    out = place / "out"
    strangers(out / target)
    keep(out / target, KEPT[kept])
    before = listing(out)
    error = refusal(WAYS[name].call, models, out, True)
    assert_untouched(error, out, before, WAYS[name])


@pytest.mark.parametrize("there", ["a checkpoint", "an output"])
@pytest.mark.parametrize("name", WAYS)
def test_overwrite_replaces_a_checkpoint(name: str, there: str, models: list[Path], place: Path) -> None:
    """--overwrite does what it says: every target is a new output, nothing of the old one is left."""
    way, out = WAYS[name], place / "out"
    for target in way.targets:
        THERE[there](out / target)
    way.call(models, out, True)
    for target in way.targets:
        record = json.loads((out / target / "suture.json").read_text())
        assert sorted(p.name for p in (out / target).iterdir()) == sorted(record["files"])
        assert suture.verify(out / target)["differing"] == []
        assert "precious" not in read_checkpoint(out / target)
    assert beside(out) == {"out"}


@pytest.mark.parametrize("name", WAYS)
def test_a_report_that_lies_frees_nothing(name: str, models: list[Path], place: Path) -> None:
    """Law 6: a `suture.json` that lists paths outside its folder, or is none of ours, deletes nothing there."""
    way, out = WAYS[name], place / "out"
    (place / "mine.txt").write_text("weeks of work")
    folder = strangers(out / way.targets[0])
    write_json(folder / "suture.json", {"files": ["../mine.txt", "model.safetensors", "suture.json", "config.json"]})
    refusal(way.call, models, out, True)
    assert (place / "mine.txt").read_text() == "weeks of work"


def stopped(config: dict[str, Any], out: Path, once: Path) -> None:
    """A run of several outputs, one after another, that is interrupted when the first is there."""

    def stop(*_: int) -> None:
        if once.exists():
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("suture.surgery.job.MOST_TOGETHER", 1)
        with pytest.raises(KeyboardInterrupt):
            suture.merge(config, out, progress=stop)
    assert once.exists()


def test_an_interrupted_run_of_several_outputs_goes_on(models: list[Path], place: Path) -> None:
    """Law 6: what this very config made before it may replace, so that the same command ends the work."""
    config = mean(models) | {"outputs": {"en": {}, "de": {"parameters": {"normalize": False}}}}
    stopped(config, place / "out", place / "out" / "en")
    suture.merge(config, place / "out")
    suture.merge(config, place / "whole")
    for name in ("en", "de"):
        assert read_checkpoint(place / "out" / name) == read_checkpoint(place / "whole" / name)
        assert suture.verify(place / "out" / name)["differing"] == []
    assert sorted(p.name for p in (place / "out").iterdir()) == sorted(p.name for p in (place / "whole").iterdir())


@pytest.mark.parametrize("change", ["weight", "dtype", "inputs", "a note beside it"])
def test_an_output_of_another_config_is_kept(change: str, models: list[Path], place: Path) -> None:
    """Law 6: a part that another config made, or that a user added to, is refused as anything else is."""
    out = place / "out"
    outputs = {"outputs": {"en": {}, "de": {"parameters": {"normalize": False}}}}
    stopped(mean(models) | outputs, out, out / "en")
    config = mean(models)
    if change == "weight":
        config = mean(models, weight=0.25)
    elif change == "dtype":
        config |= {"dtype": "bfloat16"}
    elif change == "inputs":
        config = mean(write_layered(place / "models" / "others", count=1, seed=9))
    else:
        keep(out / "en", "notes.txt")
    before = listing(out / "en")
    assert refusal(suture.merge, config | outputs, out) is not None
    assert listing(out / "en") == before


def test_a_finished_output_is_not_made_again_by_chance(models: list[Path], place: Path) -> None:
    """Law 6: a rerun of several outputs is refused, or ends in the same bytes; nothing in between."""
    config = mean(models) | {"outputs": {"en": {}, "de": {}}}
    suture.merge(config, place / "out")
    before = {n: read_checkpoint(place / "out" / n) for n in ("en", "de")}
    refusal(suture.merge, config, place / "out")
    assert {n: read_checkpoint(place / "out" / n) for n in ("en", "de")} == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["base", "tuned-1"])
def test_an_output_in_the_place_of_an_input_of_another(
    name: str, overwrite: bool, models: list[Path], place: Path
) -> None:
    """Law 6: an output of one document is never put in the place of a model that any document reads."""
    before = listing(place / "models")
    one = {"merge_method": "passthrough", "models": [{"model": str(models[1 if name == "base" else 0])}]}
    config = documents(place / "models", one | {"name": name}, mean(models) | {"name": "other"})
    assert refusal(merge, config, place / "models", overwrite) is not None
    assert listing(place / "models") == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_list_of_outputs_that_is_somebody_elses(overwrite: bool, models: list[Path], place: Path) -> None:
    """Law 6: a file that only happens to be called as our list of outputs is kept."""
    (place / "out").mkdir()
    (place / "out" / "outputs.json").write_text('{"precious": 1}')
    refusal(by_outputs, models, place / "out", overwrite)
    assert (place / "out" / "outputs.json").read_text() == '{"precious": 1}'


@pytest.mark.parametrize("name", ["outputs", "swap"])
def test_the_command_line_refuses_alike(name: str, models: list[Path], place: Path) -> None:
    """Law 8: exit code 1 or 2, one line that names the folder and --overwrite."""
    out = place / "out"
    target = strangers(out / "en" if name == "outputs" else out)
    config = documents(out, mean(models) | {"outputs": {"en": {}, "de": {}}})
    calls = {"outputs": ["merge", config, out], "swap": ["swap", "--into", models[0], "--from", models[1], out]}
    call = [*calls[name], *(["--layers", "1"] if name == "swap" else [])]
    command = [sys.executable, "-m", "suture", *map(str, call)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (1, 2), done.stderr
    assert (str(target) in done.stderr, "--overwrite" in done.stderr) == (True, True)
    assert read_checkpoint(target).keys() == {"precious"}


@pytest.mark.parametrize("name", ["ties"])
def test_the_demo_keeps_what_is_there(name: str, place: Path) -> None:
    """Law 6: `suture demo OUT` makes folders in OUT; a checkpoint of somebody else's that is called so is kept."""
    target = strangers(place / "out" / name)
    command = [sys.executable, "-m", "suture", "demo", str(place / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert read_checkpoint(target).keys() == {"precious"}
    assert done.returncode == 1
    assert str(target) in done.stderr
    assert [p.name for p in (place / "out").iterdir()] == [name]
