"""What torch itself writes is read as torch itself reads it: random states, and published weights."""

from __future__ import annotations

import contextlib
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.checkpoints import Raw, read_checkpoint
from ..support.pickles import STORAGES, archive

DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "uint16": "U16", "uint32": "U32", "uint64": "U64",
    "complex64": "C64", "float8_e5m2": "F8_E5M2", "float8_e4m3fn": "F8_E4M3", "float8_e8m0fnu": "F8_E8M0",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e4m3fnuz": "F8_E4M3FNUZ",
}  # fmt: skip


def raw(torch: Any, tensor: Any) -> Raw:
    """A tensor of torch as a file would hold it."""
    flat = tensor.detach().contiguous().reshape(-1)
    data = bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""
    return Raw(DTYPES[str(tensor.dtype).removeprefix("torch.")], tuple(tensor.shape), data)


def by_torch(torch: Any, path: Path) -> dict[str, Raw]:
    """All tensors as `torch.load` reads them."""
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    return {name: raw(torch, tensor) for name, tensor in loaded.items()}


def by_suture(path: Path) -> dict[str, Raw]:
    """All tensors as suture reads them."""
    opened = suture.open(path)
    infos = [opened.info(name) for name in opened.names]
    return {i.name: Raw(i.dtype, i.shape, opened._core.read(i.name)) for i in infos}


def views(torch: Any, dtype: Any) -> dict[str, Any]:
    """Tensors of one dtype in every way torch keeps them."""
    whole = torch.randint(0, 2 if dtype is torch.bool else 255, (6 * 8 * 8,), dtype=torch.uint8)
    whole = whole.view(dtype)[:48].reshape(6, 8)
    return {
        "whole": whole,
        "the same": whole,
        "transposed": whole.t(),
        "cut": whole[1:5, 2:7],
        "every other": whole[::2, ::3],
        "expanded": whole[:1].expand(4, 8),
        "permuted": whole.reshape(2, 3, 8).permute(2, 0, 1),
        "scalar": whole[2, 3],
        "none": whole[:0],
        "own": whole[0].clone(),
    }


#: Whether torch writes an archive, or what it wrote before 1.6.
ARCHIVE = pytest.mark.parametrize("zipped", [True, False], ids=["archive", "legacy"])


@ARCHIVE
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_states_are_read_as_torch_reads_them(
    dtype: str, protocol: int, zipped: bool, torch: Any, tmp_path: Path
) -> None:
    """Law 7: every dtype and every view, by every protocol."""
    made = getattr(torch, dtype, None)
    if made is None:
        pytest.skip(f"this torch has no {dtype}")
    torch.manual_seed(protocol)
    path = tmp_path / "weights.bin"
    state = OrderedDict(views(torch, made))
    torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert by_suture(path) == {name: raw(torch, tensor) for name, tensor in state.items()}
    if protocol == 2 and (zipped or hasattr(torch, STORAGES.get(DTYPES[dtype], ""))):
        # Of the others torch itself reads not all without running them, and in its older form no storage of bytes.
        assert by_suture(path) == by_torch(torch, path)


@ARCHIVE
def test_modules_and_parameters(zipped: bool, torch: Any, tmp_path: Path) -> None:
    """A module's state dict, parameters themselves, and a training run with its optimizer."""
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    state = module.state_dict()
    for name, saved in {
        "state.pt": state,
        "parameters.pt": dict(module.named_parameters()),
        "run.ckpt": {"model": state, "optimizer": optimizer.state_dict(), "epoch": 3, "size": state["0.weight"].shape},
    }.items():
        torch.save(saved, tmp_path / name, _use_new_zipfile_serialization=zipped)
        expected = {n: raw(torch, t) for n, t in (state if name != "parameters.pt" else saved).items()}
        assert by_suture(tmp_path / name) == expected
    [warning] = suture.open(tmp_path / "run.ckpt").describe()["warnings"]
    assert all(text in warning for text in ("`optimizer`", "`epoch`", "`size`"))


def test_files_without_checksums(torch: Any, tmp_path: Path) -> None:
    """torch can be told to compute no CRC; such a file is read too."""
    if not hasattr(torch.serialization, "set_crc32_options"):
        pytest.skip("this torch always computes CRCs")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(5)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert by_suture(tmp_path / "a.pt") == by_torch(torch, tmp_path / "a.pt")


def test_other_files_of_torch_are_refused(torch: Any, tmp_path: Path) -> None:
    """Law 8: a whole module, a program and sparse tensors are called what they are."""
    module, path = torch.nn.Linear(2, 2), tmp_path / "x.pt"
    cases: dict[str, Callable[[], Any]] = {
        "torch.nn.modules.linear.Linear": lambda: torch.save(module, path),
        "TorchScript": lambda: torch.jit.trace(module, torch.ones(1, 2)).save(str(path)),
        "_rebuild_sparse_tensor": lambda: torch.save({"a": torch.eye(3).to_sparse()}, path),
        "no dict": lambda: torch.save(torch.ones(3), path),
        "conj": lambda: torch.save({"a": torch.ones(2, dtype=torch.complex64).conj()}, path),
    }
    for says, save in cases.items():
        with pytest.warns() if says == "TorchScript" else contextlib.nullcontext():
            save()
        with pytest.raises(suture.SutureError, match="arguments" if says == "conj" else says):
            suture.open(path)


def test_published_weights(torch: Any, rxnfp: Path, rxnfp_published: Path, tmp_path: Path) -> None:
    """Three models as published, in the form before torch 1.6: every tensor is what torch reads, a conversion the same.

    Saved again by the torch of today they are the same checkpoints.
    """
    for name in ("base", "ft", "ft_10k_25s"):
        published, again = rxnfp_published / name, tmp_path / f"{name}.bin"
        assert (published / "pytorch_model.bin").read_bytes()[:2] == b"\x80\x02"
        expected = by_torch(torch, published / "pytorch_model.bin")
        assert by_suture(published) == expected
        suture.convert(published, tmp_path / name)
        assert read_checkpoint(tmp_path / name) == expected
        torch.save(torch.load(published / "pytorch_model.bin", map_location="cpu", weights_only=True), again)
        assert by_suture(again) == expected
        # `ft` was published without the prefix of its encoder, which the tests' own conversion adds.
        added = "bert." if name == "ft" else ""
        assert {added + n: r for n, r in expected.items()} == read_checkpoint(rxnfp / "whole" / name)


@pytest.mark.parametrize("other", ["ft", "ft_10k_25s"])
@pytest.mark.parametrize("method", ["linear", "ties", "swap"])
def test_surgery_on_published_weights(method: str, other: str, rxnfp_published: Path, tmp_path: Path) -> None:
    """Law 10: straight from the published files the result is that of the same models in safetensors.

    Of `ft` the names differ by a prefix from those of the two others, and are matched.
    """
    published = [rxnfp_published / name for name in ("base", other)]
    converted = [tmp_path / model.name for model in published]
    for model, out in zip(published, converted, strict=True):
        suture.convert(model, out)
    for i, (base, tuned) in enumerate((published, converted)):
        out = tmp_path / f"out{i}"
        if method == "swap":
            suture.swap(tuned, base, out, bottom=4, top=2, transition=1)
        else:
            models = [{"model": str(tuned), "parameters": {"weight": 0.7}}]
            models += [{"model": str(base), "parameters": {"weight": 0.3}}] if method == "linear" else []
            # Each has a head that the other lacks.
            config = {"merge_method": method, "base_model": str(base), "exclude": ["cls", "classifier"]}
            suture.merge({**config, "models": models}, out)
        assert suture.verify(out)["differing"] == []
    assert read_checkpoint(tmp_path / "out0") == read_checkpoint(tmp_path / "out1")


def test_damaged_pickles_are_read_as_torch_reads_them(torch: Any, tmp_path: Path) -> None:
    """Law 7: of pickles with a few bytes changed, what suture reads and torch reads too is the same, bit for bit."""
    path = tmp_path / "weights.bin"
    values = torch.arange(24.0).reshape(4, 6)
    torch.save({"a": values, "b": values.t(), "c": values[1:, ::2].to(torch.bfloat16)}, path)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    [pickle] = (name for name in members if name.endswith("data.pkl"))
    damage(torch, path, members[pickle], lambda code: archive({**members, pickle: code}))


def test_damaged_files_of_the_older_form(torch: Any, tmp_path: Path) -> None:
    """Law 7: the same of the form before 1.6, its pickles and the numbers before its storages damaged."""
    path = tmp_path / "weights.bin"
    values = torch.arange(24.0).reshape(4, 6)
    state = {"a": values, "b": values.t(), "c": values[1:, ::2].to(torch.bfloat16)}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    head = content.index(b"e.") + 10
    damage(torch, path, content[:head], lambda code: code + content[head:])


def damage(torch: Any, path: Path, good: bytes, whole: Callable[[bytes], bytes]) -> None:
    """Compare suture with torch on files that `whole` makes of `good` with bytes changed."""
    random, both = np.random.default_rng(11), Counter[tuple[bool, bool]]()
    for _ in range(3000):
        code = bytearray(good)
        for _ in range(random.integers(1, 4)):
            likely = random.choice([0, 1, 2, 3, 6, 0x4B, 0x71, 0x68])
            code[random.integers(len(code))] = likely if random.random() < 0.9 else random.integers(256)
        path.write_bytes(whole(bytes(code)))
        ours, theirs = attempt(by_suture, path), attempt(partial(by_torch, torch), path)
        both[ours is not None, theirs is not None] += 1
        if ours is not None and theirs is not None:
            assert ours == theirs
    assert both[True, True] > 50


def attempt(read: Callable[[Path], dict[str, Raw]], path: Path) -> dict[str, Raw] | None:
    """What a reader reads; None where it refuses: suture by its own error, torch by any."""
    try:
        return read(path)
    except suture.SutureError:
        return None
    except Exception:
        if read is by_suture:
            raise
        return None
