"""A JSON Schema of merge configs, for editors: made of what methods say of their parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from suture import _core
from suture.recipe.grammar import (
    AT_MODEL,
    DTYPE,
    MODEL,
    NAME,
    PARAMETERS,
    PATH,
    SOURCE,
    TEMPLATE,
    TOKENIZER,
    WHOLE,
    Schema,
    at,
)
from suture.recipe.schema_plan import plan_of_groups

DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: Bounds that are none: the ends of what a number can be.
_ENDLESS = 1e300
_WHOLE = 2**53
_CLOSED: Schema = {"additionalProperties": False}
_LAYERS: Schema = {
    "type": "array",
    "description": "first layer, and one past the last",
    "items": WHOLE,
    "minItems": 2,
    "maxItems": 2,
}
#: A number that YAML 1.1 reads as text.
_NUMBER = r"^\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*$"
_FILTER = "part of a name (`mlp`), `glob:model.layers.*`, or `regex:layers\\.[0-3]\\.`; `!` before one turns it round"


def config_schema() -> Schema:
    """The schema of a document of a merge config. A file may hold several, each of which it holds for."""
    specs = json.loads(_core.methods_json())
    kinds: dict[str, Schema] = {}
    unread = sorted({p["name"] for spec in specs for p in spec["parameters"]}.union(_core.unread_keys()))
    defs: Schema = {
        "model": MODEL,
        "dtype": DTYPE,
        "filters": _one_or_more({"type": "string", "description": _FILTER}),
        "source": _with(_source({"layer_range": {"type": "null"}}), unread) | _CLOSED,
        "part of a slice": _with(_source({"layer_range": _LAYERS}), unread)
        | _CLOSED
        | {"required": ["model", "layer_range"]},
        "slice": _with(_slice(), unread) | _CLOSED,
        "module": _with(_part("a module of models that have several", {"parameters": PARAMETERS}), unread) | _CLOSED,
        "merge": _with(_merge([spec["name"] for spec in specs]), unread),
    }
    for spec in specs:
        name = spec["name"]
        parameters = {p["name"]: _parameter(p, kinds) for p in spec["parameters"]}
        own = _with({**PARAMETERS, "properties": parameters}, unread) | _CLOSED
        defs[f"parameters of {name}"] = {"description": f"{spec['summary']}: {spec['formula']}", **own}
        defs[f"with {name}"] = everywhere({"$ref": at(f"parameters of {name}")})
    defs["document"] = {
        "$ref": "#/$defs/merge",
        "properties": {
            "name": _null(NAME),
            "outputs": {
                "type": "object",
                "description": "configs by name that take over all that they do not set themselves",
                "minProperties": 1,
                "propertyNames": NAME,
                "additionalProperties": {"$ref": "#/$defs/merge", "unevaluatedProperties": False},
            },
        },
        # A document with outputs need not be a merge itself.
        "if": {"not": {"required": ["outputs"]}},
        "then": {"required": ["merge_method"], "oneOf": [given(k) for k in ("models", "slices", "modules")]},
        "allOf": [_by_method(spec["name"]) for spec in specs],
        "not": {"allOf": [given("tokenizer_source"), given("tokenizer")]},
        "unevaluatedProperties": False,
    }
    defs["plan of groups"] = plan_of_groups(_merge([spec["name"] for spec in specs])["properties"], unread)
    return {
        "$schema": DIALECT,
        "title": "a merge config of suture",
        "description": "mergekit's YAML, and what suture adds to it; docs/config.md says what it means",
        "if": {"required": ["ignore_unknown"], "properties": {"ignore_unknown": {"const": True}}},
        "else": {
            "if": {"anyOf": [{"required": ["groups"]}, {"required": ["directions"]}]},
            "then": {"$ref": at("plan of groups")},
            "else": {"$ref": "#/$defs/document"},
        },
        "$defs": defs | kinds,
    }


def merge_keys() -> frozenset[str]:
    """The keys that a merge has, without what documents have beside (`name`, `outputs`)."""
    return frozenset(_merge([])["properties"])


def given(key: str) -> Schema:
    """That a key is there, and not left empty."""
    return {"required": [key], "properties": {key: {"not": {"type": "null"}}}}


def _with(schema: Schema, unread: Sequence[str]) -> Schema:
    """The schema of an object where other names that somebody knows pass unread."""
    passed = {"deprecated": True, "description": "not read here, which the plan tells"}
    return {**schema, "properties": {**dict.fromkeys(unread, passed), **schema["properties"]}}


def _null(schema: Mapping[str, Any]) -> Schema:
    """What may be left empty, as YAML does behind a colon."""
    return {**schema, "type": [schema["type"], "null"]} if "type" in schema else {"anyOf": [{"type": "null"}, schema]}


def _one_or_more(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "array", "items": schema}, {"type": "null"}]}


def _source(more: Schema) -> Schema:
    return {
        "type": "object",
        "required": ["model"],
        "properties": {"model": AT_MODEL, "parameters": PARAMETERS, **more},
    }


def _slice() -> Schema:
    return {
        "type": "object",
        "required": ["sources"],
        "properties": {
            "sources": {"type": "array", "items": {"$ref": "#/$defs/part%20of%20a%20slice"}, "minItems": 1},
            "base_model": _null(AT_MODEL),
            "parameters": PARAMETERS,
            "residual_weight": {"description": "accepted for mergekit's sake, and not read, there or here"},
        },
    }


def _part(description: str, more: Schema) -> Schema:
    """What is merged: whole models, or slices of their layers."""
    return {
        "type": "object",
        "description": description,
        "properties": {
            "models": _null({"type": "array", "items": {"$ref": "#/$defs/source"}, "minItems": 1}),
            "slices": _null({"type": "array", "items": {"$ref": "#/$defs/slice"}, "minItems": 1}),
            "stack": _null({"type": "string", "description": "stack that layers are numbered in, if not the main one"}),
            **more,
        },
    }


def _merge(methods: list[str]) -> Schema:
    return _part(
        "a merge",
        {
            "merge_method": {"description": "the method; `suture methods` lists them", "enum": methods},
            "base_model": _null(AT_MODEL),
            "modules": _null(
                {"type": "object", "additionalProperties": {"$ref": "#/$defs/module"}, "minProperties": 1}
            ),
            "parameters": {**PARAMETERS, "description": "parameters of the method, for all models"},
            "dtype": {"$ref": "#/$defs/dtype"},
            "out_dtype": {"$ref": "#/$defs/dtype"},
            "to": {
                "description": "what weights are written as, whatever they are stored as: a dtype, or a quantised form",
                "enum": [None, "bf16", "f16", "f32", "fp8", "mxfp4", "gguf:q8_0"],
            },
            "include": {"$ref": "#/$defs/filters", "description": "tensors that are merged, if not all"},
            "exclude": {"$ref": "#/$defs/filters", "description": "tensors that stay the base's or the first model's"},
            "tokenizer_source": _null(SOURCE),
            "tokenizer": TOKENIZER,
            "chat_template": TEMPLATE,
            "missing": {
                "description": "what to do about a tensor that a model lacks: take the base's, or leave the model out",
                "enum": [None, "error", "base", "skip"],
            },
            "experts": {
                "description": "experts in one tensor, one by one, or as in the model that lends config.json",
                "enum": [None, "packed", "apart", "as-base"],
            },
            "routers_from": _null({"description": "the model whose routers of experts stay as they are", **AT_MODEL}),
            "ignore_unknown": {"type": ["boolean", "null"], "description": "pass over names that nobody knows"},
        },
    )


def _by_method(name: str) -> Schema:
    """What the method asks of a document, and of its outputs that have no method of their own."""
    named: Schema = {"properties": {"merge_method": {"const": name}}, "required": ["merge_method"]}
    other = {"if": {"not": {"required": ["merge_method"]}}, "then": {"$ref": at(f"with {name}")}}
    inherited: Schema = {"properties": {"outputs": {"additionalProperties": other}}}
    own: Schema = {"if": named, "then": {"$ref": at(f"with {name}")}}
    return {
        "if": named,
        "then": {"allOf": [{"$ref": at(f"with {name}")}, inherited]},
        "else": {"properties": {"outputs": {"additionalProperties": own}}},
    }


def everywhere(parameters: Schema) -> Schema:
    """Parameters of a method at every level that has some."""
    source: Schema = {"properties": {"parameters": parameters}}
    slices: Schema = {
        "type": ["array", "null"],
        "items": {"properties": {"parameters": parameters, "sources": {"items": source}}},
    }
    listed: Schema = {"type": ["array", "null"], "items": source}
    inner: Schema = {"parameters": parameters, "models": listed, "slices": slices}
    modules: Schema = {"type": ["object", "null"], "additionalProperties": {"properties": inner}}
    return {"properties": {**inner, "modules": modules}}


def _parameter(parameter: Mapping[str, Any], kinds: dict[str, Schema]) -> Schema:
    """A parameter in every form a value can have; those of a kind share a definition."""
    single = _single(parameter["kind"])
    name = "value " + _named(parameter["kind"])
    if name not in kinds:
        kinds[name] = _forms(single, name)
    default = {} if parameter["default"] is None else {"default": parameter["default"]}
    scope = "one for each model" if parameter["per_input"] else "one for all models"
    return {"$ref": at(name), "description": f"{parameter['summary']} ({scope})", **default}


def _named(kind: Mapping[str, Any]) -> str:
    low, high = kind.get("min"), kind.get("max")
    bounds = "" if low is None else f" {low:g} to {high:g}"
    return str(kind["kind"]) + bounds + (f" {'-'.join(kind['words'])}" if kind["kind"] == "choice" else "")


def _single(kind: Mapping[str, Any]) -> Schema:
    if kind["kind"] in ("checkpoint", "gram"):
        return AT_MODEL
    if kind["kind"] == "switch":
        return {"enum": [True, False, 0, 1]}
    if kind["kind"] == "choice":
        # A choice that can be turned off is a switch, too.
        return {"enum": [*kind["words"], *([True, False] if "none" in kind["words"] else [])]}
    bounds = {"minimum": kind["min"], "maximum": kind["max"]}
    most = _WHOLE if kind["kind"] == "integer" else _ENDLESS
    number = {"type": kind["kind"], **{key: bound for key, bound in bounds.items() if abs(bound) < most}}
    return {"anyOf": [number, {"type": "string", "pattern": _NUMBER}]}


def _forms(single: Schema, name: str) -> Schema:
    """A value, a gradient over the layers, one for each layer, from a file; any of these behind a filter."""
    gradient: Schema = {"type": "array", "items": single, "minItems": 1}
    layers: Schema = {
        "type": "object",
        "description": "a value for each layer, and one for what is outside of them",
        "required": ["layers"],
        "properties": {
            "layers": {"type": "object", "patternProperties": {"^[0-9]+$": single}, "additionalProperties": False},
            "default": {"anyOf": [single, {"type": "null"}]},
        },
        "additionalProperties": False,
    }
    file: Schema = {
        "type": "object",
        "description": "a value for each layer, from JSON, YAML or CSV",
        "required": ["file"],
        "properties": {"file": PATH, "default": {"anyOf": [single, {"type": "null"}]}},
        "additionalProperties": False,
    }
    plain: Schema = {"anyOf": [single, gradient, layers, file]}
    rule: Schema = {
        "type": "object",
        "required": ["value"],
        "properties": {"filter": {"type": ["string", "null"], "description": _FILTER}, "value": plain},
        "additionalProperties": False,
    }
    rules: Schema = {"type": "array", "items": {"anyOf": [rule, plain]}, "minItems": 1}
    return {"title": name.removeprefix("value "), "anyOf": [single, gradient, layers, file, rule, rules]}
