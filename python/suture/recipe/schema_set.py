"""The JSON Schema of a set of models for `suture merge --all-of`."""

from __future__ import annotations

import json
from typing import Any

from suture import _core
from suture.recipe.grammar import NAME, PARAMETERS, Schema, at
from suture.recipe.schema import DIALECT, config_schema, everywhere, given
from suture.recipe.twelve import TWELVE


def _named(node: Any, bare: Schema) -> Any:
    """A schema of configs whose lists of models may hold models by their names alone."""
    if isinstance(node, list):
        return [_named(item, bare) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: _named(value, bare) for key, value in node.items()}
    models = made.get("models")
    if isinstance(models, dict) and models.get("items") == {"$ref": at("source")}:
        made["models"] = {**models, "items": bare}
    return made


def set_schema() -> Schema:
    """The schema of a set of models for `suture merge --all-of`: a merge without a method, or with several."""
    specs = json.loads(_core.methods_json())
    found = config_schema()
    defs = {name: one for name, one in found["$defs"].items() if name not in ("document", "plan of groups")}
    parameters: Schema = {}
    for name in (spec["name"] for spec in specs):
        for key, value in defs[f"parameters of {name}"]["properties"].items():
            # Methods may read a name differently: what one of them takes is right.
            listed = parameters.setdefault(key, {"anyOf": []})["anyOf"]
            if value not in listed:
                listed.append(value)
    # A model with nothing else to it is its name.
    bare: Schema = {"anyOf": [{"type": "string", "minLength": 1}, {"$ref": at("source")}]}
    defs = _named(defs, bare)
    any_of_them = {**PARAMETERS, "properties": parameters, "additionalProperties": False}
    names = [spec["name"] for spec in specs]
    own = {
        "type": ["object", "null"],
        "properties": {"merge_method": {"enum": [*names, *TWELVE]}, "parameters": {"$ref": at("any parameters")}},
        "additionalProperties": False,
    }
    methods = {
        "description": "the methods, or by an output's name its method and parameters; without it the twelve",
        "anyOf": [
            {"type": "null"},
            {"type": "array", "items": {"enum": [*names, *TWELVE]}, "minItems": 1, "uniqueItems": True},
            {"type": "object", "propertyNames": NAME, "additionalProperties": own, "minProperties": 1},
        ],
    }
    defs["any parameters"] = any_of_them
    defs["set"] = {
        "$ref": "#/$defs/merge",
        "properties": {"methods": methods},
        "oneOf": [given(k) for k in ("models", "slices", "modules")],
        "allOf": [everywhere({"$ref": at("any parameters")})],
        "not": {"anyOf": [{"required": ["merge_method"]}, {"required": ["name"]}]},
        "unevaluatedProperties": False,
    }
    return {
        "$schema": DIALECT,
        "title": "a set of models for `suture merge --all-of`",
        "description": "a merge without a method, which several methods do; docs/config.md says what it means",
        "if": {"required": ["ignore_unknown"], "properties": {"ignore_unknown": {"const": True}}},
        "else": {"$ref": "#/$defs/set"},
        "$defs": defs,
    }
