"""The files of a tokenizer, made of the metadata of a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from suture.errors import SutureError
from suture.sidecars.files import as_bytes
from suture.sidecars.gguf.bpe import bpe
from suture.sidecars.gguf.pieces import sentencepiece, unigram
from suture.sidecars.gguf.said import Metadata


def files_of(raw: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of the tokenizer that `raw`, the metadata of a GGUF file, describes: name and content.

    Args:
        raw: the metadata.
        config: what is known of the model's config.

    Raises:
        SutureError: if the metadata is not sound or does not say enough, in words without the path.
    """
    found = Metadata(raw)
    kinds = {"gpt2": bpe, "llama": sentencepiece, "t5": unigram}
    kind = str(found.get("model"))
    if kind not in kinds:
        raise SutureError(f"a tokenizer of the kind `{kind}` is not known")
    whole = {"version": "1.0", "truncation": None, "padding": None} | kinds[kind](found)
    special = found.special()
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    settings |= special
    if isinstance(length := config.get("max_position_embeddings"), int):
        settings["model_max_length"] = length
    if isinstance(template := raw.get("tokenizer.chat_template"), str):
        settings["chat_template"] = template
    numbers = {name: config.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    generation: dict[str, Any] = {name: number for name, number in numbers.items() if number is not None}
    ends = [n for key in ("eos_token_id", "eot_token_id", "eom_token_id") if (n := found.number(key)) is not None]
    if len(set(ends)) > 1:
        generation["eos_token_id"] = list(dict.fromkeys(ends))
    # In one line each token is a line of its own no longer: a vocabulary of 150,000 takes a third of the time.
    tokenizer = json.dumps(whole, ensure_ascii=False).encode("utf-8", "surrogatepass")
    made = {"tokenizer.json": tokenizer, "tokenizer_config.json": as_bytes(settings)}
    return made | ({"generation_config.json": as_bytes(generation)} if generation else {})
