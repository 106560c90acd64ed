"""A candidate takes over what the one before has of it, and nothing else."""

from __future__ import annotations

import json
import mmap
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import suture
from suture.errors import SutureError
from suture.searching import genome_of
from suture.surgery.job import Job

from ..support.checkpoints import llama_family, read_checkpoint
from .common import config, tensors, trajectory

pytest.importorskip("cmaes")

#: A value that is searched in the last of four layers; what is elsewhere has a number of its own.
LAST = [{"filter": "layers.3.", "value": {"search": [0.1, 1]}}, {"value": 0.5}]


def given(folder: Path, method: str = "task_arithmetic", **more: Any) -> dict[str, Any]:
    """A merge whose weights of one model are searched in the last layer alone."""
    made = config(folder, lambda i: LAST if i else 0.5, method)
    return made | {"parameters": more} if more else made


class Judge:
    """Holds every candidate against the merge of its config, made anew; nothing of either stays."""

    def __init__(self, folder: Path, wanted: dict[str, Any], settings: suture.Settings) -> None:
        self.folder, self.genome, self.settings = folder, genome_of(wanted), settings
        self.seen: list[list[bytes]] = []
        self.reports: list[Any] = []

    def __call__(self, place: Path) -> float:
        """How many were judged before."""
        self.seen.append(tensors(place))
        self.reports.append(json.loads((place / "suture.json").read_text()))
        return float(len(self.seen))

    def check(self, found: Any) -> None:
        """Every candidate has the bytes of its config, and a report that says what one made anew says."""
        assert len(self.seen) == len(found.data["candidates"])
        assert len({b"".join(x) for x in self.seen}) == len(self.seen)
        for one in found.data["candidates"]:
            out = self.folder / f"anew-{one['number']}"
            suture.merge(self.genome.merge(one["genes"]), out, settings=self.settings)
            assert tensors(out) == self.seen[one["number"]]
            anew = json.loads((out / "suture.json").read_text())
            own = self.reports[one["number"]]
            assert {k: v for k, v in own.items() if k != "run"} == {k: v for k, v in anew.items() if k != "run"}
            shutil.rmtree(out)


@pytest.mark.parametrize(
    ("method", "more", "settings"),
    [
        ("task_arithmetic", {}, {}),
        ("linear", {}, {"dtype": "bfloat16"}),
        ("dare_ties", {"density": 0.5}, {"seed": 7}),
        ("ties", {"density": 0.5}, {"shard_size": 1500}),
        ("ties", {"density": 0.5}, {"io": "pread", "memory": "64MiB"}),
    ],
)
def test_what_both_have_is_not_written_anew(
    tmp_path: Path, method: str, more: dict[str, Any], settings: dict[str, Any]
) -> None:
    """Law: a candidate has the bytes and the report of a merge of its own; what no gene reaches is kept."""
    wanted = given(tmp_path, method, **more)
    how = suture.Settings(**settings)
    judge = Judge(tmp_path, wanted, how)
    found = suture.search(wanted, tmp_path / "out", evaluate=judge, budget=5, settings=how)
    judge.check(found)
    stored = read_checkpoint(tmp_path / "base") if not settings.get("to") and not settings.get("dtype") else {}
    apart = sum(len(raw.data) for name, raw in stored.items() if "layers.3." not in name)
    assert found.data["kept_bytes"] == 4 * apart if stored else found.data["kept_bytes"] > 0
    assert not list((tmp_path / "out").glob(".*"))


def test_codes_and_scales_are_kept_together(tmp_path: Path) -> None:
    """Law: of what is written quantised too, and both parts of a weight are made of the same values."""
    base, *tuned = llama_family(tmp_path, layers=2, n=3, hidden=64, ff=64, vocab=32)
    value = [{"filter": "layers.1.", "value": {"search": [0.1, 1]}}, {"value": 0.5}]
    models = [{"model": str(path), "parameters": {"weight": value}} for path in tuned]
    wanted = {"merge_method": "task_arithmetic", "base_model": str(base), "models": models}
    how = suture.Settings(to="mxfp4")
    judge = Judge(tmp_path, wanted, how)
    found = suture.search(wanted, tmp_path / "out", evaluate=judge, budget=4, settings=how)
    judge.check(found)
    assert 0.3 < found.data["kept_bytes"] / (3 * found.data["candidate_bytes"]) < 1


@pytest.mark.parametrize("more", [{"density": 0.5, "scope": "model"}, {"larv": "continuous"}], ids=str)
def test_what_is_found_of_the_whole_is_found_anew(tmp_path: Path, more: dict[str, Any]) -> None:
    """Law: where statistics go over more than a tensor, a gene that changes one of them changes all."""
    wanted = given(tmp_path, "ties", **more)
    judge = Judge(tmp_path, wanted, suture.Settings())
    found = suture.search(wanted, tmp_path / "out", evaluate=judge, budget=4)
    judge.check(found)
    # Layers are scaled by what all of them are; what is in none is not.
    outside = sum(len(raw.data) for name, raw in read_checkpoint(tmp_path / "base").items() if "layers." not in name)
    assert found.data["kept_bytes"] == (3 * outside if "larv" in more else 0)


def test_several_workers_keep_too(tmp_path: Path) -> None:
    """Law: with workers, whichever folder each goes on with, scores are those of one."""
    wanted = given(tmp_path)

    def judge(place: Path) -> float:
        return float(int.from_bytes(b"".join(tensors(place))[-9000:], "little") % 9973)

    for workers in (1, 3):
        out = tmp_path / f"out-{workers}"
        found = suture.search(wanted, out, evaluate=judge, budget=9, workers=workers)
        assert found.data["kept_bytes"] > 0
    one, two = (trajectory(tmp_path / f"out-{w}" / "search.sqlite") for w in (1, 3))
    assert one == two


def linked(place: Path, aside: Path) -> object:
    """Keep a candidate by hard links."""
    shutil.copytree(place, aside, copy_function=os.link)
    return None


def mapped(place: Path, aside: Path) -> object:
    """Keep a candidate by maps of its files, of which `aside` gets copies when all is done."""
    found = []
    for file in sorted(place.glob("*.safetensors")):
        with file.open("rb") as opened:
            found.append((aside / file.name, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)))
    return found


def opened(place: Path, aside: Path) -> object:
    """Keep a candidate by files that stay open."""
    return [(aside / file.name, file.open("rb")) for file in sorted(place.glob("*.safetensors"))]


def moved(place: Path, aside: Path) -> object:
    """Move a candidate away."""
    shutil.move(place, aside)
    return None


@pytest.mark.parametrize("hold", [linked, mapped, opened, moved])
def test_what_an_evaluator_holds_on_to_stays(tmp_path: Path, hold: Callable[[Path, Path], object]) -> None:
    """Law: a candidate that somebody has linked, mapped, opened or moved is written into no more."""
    held: list[Any] = []
    bytes_of: list[list[bytes]] = []

    def judge(place: Path) -> float:
        bytes_of.append(tensors(place))
        aside = tmp_path / f"aside-{len(held)}"
        held.append((aside, hold(place, aside)))
        return 0.0

    found = suture.search(given(tmp_path), tmp_path / "out", evaluate=judge, budget=4)
    assert found.data["kept_bytes"] == 0
    assert len({b"".join(x) for x in bytes_of}) == 4
    for (aside, still), before in zip(held, bytes_of, strict=True):
        for path, file in still or ():
            aside.mkdir(exist_ok=True)
            file.seek(0)
            path.write_bytes(file.read())
            file.close()
        assert tensors(aside) == before


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "link", "config"])
def test_what_an_evaluator_breaks_is_made_anew(tmp_path: Path, harm: str) -> None:
    """Law: what was written into, cut short, removed or put elsewhere is not taken over: digests are read back."""
    wanted = given(tmp_path)
    judge = Judge(tmp_path, wanted, suture.Settings())

    def evaluate(place: Path) -> float:
        score = judge(place)
        file = next(place.glob("*.safetensors"))
        if harm == "flip":
            held = bytearray(file.read_bytes())
            held[-7] ^= 1
            held[len(held) // 2] ^= 1
            file.write_bytes(held)
        elif harm == "cut":
            os.truncate(file, 100)
        elif harm == "remove":
            file.unlink()
        elif harm == "link":
            file.rename(tmp_path / f"mine-{score}")
            file.symlink_to(tmp_path / f"mine-{score}")
        else:
            (place / "suture.json").write_text("{}")
        return score

    found = suture.search(wanted, tmp_path / "out", evaluate=evaluate, budget=3)
    judge.check(found)
    if harm == "link":
        assert len(list(tmp_path.glob("mine-*"))) == 3


def test_another_plan_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: of inputs that were touched since no score is kept, nor is anything taken over, as where all changed."""
    taken: list[int] = []
    take_up = Job.take_up

    def note(self: Job, *args: Any) -> int:
        taken.append(take_up(self, *args))
        return taken[-1]

    monkeypatch.setattr(Job, "take_up", note)
    everywhere = config(tmp_path, lambda _: {"search": [0.1, 1]})
    suture.search(everywhere, tmp_path / "out", objective="balance", budget=3)
    assert taken == [0, 0]

    def touch(place: Path) -> float:
        file = next((tmp_path / "tuned-1").glob("*.safetensors"))
        file.write_bytes(file.read_bytes())
        return 0.0

    with pytest.raises(SutureError, match="was changed meanwhile"):
        suture.search(given(tmp_path), tmp_path / "out2", evaluate=touch, budget=3)
    assert trajectory(tmp_path / "out2" / "search.sqlite") == []
    # Had it gone unseen, each would have been made anew.
    monkeypatch.setattr("suture.searching.run.stamps", lambda *_: [])
    suture.search(given(tmp_path), tmp_path / "out3", evaluate=touch, budget=3)
    assert taken == [0, 0, 0, 0]
