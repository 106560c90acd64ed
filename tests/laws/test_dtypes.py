"""What becomes of a tensor that is taken onto one of another dtype: moved, cast and told, or refused; all 484 pairs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.checkpoints import DTYPE_BITS, Raw, encode, read_checkpoint, write_checkpoint
from ..support.refusals import left_behind, names_dtype, refusal
from ..support.swapping import cast, mix

DTYPES = list(DTYPE_BITS)
FLOATS = ("F64", "F32", "F16", "BF16")
INSIDE, OUTSIDE = "model.layers.1.mlp.up_proj.weight", "model.norm.weight"
SHAPE = (4, 16)
KEPT = {"model.layers.0.input_layernorm.weight": encode(np.ones(3), "F32")}


def floats(dtype: str, seed: int) -> Raw:
    """Ordinary values, zeros of both signs, small ones, and those that two roundings would put elsewhere."""
    values = np.random.default_rng(seed).normal(0, 0.3, SHAPE)
    # Above a halfway case of bfloat16, then of half, by less than an f32 can tell; and next to each from below.
    hard = [s * (1 + 2.0**-n + e) for n in (8, 11, 24) for e in (2.0**-40, -(2.0**-40), 2.0**-20) for s in (1, -1)]
    values.flat[: len(hard)] = hard
    values.flat[-6:] = [0.0, -0.0, 2.0**-24, 1e-7, -3e-5, 60000.0]
    return cast(encode(values, "F64"), dtype)


def tensor(dtype: str, seed: int) -> Raw:
    """A tensor of any dtype that there is."""
    if dtype in FLOATS:
        return floats(dtype, seed)
    rng = np.random.default_rng([seed, DTYPES.index(dtype)])
    size = SHAPE[0] * SHAPE[1] * DTYPE_BITS[dtype] // 8
    # Below 0x70 no small float is NaN or infinite.
    return Raw(dtype, SHAPE, rng.integers(0, 2 if dtype == "BOOL" else 0x70, size, dtype=np.uint8).tobytes())


def swapped(into: Path, other: Path, out: Path, **how: Any) -> suture.Report:
    return suture.swap(into, other, out, layers=[1], **how)


def reverted(into: Path, other: Path, out: Path, **how: Any) -> suture.Report:
    return suture.revert(other, into, out, layers=[1], **how)


def outside(into: Path, other: Path, out: Path, **how: Any) -> suture.Report:
    return suture.swap(into, other, out, layers=[0], non_layer="from", **how)


FORMS: dict[str, tuple[Callable[..., suture.Report], str]] = {
    "swap": (swapped, INSIDE),
    "revert": (reverted, INSIDE),
    "non-layer from": (outside, OUTSIDE),
}


def models(place: Path, name: str, into: Raw, donor: Raw) -> tuple[Path, Path]:
    """A recipient and a donor that differ in one tensor."""
    inside = {} if name == INSIDE else {INSIDE: encode(np.ones(2), "F32")}
    return (
        write_checkpoint(place / "into", KEPT | inside | {name: into}),
        write_checkpoint(place / "donor", KEPT | inside | {name: donor}),
    )


def fault(form: str, have: str, want: str, place: Path) -> str | None:
    """What is wrong with a tensor of dtype `have` taken onto one of dtype `want`, if anything."""
    call, name = FORMS[form]
    donor, into = tensor(have, 1), tensor(want, 2)
    paths, out = models(place, name, into, donor), place / "out"
    before = {p.name for p in place.iterdir()}
    done: list[suture.Report] = []
    error = refusal(lambda: done.append(call(*paths, out)))
    if have != want and not (have in (*FLOATS, "BOOL") and want in FLOATS):
        if error is None:
            return "is written; expected a refusal"
        if left_behind(place, before):
            return f"is refused, and leaves {left_behind(place, before)}"
        if not (names_dtype(error, have) and names_dtype(error, want) and name in error):
            return f"is refused without the tensor or both dtypes: {error}"
        return None
    if error is not None:
        return f"is refused: {error}"
    found = read_checkpoint(out)[name]
    if found != (donor if have == want else cast(donor, want)):
        return f"is {found.dtype}, with other bytes than it should have"
    if suture.verify(out)["differing"]:
        return "fails `verify`"
    told = [w for w in done[0].warnings if names_dtype(w, have) and names_dtype(w, want)]
    if have != want and not any(name in w or counts(w) for w in told):
        return f"is cast, and no warning says so: {done[0].warnings}"
    if have == want and told:
        return f"is moved, and a warning speaks of a cast: {told}"
    return None


def counts(warning: str) -> bool:
    """Whether a warning holds a number that is not part of a dtype's name."""
    return re.search(r"(?<![A-Za-z_\d])\d", warning) is not None


@pytest.mark.parametrize("want", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_a_tensor_taken_onto_any_dtype(form: str, want: str, place: Path) -> None:
    """Law 2: one dtype moves bytes; floats (and BOOL onto them) are cast once and told; all else is refused."""
    faults = {}
    for have in DTYPES:
        (place / have).mkdir()
        problem = fault(form, have, want, place / have)
        if problem:
            faults[f"{have} onto {want}"] = problem
    assert not faults, "\n".join(f"{pair} {problem}" for pair, problem in faults.items())


@pytest.mark.parametrize("want", DTYPES)
def test_a_blend_of_any_two_dtypes(want: str, place: Path) -> None:
    """Law 2: floats are blended in the recipient's dtype; of the rest equal bytes are copied, all else refused."""
    faults = []
    for have in DTYPES:
        if "BOOL" in (have, want) and have != want:
            continue
        for equal in [False, True] if have == want else [False]:
            into = tensor(want, 2)
            donor = into if equal else tensor(have, 1)
            folder = place / f"{have}-{equal}"
            paths, out = models(folder, INSIDE, into, donor), folder / "out"
            error = refusal(suture.swap, *paths, out, bottom=1, transition=1)
            if have in FLOATS and want in FLOATS:
                found = None if error else read_checkpoint(out)[INSIDE]
                wanted = mix({"into": into, "donor": donor}, {"into": 0.5, "donor": 0.5}, into)
                if found is None or found.dtype != want or not close(found, wanted):
                    faults.append(f"{have} into {want}: {error or 'other values'}")
            elif equal:
                if error or read_checkpoint(out)[INSIDE] != into:
                    faults.append(f"equal bytes of {have}: {error or 'other bytes'}")
            elif error is None or out.exists():
                faults.append(f"{have} into {want}: {error or 'is written'}")
    assert not faults, "\n".join(faults)


def close(found: Raw, wanted: Raw) -> bool:
    """Whether two float tensors are a rounding apart at most."""
    a, b = (raw.values().astype(np.float64) for raw in (found, wanted))
    step = {"F64": 2.0**-22, "F32": 2.0**-22, "F16": 2.0**-10, "BF16": 2.0**-7}[wanted.dtype]
    return bool((np.abs(a - b) <= step * np.abs(b) + 2.0**-24).all())


def test_a_cast_is_told_on_the_command_line(place: Path) -> None:
    """Law 8: the warning goes to stderr, names the tensor or counts, and stands in suture.json."""
    into, donor = models(place, INSIDE, tensor("F16", 2), tensor("F32", 1))
    out = place / "out"
    call = ["swap", "--into", into, "--from", donor, out, "--layers", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "suture", *map(str, call)], capture_output=True, text=True, timeout=60, check=True
    )
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("warning")]
    assert names_dtype(told, "F32")
    assert names_dtype(told, "F16")
    assert told.removeprefix("warning: ") in (out / "suture.json").read_text()


def every_dtype(seed: int) -> dict[str, Raw]:
    """A layer, and what is outside, with a tensor of each dtype."""
    parts = {f"model.layers.{layer}.buffer_{d.lower()}": d for d in DTYPES for layer in (0, 1)}
    parts |= {f"model.buffer_{d.lower()}": d for d in DTYPES}
    return {name: tensor(dtype, seed) for name, dtype in parts.items()}


def into_bfloat16(tensors: dict[str, Raw]) -> dict[str, Raw]:
    """The model with those tensors rounded that are of a dtype to compute on."""
    return {n: cast(raw, "BF16") if raw.dtype in FLOATS else raw for n, raw in tensors.items()}


@pytest.mark.parametrize("form", ["swap", "revert", "passthrough", "linear"])
def test_an_output_dtype_is_for_floats_alone(form: str, place: Path) -> None:
    """Law 2: `--dtype bfloat16` rounds what is computed on, once; ids, booleans and small floats keep theirs."""
    mine, theirs = every_dtype(1), every_dtype(2)
    into, donor = (write_checkpoint(place / n, t) for n, t in (("into", mine), ("donor", theirs)))
    out, how = place / "out", suture.Settings(dtype="bfloat16")
    wanted = into_bfloat16({n: theirs[n] if ".1." in n else raw for n, raw in mine.items()})
    if form == "swap":
        suture.swap(into, donor, out, layers=[1], settings=how)
    elif form == "revert":
        suture.revert(donor, into, out, layers=[1], settings=how)
    else:
        # Two models of the same bytes: what is not computed on is copied.
        twin = write_checkpoint(place / "twin", mine)
        listed = [into] if form == "passthrough" else [into, twin]
        entries = [{"model": str(m), "parameters": {"weight": 0.5} if form == "linear" else {}} for m in listed]
        suture.merge({"merge_method": form, "models": entries, "dtype": "bfloat16"}, out)
        wanted = into_bfloat16(mine)
        if form == "linear":
            # The mean of f64 tensors may be formed in f32.
            wanted |= {n: cast(cast(raw, "F32"), "BF16") for n, raw in mine.items() if raw.dtype == "F64"}
    found = read_checkpoint(out)
    assert {n: raw.dtype for n, raw in found.items()} == {n: raw.dtype for n, raw in wanted.items()}
    assert [n for n in wanted if found[n] != wanted[n] and not (form == "linear" and mine[n].dtype == "F64")] == []
    assert suture.verify(out)["differing"] == []
