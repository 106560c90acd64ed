"""Schemas of the parts of merge configs that no method has a say in: models, dtypes, tokenizers."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

PATH: Schema = {"type": "string", "minLength": 1}
WHOLE: Schema = {"type": "integer", "minimum": 0}

#: A model of mergekit's long form.
_PLACE: Schema = {
    "type": "object",
    "required": ["path"],
    "properties": {
        "path": PATH,
        "revision": {"type": ["string", "null"], "description": "branch, tag or commit, of a model on a hub"},
    },
}
#: A model as reports have it.
_REPORTED: Schema = {
    "type": "object",
    "required": ["path"],
    "properties": {
        "path": PATH,
        "name": {"type": ["string", "null"]},
        "adapters": {
            "type": ["array", "null"],
            "items": {
                "type": "object",
                "required": ["path"],
                "properties": {"path": PATH, "weight": {"type": "number"}},
            },
        },
    },
    "additionalProperties": False,
}
MODEL: Schema = {
    "description": "the path of a model, from the current folder or the config's, or `org/name` of a hub; with adapters"
    " on top of it, `model+adapter`; or the name of another document",
    "anyOf": [
        PATH,
        {
            "type": "object",
            "required": ["model"],
            "properties": {
                "model": {"anyOf": [PATH, _PLACE]},
                "lora": {"description": "an adapter on top of it", "anyOf": [{"type": "null"}, PATH, _PLACE]},
                "override_architecture": {},
            },
            "additionalProperties": False,
        },
        _REPORTED,
    ],
}
#: Names of the dtypes, whatever their case, with or without `torch.` before them.
DTYPE: Schema = {
    "type": ["string", "null"],
    "description": "dtype of every float tensor written",
    "examples": ["bfloat16", "float16", "float32", "float64"],
    "pattern": "^(torch\\.)*(?i:float64|f64|double|float32|f32|float|float16|f16|fp16|half|bfloat16|bf16)$",
}

_OWNER: Schema = {"$ref": "#/$defs/model"}
SOURCE: Schema = {"description": "base, union, or a model", **_OWNER}
_ROW: Schema = {
    "description": "whose row the token gets in models that lack it",
    "anyOf": [
        {"type": "null"},
        _OWNER,
        {
            "type": "object",
            "required": ["kind"],
            "properties": {"kind": {"const": "zero"}},
            "additionalProperties": False,
        },
        {
            "type": "object",
            "required": ["kind", "model"],
            "properties": {
                "kind": {"const": "model_token"},
                "model": _OWNER,
                "token": {"type": ["string", "null"], "minLength": 1},
                "token_id": {"type": ["integer", "null"], "minimum": 0},
            },
            "oneOf": [
                {"required": [key], "properties": {key: {"type": kind}, other: {"type": "null"}}}
                for key, kind, other in (("token", "string", "token_id"), ("token_id", "integer", "token"))
            ],
            "additionalProperties": False,
        },
    ],
}
TOKENIZER: Schema = {
    "type": ["object", "null"],
    "description": "the tokenizer of the output",
    "properties": {
        "source": {"anyOf": [{"type": "null"}, SOURCE]},
        "tokens": {
            "type": ["object", "null"],
            "description": "what single tokens get, by their text",
            "propertyNames": {"minLength": 1},
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "source": _ROW,
                    "force": {"type": "boolean", "description": "for models that have the token, too"},
                },
                "additionalProperties": False,
                "if": {"required": ["force"], "properties": {"force": {"const": True}}},
                "then": {"required": ["source"], "properties": {"source": {"not": {"type": "null"}}}},
            },
        },
        "pad_to_multiple_of": {
            "type": ["integer", "null"],
            "description": "what the number of rows is a multiple of",
            "minimum": 0,
            "maximum": 2**20,
        },
    },
    "additionalProperties": False,
}
TEMPLATE: Schema = {
    "type": ["string", "null"],
    "description": "auto (the one that most models have), alpaca, chatml, exaone, llama3, mistral, or Jinja",
    "anyOf": [
        {"enum": [None, "auto", "alpaca", "chatml", "exaone", "llama3", "mistral"]},
        {"pattern": "[{]", "minLength": 20},
    ],
}
NAME: Schema = {
    "type": "string",
    "description": "what other documents of the file call the result",
    "pattern": r"^\w[\w .-]*$",
    "maxLength": 200,
    "not": {"anyOf": [{"pattern": r"\.safetensors$"}, {"const": "outputs.json"}]},
}
PARAMETERS: Schema = {"type": ["object", "null"]}
AT_MODEL: Schema = {"$ref": "#/$defs/model"}


def at(name: str) -> str:
    """Where a definition is."""
    return f"#/$defs/{name.replace(' ', '%20')}"
