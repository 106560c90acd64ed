"""What this machine can do, measured in seconds: how fast it reads and writes, and computes what a plan asks for."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture import _core
from suture.errors import SutureError, UsageError
from suture.escape import shown
from suture.recipe import as_json
from suture.settings import Settings
from suture.store.places import is_url
from suture.surgery import device
from suture.surgery.estimate import Rates
from suture.surgery.job import Job

#: Bytes that are read and written to see how fast it goes, at a time and in all.
_BLOCK, _SAMPLE = 8 << 20, 256 << 20
#: Rows and columns of the tensors that are computed on, and how many there are.
_ROWS, _COLUMNS, _TENSORS = 2048, 2048, 8
#: Seconds that `finish` takes, and for each tensor: measured by benches/scale.py.
_FINISH, _FINISH_TENSOR = 0.05, 60e-6


def rates(
    plan: _core.Plan, out: str | PathLike[str], settings: Settings, given: Mapping[str, float | None]
) -> tuple[Rates, list[str]]:
    """What this machine can do for a plan, and which of it was measured, not given.

    Args:
        plan: the plan.
        out: the output.
        settings: threads, memory and device.
        given: by their names in :class:`suture.surgery.estimate.Rates`, what is known.

    Raises:
        UsageError: if what is given is not above zero, or cannot be measured.
        SutureError: if the models or the place of the output cannot be tried.
    """
    known = {name: value for name, value in given.items() if value is not None}
    for name, value in known.items():
        if not 0 < value < float("inf"):
            raise UsageError(f"{name}: expected a rate above zero, found {value:g}", at=name)
    text = plan.to_json()
    told = json.loads(text)
    began = time.monotonic()
    _core.Plan.from_json(text, True)
    measured = {"headers": time.monotonic() - began, "start": start(), "finish": finish(len(told["tensors"]))}
    if "disk_read" not in known:
        files = [file for model in json.loads(plan.files_json()) for file in model]
        if is_url(shown(files[0]["path"]) if files else ""):
            message = "models lie in a store, and how fast that is read is not measured; give it in GB/s"
            raise UsageError(f"disk_read: {message}", at="disk_read")
        largest = max(files, key=lambda file: int(file["identity"]["size"]))
        measured["disk_read"] = disk_read(Path(largest["path"]), settings.thread_count)
    if "disk_write" not in known:
        if is_url(fspath(out)):
            message = "OUT lies in a store, and how fast that is written is not measured; give it in GB/s"
            raise UsageError(f"disk_write: {message}", at="disk_write")
        place = Path(out).absolute()
        measured["disk_write"] = disk_write(next(p for p in place.parents if p.is_dir()))
    if "compute" not in known:
        measured["compute"] = compute(told, settings)
    return Rates(**{**measured, **known}), [name for name in measured if name not in known]


def start() -> float:
    """Seconds until a process has imported what it takes to make a part."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import suture.surgery.run"], check=True)
    return time.monotonic() - began


def finish(tensors: int) -> float:
    """Seconds that putting parts together takes, of an output with so many tensors."""
    return _FINISH + tensors * _FINISH_TENSOR


def disk_read(path: Path, threads: int) -> float:
    """Bytes a second that are read around the page cache, of a sample of a file.

    Raises:
        SutureError: if it cannot be read.
    """
    try:
        size = path.stat().st_size
        blocks = max(1, min(size, _SAMPLE) // _BLOCK)
        step = size // blocks // 4096 * 4096
        file = _open_direct(path, os.O_RDONLY)
        try:
            began = time.monotonic()
            with ThreadPoolExecutor(max(1, min(threads, 8))) as pool:
                found = sum(pool.map(lambda i: _read(file, i * step), range(blocks)))
            return found / max(time.monotonic() - began, 1e-6)
        finally:
            os.close(file)
    except OSError as e:
        raise SutureError(f"{path}: cannot read: {e.strerror}; give --disk-read", path) from None


def disk_write(folder: Path) -> float:
    """Bytes a second that are written around the page cache, to a file that is removed again.

    Raises:
        SutureError: if it cannot be written.
    """
    path = folder / f".suture-probe-{os.getpid()}"
    block = mmap.mmap(-1, _BLOCK)
    block.write(os.urandom(_BLOCK))
    try:
        file = _open_direct(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            began = time.monotonic()
            for i in range(_SAMPLE // _BLOCK):
                os.pwrite(file, block, i * _BLOCK)
            os.fsync(file)
            return _SAMPLE / max(time.monotonic() - began, 1e-6)
        finally:
            os.close(file)
    except OSError as e:
        raise SutureError(f"{folder}: cannot write: {e.strerror}; give --disk-write", folder) from None
    finally:
        with suppress(OSError):
            path.unlink()


def _open_direct(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o600)
    except OSError as e:
        # A file system without: what the cache holds then reads faster than it will.
        if isinstance(e, FileNotFoundError | FileExistsError | PermissionError):
            raise
        return os.open(path, flags, 0o600)


def _read(file: int, at: int) -> int:
    with mmap.mmap(-1, _BLOCK) as room:
        return os.preadv(file, [room], at)


def compute(plan: Mapping[str, Any], settings: Settings) -> float:
    """Bytes a second that this machine computes on, each counted for every pass, of the commonest method of a plan.

    Models of a few small tensors are merged by it in memory, where there is a file system in memory. Between threads,
    tensors and passes it is the engine that is measured, not the method alone.

    Raises:
        UsageError: if the time of its method does not grow with its bytes, or it cannot be tried.
    """
    elements: Counter[str] = Counter()
    examples: dict[str, Mapping[str, Any]] = {}
    for tensor in plan["tensors"]:
        count = 1
        for n in tensor["shape"]:
            count *= n
        name = tensor.get("method", "")
        elements[name] += count
        examples.setdefault(name, tensor)
    method = elements.most_common(1)[0][0] if elements else ""
    specs = {spec["name"]: spec for spec in json.loads(_core.methods_json())}
    if method and specs[method]["class"] == "matrix":
        message = f"the time of {method} grows faster than its bytes; give --compute, from a part that was made"
        raise UsageError(f"compute: {message}", at="compute")
    root = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    try:
        with tempfile.TemporaryDirectory(prefix="suture-probe-", dir=root) as folder:
            return _merged(method, examples.get(method, {}), Path(folder), replace(settings, ray=None, part=None))
    except SutureError as e:
        raise UsageError(f"compute: cannot be measured ({e}); give --compute", at="compute") from None


def _merged(method: str, example: Mapping[str, Any], folder: Path, settings: Settings) -> float:
    """Merge small models a few times; the fastest counts, for whatever else the machine does only takes longer."""
    inputs = len(example.get("inputs", ())) if method else 1
    base = method != "" and example.get("base") is not None
    for number in range(inputs + base):
        _model(folder / str(number), number)
    asked = {key for key, found in example.get("from", {}).items() if any(found)}
    params = example.get("params", {})
    per_input = {k: v for k, v in params.get("per_input", {}).items() if k in asked}
    recipe: dict[str, Any] = {
        "merge_method": method or "passthrough",
        "models": [
            {"model": str(folder / str(i + base)), "parameters": {k: v[i] for k, v in per_input.items()}}
            for i in range(inputs)
        ],
        "parameters": {k: v for k, v in params.get("shared", {}).items() if k in asked},
    }
    if base:
        recipe["base_model"] = str(folder / "0")
    found: list[float] = []
    for number in range(3):
        plan = _core.Plan(as_json(recipe), None, 0, [], None)
        job = Job(plan, plan.paths, [], [], device.budget([plan], settings), settings, None)
        seconds = job.run(folder / f"out-{number}", None).seconds or 0.0
        found.append(json.loads(plan.to_json())["read_bytes"] / max(seconds, 1e-6))
    return max(found)


def _model(folder: Path, seed: int) -> None:
    """A model of a few bf16 matrices; those of other seeds differ from the first by little, as tunings do."""
    import numpy as np

    shape = (_ROWS, _COLUMNS)
    folder.mkdir()
    size = _ROWS * _COLUMNS * 2
    names = [f"model.layers.{i}.weight" for i in range(_TENSORS)]
    header = {
        name: {"dtype": "BF16", "shape": shape, "data_offsets": [i * size, (i + 1) * size]}
        for i, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    base = np.random.default_rng(0).standard_normal(shape, np.float32)
    change = np.random.default_rng(seed + 1).standard_normal(shape, np.float32) if seed else np.float32(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for i in range(_TENSORS):
            values = (base + np.float32(0.01 * (i + 1)) * change).astype(np.float32)
            file.write((values.view(np.uint32) >> 16).astype("<u2").tobytes())
