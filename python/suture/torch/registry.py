"""Every method's torch form, by the method's name."""

from __future__ import annotations

from suture.torch import element, gram, matrix, scored, sparse
from suture.torch.forms import Form

FORMS: dict[str, Form] = {**element.FORMS, **gram.FORMS, **sparse.FORMS, **scored.FORMS, **matrix.FORMS}
