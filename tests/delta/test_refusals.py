"""What is no delta, or not of this model, or damaged, is an error that says so; nothing is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture import SutureError, UsageError

from ..support.checkpoints import Raw, encode, parse_file, write_file
from .worlds import llama, pair, same_tensors, tensors_of, tuned, write


@pytest.mark.parametrize(
    ("form", "options"),
    [("xor", {}), ("sparse", {"density": 0.2}), ("bits", {}), ("lowrank", {"rank": 2}), ("lora", {"rank": 2})],
)
def test_a_delta_on_the_wrong_base_is_refused_by_name(tmp_path: Path, form: str, options: dict[str, Any]) -> None:
    """Bad input: another model of the same shapes; the error names the tensor, and the model that it belongs to."""
    base, fine = pair(tmp_path)
    other = write(tmp_path / "other", llama(7))
    suture.delta.extract(base, fine, tmp_path / "d", form=form, **options)
    for wrong in (other, fine):
        with pytest.raises(SutureError, match=r"model.embed_tokens.weight.*belongs to another model, `base`"):
            suture.delta.apply(wrong, [tmp_path / "d"], tmp_path / "out")
    with pytest.raises(SutureError, match=r"belongs to another model, `tuned`"):
        suture.delta.revert(base, tmp_path / "d", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_shapes_and_names_are_refused(tmp_path: Path) -> None:
    """Bad input: a model that lacks a tensor, or has another shape of it."""
    base, fine = pair(tmp_path)
    suture.delta.extract(base, fine, tmp_path / "d", form="sparse")
    less = llama(0)
    del less["model.norm.weight"]
    with pytest.raises(SutureError, match=r"model.norm.weight.*is not in .*less: the delta belongs to another model"):
        suture.delta.apply(write(tmp_path / "less", less), [tmp_path / "d"], tmp_path / "out")
    odd = llama(0) | {"model.norm.weight": encode(np.ones(25), "BF16")}
    with pytest.raises(SutureError, match=r"model.norm.weight.*shape \[25\].*expected BF16 of \[24\]"):
        suture.delta.apply(write(tmp_path / "odd", odd), [tmp_path / "d"], tmp_path / "out")


def meddle(folder: Path, file: str, name: str, how: Callable[[Raw], Raw]) -> None:
    """Change a tensor of a delta's file."""
    held = parse_file((folder / file).read_bytes())
    held[name] = how(held[name])
    write_file(folder / file, held)


def flipped(raw: Raw) -> Raw:
    return Raw(raw.dtype, raw.shape, raw.data[::-1])


def cut(raw: Raw) -> Raw:
    return Raw("U8", (len(raw.data) // 2,), raw.data[: len(raw.data) // 2])


def unordered(raw: Raw) -> Raw:
    values = raw.values().copy()
    values[:2] = values[1::-1]
    return encode(values, raw.dtype)


def beyond(raw: Raw) -> Raw:
    values = raw.values().copy()
    values[-1] = 2**31
    return encode(values, raw.dtype)


Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("form", "file", "part", "how", "message"),
    [
        ("xor", "xor.safetensors", "xor", flipped, "damaged"),
        ("xor", "xor.safetensors", "xor", cut, "damaged"),
        ("sparse", "index.safetensors", "index", unordered, "not ascending"),
        ("sparse", "index.safetensors", "index", cut, "damaged"),
        ("sparse", "values.safetensors", "values", cut, "damaged"),
        ("bits", "signs.safetensors", "signs", cut, "damaged"),
        ("bits", "scales.safetensors", "scale", lambda raw: encode(np.array([np.nan]), "F32"), "no finite"),
        ("lowrank", "factors.safetensors", "U", cut, "damaged"),
        ("lowrank", "factors.safetensors", "S", cut, "damaged"),
    ],
)
def test_damaged_deltas_are_errors(
    tmp_path: Path, form: str, file: str, part: str, how: Callable[[Raw], Raw], message: str
) -> None:
    """Law 7: what a delta holds is checked; the error names the tensor."""
    base, fine = pair(tmp_path)
    options: dict[str, Any] = {"rank": 2} if form == "lowrank" else {}
    suture.delta.extract(base, fine, tmp_path / "d", form=form, **options)
    meddle(tmp_path / "d", file, f"{Q}.{part}", how)
    with pytest.raises(SutureError, match=message) as caught:
        suture.delta.apply(base, [tmp_path / "d"], tmp_path / "out")
    assert "q_proj" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    """Law 7: a block that would unpack to gigabytes is refused by its length before anything is unpacked."""
    base, fine = pair(tmp_path)
    suture.delta.extract(base, fine, tmp_path / "d", form="xor")

    def longer(raw: Raw) -> Raw:
        # zstd's frame of a known size: magic, a single segment of 8 bytes of size, 2**40 bytes.
        frame = bytes.fromhex("28b52ffd") + b"\xe0" + (1 << 40).to_bytes(8, "little") + b"\x03\x00\x00\x00"
        data = frame + len(frame).to_bytes(4, "little")
        return Raw("U8", (len(data),), data)

    meddle(tmp_path / "d", "xor.safetensors", f"{Q}.xor", longer)
    with pytest.raises(SutureError, match="cannot be unpacked"):
        suture.delta.apply(base, [tmp_path / "d"], tmp_path / "out")


@pytest.mark.parametrize(
    ("meddled", "message"),
    [
        (lambda said: said | {"version": 2}, "version 2"),
        (lambda said: said | {"format": "x"}, "expected `format`"),
        (lambda said: said | {"files": ["../x.safetensors"]}, "no file beside it"),
        (lambda said: said | {"files": []}, "missing"),
        (lambda said: said | {"surprise": 1}, "not as a delta has it"),
    ],
)
def test_a_record_that_is_none(tmp_path: Path, meddled: Callable[[dict[str, Any]], Any], message: str) -> None:
    """Law 7: delta.json is read strictly."""
    base, fine = pair(tmp_path)
    suture.delta.extract(base, fine, tmp_path / "d", form="sparse")
    record = tmp_path / "d" / "delta.json"
    record.write_text(json.dumps(meddled(json.loads(record.read_text()))))
    for ask in (lambda: suture.delta.info(tmp_path / "d"), lambda: suture.delta.apply(base, [tmp_path / "d"], "out")):
        with pytest.raises(SutureError, match=message):
            ask()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "spars"}, "form: expected"),
        ({"form": "lora"}, "rank: expected a `rank` or an `energy`"),
        ({"form": "lora", "rank": 0}, "rank: expected at least 1"),
        ({"form": "lora", "rank": 4, "density": 0.1}, "density: is of the form sparse"),
        ({"form": "sparse", "rank": 4}, "rank: is of the form lowrank and lora"),
        ({"form": "sparse", "rank_share": 0.1}, "rank_share: is of the form lowrank and lora"),
        ({"form": "lowrank", "rank_share": 1.5}, "rank_share: expected a share"),
        ({"form": "lowrank", "rank_share": 0.1, "rank": 2}, "rank_share: expected one of"),
        ({"form": "sparse", "density": 1.5}, "density: expected a share"),
        ({"form": "sparse", "density": 0.1, "keep": 3}, "keep: expected one of"),
        ({"form": "xor", "exact": True}, "exact as it is"),
        ({"form": "xor", "settings": suture.Settings(memory="10MiB")}, "memory: 10 MiB is too little"),
        ({"form": "lora", "rank": 2, "settings": suture.Settings(dtype="int8")}, "dtype: expected float32"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """Law 8: wrong use is told by the option's name, before anything is read."""
    base, fine = pair(tmp_path)
    with pytest.raises(UsageError, match=message):
        suture.delta.extract(base, fine, tmp_path / "d", **options)
    assert not (tmp_path / "d").exists()


def test_nan_is_refused_by_name(tmp_path: Path) -> None:
    """Law 7: NaN in a model is told with its tensor and element."""
    base, fine = llama(0), tuned(llama(0), 1)
    values = fine[Q].values().copy()
    values[1, 2] = np.nan
    fine[Q] = encode(values, "BF16")
    one, other = write(tmp_path / "base", base), write(tmp_path / "tuned", fine)
    for form in ("xor", "sparse", "bits", "lora"):
        options: dict[str, Any] = {"rank": 2} if form == "lora" else {}
        with pytest.raises(SutureError, match=r"q_proj.*element 26 is NaN"):
            suture.delta.extract(one, other, tmp_path / "d", form=form, **options)
        assert not (tmp_path / "d").exists()


def test_what_cannot_be_scaled_or_taken_out(tmp_path: Path) -> None:
    """Law 10: bits are whole or nothing; what does not hold the base's tensors cannot give them back."""
    base, fine = pair(tmp_path)
    suture.delta.extract(base, fine, tmp_path / "x", form="xor")
    suture.delta.extract(base, fine, tmp_path / "l", form="lowrank", rank=2)
    with pytest.raises(SutureError, match="kept as bits"):
        suture.delta.apply(base, [tmp_path / "x"], tmp_path / "out", weights=[0.5])
    with pytest.raises(SutureError, match="extract it with --exact"):
        suture.delta.revert(fine, tmp_path / "l", tmp_path / "out")
    with pytest.raises(SutureError, match="is no delta"):
        suture.delta.revert(fine, base, tmp_path / "out")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """Law 6: an output that is there stays, unless it is to be replaced; what is no checkpoint is never replaced."""
    base, fine = pair(tmp_path)
    suture.delta.extract(base, fine, tmp_path / "d", form="xor")
    with pytest.raises(SutureError, match="not empty"):
        suture.delta.extract(base, fine, tmp_path / "d", form="sparse")
    suture.delta.extract(base, fine, tmp_path / "d", form="sparse", settings=suture.Settings(overwrite=True))
    assert suture.delta.info(tmp_path / "d")["form"] == "sparse"
    (tmp_path / "d" / "notes.txt").write_text("mine")
    with pytest.raises(SutureError, match="will not delete"):
        suture.delta.extract(base, fine, tmp_path / "d", form="xor", settings=suture.Settings(overwrite=True))
    with pytest.raises(SutureError, match="overlaps"):
        suture.delta.extract(base, fine, base / "d", form="xor")


def test_killed_runs_leave_nothing_that_looks_whole_and_can_be_run_again(tmp_path: Path) -> None:
    """Law 6: kill -9 at any time leaves no output, and the same command makes it: extract, apply, revert."""
    rng = np.random.default_rng(0)
    base = {f"model.layers.{i}.w.weight": encode(rng.normal(0, 1, (1024, 1024)), "BF16") for i in range(12)}
    one = write(tmp_path / "base", base)
    other = write(tmp_path / "tuned", tuned(base, 1, same="layers.3"))
    delta, again, back = tmp_path / "d", tmp_path / "again", tmp_path / "back"
    for args, out in [
        (["extract", one, other, delta, "--form", "sparse", "--density", "0.2", "--exact"], delta),
        (["apply", one, delta, again], again),
        (["revert", other, delta, back], back),
    ]:
        command = [sys.executable, "-m", "suture", "delta", *map(str, args), "--quiet", "--threads", "1"]
        for wait in (0.15, 0.25, 0.4):
            process = subprocess.Popen(command, stderr=subprocess.PIPE)
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert process.stderr is not None
            process.stderr.close()
            if not out.exists():
                partial = out.with_name(f".{out.name}.suture-partial")
                with pytest.raises(SutureError):
                    suture.delta.info(partial)
        if not out.exists():
            subprocess.run(command, check=True, env=os.environ)
    assert same_tensors(again, other)
    assert same_tensors(back, one)
    assert tensors_of(delta)


@pytest.mark.parametrize(
    ("form", "what"),
    [(form, "entry") for form in suture.delta.FORMS] + [(form, "part") for form in suture.delta.FORMS if form != "xor"],
)
def test_what_the_record_no_longer_names_is_not_left_out(tmp_path: Path, form: str, what: str) -> None:
    """Bad input: an entry, or a part of one, taken out of delta.json: refused, not applied without it."""
    base, fine = pair(tmp_path)
    options = {"rank": 2} if form in ("lowrank", "lora") else {}
    suture.delta.extract(base, fine, tmp_path / "d", form=form, exact=form != "xor", **options)  # type: ignore[arg-type]
    record = json.loads((tmp_path / "d" / "delta.json").read_text())
    kept = next(i for i, entry in enumerate(record["tensors"]) if len(entry.get("parts", {})) > (what == "part"))
    if what == "entry":
        del record["tensors"][kept]
    else:
        record["tensors"][kept]["parts"].popitem()
    (tmp_path / "d" / "delta.json").write_text(json.dumps(record))
    with pytest.raises(SutureError, match="the delta is damaged"):
        suture.delta.apply(base, [tmp_path / "d"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
