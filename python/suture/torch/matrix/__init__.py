"""Forms of the methods that take a whole tensor as a matrix: merges of singular vectors.

A method is a function from a `Stack` of changes to the merged change; `form_of` makes a torch form of it. Stacked
experts (three dimensions) are a matrix each, computed some at a time; any other tensor, which has no two sides, gets
the mean of the changes. Another method is a function and a line in the `METHODS` of its family, no more.
"""

from __future__ import annotations

from suture.torch.forms import Form
from suture.torch.matrix import aligned, dc_merge, isotropic, opcm, resmerge, spectrum, tsvm, wudi
from suture.torch.matrix.form import Method, form_of

METHODS: dict[str, Method] = {
    **tsvm.METHODS,
    **isotropic.METHODS,
    **spectrum.METHODS,
    **wudi.METHODS,
    **opcm.METHODS,
    **resmerge.METHODS,
    **dc_merge.METHODS,
    **aligned.METHODS,
}
"""The methods by name."""

FORMS: dict[str, Form] = {name: form_of(method) for name, method in METHODS.items()}
