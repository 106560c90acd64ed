"""JSON Schemas of what verbs print, made of the types in this room; comments over a key become its description."""

from __future__ import annotations

import ast
import inspect
import sys
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from suture.results import (
    compat,
    delta,
    masks,
    parts,
    proposal,
    reading,
    recipes,
    search,
    surgery,
    tables,
    text,
    twin,
    vocabulary,
)

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: What there are schemas of: a title, and the types whose keys it has.
SHAPES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "report": ("suture.json, what a verb that writes prints", (surgery.Told, surgery.Shared, surgery.Done)),
    "plan": ("what a verb that writes prints dry (--dry-run)", (surgery.Told, surgery.Shared, surgery.Planned)),
    "outputs": ("outputs.json, of a config with several outputs", (surgery.Told, surgery.Outputs)),
    "routing": ("routing.json, of a plan of groups", (tables.Routing,)),
    "all_of": ("all_of.json, of a set that several methods merged", (tables.AllOf,)),
    "delta": ("delta.json, of a delta", (delta.DeltaRecord,)),
    "twin": ("twin.json, of a twin", (twin.TwinInfo,)),
    "diff": ("what `suture diff --json` prints", (reading.Comparison,)),
    "recipes": ("what `suture diff --recipes --json` prints", (recipes.RecipeComparison,)),
    "mask": ("suture-mask.json, what `suture mask` writes", (masks.Mask,)),
    "inspect": ("what `suture inspect --json` prints", (reading.Inspection,)),
    "compat": ("what `suture compat --json` prints", (compat.Compatibility,)),
    "verify": ("what `suture verify --json` prints", (reading.Verification,)),
    "vocab_inspect": ("what `suture vocab inspect --json` prints", (vocabulary.VocabInspection,)),
    "vocab_compare": ("what `suture vocab compare --json` prints", (vocabulary.VocabComparison,)),
    "vocab_words": ("what `suture vocab words --json` prints", (vocabulary.WordVectors,)),
    "text_loss": ("what `suture text loss --json` prints", (text.TextLoss,)),
    "text_similarity": ("what `suture text similarity --json` prints", (text.Similarity,)),
    "text_rank": ("what `suture text rank --json` prints", (text.Ranking,)),
    "text_script_gap": ("what `suture text script-gap --json` prints", (text.ScriptGap,)),
    "text_influence": ("what `suture text influence --json` prints", (text.Influence,)),
    "text_statistics": ("what `suture text influence --gram --json` and the like print", (text.Statistics,)),
    "text_fit": ("what `suture text predict fit --json` prints", (text.Fit,)),
    "text_predictions": ("what `suture text predict use --json` prints", (text.Predictions,)),
    "text_helpers": ("what `suture text predict helpers --json` prints", (text.Helpers,)),
    "eval": ("what `suture eval --table --json` prints", (text.Evaluation,)),
    "search": ("what `suture search --json` prints", (search.SearchResult,)),
    "parts": ("what `suture plan --json` prints", (parts.Outlook,)),
    "settle": ("what `suture settle --json` prints", (parts.Settlement,)),
    "proposal": ("what `suture.propose` returns", (proposal.Proposal,)),
}
#: Keys that only some plans and reports have.
_SOMETIMES = frozenset({"cluster", "proposal", "schedule"})
#: What the tensors are, which are told as `Any`: a report maps their names, a plan lists them.
_TENSORS = {
    "report": {"type": "object", "additionalProperties": {"$ref": "#/$defs/DoneTensor"}},
    "plan": {"type": "array", "items": {"$ref": "#/$defs/PlannedTensor"}},
}
_PLAIN: dict[Any, Schema] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    type(None): {"type": "null"},
    Any: {},
}


def result_schema(name: str) -> Schema:
    """The schema of one of `SHAPES`. Further keys may come with later versions; a key that changes its meaning does not
    without another number in `schema`.
    """
    title, kinds = SHAPES[name]
    defs: dict[str, Schema] = {}
    found = [_object(kind, defs) for kind in kinds]
    properties = {key: value for one in found for key, value in one["properties"].items()}
    required = [key for key in properties if key not in _SOMETIMES]
    if name in _TENSORS:
        properties["tensors"] = {**properties["tensors"], **_TENSORS[name]}
        for kind in (surgery.DoneTensor, surgery.PlannedTensor):
            if kind.__name__ in str(_TENSORS[name]):
                _schema(kind, defs)
    if len(kinds) == 1:
        required = found[0]["required"]
    return {
        "$schema": DIALECT,
        "title": title,
        "type": "object",
        "properties": properties,
        "required": required,
        "$defs": defs,
    }


def _schema(kind: Any, defs: dict[str, Schema]) -> Schema:
    if kind in _PLAIN:
        return dict(_PLAIN[kind])
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(one, defs) for one in inner]}
    if origin is list:
        return {"type": "array", "items": _schema(inner[0], defs)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(inner[1], defs)}
    name = kind.__name__
    if name not in defs:
        # Its place first: a type may hold itself.
        defs[name] = {}
        defs[name] = _object(kind, defs)
    return {"$ref": f"#/$defs/{name}"}


def _object(kind: Any, defs: dict[str, Schema]) -> Schema:
    """A typed mapping; its keys in the order of the class, those of its bases first."""
    told = _told(kind)
    properties = {}
    for key, hint in get_type_hints(kind).items():
        properties[key] = _schema(hint, defs) | ({"description": told[key]} if key in told else {})
    about = inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    required = [key for key in properties if key in kind.__required_keys__]
    # A mapping made by a call has the doc of `dict`.
    described = {"description": about} if about and not about.startswith("dict(") else {}
    return {**described, "type": "object", "properties": properties, "required": required}


def _told(kind: Any) -> dict[str, str]:
    """What comments say of the keys of a type and of those it is made of."""
    found: dict[str, str] = {}
    for base in getattr(kind, "__orig_bases__", ()):
        found |= _told(base) if isinstance(base, type) else {}
    return found | _comments(kind.__module__).get(kind.__name__, {})


@cache
def _comments(module: str) -> Mapping[str, dict[str, str]]:
    """The comments that begin with ``#:`` over the keys of a module's classes; none where there is no source."""
    try:
        source = inspect.getsource(sys.modules[module])
    except (OSError, KeyError, TypeError):
        return {}
    lines = source.splitlines()
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(source).body:
        keys = [n for n in getattr(node, "body", ()) if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
        for key in keys if isinstance(node, ast.ClassDef) else ():
            above: list[str] = []
            at = key.lineno - 2
            while at >= 0 and (text := lines[at].strip()).startswith("#"):
                above.insert(0, text.lstrip("#: "))
                at -= 1
            if above and isinstance(node, ast.ClassDef) and isinstance(key.target, ast.Name):
                found.setdefault(node.name, {})[key.target.id] = " ".join(above)
    return found
