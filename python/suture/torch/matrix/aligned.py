"""Merging in shared bases: KnOTS and core space.

Both change the basis without loss, merge by another method there, and change it back.
"""

from __future__ import annotations

from torch import Tensor

from suture.torch.forms import Params
from suture.torch.matrix import inner
from suture.torch.matrix.eigen import CUT, Eigen, Leading, beside
from suture.torch.matrix.form import Method, Size
from suture.torch.matrix.stack import Stack, gram


def _spanned(stack: Stack) -> tuple[Tensor, list[Tensor]]:
    """The directions that the columns of all changes span, `[1, long, r]`, and coordinates of each, `[1, r, short]`.

    Of the changes without their weights, side by side.
    """
    b = beside([stack.unweighted(i) for i in range(stack.models)])
    eigen = Eigen.of(gram(b))
    own = Leading.of(eigen, stack.models * stack.short, eigen.largest * CUT)
    del eigen
    scaled = own.right * own.values[..., None, :]
    return b @ own.to_left(), [part.mT for part in scaled.split(stack.short, dim=-2)]


def _short_basis(stack: Stack) -> Tensor:
    """The directions of the shorter side that any change has, `[1, short, k]`."""
    total = gram(stack.unweighted(0))
    for i in range(1, stack.models):
        total += gram(stack.unweighted(i))
    eigen = Eigen.of(total)
    return Leading.of(eigen, stack.short, eigen.largest * CUT).right


def _merged(stack: Stack, params: Params, coordinates: list[Tensor]) -> Tensor:
    """What the inner method makes of coordinates, each `[1, rows, columns]`, as float32 holds them."""
    method, own = inner.inside(params.word("inner"), params)
    laid = [c[0].float() for c in coordinates]
    return inner.run(inner.FORMS[method], own, laid, stack.keys).double()[None]


def knots(stack: Stack, params: Params) -> Tensor:
    """KnOTS: coordinates of every task along the left singular vectors of all side by side."""
    if stack.vector or not stack.tall:
        return _knots_wide(stack, params)
    basis, coordinates = _spanned(stack)
    return basis @ _merged(stack, params, coordinates) if basis.shape[-1] else stack.nothing()


def _knots_wide(stack: Stack, params: Params) -> Tensor:
    """The same of a matrix taken transposed: the left vectors are of the shorter side, coordinates as large as it."""
    if stack.vector:
        # It is its own coordinates, NaN and all.
        return _merged(stack, params, [stack.unweighted(i).mT for i in range(stack.models)]).mT.contiguous()
    basis = _short_basis(stack)
    if not basis.shape[-1]:
        return stack.nothing()
    merged = _merged(stack, params, [(stack.unweighted(i) @ basis).mT for i in range(stack.models)])
    return merged.mT @ basis.mT


def core_space(stack: Stack, params: Params) -> Tensor:
    """Core space: coordinates of every task along what the columns of all, and the rows of all, span."""
    if stack.vector:
        # It has no two sides to find a space for.
        return _knots_wide(stack, params)
    rows = _short_basis(stack)
    if not rows.shape[-1]:
        return stack.nothing()
    basis, coordinates = _spanned(stack)
    core = [c @ rows for c in coordinates]
    # Laid out as the matrix is stored.
    merged = _merged(stack, params, core) if stack.tall else _merged(stack, params, [c.mT for c in core]).mT
    return basis @ (merged @ rows.mT)


def _inside(size: Size, coordinates: int) -> int:
    """For so many coordinates of each task, and what the inner method takes."""
    return (inner.ELEMENT + inner.INPUT * (size.models + 1) + 2 * size.models) * coordinates + inner.COUNTS


def _space(size: Size) -> int:
    # All tasks side by side, while they are put there twice, and their Gram matrix.
    width = size.models * size.short
    return 2 * size.long * width + 8 * width**2 + _inside(size, size.short * min(width, size.long))


def _sides(size: Size) -> int:
    return _space(size) if size.tall else _inside(size, size.short * size.long)


METHODS = {
    "knots": Method(knots, more=_sides, vectors="row", alone=True),
    "core_space": Method(core_space, more=_space, vectors="row", alone=True),
}
