"""JSON Schemas of configs and of what verbs print."""

from __future__ import annotations

from typing import Any

from suture.errors import UsageError
from suture.recipe.schema import config_schema
from suture.recipe.schema_set import set_schema
from suture.results.schema import SHAPES, result_schema

#: What there are schemas of, and what each is.
SCHEMAS = {
    "config": "a merge config",
    "set": "a set of models for `suture merge --all-of`",
    **{name: title for name, (title, _) in SHAPES.items()},
}
#: Those of what people write.
_WRITTEN = {"config": config_schema, "set": set_schema}


def schema(of: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a merge config (``config``), of a set of models for several methods (``set``),
    or of what a verb prints (``report``, ...).

    Raises:
        UsageError: if there is none of that name.
    """
    if of not in SCHEMAS:
        raise UsageError(f"no schema of `{of}`; expected one of {', '.join(f'`{name}`' for name in SCHEMAS)}")
    return _WRITTEN[of]() if of in _WRITTEN else result_schema(of)
