"""What changes are ordered by: the bits of their magnitude, or of the variance of those of all inputs."""

# Triton compiles no `(*found, next)`, and tuples grow.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,var-annotated"
from __future__ import annotations

import triton
import triton.language as tl

from suture.torch.fast.blend import change, operand, places, pointers


@triton.jit
def magnitude(x):
    """The bits of |x|: they order as the magnitudes do."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def _over(x, N: tl.constexpr):
    """`x / N` in float64, rounded as a division is.

    The product with the reciprocal, corrected once (Markstein, 1990).
    """
    reciprocal = 1.0 / tl.full((1,), N, tl.float64)
    guess = x * reciprocal
    return tl.fma(tl.fma(-guess, tl.full((1,), N, tl.float64), x), reciprocal, guess)


@triton.jit
def variance(changes):
    """The magnitude bits of the variance of changes, which are given as float64 that float32 can hold."""
    N: tl.constexpr = len(changes)
    mean = changes[0]
    for i in tl.static_range(1, N):
        mean += changes[i]
    mean = _over(mean, N)
    off = changes[0] - mean
    square = off * off
    for i in tl.static_range(1, N):
        off = changes[i] - mean
        square += off * off
    return magnitude(_over(square, N).to(tl.float32))


@triton.jit
def series(origin, starts, t, e, N: tl.constexpr, SERIES: tl.constexpr):
    """Where in span `t` what series `e` is made of begins: the base and an input, or, if there is but one, all."""
    if SERIES == N:
        own = starts + t * (N + 2)
        return (
            origin + tl.multiple_of(tl.load(own), 8),
            origin + tl.multiple_of(tl.load(own + e + 1), 8),
        )
    else:
        return pointers(origin, starts, t, N + 2, N + 1)


@triton.jit
def series_key(found, at, count, WHOLE: tl.constexpr):
    """The keys of elements of a series: of the changes of an input, or of the variance of those of all."""
    base = operand(found[0], at, count, WHOLE)
    if len(found) == 2:
        return magnitude(change(base, found[1], at, count, WHOLE))
    else:
        changes = ()
        for i in tl.static_range(1, len(found)):
            changes = changes + (change(base, found[i], at, count, WHOLE).to(tl.float64),)
        return variance(changes)


@triton.jit
def keys_of(found, begin, count, VECTOR: tl.constexpr, TILE: tl.constexpr):
    """The keys of a tile, -1 where there is no element: nothing equals that, nor is it above or between anything.

    Only the last tile of a tensor pays for that.
    """
    at = begin + places(VECTOR, TILE)
    if begin + TILE <= count:
        key = series_key(found, at, count, True)
    else:
        key = tl.where(at < count, series_key(found, at, count, False), -1)
    return key
