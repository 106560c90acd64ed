"""Projections between two parts of a model: a ridge regression on states, drawn, or of files."""

from __future__ import annotations

import ctypes
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError
from suture.settings import size
from suture.surgery.assemble_config import Linear
from suture.surgery.assemble_config import Rows as Named
from suture.vocab.tables import Table

Matrix = npt.NDArray[np.float64]
#: Rows of what goes in and of what should come out.
Both = tuple[Matrix, Matrix]
#: Elements of both states that are read at a time: sums are formed of such blocks, whatever memory there is.
_BLOCK = 2**19
#: Rows that are read at a time at least: with fewer, products of wide states are all reading and writing.
_ROWS = 256
#: Further from 1 than this no condition number of f64 means anything.
_WORST = 1e14


@dataclass(frozen=True)
class Made:
    """A projection.

    Attributes:
        weight: [out, in].
        bias: [out], if there is one.
        said: how it was made, in words.
        untrained: whether it means nothing yet.
    """

    weight: npt.NDArray[Any]
    bias: npt.NDArray[Any] | None
    said: str
    untrained: bool = False


class Rows:
    """Rows of floats in a file, [rows, width], read a few at a time; a vector is one row.

    Raises:
        SutureError: if the file is none of NumPy's or safetensors, or holds something else.
    """

    def __init__(self, named: Named) -> None:
        self.path = named.file
        self._table: Table | None = None
        if named.file.endswith(".npy"):
            try:
                found = np.load(named.file, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as e:
                raise SutureError(f"{named.file}: cannot be read as an array of NumPy's: {e}", named.file) from None
            if found.dtype.kind != "f" or found.dtype.itemsize > 8 or found.ndim not in (1, 2) or not found.size:
                message = f"expected floats, [rows, width], found {found.dtype} {list(found.shape)}"
                raise SutureError(f"{named.file}: {message}", named.file)
            self._array = found if found.ndim == 2 else found[None, :]
            self.shape = (int(self._array.shape[0]), int(self._array.shape[1]))
            return
        model = Checkpoint(named.file)
        name = named.tensor or (model.names[0] if len(model) == 1 else None)
        if name is None or name not in model:
            have = ", ".join(model.names[:8])
            message = f"expected one tensor, or `tensor:` to say which; it has {have}"
            raise SutureError(f"{named.file}: {message}", named.file)
        shape = model.info(name).shape
        self._table = Table(model._core, name)
        self.shape = (1, shape[0]) if len(shape) == 1 else (self._table.rows, self._table.width)
        if len(shape) > 2 or not math.prod(shape):
            raise SutureError(f"{named.file}: tensor `{name}`: expected [rows, width], found {list(shape)}", named.file)

    def part(self, first: int, end: int) -> Matrix:
        """Rows in f64; none may be NaN or infinite.

        Raises:
            SutureError: if one is, with its number.
        """
        if self._table is None:
            found = np.array(self._array[first:end], dtype=np.float64)
        else:
            found = self._table.part(*((0, self._table.rows) if self.shape[0] == 1 else (first, end)))
            found = found.reshape(end - first, self.shape[1])
        if not np.isfinite(found).all():
            row = first + int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
            raise SutureError(f"{self.path}: row {row} holds NaN or an infinity; leave it out of both files", self.path)
        return found


def projection(asked: Linear, name: str, widths: tuple[int | None, int | None], seed: int, memory: int | None) -> Made:
    """Make a projection.

    Args:
        asked: what is asked for.
        name: what its part is called; what is drawn depends on it.
        widths: how wide the parts before and behind it are, as far as they tell.
        seed: what is drawn by, unless it says so itself.
        memory: most bytes to take.

    Raises:
        UsageError: if sizes do not fit, or it takes more memory than there is.
        SutureError: if a file is not sound.
    """
    at = f"parts.{name}.linear"
    if asked.states is not None:
        x, y = Rows(asked.states[0]), Rows(asked.states[1])
        if x.shape[0] != y.shape[0]:
            message = f"{x.path} has {x.shape[0]:,} rows and {y.path} {y.shape[0]:,}"
            raise UsageError(f"{at}: {message}; each row of one goes with one of the other", at=at)
        _fit(asked, at, widths, (x.shape[1], y.shape[1]), "states")
        return ridge(x, y, asked.ridge or 0.0, bool(asked.bias), at, memory)
    if asked.weight is not None:
        weight = Rows(asked.weight)
        _fit(asked, at, widths, weight.shape[::-1], "weight")
        bias = Rows(asked.bias) if isinstance(asked.bias, Named) else None
        if bias is not None and bias.shape != (1, weight.shape[0]):
            message = f"{at}.bias: has shape {list(bias.shape)}, expected [{weight.shape[0]}], as the weight has rows"
            raise UsageError(message, at=f"{at}.bias")
        _room(16 * math.prod(weight.shape), "a projection", weight.shape[::-1], at, memory)
        values = weight.part(0, weight.shape[0])
        return Made(values, None if bias is None else bias.part(0, 1)[0], f"of {weight.path}")
    wide = tuple(said or known for said, known in zip(asked.sizes, widths, strict=True))
    if wide[0] is None or wide[1] is None:
        lacks, way = ("in", "from") if wide[0] is None else ("out", "to")
        raise UsageError(f"{at}: nothing says how wide it is; give `{lacks}`, or the part it leads {way}", at=at)
    _fit(asked, at, widths, (wide[0], wide[1]), "projection")
    _room(4 * wide[0] * wide[1], "a projection drawn", (wide[0], wide[1]), at, memory)
    return _drawn(asked, name, wide[0], wide[1], seed if asked.seed is None else asked.seed)


def _fit(asked: Linear, at: str, widths: tuple[int | None, int | None], found: tuple[int, ...], what: str) -> None:
    """Check sizes against what is said and what the parts before and behind have.

    Raises:
        UsageError: if one differs.
    """
    sides = zip(("in", "out"), ("from", "to"), asked.sizes, asked.ends, widths, found, strict=True)
    for key, way, said, end, known, own in sides:
        if said is not None and said != own:
            raise UsageError(f"{at}.{key}: {said}, and the {what} has {own}", at=f"{at}.{key}")
        if known is not None and known != own:
            message = f"`{end}` is {known} wide, and the {what} has {own} {'columns' if key == 'in' else 'to give'}"
            raise UsageError(f"{at}.{way}: {message}", at=f"{at}.{way}")


def _room(needs: int, what: str, sizes: tuple[int, ...], at: str, memory: int | None) -> None:
    """Check that something can be held.

    Raises:
        UsageError: if it takes more than there is.
    """
    if memory is not None and needs > memory:
        message = f"{what} from {sizes[0]:,} to {sizes[1]:,} takes {size(needs)} of memory"
        raise UsageError(f"{at}: {message}, and --memory gives {size(memory)}", at="memory")


def _drawn(asked: Linear, name: str, wide: int, out: int, seed: int) -> Made:
    """A projection that is left random: in float32, by Philox, seed and name."""
    rng = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(name.encode())]))
    bias = np.zeros(out, np.float32) if asked.bias else None
    if asked.init == "normal":
        weight = rng.standard_normal((out, wide), dtype=np.float32)
        weight *= np.float32(asked.std)
        return Made(weight, bias, f"drawn: normal, standard deviation {asked.std:g}, seed {seed}", untrained=True)
    # Of torch.nn.Linear, and of Glorot and Bengio (2010).
    bound = np.float32(1 / math.sqrt(wide) if asked.init == "uniform" else math.sqrt(6 / (wide + out)))
    weight = rng.random((out, wide), dtype=np.float32)
    weight -= np.float32(0.5)
    weight *= 2 * bound
    if asked.init == "uniform" and asked.bias:
        bias = (rng.random(out, dtype=np.float32) - np.float32(0.5)) * (2 * bound)
    return Made(weight, bias, f"drawn: {asked.init}, within {bound:.3g} of 0, seed {seed}", untrained=True)


def ridge(x: Rows, y: Rows, penalty: float, bias: bool, at: str, memory: int | None) -> Made:
    """The W and b that make sum |W x + b - y|^2 + penalty |W|^2 least, in closed form; b is not penalised.

    Sums are formed in f64 over blocks of rows, in order; what it holds does not depend on how many rows there are.

    Raises:
        UsageError: if it takes more than `memory` bytes, or the penalty is too small to decide anything.
        SutureError: if a state is NaN or infinite.
    """
    (n, wide), out = x.shape, y.shape[1]
    step = max(_ROWS, _BLOCK // (wide + out))
    needs = 8 * (2 * wide * wide + 3 * wide * out) + 6 * 8 * min(step, n) * (wide + out)
    _room(needs, "a regression", (wide, out), at, memory)

    def blocks() -> Iterator[Both]:
        for first in range(0, n, step):
            end = min(first + step, n)
            yield x.part(first, end), y.part(first, end)

    with _one_thread():
        found, mean_x, mean_y, share = _solved(blocks, (n, wide, out), penalty, bias, at)
        weight = np.ascontiguousarray(found.T)
        offset = mean_y - weight @ mean_x if bias else None
    said = f"ridge regression on {n:,} states, lambda {penalty:g}"
    said += "" if share is None else f", which explains {share:.1%} of what comes out"
    return Made(weight, offset, said)


def _solved(
    blocks: Callable[[], Iterator[Both]],
    sizes: tuple[int, int, int],
    penalty: float,
    bias: bool,
    at: str,
) -> tuple[Matrix, Matrix, Matrix, float | None]:
    """W transposed, the means of both states, and the share of the outputs' variance that is explained."""
    n, wide, out = sizes
    mean_x: Matrix = np.zeros(wide)
    mean_y: Matrix = np.zeros(out)
    if bias:
        for a, b in blocks():
            mean_x += a.sum(axis=0)
            mean_y += b.sum(axis=0)
        mean_x, mean_y = mean_x / n, mean_y / n
    gram, cross, total = np.zeros((wide, wide)), np.zeros((wide, out)), 0.0
    for a, b in blocks():
        a -= mean_x
        b -= mean_y
        gram += a.T @ a
        cross += a.T @ b
        total += float(np.square(b).sum())
    if float(gram.trace()) > penalty * _WORST:
        least = float(gram.trace()) / _WORST
        message = f"{penalty:g} is nothing beside states as large as these; give {least:.1g} or more"
        raise UsageError(f"{at}.ridge: {message}", at=f"{at}.ridge")
    gram.flat[:: wide + 1] += penalty
    found = np.asarray(np.linalg.solve(gram, cross), np.float64)
    del gram
    # What is left: |y|^2 - 2 <W, C> + <W, (G) W>, where (G + penalty) W = C.
    left = total - float((found * cross).sum()) - penalty * float(np.square(found).sum())
    return found, mean_x, mean_y, max(0.0, 1 - left / total) if total else None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep NumPy's BLAS to one thread: how many it has decides the order of sums. None but OpenBLAS is known here."""
    before = []
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        maps = ""
    for path in {line.split(None, 5)[-1] for line in maps.splitlines() if "openblas" in line}:
        library = ctypes.CDLL(path)
        for begin, end in (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")):
            names = [f"{begin}openblas_{way}_num_threads{end}" for way in ("get", "set")]
            if all(hasattr(library, name) for name in names):
                get, put = (getattr(library, name) for name in names)
                before.append((put, int(get())))
                put(1)
                break
    try:
        yield
    finally:
        for put, count in before:
            put(count)
