"""Every method's torch form, by the method's name, and the form of a tensor, modifiers and all."""

from __future__ import annotations

from suture.torch import element, gram, matrix, scored, sparse
from suture.torch.forms import Form
from suture.torch.matrix import svc
from suture.torch.planned import Work

FORMS: dict[str, Form] = {**element.FORMS, **gram.FORMS, **sparse.FORMS, **scored.FORMS, **matrix.FORMS}


def modified(work: Work) -> bool:
    """Whether something becomes of what a method makes of a tensor."""
    return work.method is not None and svc.calibrates(work.params, work.shape)


def form_of(work: Work) -> Form:
    """The form of a tensor that is computed."""
    assert work.method is not None
    form = FORMS[work.method]
    return svc.calibrated(form) if modified(work) else form
