"""Deltas of models that are made of others when they are read: `base+adapter`, `base+delta`, on either side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import suture
from suture import Settings, SutureError

from ..unit.test_schema import closed
from .test_sizes import FORMS
from .worlds import pair, same_tensors, tensors_of

MADE = [("lora", {"rank": 3}), ("sparse", {"density": 0.2}), ("xor", {})]


@pytest.mark.parametrize(
    ("form", "options"), [("xor", {}), ("lora", {"rank": 2, "exact": True}), ("sparse", {})], ids=str
)
@pytest.mark.parametrize(("kind", "given"), MADE, ids=str)
def test_a_made_model_is_what_would_be_written(
    tmp_path: Path, kind: str, given: dict[str, Any], form: str, options: dict[str, Any]
) -> None:
    """Law: a delta of a model with something in it is that of the same model in files; nothing is left."""
    base, fine = pair(tmp_path)
    suture.delta.extract(base, fine, tmp_path / "part", form=kind, **given)
    made = f"{base}+{tmp_path / 'part'}"
    written = tmp_path / "base+part"
    suture.convert(made, written)
    sides: list[tuple[Any, Any, tuple[Path, Path]]] = [(base, made, (base, written)), (made, fine, (written, fine))]
    for i, (one, other, own) in enumerate(sides):
        suture.delta.extract(one, other, tmp_path / f"a{i}", form=form, **options)
        suture.delta.extract(*own, tmp_path / f"b{i}", form=form, **options)
        assert same_tensors(tmp_path / f"a{i}", tmp_path / f"b{i}")
        records = [json.loads((tmp_path / f"{x}{i}" / "delta.json").read_text()) for x in "ab"]
        assert records[0] == records[1]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    # What was taken of the made model goes into the written one.
    suture.delta.apply(written, [tmp_path / "a1"], tmp_path / "out")
    if form != "sparse":
        assert tensors_of(tmp_path / "out") == tensors_of(fine)


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    """A plan of a made model is of headers alone; what a killed run has left is told."""
    base, fine = pair(tmp_path)
    suture.delta.extract(base, fine, tmp_path / "part", form="lora", rank=2)
    made = f"{base}+{tmp_path / 'part'}"
    before = sorted(tmp_path.rglob("*"))
    assert suture.delta.extract(base, made, tmp_path / "d", form="xor", dry_run=True).tensors
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / ".d.suture-models").mkdir()
    with pytest.raises(SutureError, match="is of a run that was killed"):
        suture.delta.extract(base, made, tmp_path / "d", form="xor")


def test_twins_of_made_experts(tmp_path: Path) -> None:
    """An expert may be a model with an adapter in it: one-hot, all of it kept, it is what is written of it."""
    base, fine = pair(tmp_path, "F32")
    suture.delta.extract(base, fine, tmp_path / "part", form="lora", rank=2)
    made = f"{base}+{tmp_path / 'part'}"
    suture.twin.make(base, [made, fine], tmp_path / "twin", shared="task_arithmetic", rank_share=1, heads="whole")
    assert [e["name"] for e in suture.twin.info(tmp_path / "twin")["experts"]] == ["base+part", "tuned"]
    suture.twin.materialise(tmp_path / "twin", tmp_path / "out", only="base+part")
    suture.convert(made, tmp_path / "written")
    assert tensors_of(tmp_path / "out") == tensors_of(tmp_path / "written")
    assert not list((tmp_path / "twin").rglob(".*"))


def test_a_delta_of_the_written_model_on_the_made_one(tmp_path: Path) -> None:
    """Law 8: a model that is made when it is read is not known by its bytes; the error says that it must be written."""
    base, fine = pair(tmp_path)
    suture.delta.extract(base, fine, tmp_path / "part", form="lora", rank=2)
    made = f"{base}+{tmp_path / 'part'}"
    suture.delta.extract(made, fine, tmp_path / "d", form="sparse")
    message = r"is made when .* is read; if the delta is of what is written of it, write it first.*`base\+part`"
    with pytest.raises(SutureError, match=message):
        suture.delta.apply(made, [tmp_path / "d"], tmp_path / "out")


@pytest.mark.parametrize(("form", "options"), FORMS, ids=str)
def test_records_of_deltas_are_valid(tmp_path: Path, form: str, options: dict[str, Any]) -> None:
    """Law: `suture schema delta` tells every key of a delta.json and no other."""
    base, fine = pair(tmp_path)
    suture.delta.extract(base, fine, tmp_path / "d", form=form, **options)
    record = json.loads((tmp_path / "d" / "delta.json").read_text())
    validator = Draft202012Validator(closed(suture.schema("delta")))
    assert not list(validator.iter_errors(record))
    assert list(validator.iter_errors({**record, "other": 1}))
    del record["base"]
    assert list(validator.iter_errors(record))


@pytest.mark.parametrize("form", suture.twin.FORMS)
def test_records_of_twins_are_valid(tmp_path: Path, form: str) -> None:
    """Law: `suture schema twin` tells every key of a twin.json and no other."""
    base, fine = pair(tmp_path)
    suture.twin.make(base, [fine], tmp_path / "twin", shared="task_arithmetic", form=form)
    record = json.loads((tmp_path / "twin" / "twin.json").read_text())
    validator = Draft202012Validator(closed(suture.schema("twin")))
    assert not list(validator.iter_errors(record))
    assert list(validator.iter_errors({**record, "experts": [{"name": 1}]}))


def test_a_sum_of_deltas_keeps_to_its_memory(tmp_path: Path) -> None:
    """Law 1: `compose` refuses a budget that it cannot keep before it writes, with the smallest that works."""
    base, fine = pair(tmp_path)
    suture.delta.extract(base, fine, tmp_path / "d", form="sparse")
    with pytest.raises(SutureError, match=r"1 MiB is too little.*the smallest that works is \d+ MiB") as told:
        suture.delta.compose([tmp_path / "d"] * 2, tmp_path / "out", settings=Settings(memory="1MiB"))
    assert not (tmp_path / "out").exists()
    least = int(str(told.value).split("works is ")[1].split(" ")[0])
    suture.delta.compose([tmp_path / "d"] * 2, tmp_path / "out", settings=Settings(memory=f"{least}MiB"))


def test_extraction_takes_fewer_threads_where_memory_is_short(tmp_path: Path) -> None:
    """Law 1: a budget that many threads cannot keep is kept by fewer, with the same bytes."""
    base, fine = pair(tmp_path)
    with pytest.raises(SutureError, match=r"the smallest that works is \d+ MiB") as told:
        suture.delta.extract(base, fine, tmp_path / "d", form="sparse", settings=Settings(memory="1MiB", threads=64))
    least = int(str(told.value).split("works is ")[1].split(" ")[0])
    for out, how in (("d", Settings(memory=f"{least}MiB", threads=64)), ("e", Settings(threads=64))):
        suture.delta.extract(base, fine, tmp_path / out, form="sparse", settings=how)
    assert same_tensors(tmp_path / "d", tmp_path / "e")
