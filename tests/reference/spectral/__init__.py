"""Oracles of the methods that work on the singular values of whole matrices, in float64, by plain full SVDs.

`method(deltas, *, weights=None, lam=1.0, **parameters)`: deltas (m, n) as out x in, one a task; the result is the
change before it is added to the base. Weights multiply the deltas (1 each by default), `lam` the result.
"""

from __future__ import annotations

from collections.abc import Callable

from .aligned import core_space, knots
from .cart import cart
from .common import Matrix, stacked
from .dc_merge import dc_merge
from .isotropic import iso_c, iso_cts
from .larv import larv
from .opcm import opcm, opcm_model
from .regmean import regmean
from .resmerge import resmerge
from .star import star
from .svc import svc
from .tsvm import interference, tsvm, tsvm_reweighted
from .wudi import swudi, wudi

#: By the names of the registry.
METHODS: dict[str, Callable[..., Matrix]] = {
    "cart": cart,
    "core_space": core_space,
    "dc_merge": dc_merge,
    "iso_c": iso_c,
    "iso_cts": iso_cts,
    "knots": knots,
    "opcm": opcm,
    "regmean": regmean,
    "resmerge": resmerge,
    "star": star,
    "swudi": swudi,
    "tsvm": tsvm,
    "tsvm_reweighted": tsvm_reweighted,
    "wudi": wudi,
}

__all__ = [
    "METHODS",
    "cart",
    "core_space",
    "dc_merge",
    "interference",
    "iso_c",
    "iso_cts",
    "knots",
    "larv",
    "opcm",
    "opcm_model",
    "regmean",
    "resmerge",
    "stacked",
    "star",
    "svc",
    "swudi",
    "tsvm",
    "tsvm_reweighted",
    "wudi",
]
