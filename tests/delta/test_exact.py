"""What is exact: xor, and any form with --exact, give the tuned model's bytes and the base's again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import suture
from suture import Settings, SutureError

from ..support.checkpoints import Raw, encode
from .worlds import every_dtype, llama, pair, said, same_tensors, tensors_of, tuned, write

FORMS: list[tuple[str, dict[str, float]]] = [
    ("xor", {}),
    ("sparse", {}),
    ("sparse", {"density": 0.1}),
    ("bits", {}),
    ("lowrank", {"rank": 3}),
    ("lora", {"rank": 2}),
]


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize(("form", "options"), FORMS)
def test_applying_gives_the_tuned_bytes_and_reverting_the_bases(
    tmp_path: Path, form: str, options: dict[str, float], dtype: str
) -> None:
    """Law: D exact => base + D is the tuned model and tuned - D the base, byte for byte, in every form and dtype."""
    base, fine = pair(tmp_path, dtype)
    suture.delta.extract(base, fine, tmp_path / "d", form=form, exact=form != "xor", **options)  # type: ignore[arg-type]
    suture.delta.apply(base, [tmp_path / "d"], tmp_path / "again")
    suture.delta.revert(fine, tmp_path / "d", tmp_path / "back")
    assert same_tensors(tmp_path / "again", fine)
    assert same_tensors(tmp_path / "back", base)
    assert not suture.verify(tmp_path / "d")["differing"]


@pytest.mark.parametrize("form", ["xor", "sparse", "bits"])
def test_every_dtype_goes_both_ways(tmp_path: Path, form: str) -> None:
    """Law: bytes of any dtype, NaN payloads and -0.0 included, come back as they were."""
    base = write(tmp_path / "base", every_dtype(0))
    fine = write(tmp_path / "tuned", every_dtype(1))
    how = Settings(nan="allow")
    suture.delta.extract(base, fine, tmp_path / "d", form=form, exact=form != "xor", settings=how)
    suture.delta.apply(base, [tmp_path / "d"], tmp_path / "again", settings=how)
    suture.delta.revert(fine, tmp_path / "d", tmp_path / "back", settings=how)
    assert same_tensors(tmp_path / "again", fine)
    assert same_tensors(tmp_path / "back", base)


def test_signs_of_zero_are_kept(tmp_path: Path) -> None:
    """Law: -0.0 for 0.0 is no change of value, and is one of bytes."""
    zeros = np.zeros(64, np.float32)
    base = write(tmp_path / "base", {"a": encode(zeros, "BF16"), "b": encode(zeros + 1, "BF16")})
    fine = write(tmp_path / "tuned", {"a": encode(-zeros, "BF16"), "b": encode(zeros + 1, "BF16")})
    for form in ("xor", "sparse"):
        suture.delta.extract(base, fine, tmp_path / form, form=form, exact=form != "xor")
        suture.delta.apply(base, [tmp_path / form], tmp_path / f"{form}-again")
        assert same_tensors(tmp_path / f"{form}-again", fine)
    assert said(tmp_path / "sparse")["tensors"]["a"]["kept"] == "left"


def test_tensors_that_one_model_lacks_or_has_otherwise(tmp_path: Path) -> None:
    """Law: what is new, gone, of another shape or dtype is in a lossless delta too, both ways."""
    base, fine = llama(0), tuned(llama(0), 1)
    del fine["model.layers.0.self_attn.q_proj.bias"]
    fine["extra"] = encode(np.arange(7.0), "F32")
    fine["model.embed_tokens.weight"] = encode(np.ones((60, 24)), "BF16")
    fine["model.norm.weight"] = encode(fine["model.norm.weight"].values(), "F32")
    one, other = write(tmp_path / "base", base), write(tmp_path / "tuned", fine)
    for form in ("xor", "sparse", "lowrank", "lora"):
        options = {"rank": 2} if form.startswith("lo") else {}
        suture.delta.extract(one, other, tmp_path / form, form=form, exact=form != "xor", **options)  # type: ignore[arg-type]
        suture.delta.apply(one, [tmp_path / form], tmp_path / f"{form}-again")
        suture.delta.revert(other, tmp_path / form, tmp_path / f"{form}-back")
        assert same_tensors(tmp_path / f"{form}-again", other), form
        assert same_tensors(tmp_path / f"{form}-back", one), form


def test_a_change_of_the_base_that_no_sample_sees_is_found_when_it_is_written(tmp_path: Path) -> None:
    """Law: a lossless delta on a base of which a single byte differs is refused; nothing is published."""
    rng = np.random.default_rng(0)
    big = {"model.layers.0.w.weight": encode(rng.normal(0, 1, (300, 200)), "BF16")}
    base = write(tmp_path / "base", big)
    fine = write(tmp_path / "tuned", tuned(big, 1))
    suture.delta.extract(base, fine, tmp_path / "d", form="xor")
    raw = big["model.layers.0.w.weight"]
    data = bytearray(raw.data)
    data[2000] ^= 1
    other = write(tmp_path / "other", {"model.layers.0.w.weight": Raw(raw.dtype, raw.shape, bytes(data))})
    with pytest.raises(SutureError, match=r"model.layers.0.w.weight.*not on `base`"):
        suture.delta.apply(other, [tmp_path / "d"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", [{"threads": 1}, {"threads": 5}, {"io": "pread"}, {"io": "direct"}])
@pytest.mark.parametrize(("form", "options"), FORMS)
def test_the_same_bytes_whatever_the_threads(
    tmp_path: Path, form: str, options: dict[str, float], how: dict[str, object]
) -> None:
    """Law 3: a delta's files do not depend on threads and I/O."""
    base, fine = pair(tmp_path)
    exact = form != "xor"
    suture.delta.extract(base, fine, tmp_path / "a", form=form, exact=exact, **options)  # type: ignore[arg-type]
    settings = Settings(**how)  # type: ignore[arg-type]
    suture.delta.extract(base, fine, tmp_path / "b", form=form, exact=exact, settings=settings, **options)  # type: ignore[arg-type]
    files = sorted(f.name for f in (tmp_path / "a").iterdir() if f.name != "suture.json")
    assert files == sorted(f.name for f in (tmp_path / "b").iterdir() if f.name != "suture.json")
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_unchanged_tensors_take_nothing(tmp_path: Path) -> None:
    """Law: what no training reached is not in the delta."""
    base, fine = pair(tmp_path)
    suture.delta.extract(base, fine, tmp_path / "d", form="xor")
    found = said(tmp_path / "d")["tensors"]
    assert {n for n, e in found.items() if e["kept"] == "same"} == {n for n in found if "up_proj" in n}
    assert not any("up_proj" in name for name in tensors_of(tmp_path / "d"))
