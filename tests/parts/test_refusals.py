"""Parts that do not go together are refused, with what to do; nothing of the user's is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture import Settings, SutureError, UsageError
from suture.render.parts import planned
from suture.surgery import parts, parts_folder
from suture.surgery.parts import begin, run_part
from suture.surgery.parts_job import check_inputs
from suture.surgery.run import prepare

from ..delta.worlds import llama, tuned, write
from ..faults.test_outputs import tmpfs
from ..support.checkpoints import encode
from .whole import check_same, files


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A base and two fine-tunes."""
    base = llama(0)
    for name, tensors in {"base": base, "one": tuned(base, 1), "two": tuned(base, 2)}.items():
        write(tmp_path / name, tensors, shards=2, files={"tokenizer.json": "{}"})
    return tmp_path


def merge(world: Path, part: str | None = None, out: str = "out", method: str = "linear", **how: Any) -> Any:
    """A merge of the two, or a part of one."""
    listed = [{"model": str(world / name), "parameters": {"weight": 0.5}} for name in ("one", "two")]
    config: dict[str, Any] = {"merge_method": method, "models": listed, "base_model": str(world / "base")}
    if method == "emr":
        config["parameters"] = {"task": 1}
    if method == "linear":
        del config["base_model"]
    given = {"shard_size": 3000, "part": part, **how}
    return suture.merge(config, world / out, settings=Settings(**given))


def test_a_missing_part_is_named(world: Path) -> None:
    """With the commands that make it; the parts that are there stay."""
    merge(world, "2/4")
    before = files(world / ".out.suture-parts")
    with pytest.raises(SutureError, match=r"parts 1, 3, 4 of 4 are not made; .*--part 1/4, --part 3/4, --part 4/4"):
        suture.finish(world / "out")
    assert files(world / ".out.suture-parts") == before
    assert not (world / "out").exists()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"part": "2/3"}, "was begun with parts 2, and this is with 3"),
        ({"method": "task_arithmetic"}, "was begun with title merge linear, and this is with merge task_arithmetic"),
        ({"dtype": "float32"}, r"begun with recipe out_dtype \(None\), and this is with out_dtype \(float32\)"),
        ({"shard_size": 2000}, r"begun with shards \d+, and this is with \d+"),
        ({"seed": 7}, "begun with seed 0, and this is with 7"),
        ({"nan": "allow"}, "begun with nan error, and this is with allow"),
        ({"model_card": True}, r"begun with beside README.md \(None\)"),
    ],
)
def test_a_part_of_another_job(how: dict[str, Any], said: str, world: Path) -> None:
    """Another plan, number of parts or setting that decides bytes is refused, with what to do."""
    merge(world, "1/2")
    before = files(world / ".out.suture-parts")
    with pytest.raises(SutureError, match=said) as caught:
        merge(world, **{"part": "2/2", **how})
    assert "begin anew" in str(caught.value)
    assert files(world / ".out.suture-parts") == before


@pytest.mark.parametrize("name", ["job/job.json", "part-1.json"])
def test_another_version(name: str, world: Path) -> None:
    """Parts of another version of suture are neither added to nor put together."""
    merge(world, "1/2")
    merge(world, "2/2")
    path = world / ".out.suture-parts" / name
    path.write_text(json.dumps({**json.loads(path.read_text()), "suture": "0.0.1"}))
    with pytest.raises(SutureError, match=r"of suture 0\.0\.1, and expected is of suture"):
        suture.finish(world / "out")
    with pytest.raises(SutureError, match=r"of suture 0\.0\.1"):
        merge(world, "1/2")


@pytest.mark.parametrize("how", ["rewritten", "replaced", "touched"])
def test_an_input_that_changes_between_parts(how: str, world: Path) -> None:
    """Even where its header stays: the file is named, and no part is made of it."""
    merge(world, "1/2")
    path = sorted((world / "two").glob("*.safetensors"))[0]
    data = path.read_bytes()
    if how == "rewritten":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif how == "replaced":
        other = path.with_suffix(".new")
        other.write_bytes(data)
        other.rename(path)
    else:
        os.utime(path)
    with pytest.raises(SutureError, match="was replaced or written to since the first part was begun") as caught:
        merge(world, "2/2")
    assert str(path) in str(caught.value)
    with pytest.raises(SutureError, match=r"was replaced or written to|has changed"):
        run_part(world / ".out.suture-parts", 2)


def test_copies_on_other_machines_are_told(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines may have copies of their own; the same file that has changed meanwhile is refused from there, too."""
    merge(world, "1/2")
    monkeypatch.setattr(parts_folder, "host", lambda: "elsewhere")
    shutil.copytree(world / "two", world / "copy")
    shutil.rmtree(world / "two")
    (world / "copy").rename(world / "two")
    run_part(world / ".out.suture-parts", 2)
    merge_report = suture.finish(world / "out")
    assert any("is another copy on elsewhere" in w for w in merge_report.warnings)
    one: dict[str, Any] = {"path": "x", "identity": {"size": 1, "inode": 5, "changed": 1}}
    with pytest.raises(SutureError, match="was replaced or written to"):
        check_inputs([("a", [one]), ("b", [{**one, "identity": {**one["identity"], "changed": 2}}])])


def test_a_disk_that_is_too_small(world: Path) -> None:
    """A part for which there is no room is an error that says so; with more room the same command makes it."""
    merge(world, out="a/out")
    (world / "b").mkdir()
    with tmpfs(world / "b" / "disk", "size=20k") as disk:
        with pytest.raises(SutureError, match=r"(?i)room|space|full"):
            [merge(world, f"{i}/2", out="b/disk/out") for i in (1, 2)]
        assert not (disk / "out").exists()
        subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
        for i in (1, 2):
            merge(world, f"{i}/2", out="b/disk/out")
        suture.finish(disk / "out")
        check_same(world / "a" / "out", disk / "out")


def test_foreign_files_stay(world: Path) -> None:
    """What somebody put into the folder is left there, and told."""
    for i in (1, 2):
        merge(world, f"{i}/2")
    (world / ".out.suture-parts" / "notes.txt").write_text("mine")
    report = suture.finish(world / "out")
    assert [w for w in report.warnings if w.endswith("notes.txt: is none of suture's, and was left there")]
    assert [p.name for p in (world / ".out.suture-parts").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("harm", ["shorter", "header", "gone"])
def test_a_shard_that_is_harmed(harm: str, world: Path) -> None:
    """Found by its size or its header before anything moves; the part made again, all is well."""
    merge(world, out="whole")
    for i in (1, 2):
        merge(world, f"{i}/2", out="b/out")
    folder = world / "b" / ".out.suture-parts"
    shard = sorted(folder.glob("made-2.*/*.safetensors"))[0]
    data = shard.read_bytes()
    if harm == "gone":
        shard.unlink()
    else:
        shard.write_bytes(data[:-1] if harm == "shorter" else data[:20] + b"x" + data[21:])
    with pytest.raises(SutureError, match="make its part again") as caught:
        suture.finish(world / "b" / "out")
    assert shard.name in str(caught.value)
    if harm == "header":
        (folder / "part-2.json").unlink()
    merge(world, "2/2", out="b/out")
    suture.finish(world / "b" / "out")
    (world / "a").mkdir()
    (world / "whole").rename(world / "a" / "out")
    check_same(world / "a" / "out", world / "b" / "out")


def test_verify_finds_a_bit(world: Path) -> None:
    """`finish --verify` reads all again: the tensor and the part to make again are named."""
    for i in (1, 2):
        merge(world, f"{i}/2")
    shard = sorted((world / ".out.suture-parts").glob("made-2.*/*.safetensors"))[-1]
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(SutureError, match=r"differs from its digest; remove .*part-2\.json, and make part 2 again"):
        suture.finish(world / "out", verify=True)
    (world / ".out.suture-parts" / "part-2.json").unlink()
    merge(world, "2/2")
    suture.finish(world / "out", verify=True)


def test_nan_is_refused_alike(world: Path) -> None:
    """The part that has the tensor fails as the whole does; the others are made."""
    base = tuned(llama(0), 1)
    base["lm_head.weight"] = encode(np.full(base["lm_head.weight"].shape, np.nan), "BF16")
    shutil.rmtree(world / "one")
    write(world / "one", base, shards=2, files={"tokenizer.json": "{}"})
    with pytest.raises(SutureError) as whole:
        merge(world)
    failed = []
    for i in (1, 2, 3):
        try:
            merge(world, f"{i}/3", out="out2")
        except SutureError as e:
            failed.append(str(e))
    assert failed == [str(whole.value)]


def test_rounds_that_are_out_of_turn(world: Path) -> None:
    """A part without the rounds it needs, a round too early, twice or for nothing: each says what is to be done."""
    with pytest.raises(UsageError, match="--part 1/2 --round 1 to --part 2/2 --round 1, then `suture settle"):
        merge(world, "1/2", method="emr")
    with pytest.raises(UsageError, match="round: 2 comes after round 1"):
        merge(world, "1/2", method="emr", round=2)
    merge(world, "1/2", method="emr", round=1)
    with pytest.raises(SutureError, match=r"part 2 of 2 has not scanned for round 1; .*--part 2/2 --round 1"):
        suture.settle(world / "out")
    merge(world, "2/2", method="emr", round=1)
    merge(world, "2/2", method="emr", round=1)
    assert suture.settle(world / "out") == {"schema": 1, "rounds": 1, "wanted": False}
    assert suture.settle(world / "out") == {"schema": 1, "rounds": 1, "wanted": False}
    with pytest.raises(UsageError, match="round: 1 was settled already"):
        merge(world, "2/2", method="emr", round=1)
    with pytest.raises(UsageError, match="round: 2 is not needed"):
        merge(world, "2/2", method="emr", round=2)
    merge(world, "1/2", out="plain")
    with pytest.raises(UsageError, match="nothing to settle"):
        suture.settle(world / "plain")


def test_an_output_that_is_there(world: Path) -> None:
    """It is not replaced unless asked for, by a part or at the end."""
    merge(world)
    with pytest.raises(SutureError, match="pass --overwrite"):
        merge(world, "1/2")
    for i in (1, 2):
        merge(world, f"{i}/2", out="late")
    merge(world, out="other")
    (world / "other").rename(world / "late")
    with pytest.raises(SutureError, match="pass --overwrite"):
        suture.finish(world / "late")
    suture.finish(world / "late", settings=Settings(overwrite=True))
    assert json.loads((world / "late" / "suture.json").read_text())["run"]["parts"]


def test_a_folder_and_a_number_are_enough(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`begin` once, then `run_part` by folder and number, from another working folder than relative paths are of."""
    monkeypatch.chdir(world)
    recipe: dict[str, Any] = {
        "merge_method": "emr",
        "base_model": "base",
        "models": [{"model": name} for name in ("one", "two")],
        "parameters": {"task": 1},
    }
    job = prepare(recipe, Settings(shard_size=3000))
    found = begin(job, "out", 3)
    assert found.rounds == 1
    assert len(found.divide()) == 3
    again = begin(job, "out", 3)
    assert again.job == found.job
    monkeypatch.chdir("/")
    while (due := parts.opened(found.folder).rounds) is not None:
        for i in (3, 1, 2):
            assert run_part(found.folder, i, round=due)["part"] == i
        parts.settle(found.folder)
    for i in (2, 3, 1):
        manifest = run_part(found.folder, i, Settings(threads=1))
        assert manifest["part"] == i
        assert [s["file"] for s in manifest["shards"]] == found.divide()[i - 1]["shards"]
    parts.finish(found.folder)
    monkeypatch.chdir(world)
    job.run(world / "a" / "out", None)
    (world / "b").mkdir()
    (world / "out").rename(world / "b" / "out")
    check_same(world / "a" / "out", world / "b" / "out")


@pytest.mark.parametrize(
    ("name", "key"),
    [("part-1.json", "shards"), ("part-1.json", "tensors"), ("part-1.json", "run"), ("job/job.json", "divided")],
)
def test_a_file_of_ours_that_was_changed(name: str, key: str, world: Path) -> None:
    """Whatever lies in the folder, it is an error that names the file, and what to do."""
    merge(world, "1/2")
    merge(world, "2/2")
    path = world / ".out.suture-parts" / name
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, key: 1}))
    with pytest.raises(SutureError, match=rf"{path.name}: is not as suture writes it \(`{key}`\); remove it, or "):
        suture.finish(world / "out")
    path.write_text(json.dumps({k: v for k, v in said.items() if k != key}))
    with pytest.raises(SutureError, match=rf"{path.name}: is not as suture writes it \(`{key}`\); remove it, or "):
        merge(world, "1/2")


def test_a_plan_that_is_gone(world: Path) -> None:
    """A worker that finds no plan says so."""
    merge(world, "1/2")
    (world / ".out.suture-parts" / "job" / "plan.json").unlink()
    with pytest.raises(SutureError, match=r"plan.json: cannot be read .*to begin anew"):
        run_part(world / ".out.suture-parts", 2)


def test_a_manifest_in_another_s_place(world: Path) -> None:
    """A copy of one part's is not taken for another's."""
    merge(world, "1/2")
    folder = world / ".out.suture-parts"
    (folder / "part-2.json").write_text((folder / "part-1.json").read_text())
    with pytest.raises(SutureError, match=r"part-2.json: is of part 1; remove it, and make part 2 again"):
        suture.finish(world / "out")


@pytest.mark.parametrize("part", ["0/3", "4/3"])
def test_no_such_part(part: str) -> None:
    """Parts are counted from one: the first and the last are told."""
    with pytest.raises(UsageError, match=rf"part: expected 1/3 to 3/3, found `{part}`"):
        Settings(part=part)


def test_more_parts_than_shards(world: Path) -> None:
    """The plan tells it on one line, with what to do."""
    (world / "c.yml").write_text(
        json.dumps({"merge_method": "linear", "models": [{"model": str(world / "one"), "parameters": {"weight": 1}}]})
    )
    lines = list(planned(suture.plan(world / "c.yml", world / "out", parts=9)))
    told = [line for line in lines if "nothing to do" in line]
    what = "nothing to do, for the output has 1 shard: give a smaller --shard-size, or fewer parts"
    assert told == [f"  8 of the parts (2 to 9): {what}"]
    assert any("part 1: " in line for line in lines)
