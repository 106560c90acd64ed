"""What is told of a delta's size and of its ranks: the same everywhere, and no less before it is made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import suture
from suture.errors import SutureError
from suture.render.delta import lines
from suture.render.outcome import _done, _plan

from .worlds import llama, pair, tuned, write

FORMS: list[tuple[str, dict[str, Any]]] = [
    ("sparse", {}),
    ("sparse", {"density": 0.1}),
    ("sparse", {"keep": 100}),
    ("sparse", {"density": 0.1, "exact": True}),
    ("sparse", {"density": 0.1, "by_tensor": True}),
    ("sparse", {"density": 0.1, "random": 7}),
    ("lowrank", {"rank": 4}),
    ("lowrank", {"rank": 4, "embed": True, "exact": True}),
    ("lowrank", {"rank_share": 0.2}),
    ("lowrank", {"energy": 0.5}),
    ("lora", {"rank": 4}),
    ("lora", {"energy": 0.7, "embed": True}),
    ("bits", {}),
    ("bits", {"exact": True}),
    ("xor", {}),
]


def weights(folder: Path) -> int:
    """Bytes of a folder's files of tensors."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


@pytest.mark.parametrize("dtype", ["BF16", "F32", "F64"])
@pytest.mark.parametrize(("form", "options"), FORMS, ids=str)
def test_one_size_everywhere(tmp_path: Path, form: str, options: dict[str, Any], dtype: str) -> None:
    """Law: the report, `info` and the record tell one size, that of the files; a dry run tells no less."""
    base, fine = pair(tmp_path, dtype)
    plan = suture.delta.extract(base, fine, tmp_path / "d", form=form, dry_run=True, **options)
    report = suture.delta.extract(base, fine, tmp_path / "d", form=form, **options)
    size = weights(tmp_path / "d")
    found = suture.delta.info(tmp_path / "d")
    assert found["bytes"] == found["figures"]["bytes"] == size
    told = dict(report.data["notes"])["size"]
    assert told.startswith(f"{size:,} bytes, ")
    assert told in next(line for line in lines(found, False) if line.startswith("  size"))
    assert plan.data["write_bytes"] == sum(shard["bytes"] for shard in plan.data["shards"]) >= size
    assert dict(plan.data["notes"])["size"].startswith(f"at most {plan.data['write_bytes']:,} bytes, ")
    assert {shard["file"] for shard in plan.data["shards"]} >= set(found["files"])


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("sparse", {"density": 0.1}),
        ("sparse", {"keep": 100}),
        ("sparse", {"density": 0.1, "by_tensor": True}),
        ("lowrank", {"rank": 4}),
        ("lowrank", {"rank_share": 0.2, "embed": True}),
        ("lora", {"rank": 4}),
        ("bits", {}),
    ],
    ids=str,
)
def test_where_all_changes_the_size_is_known(tmp_path: Path, form: str, options: dict[str, Any]) -> None:
    """Law: of what is not compressed a dry run tells the very size, if no tensor is unchanged."""
    tensors = llama(0, "F32")
    base, fine = write(tmp_path / "base", tensors), write(tmp_path / "tuned", tuned(tensors, 1, same="nothing"))
    plan = suture.delta.extract(base, fine, tmp_path / "d", form=form, dry_run=True, **options)
    suture.delta.extract(base, fine, tmp_path / "d", form=form, **options)
    assert plan.data["write_bytes"] == weights(tmp_path / "d")
    assert "mostly takes less" not in dict(plan.data["notes"])["size"]


@pytest.mark.parametrize(("form", "options"), FORMS, ids=str)
def test_words_do_not_contradict_each_other(tmp_path: Path, form: str, options: dict[str, Any]) -> None:
    """What is lossy is not called exact, and what a delta keeps is not called computed."""
    base, fine = pair(tmp_path)
    plan = suture.delta.extract(base, fine, tmp_path / "d", form=form, dry_run=True, **options)
    report = suture.delta.extract(base, fine, tmp_path / "d", form=form, **options)
    exact = form == "xor" or "exact" in options
    titles = [title for title, _ in report.data["notes"]]
    assert ("exact" in titles, "lossy" in titles) == (exact, not exact)
    for text in ("\n".join(_done(report, True, [])), "\n".join(_plan(plan, True, []))):
        assert "computed" not in text
        assert "kept" in text
    assert {tensor.action for tensor in report.tensors} <= {
        f"kept {kept}" for kept in ("sparse", "lowrank", "bits", "xor", "whole")
    }


@pytest.mark.parametrize("form", ["lowrank", "lora"])
def test_ranks_above_matrices(tmp_path: Path, form: str) -> None:
    """Bad input: a rank above some matrices is told with the first of them; above all it is refused."""
    tensors = llama(0)
    small = "model.layers.0.mlp.down_proj.weight"
    one, two = ({name: raw for name, raw in t.items() if "up_proj" not in name} for t in (tensors, tuned(tensors, 1)))
    base, fine = write(tmp_path / "base", one), write(tmp_path / "tuned", two)
    with pytest.raises(
        SutureError, match=r"rank: 25 is above every matrix: the most that one has is 24, `model\.layers"
    ):
        suture.delta.extract(base, fine, tmp_path / "d", form=form, rank=25, dry_run=True)
    with pytest.raises(SutureError, match="25 is above every matrix"):
        suture.delta.extract(base, fine, tmp_path / "d", form=form, rank=25)
    for tensors_of in (one, two):
        raw = tensors_of[small]
        tensors_of[small] = type(raw)(raw.dtype, (6, 160), raw.data)
    write(tmp_path / "other", one)
    write(tmp_path / "fine", two)
    for dry in (True, False):
        report = suture.delta.extract(
            tmp_path / "other", tmp_path / "fine", tmp_path / "d", form=form, rank=8, dry_run=dry
        )
        told = dict(report.data["notes"])["ranks"]
        how = "is of full rank" if form == "lora" else "is kept whole"
        assert f"8 is above 1 matrix, which {how} (first: `{small}`, 6)" in told
    # Of an energy the rank is no more than a limit.
    suture.delta.extract(base, fine, tmp_path / "e", form=form, rank=25, energy=0.5)


def test_the_error_of_another_model_is_the_right_way_round(tmp_path: Path) -> None:
    """Law 8: bytes are other in the model that was named, not in the delta's own; both ways."""
    base, fine = pair(tmp_path)
    suture.delta.extract(base, fine, tmp_path / "d", form="sparse")
    name = r"tensor `model\.embed_tokens\.weight`: holds other bytes in "
    with pytest.raises(SutureError, match=name + re.escape(f"{fine} than in the delta's base")):
        suture.delta.apply(fine, [tmp_path / "d"], tmp_path / "out")
    with pytest.raises(SutureError, match=name + re.escape(f"{base} than in the model that the delta leads to")):
        suture.delta.revert(base, tmp_path / "d", tmp_path / "out")


def test_the_memory_that_is_named_is_that_of_what_decides(tmp_path: Path) -> None:
    """Law 1: where what is there for any tensor is more than any takes, none is named."""
    base, fine = pair(tmp_path)
    settings = suture.Settings(memory="1MiB", threads=1)
    with pytest.raises(SutureError, match=r"1 MiB is too little.*the smallest that works is \d+ MiB") as told:
        suture.delta.extract(base, fine, tmp_path / "d", form="lowrank", rank=2, settings=settings)
    assert "`" not in str(told.value)
    config = {"merge_method": "tsvm", "models": [{"model": str(fine)}], "base_model": str(base)}
    with pytest.raises(SutureError, match="1 MiB is too little") as told:
        suture.merge(config, tmp_path / "m", settings=settings)
    assert "`" not in str(told.value)


def test_twins_tell_the_sizes_of_their_files(tmp_path: Path) -> None:
    """Law: a dry run of a twin tells no less than it comes to, and writes nothing; then one size everywhere."""
    base, fine = pair(tmp_path, "F32")
    for form in suture.twin.FORMS:
        out = tmp_path / form
        plan = suture.twin.make(base, [fine], out, shared="task_arithmetic", form=form, dry_run=True)
        assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith((".", form))) == []
        report = suture.twin.make(base, [fine], out, shared="task_arithmetic", form=form)
        size = weights(out / "shared") + weights(out / "experts/tuned")
        assert suture.twin.info(out)["bytes"] == size <= plan.data["write_bytes"]
        assert dict(report.data["notes"])["all"].startswith(f"{size:,} bytes")
        assert suture.twin.info(out)["experts"][0]["bytes"] == suture.delta.info(out / "experts/tuned")["bytes"]
        assert dict(plan.data["notes"])["all"].startswith(f"at most {plan.data['write_bytes']:,} bytes")
        assert ("ranks" in dict(plan.data["notes"])) == (form == "svd")
        # What is in the way is told, and no error: nothing is written.
        again = suture.twin.make(base, [fine], out, shared="task_arithmetic", form=form, dry_run=True)
        assert any("is there already" in warning for warning in again.warnings)
        assert json.loads(plan.text)["title"] == "twin make"
