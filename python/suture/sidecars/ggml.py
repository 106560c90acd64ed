"""What a GGUF file says of a model beside its tensors: keys and values, made of config.json and the tokenizer."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suture.errors import SutureError
from suture.sidecars.ggml_tokens import vocabulary
from suture.sidecars.ggml_unsaid import is_plain_yarn, positions, refuse_unsaid

#: Numbers of types of values.
_U32, _I32, _F32, _BOOL, _TEXT, _ARRAY = 4, 5, 6, 7, 8, 9
#: What a family is called.
_ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
}
#: Whole numbers of a config, and what they are called; the first must be there.
_COUNTS = {
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
}
#: Bounds of logits, and what Gemma 2 means where it does not say them.
_LOGITS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
#: The size of a head where a config does not say it.
_HEADS = {"qwen3": 128, "gemma2": 256, "gemma3_text": 256}
#: How numbers say what the blocks are.
_Q8_0, _VERSION = 7, 2


@dataclass
class Said:
    """Keys and values as a GGUF file has them.

    Attributes:
        count: how many there are.
        data: their bytes.
        factors: of positions that are scaled by factors, these, which the file holds as a tensor.
        told: what the user should know.
    """

    count: int = 0
    data: bytearray = field(default_factory=bytearray)
    factors: list[float] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def put(self, key: str, kind: int, value: Any) -> None:
        """Add a key whose value is no list."""
        self.count += 1
        self.data += _text(key) + struct.pack("<I", kind) + _value(kind, value)

    def put_all(self, key: str, kind: int, values: Sequence[Any]) -> None:
        """Add a key whose value is a list."""
        self.count += 1
        self.data += _text(key) + struct.pack("<IIQ", _ARRAY, kind, len(values))
        if kind == _TEXT:
            self.data += b"".join(map(_text, values))
        else:
            self.data += struct.pack(f"<{len(values)}{_CODES[kind]}", *values)

    def put_texts(self, items: Iterable[tuple[str, str]]) -> None:
        """Add keys whose values are texts."""
        for key, value in items:
            self.put(key, _TEXT, value)

    @property
    def whole(self) -> bytes:
        """What the core takes: the number of keys, and the keys."""
        return struct.pack("<Q", self.count) + bytes(self.data)


_CODES = {_U32: "I", _I32: "i", _F32: "f", _BOOL: "?"}


def _text(value: str) -> bytes:
    # What no text can be is in some vocabularies.
    data = value.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


def _value(kind: int, value: Any) -> bytes:
    return _text(value) if kind == _TEXT else struct.pack(f"<{_CODES[kind]}", value)


def said(config: Mapping[str, Any], files: Mapping[str, bytes | Path], name: str) -> Said:
    """As :func:`_said`, with values that make no sense told as such."""
    try:
        return _said(config, files, name)
    except SutureError:
        raise
    except (struct.error, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as e:
        message = f"config.json or the tokenizer: a value that a GGUF file must say is none that can be: {e}"
        raise SutureError(f"{message}; mend it") from None


def _said(config: Mapping[str, Any], files: Mapping[str, bytes | Path], name: str) -> Said:
    """What is to be said of a model.

    Args:
        config: its config.json.
        files: the files beside it, by name: their bytes, or where they are.
        name: what it is called.

    Raises:
        SutureError: if the config lacks what such a file must say, or says what it cannot; if the tokenizer is of a
            kind that cannot be written.
    """
    kind = str(config.get("model_type"))
    own = _ARCHITECTURES.get(kind)
    if own is None:
        raise SutureError(f"config.json: models of the type `{kind}` are not written as GGUF")
    out = Said()
    out.put_texts([("general.architecture", own), ("general.type", "model"), ("general.name", name)])
    out.put("general.file_type", _U32, _Q8_0)
    out.put("general.quantization_version", _U32, _VERSION)
    for key, theirs in _COUNTS.items():
        out.put(f"{own}.{theirs}", _U32, _count(config, key))
    heads = _count(config, "num_attention_heads")
    shared = config.get("num_key_value_heads")
    out.put(f"{own}.attention.head_count_kv", _U32, heads if shared is None else _count(config, "num_key_value_heads"))
    # What a family's configs mean that do not say it; by default hidden_size / heads.
    head = _HEADS.get(kind, _count(config, "hidden_size") // heads)
    head = _count(config, "head_dim") if config.get("head_dim") else head
    refuse_unsaid(config, kind, head)
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        out.put(f"{own}.{key}", _U32, head)
    epsilon = config.get("rms_norm_eps")
    if not isinstance(epsilon, int | float):
        raise SutureError("config.json: `rms_norm_eps` is missing, which a GGUF file must say")
    out.put(f"{own}.attention.layer_norm_rms_epsilon", _F32, epsilon)
    if (window := config.get("sliding_window")) and config.get("use_sliding_window", True):
        out.put(f"{own}.attention.sliding_window", _U32, window)
    for key, most in _LOGITS.items():
        if isinstance(cap := config.get(key, most if kind == "gemma2" else None), int | float):
            out.put(f"{own}.{key}", _F32, cap)
    _positions(out, own, config, head)
    if isinstance(config.get("vocab_size"), int):
        out.put(f"{own}.vocab_size", _U32, config["vocab_size"])
    _tokenizer(out, config, files)
    return out


def _count(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**32:
        raise SutureError(f"config.json: `{key}`: expected a whole number, which a GGUF file must say, found {value!r}")
    return value


def _positions(out: Said, own: str, config: Mapping[str, Any], head: int) -> None:
    """How positions are turned into angles."""
    scaling = positions(config)
    theta = float(scaling.get("rope_theta") or config.get("rope_theta") or (1e6 if own == "gemma3" else 10000.0))
    out.put(f"{own}.rope.freq_base", _F32, theta)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    factor = scaling.get("factor")
    if kind in ("default", None):
        return
    if kind == "linear" and factor:
        out.put_texts([(f"{own}.rope.scaling.type", "linear")])
        out.put(f"{own}.rope.scaling.factor", _F32, factor)
        return
    original = scaling.get("original_max_position_embeddings")
    if kind == "yarn" and factor and original and is_plain_yarn(scaling):
        out.put_texts([(f"{own}.rope.scaling.type", "yarn")])
        out.put(f"{own}.rope.scaling.factor", _F32, factor)
        out.put(f"{own}.rope.scaling.original_context_length", _U32, original)
        return
    bounds = [scaling.get(key) for key in ("factor", "low_freq_factor", "high_freq_factor")]
    numbers = [float(n) for n in (*bounds, original) if isinstance(n, int | float) and n > 0]
    if kind != "llama3" or len(numbers) != 4 or numbers[1] == numbers[2]:
        raise SutureError(f"config.json: positions scaled by `{kind}` cannot be written as GGUF")
    out.factors = [_factor(theta ** (-i / head), *numbers) for i in range(0, head, 2)]


def _factor(frequency: float, factor: float, low: float, high: float, original: float) -> float:
    """By what Llama 3 divides a frequency: of few turns the factor, of many 1, between them in between."""
    turns = original * frequency / (2 * math.pi)
    if turns > high:
        return 1.0
    if turns < low:
        return float(factor)
    smooth = (turns - low) / (high - low)
    return 1.0 / ((1 - smooth) / factor + smooth)


def _tokenizer(out: Said, config: Mapping[str, Any], files: Mapping[str, bytes | Path]) -> None:
    whole, beside = _json(files, "tokenizer.json"), _json(files, "tokenizer_config.json")
    if whole is None:
        out.told.append("there is no tokenizer.json: the GGUF file holds no tokenizer, and needs one to be run")
        return
    rows = config.get("vocab_size")
    found = vocabulary(whole, beside or {}, rows if isinstance(rows, int) else 0)
    if found.left:
        out.told.append(f"{found.left} tokens have no row in the model, and are left out of the GGUF file")
    out.put_texts([("tokenizer.ggml.model", found.model), ("tokenizer.ggml.pre", found.pre)])
    out.put_all("tokenizer.ggml.tokens", _TEXT, found.tokens)
    out.put_all("tokenizer.ggml.token_type", _I32, found.types)
    if found.scores:
        out.put_all("tokenizer.ggml.scores", _F32, found.scores)
    if found.model == "gpt2":
        out.put_all("tokenizer.ggml.merges", _TEXT, found.merges)
    for key, number in found.special(config).items():
        out.put(f"tokenizer.ggml.{key}_token_id", _U32, number)
    for key, flag in found.flags.items():
        out.put(f"tokenizer.ggml.{key}", _BOOL, flag)
    template = files.get("chat_template.jinja")
    if template is not None:
        text = (template if isinstance(template, bytes) else template.read_bytes()).decode("utf-8", "replace")
    else:
        text = (beside or {}).get("chat_template") or ""
    if isinstance(text, list):
        # Several by name, of which one is the default.
        by_name = {str(t.get("name")): str(t.get("template")) for t in text if isinstance(t, Mapping)}
        text = by_name.pop("default", "")
        out.put_all("tokenizer.chat_templates", _TEXT, sorted(by_name))
        out.put_texts([(f"tokenizer.chat_template.{name}", own) for name, own in sorted(by_name.items())])
    if isinstance(text, str) and text:
        out.put_texts([("tokenizer.chat_template", text)])


def _json(files: Mapping[str, bytes | Path], name: str) -> dict[str, Any] | None:
    held = files.get(name)
    if held is None:
        return None
    try:
        found = json.loads(held if isinstance(held, bytes) else held.read_bytes())
    except (ValueError, RecursionError) as e:
        raise SutureError(f"{name} is not valid JSON: {e}") from None
    if not isinstance(found, dict):
        raise SutureError(f"{name}: expected a mapping")
    return found
