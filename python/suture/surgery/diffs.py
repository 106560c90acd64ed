"""LT-SFT's `pytorch_diff.bin` and masks: sparse deltas as other tools have them.

Format (Ansell et al., arXiv 2110.07560, composable-sft): ``{"diffs": {name: {"size", "index_steps", "values"}}, "abs":
{name: tensor}}``. Places are numbered with the first axis fastest and stored as gaps, the first from 0; what is in
``abs`` replaces. Gaps are written as int64: tensors of 2^31 elements and more have places that the published decoder's
int32 cannot hold.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import pickle
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]


def library(name: str) -> Any:
    """A package that these files need.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError(f"{name} is needed for this; install it: pip install torch") from None


def decoded(size: tuple[int, ...], steps: Array) -> Array:
    """The places of gaps, numbered as tensors are stored, in rising order of the file.

    Args:
        size: the shape of the tensor.
        steps: gaps of int32 or int64.

    Raises:
        ValueError: if a place is outside the tensor, or one is there twice.
    """
    import numpy as np

    flat = np.cumsum(steps.astype(np.int64), dtype=np.int64)
    total = math.prod(size)
    if flat.size and (flat[0] < 0 or flat[-1] >= total or (steps[1:] < 1).any()):
        raise ValueError(f"its places do not rise, or lie outside its {total} elements")
    if len(size) < 2:
        return flat
    return np.ravel_multi_index(np.unravel_index(flat, size, order="F"), size)


def encoded(size: tuple[int, ...], places: Array) -> tuple[Array, Array]:
    """The gaps of places that are numbered as tensors are stored, and the order in which their values come."""
    import numpy as np

    flat = places.astype(np.int64)
    if len(size) > 1:
        flat = np.ravel_multi_index(np.unravel_index(flat, size), size, order="F").astype(np.int64)
    order = np.argsort(flat, kind="stable")
    return np.diff(flat[order], prepend=0), order


def read(file: str | PathLike[str]) -> tuple[dict[str, tuple[tuple[int, ...], Array, Array]], dict[str, Array]]:
    """The changes of a `pytorch_diff.bin` (shape, places, values of each tensor) and its whole tensors.

    Nothing in it is run: only tensors, numbers and names are read (torch's ``weights_only``).

    Raises:
        SutureError: if it is none.
    """
    torch = library("torch")
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
        diffs = {
            str(name): (tuple(int(n) for n in d["size"]), d["index_steps"].numpy(), d["values"].float().numpy())
            for name, d in found["diffs"].items()
        }
        whole = {str(name): tensor.float().numpy() for name, tensor in found.get("abs", {}).items()}
    except OSError as e:
        raise SutureError(f"{file}: cannot open: {e.strerror}", file) from None
    except pickle.UnpicklingError:
        # Not torch's words, which advise to run what is in the file.
        message = "is no file of torch.save that holds tensors alone; expected a pytorch_diff.bin of LT-SFT"
        raise SutureError(f"{file}: {message}", file) from None
    except Exception as e:
        message = f"is no diff of LT-SFT: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
        raise SutureError(f"{file}: {message}", file) from None
    read = {}
    for name, (size, steps, values) in diffs.items():
        try:
            places = decoded(size, steps)
        except ValueError as e:
            raise SutureError(f"{file}: tensor `{name}`: {e}", file) from None
        if places.shape != values.shape:
            raise SutureError(f"{file}: tensor `{name}`: {places.size} places and {values.size} values", file)
        order = places.argsort(kind="stable")
        read[name] = (size, places[order], values[order])
    return read, whole


def changes(delta: str, entries: Iterable[Mapping[str, Any]]) -> Iterable[tuple[Mapping[str, Any], Array, Array]]:
    """The places and values of every tensor of a sparse delta, one at a time.

    Raises:
        SutureError: if a change is kept otherwise.
    """
    held = Checkpoint.stored(delta)
    for entry in entries:
        if entry["kept"] != "sparse":
            if entry["kept"] not in ("same", "left", "whole"):
                message = f"is kept as {entry['kept']}; only sparse deltas have places: extract one with --form sparse"
                raise SutureError(f"{delta}: tensor `{entry['name']}`: {message}", delta)
            continue
        parts = entry["parts"]
        yield entry, held[parts["index"]], held[parts["values"]]


def write(delta: str, entries: Iterable[Mapping[str, Any]], out: Path, overwrite: bool) -> None:
    """Write a sparse delta as `pytorch_diff.bin`."""
    torch = library("torch")
    entries = list(entries)
    diffs = {}
    for entry, index, values in changes(delta, entries):
        size = tuple(entry["base"]["shape"])
        steps, order = encoded(size, index)
        diffs[entry["name"]] = {
            "size": torch.Size(size),
            "index_steps": torch.from_numpy(steps),
            "values": torch.from_numpy(values[order]),
        }
    held = Checkpoint.stored(delta)
    whole = {e["name"]: torch.from_numpy(held[e["parts"]["whole"]].copy()) for e in entries if e["kept"] == "whole"}
    put(out, overwrite, lambda file: torch.save({"diffs": diffs, "abs": whole}, file))


def mask(delta: str, entries: Iterable[Mapping[str, Any]], out: Path, overwrite: bool) -> None:
    """Write where a sparse delta changes something, as BOOL tensors in one safetensors file, a tensor at a time."""
    import numpy as np

    entries = list(entries)
    header: dict[str, Any] = {}
    at = 0
    for entry, _, _ in changes(delta, entries):
        shape = entry["base"]["shape"]
        header[entry["name"]] = {"dtype": "BOOL", "shape": shape, "data_offsets": [at, at + math.prod(shape)]}
        at += math.prod(shape)

    def content(file: IO[bytes]) -> None:
        file.write(head(header))
        for entry, index, _ in changes(delta, entries):
            places = np.zeros(math.prod(entry["base"]["shape"]), np.bool_)
            places[index] = True
            file.write(places.tobytes())

    put(out, overwrite, content)


def head(header: Mapping[str, Any]) -> bytes:
    """The beginning of a safetensors file."""
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def put(out: Path, overwrite: bool, content: Callable[[IO[bytes]], object]) -> None:
    """Write a file and move it to its place.

    Raises:
        SutureError: if something is there and is not to be replaced, or it cannot be written.
    """
    if out.exists() and not (overwrite and out.is_file()):
        raise SutureError(f"{out}: exists; pass --overwrite to replace it, or choose another", out)
    partial = out.with_name(f".{out.name}.suture-partial")
    try:
        with partial.open("wb") as file:
            content(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(out)
    except OSError as e:
        raise SutureError(f"{out}: cannot write: {e.strerror}", out) from None
    finally:
        partial.unlink(missing_ok=True)


def as_delta(file: str | PathLike[str], null: dict[str, Any], folder: Path) -> None:
    """Write a `pytorch_diff.bin` as a delta into `folder`, which holds the delta of a base and itself, `null`.

    Raises:
        SutureError: if it changes what the base lacks, or has another shape of.
    """
    import numpy as np

    diffs, whole = read(file)
    entries = {entry["name"]: entry for entry in null["tensors"]}
    files: dict[str, list[tuple[str, str, Array]]] = {"index": [], "values": [], "whole": []}
    for name in [*diffs, *whole]:
        shape = list(diffs[name][0] if name in diffs else whole[name].shape)
        entry = entries.get(name)
        if entry is None and name in diffs:
            raise SutureError(
                f"{file}: tensor `{name}`: is not in {null['base']['name']}; it is of another model", file
            )
        if entry is not None and entry["base"]["shape"] != shape:
            found = f"has shape {shape}, and {entry['base']['shape']} in {null['base']['name']}"
            raise SutureError(f"{file}: tensor `{name}`: {found}; it is of another model", file)
        if entry is None:
            entry = {"name": name, "kept": "whole", "base": None}
            null["tensors"].append(entry)
        if name in diffs:
            _, places, values = diffs[name]
            entry |= {"kept": "sparse", "parts": {"index": f"{name}.index", "values": f"{name}.values"}}
            entry["figures"] = {"kept": float(places.size)}
            large = math.prod(shape) > 0xFFFF_FFFF
            files["index"].append(
                (f"{name}.index", "U64" if large else "U32", places.astype("<u8" if large else "<u4"))
            )
            files["values"].append((f"{name}.values", "F32", values.astype("<f4")))
        else:
            stored = {"dtype": "F32", "shape": shape, "digest": "", "sample": None}
            entry |= {"kept": "whole", "parts": {"whole": f"{name}.whole"}, "tuned": stored}
            files["whole"].append((f"{name}.whole", "F32", np.ascontiguousarray(whole[name], "<f4")))
    null["files"] = []
    for stem, tensors in files.items():
        if not tensors:
            continue
        header, at = {}, 0
        for name, dtype, values in tensors:
            header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
            at += values.nbytes
        null["files"].append(f"{stem}.safetensors")
        with (folder / f"{stem}.safetensors").open("wb") as out:
            out.write(head(header))
            for _, _, values in tensors:
                out.write(values.tobytes())
    null["exact"] = False
    null["tuned"] = {"name": Path(file).name, "digest": "", "bytes": null["base"]["bytes"]}
    (folder / "delta.json").write_text(json.dumps(null))
