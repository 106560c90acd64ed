"""What a checkpoint is, in sentences: from its headers, its config.json and its tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from suture.results.reading import Inspection, Stack
from suture.sidecars.tokenizer import token_names

#: How the tables of a vocabulary's rows end.
_TABLES = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "tok_embeddings.weight", "embed_in.weight",
           "shared.weight", "tokens_embed.weight")  # fmt: skip
_EXPERT = re.compile(r"\.experts?\.(\d+)\.")
_FUSED = re.compile(r"\.experts\.\D[^.]*$")
_FACTORS = re.compile(r"\.(lora_A|lora_B|lora_embedding_A|lora_magnitude_vector|hada_w1_a|oft_r)")


def verdict(found: Inspection, config: Mapping[str, Any], folder: Path) -> list[str]:
    """Stacks with lengths, ties, vocabulary and its padding, experts, adapters, quantisation; each in a sentence.

    Args:
        found: what the headers say.
        config: the whole config.json; empty if there is none.
        folder: where it lies, for the tokenizer.
    """
    said = [_stacks(found["stacks"])]
    shapes = {t["name"]: t["shape"] for t in found["tensors"]}
    said += [_adapter(list(shapes)), _quantised(found, config), _experts(shapes), _vocabulary(shapes, config, folder)]
    said.append(_tied(found, shapes))
    return [s for s in said if s]


def _stacks(stacks: Sequence[Stack]) -> str:
    """The layers, what config.json says of their number, and the other stacks."""
    if not stacks:
        return "no layers: no tensor name holds a layer number"
    main = next((s for s in stacks if s["main"]), None)
    others = [s for s in stacks if s is not main]
    told = ", ".join(f"{_layers(s)} in `{s['name']}` ({s['role']})" for s in others)
    if main is None:
        return f"several stacks, of which none is the main one; name one with --stack: {told}"
    counted = main["counted"]
    first = _layers(main)
    if counted is not None:
        first = f"config.json says {counted['layers']} layers, {main['layers']} found"
    named = f" in `{main['name']}`" if others else f" in `{main['prefix']}`"
    return f"{first}{named}" + (f"; and {told}" if told else "")


def _layers(stack: Stack) -> str:
    return "1 layer" if stack["layers"] == 1 else f"{stack['layers']} layers"


def _adapter(names: Sequence[str]) -> str:
    factors = [n for n in names if _FACTORS.search(n)]
    if not factors:
        return ""
    modules = {_FACTORS.split(n)[0].rpartition(".")[2] for n in factors}
    return f"an adapter: {len(factors):,} factors for {', '.join(sorted(modules))}"


def _quantised(found: Inspection, config: Mapping[str, Any]) -> str:
    """What quantised weights are stored as, and what can be done with them."""
    stated = config.get("quantization_config") or config.get("quantization") or {}
    method = stated.get("quant_method") or stated.get("quantization") if isinstance(stated, Mapping) else None
    by = f" ({method})" if isinstance(method, str) else ""
    if not found["quantised"] and found["refused"] is not None:
        return f"quantised{by}: {found['refused']}"
    if not found["quantised"] and not found["forms"]:
        return f"config.json says that it is quantised{by}, the tensors are not" if stated else ""
    if found["refused"] is None and found["forms"]:
        forms = ", ".join(f"{n:,} weight{'' if n == 1 else 's'} of {form}" for form, n in found["forms"].items())
        gguf = all(form.startswith("GGUF ") for form in found["forms"])
        what = "every verb decodes them" if gguf else "swaps move them, all else decodes them"
        return f"quantised{by}: {forms}; {what}"
    why = "" if found["refused"] is None else f": {found['refused']}"
    return (
        f"quantised{by}: {found['quantised']:,} of {len(found['tensors']):,} tensors; swaps move them, merges cannot "
        f"compute on them{why}"
    )


def _experts(shapes: Mapping[str, Sequence[int]]) -> str:
    apart = {int(m[1]) for n in shapes if (m := _EXPERT.search(n))}
    fused = {s[0] for n, s in shapes.items() if len(s) > 2 and _FUSED.search(n)}
    if apart:
        return f"{max(apart) + 1} experts a layer"
    return f"{max(fused)} experts a layer, in one tensor" if fused else ""


def _vocabulary(shapes: Mapping[str, Sequence[int]], config: Mapping[str, Any], folder: Path) -> str:
    """Rows of the first table of tokens, and how many of them no token has."""
    table = next((s for n, s in shapes.items() if n.endswith(_TABLES) and len(s) == 2), None)
    if table is None:
        return ""
    rows = table[0]
    tokens = token_names(folder) if folder.is_dir() else {}
    used = max(tokens, default=-1) + 1
    if not used:
        stated = config.get("vocab_size")
        differs = f", config.json says {stated:,}" if isinstance(stated, int) and stated != rows else ""
        return f"a vocabulary of {rows:,} rows{differs}"
    if used > rows:
        return f"a vocabulary of {rows:,} rows, {used - rows:,} fewer than the tokenizer has tokens"
    padding = f", {rows - used:,} of them padding" if rows > used else ""
    return f"a vocabulary of {rows:,} rows{padding}"


def _tied(found: Inspection, shapes: Mapping[str, Any]) -> str:
    head = any(n.endswith(("lm_head.weight", "embed_out.weight")) for n in shapes)
    if found["tied"]:
        return "the head is the embedding" + (", stored twice" if head else "")
    return "a head of its own" if head else ""
