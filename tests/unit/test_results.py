"""Law: what verbs return has the types that `suture.results` says, dry and done, by every way to ask for it."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest

import suture
from suture import results
from suture.results import surgery

from ..support.checkpoints import llama_family


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two fine-tunes."""
    return llama_family(tmp_path_factory.mktemp("models"), layers=3, n=2, hidden=16, ff=24, vocab=12)


def wrong(value: Any, kind: Any, at: str = "") -> list[str]:
    """Where a value is not of a type: keys that are missing or not told of, and values of another type."""
    if kind is Any:
        return []
    if is_typeddict(kind):
        return [f"{at}: no mapping"] if not isinstance(value, dict) else _wrong_keys(value, kind, at)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        found = [wrong(value, k, at) for k in inner]
        return min(found, key=len) if all(found) else []
    if origin is list and isinstance(value, list):
        return [w for i, item in enumerate(value) for w in wrong(item, inner[0], f"{at}[{i}]")]
    if origin is dict and isinstance(value, dict):
        return [w for key, item in value.items() for w in wrong(item, inner[1], f"{at}.{key}")]
    plain = {float: (int, float)}.get(kind, origin or kind)
    good = isinstance(value, plain) and (plain is bool or not isinstance(value, bool))
    return [] if good else [f"{at}: {value!r} is no {kind}"]


def _wrong_keys(value: Mapping[str, Any], kind: Any, at: str) -> list[str]:
    hints = get_type_hints(kind)
    found = [f"{at}.{key}: missing" for key in kind.__required_keys__ - value.keys()]
    found += [f"{at}.{key}: not told of" for key in value.keys() - hints.keys()]
    return found + [w for key in value.keys() & hints.keys() for w in wrong(value[key], hints[key], f"{at}.{key}")]


READS: dict[str, tuple[Callable[[list[Path], Path], Any], Any]] = {
    "inspect": (lambda m, _: suture.inspect(m[0]), results.Inspection),
    "inspect stats": (lambda m, _: suture.inspect(m[0], stats=True), results.Inspection),
    "diff": (lambda m, _: suture.diff(*m), results.Comparison),
    "diff all": (lambda m, _: suture.diff(*m, heads=True, neurons=2, tokens=3, spread=True), results.Comparison),
    "propose layer": (lambda m, _: suture.propose(*m), results.Proposal),
    "propose module": (lambda m, _: suture.propose(*m, by="module"), results.Proposal),
    "methods": (lambda m, _: suture.methods(), list[results.Spec]),
    "mask": (lambda m, _: suture.mask(m[0], train="last:1"), results.Mask),
    "verify": (lambda m, out: (suture.merge(linear(m), out), suture.verify(out))[1], results.Verification),
}


def linear(models: list[Path], **more: Any) -> dict[str, Any]:
    return {
        "merge_method": "linear",
        "models": [{"model": str(m), "parameters": {"weight": 1.0}} for m in models],
    } | more


def staged(models: list[Path], out: Path) -> Path:
    path = out.with_name("config.yml")
    documents = [linear(models, name="pair"), linear([Path("pair"), models[0]])]
    path.write_text("\n---\n".join(json.dumps(d) for d in documents))
    return path


Verb = Callable[[list[Path], Path, bool], suture.Report]
WRITES: dict[str, Verb] = {
    "merge": lambda m, out, dry: suture.merge(linear(m), out, dry_run=dry),
    "ties": lambda m, out, dry: suture.merge(
        linear(m[1:], merge_method="ties", base_model=str(m[0]), parameters={"density": 0.5}), out, dry_run=dry
    ),
    "grouped": lambda m, out, dry: suture.merge(
        {"merge_method": "metagpt", "base_model": str(m[0]), "models": [{"model": str(x)} for x in m[1:]]},
        out,
        dry_run=dry,
    ),
    "outputs": lambda m, out, dry: suture.merge(linear(m) | {"outputs": {"a": {}, "b": {}}}, out, dry_run=dry),
    "stages": lambda m, out, dry: suture.merge(staged(m, out), out, dry_run=dry),
    "swap": lambda m, out, dry: suture.swap(m[1], m[2], out, bottom=1, transition=1, dry_run=dry),
    "swap heads": lambda m, out, dry: suture.swap(m[1], m[2], out, layers="0", heads="0,1", dry_run=dry),
    "swap auto": lambda m, out, dry: suture.swap(m[1], m[2], out, auto="layer", base=m[0], dry_run=dry),
    "revert": lambda m, out, dry: suture.revert(m[0], m[1], out, layers=[0], dry_run=dry),
    "convert": lambda m, out, dry: suture.convert(m[0], out, dry_run=dry),
}


@pytest.mark.parametrize("name", READS)
def test_verbs_that_read(name: str, models: list[Path], tmp_path: Path) -> None:
    """Every key is told of, every key that is told of is there, and values have their types."""
    call, kind = READS[name]
    assert not wrong(call(models, tmp_path / "out"), kind)


@pytest.mark.parametrize("name", WRITES)
def test_verbs_that_write(name: str, models: list[Path], tmp_path: Path) -> None:
    """One shape dry and done: what both say has the same keys and types, and what one alone says is told apart."""
    for dry in (True, False):
        report = WRITES[name](models, tmp_path / "out", dry)
        for one in [report, *report.parts.values()]:
            assert not wrong(one.data, results.Surgery)
            if "title" not in one.data:
                assert one.data.keys() == {"schema", "outputs", "warnings"}
                continue
            shared = keys(surgery.Told) | keys(surgery.Shared)
            own = keys(surgery.Planned) - {"proposal", "schedule"} if dry else keys(surgery.Done) - {"cluster"}
            assert one.data.keys() - {"proposal"} == shared | own
            tensors: Any = one.data["tensors"]
            for tensor in tensors if dry else tensors.values():
                assert not wrong(tensor, results.PlannedTensor if dry else results.DoneTensor)


@pytest.mark.parametrize("name", WRITES)
def test_tensors_are_told_alike_before_and_after(name: str, models: list[Path], tmp_path: Path) -> None:
    """`Report.tensors`: the plan's and the run's differ by the digests alone."""
    seen = []
    for dry in (True, False):
        report = WRITES[name](models, tmp_path / "out", dry)
        parts = [*report.parts.values(), *([report] if "title" in report.data else [])]
        # Of the merges in stages the last is left.
        seen.append({t.name: (t.dtype, t.shape, t.action, set(t.inputs)) for t in parts[-1].tensors})
        assert all((t.digest is None) == dry for p in parts for t in p.tensors)
    assert seen[0] == seen[1]


def keys(kind: Any) -> set[str]:
    return set(get_type_hints(kind))


def test_the_check_sees_what_is_wrong() -> None:
    """The test of the test."""
    bad = {"schema": 1, "tensors": 1, "bytes": True, "unknown": 0, "differing": [2], "files": [], "more": 0}
    assert len(wrong(bad, results.Verification)) == 3
    good = {"schema": 1, "tensors": 1, "bytes": 2, "unknown": 0, "differing": ["x"], "files": []}
    assert not wrong(good, results.Verification)
