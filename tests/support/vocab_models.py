"""Small models with tokenizers, to look at: what the tests of vocabularies have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jsonschema import Draft202012Validator
from numpy.typing import NDArray

import suture

from .checkpoints import encode, write_checkpoint
from .vocabularies import Json, bpe, unigram, whole, wordpiece, write

TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def model(
    folder: Path,
    tokenizer: Json | None,
    table: NDArray[Any],
    *,
    head: NDArray[Any] | None = None,
    dtype: str = "F32",
    roles: Mapping[str, str] | None = None,
    layers: int = 1,
    seed: int = 0,
    **config: Any,
) -> Path:
    """A model of one or more layers with these rows."""
    rng = np.random.default_rng(seed)
    width = table.shape[1]
    stored = {TABLE: encode(table, dtype)}
    if head is not None:
        stored[HEAD] = encode(head, dtype)
    for layer in range(layers):
        for name, shape in (("mlp.up_proj", (4, width)), ("self_attn.q_proj", (width, width))):
            stored[f"model.layers.{layer}.{name}.weight"] = encode(rng.normal(size=shape), dtype)
    stored["model.norm.weight"] = encode(np.ones(width), dtype)
    said = {"model_type": "llama", "num_hidden_layers": layers, "vocab_size": len(table), "hidden_size": width,
            "tie_word_embeddings": head is None}  # fmt: skip
    write_checkpoint(folder, stored, config={**said, **config})
    if tokenizer is not None:
        write(folder, tokenizer, roles)
    return folder


def byte_characters() -> dict[int, str]:
    """The character that GPT-2 writes each byte as."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in seen]
    return {b: chr(b) for b in seen} | {b: chr(256 + i) for i, b in enumerate(rest)}


def spelt(text: str | bytes) -> str:
    """Text as a byte-level tokenizer writes it."""
    known = byte_characters()
    return "".join(known[b] for b in _content(text))


def _content(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def grown(text: str) -> list[tuple[bytes, bytes]]:
    """The merges that make a token of a text, byte by byte."""
    content = text.encode()
    return [(content[:i], content[i : i + 1]) for i in range(1, len(content))]


def bytes_tokenizer(
    merges: Sequence[tuple[str | bytes, str | bytes]] = (),
    extra: Sequence[str] = (),
    *,
    all_bytes: bool = True,
    **more: Any,
) -> Json:
    """A byte-level BPE with a token for each byte; merges are of text."""
    used = range(256) if all_bytes else sorted({b for m in merges for b in _content(m[0]) + _content(m[1])})
    first = [byte_characters()[b] for b in used]
    return whole("bytes", bpe(first, [(spelt(a), spelt(b)) for a, b in merges], **more), extra)


def pieces_tokenizer(pieces: Sequence[str], extra: Sequence[str] = ()) -> Json:
    """A Unigram of these pieces, all as likely for their length."""
    return whole("Unigram", unigram({"<unk>": 0.0, **{p: -1.0 - 0.01 * i for i, p in enumerate(pieces)}}), extra)


def words_tokenizer(tokens: Sequence[str]) -> Json:
    """A WordPiece of these tokens."""
    return whole("WordPiece", wordpiece(["[UNK]", *tokens]))


def problems(name: str, found: Any) -> list[str]:
    """Where a result is not as its schema says, further keys counted as wrong."""
    return [e.message for e in Draft202012Validator(_closed(suture.schema(name))).iter_errors(found)]


def _closed(schema: Any) -> Any:
    """The schema without leave for further keys."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _closed(value) for key, value in schema.items()}
    if "properties" in made and made.get("type") == "object":
        made.setdefault("additionalProperties", False)
    return made
