"""The JSON Schema of a plan of groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from suture.recipe.grammar import AT_MODEL, NAME, PARAMETERS, Schema, at

#: What a merge of a plan of groups has no part in: its models are the plan's experts.
_NO_PART = ("models", "slices", "modules", "name")


def plan_of_groups(merge_properties: Mapping[str, Schema], unread: Sequence[str]) -> Schema:
    """The schema of a plan, by the keys that a merge has; those that somebody else knows pass `unread`."""
    merge: Schema = {"$ref": "#/$defs/merge"}
    own: Schema = {**merge, "unevaluatedProperties": False, "not": {"anyOf": [{"required": [key]} for key in _NO_PART]}}
    direction: Schema = {
        "anyOf": [
            {"enum": ["merge", "keep"]},
            {
                "type": "object",
                "required": ["merge"],
                "properties": {"merge": {"anyOf": [{"type": "null"}, own]}},
                "additionalProperties": False,
            },
            {
                "type": "object",
                "required": ["keep"],
                "properties": {"keep": {"enum": [None, "route", "copy"]}},
                "additionalProperties": False,
            },
        ]
    }
    expert: Schema = {
        "anyOf": [
            AT_MODEL,
            {
                "type": "object",
                "required": ["model", "parameters"],
                "properties": {"model": AT_MODEL, "parameters": PARAMETERS},
                "additionalProperties": False,
            },
        ]
    }
    groups: Schema = {
        "type": "object",
        "description": "the languages of each group",
        "minProperties": 1,
        "propertyNames": NAME,
        "additionalProperties": {
            "type": "array",
            "items": {"type": "string", "pattern": r"\S"},
            "minItems": 1,
            "uniqueItems": True,
        },
    }
    # `experts` is how a merge stores them elsewhere, and here which there are.
    shared = {key: value for key, value in merge_properties.items() if key not in (*_NO_PART, "experts")}
    passed = {"deprecated": True, "description": "not read here, which the plan tells"}
    methods = merge_properties["merge_method"]["enum"]
    return {
        "type": "object",
        "description": "experts of languages and directions, merged group by group or kept",
        "required": ["groups", "directions", "experts"],
        "properties": {
            **{key: passed for key in unread if key not in _NO_PART},
            **shared,
            "groups": groups,
            "directions": {"type": "object", "minProperties": 1, "additionalProperties": direction},
            "experts": {
                "type": "object",
                "description": "the expert of every language, by direction",
                "additionalProperties": {"type": "object", "additionalProperties": expert},
            },
        },
        "additionalProperties": False,
        "allOf": [_by_method(name) for name in methods],
    }


def _by_method(name: str) -> Schema:
    """What the method asks of a plan, and of its directions that have no method of their own."""
    named: Schema = {"properties": {"merge_method": {"const": name}}, "required": ["merge_method"]}
    asks = {"$ref": at(f"with {name}")}
    other: Schema = {"if": {"not": {"required": ["merge_method"]}}, "then": asks}
    own: Schema = {"if": named, "then": asks}

    def of_merges(schema: Schema) -> Schema:
        return {"properties": {"directions": {"additionalProperties": {"properties": {"merge": schema}}}}}

    shared = {"properties": {"parameters": {"$ref": at(f"parameters of {name}")}}}
    return {"if": named, "then": {"allOf": [shared, of_merges(other)]}, "allOf": [of_merges(own)]}
