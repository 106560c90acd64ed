"""Routers: a row for each expert, by which a layer's tokens are sent to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError
from suture.reference import Model
from suture.sidecars.files import read_config
from suture.sidecars.gguf import folder_of

Array = npt.NDArray[np.float32]

MODES = ("hidden", "hidden_avg", "hidden_last", "cheap_embed", "random", "uniform_random")
#: Condition numbers above this are told: experts that much alike are chosen by chance.
CONDITION = 5.0


@dataclass(frozen=True)
class Prompts:
    """What an expert is for, in texts, and what it is not for."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]


def gates(
    mode: str,
    model: Checkpoint | None,
    prompts: Sequence[Prompts],
    layers: Sequence[int],
    width: int,
    seed: int,
    name: Model = "",
    memory: int | None = None,
) -> dict[int, Array]:
    """The router [experts, width] of each of `layers`, in float32.

    ``hidden`` and ``hidden_last`` take the state of a prompt's last token as it enters the layer, ``hidden_avg`` the
    mean over its tokens, ``cheap_embed`` the sum of its tokens' embeddings, the same for all layers; each the mean over
    an expert's prompts, less that over its negative ones, of length 1. Prompts begin with the token that begins texts,
    where there is one. Of ``cheap_embed`` both means have length 1 before one is taken off, as mergekit-moe has it.
    ``random`` draws from N(0, 1), and
    ``uniform_random`` from -1/sqrt(width) to 1/sqrt(width), by `seed` and layer.

    Raises:
        UsageError: if there is no such mode.
        SutureError: if the model has no tokenizer, or a prompt no tokens.
    """
    if mode == "random":
        return {i: _rng(seed, i).standard_normal((len(prompts), width), dtype=np.float32) for i in layers}
    if mode == "uniform_random":
        bound = width**-0.5
        return {i: _rng(seed, i).uniform(-bound, bound, (len(prompts), width)).astype(np.float32) for i in layers}
    if mode not in MODES or model is None:
        raise UsageError(f"gate_mode: expected one of {', '.join(MODES)}, found `{mode}`", at="gate_mode")
    states = _embedded(model) if mode == "cheap_embed" else _hidden(name, folder_of(model.folder), mode, memory)
    mean = _direction if mode == "cheap_embed" else _mean
    found = [mean(states, p.positive) - (mean(states, p.negative) if p.negative else 0) for p in prompts]
    # By layer, expert and column.
    rows = np.stack(found, axis=1)
    lengths = np.linalg.norm(rows, axis=2, keepdims=True)
    if not np.all(lengths > 0):
        expert = int(np.argwhere(lengths[..., 0] == 0)[0][1])
        raise SutureError(f"the prompts of expert {expert} cancel out: its router would be zero", model.path)
    rows = (rows / lengths).astype(np.float32)
    return {i: rows[i if len(rows) > 1 else 0] for i in layers}


def condition(gate: Array) -> float:
    """The condition number of a router: how much alike its experts are to it."""
    return float(np.linalg.cond(gate.astype(np.float64)))


def _rng(seed: int, layer: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, layer]))


def _mean(states: Any, texts: Sequence[str]) -> npt.NDArray[np.float64]:
    total: Any = sum(states(text) for text in texts)
    return np.asarray(total / len(texts))


def _direction(states: Any, texts: Sequence[str]) -> npt.NDArray[np.float64]:
    mean = _mean(states, texts)
    return mean / max(float(np.linalg.norm(mean)), np.finfo(np.float64).tiny)


def _tokens(folder: Path) -> Callable[[str], list[int]]:
    """A function from a prompt to its tokens, behind the one that begins texts if the tokenizer names one."""
    from suture.vocab.segmenter import segmenter

    tokenizer = segmenter(folder)
    said = (read_config(folder, "tokenizer_config.json") or {}).get("bos_token")
    bos = tokenizer.token_to_id(said.get("content", "") if isinstance(said, dict) else said or "")

    def tokens(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text).ids
        if bos is not None and found[:1] != [bos]:
            found = [bos, *found]
        if not found:
            raise SutureError(f"a prompt has no tokens: {text!r}", folder)
        return found

    return tokens


def _embedded(model: Checkpoint) -> Any:
    """A function from a text to the sum of its tokens' embeddings, [1, width]."""
    name = next(iter(model._core.tables()), None)
    if name is None:
        raise SutureError(f"{model.path}: has no table of tokens", model.path)
    table = model.numpy(name)
    tokens = _tokens(folder_of(model.folder))

    def state(text: str) -> npt.NDArray[np.float64]:
        return np.asarray(table[tokens(text)].astype(np.float64).sum(axis=0, keepdims=True))

    return state


def _hidden(name: Model, folder: Path, mode: str, memory: int | None) -> Any:
    """A function from a text to the states that enter the layers, [layers, width]; it takes torch and transformers."""
    from suture.text.model import Running, open_model
    from suture.text.states import pooled

    # As everywhere: with adapters on top, quantised, in a store.
    model = open_model(name, Running(memory=memory))
    tokens = _tokens(folder)
    pool = "mean" if mode == "hidden_avg" else "last"

    def state(text: str) -> npt.NDArray[np.float64]:
        return np.asarray(pooled(model, [tokens(text)], [pool])[pool][:, 0], np.float64)

    return state
