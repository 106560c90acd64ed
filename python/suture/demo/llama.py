"""A small Llama in NumPy: enough to ask a checkpoint questions. No torch.

>>> model = Llama.load(Path("task"))
>>> model.scores(np.array([[3, 17, 4, 9, 40]])).shape  # rows, positions, vocabulary
(1, 5, 53)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from suture.checkpoint import Checkpoint

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Llama:
    """Weights by name in f32, and the sizes that are not in their shapes."""

    weights: dict[str, Floats]
    layers: int
    heads: int
    kv_heads: int
    eps: float
    theta: float

    @classmethod
    def load(cls, folder: Path) -> Llama:
        """Read a checkpoint in the layout of Hugging Face with a config.json of the Llama kind.

        Raises:
            SutureError: if the checkpoint is not sound.
        """
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        checkpoint = Checkpoint(folder)
        weights = {name: checkpoint.numpy(name).astype(np.float32) for name in checkpoint.names}
        weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
        theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
        return cls(
            weights,
            config["num_hidden_layers"],
            config["num_attention_heads"],
            config["num_key_value_heads"],
            config["rms_norm_eps"],
            float(theta),
        )

    def scores(self, ids: Ints) -> Floats:
        """Scores of the next token at every position of a batch padded on the right."""
        w, length = self.weights, ids.shape[1]
        x = w["model.embed_tokens.weight"][ids]
        size = w["model.layers.0.self_attn.q_proj.weight"].shape[0] // self.heads
        turn = rotary(length, size, self.theta)
        hidden = np.triu(np.full((length, length), -np.inf, dtype=np.float32), 1)
        for layer in range(self.layers):
            p = f"model.layers.{layer}."
            y = self._norm(x, p + "input_layernorm.weight")
            x = x + self._attend(y, p + "self_attn.", turn, hidden)
            y = self._norm(x, p + "post_attention_layernorm.weight")
            gate = y @ w[p + "mlp.gate_proj.weight"].T
            y = gate / (1 + np.exp(-gate)) * (y @ w[p + "mlp.up_proj.weight"].T)
            x = x + y @ w[p + "mlp.down_proj.weight"].T
        found: Floats = self._norm(x, "model.norm.weight") @ w["lm_head.weight"].T
        return found

    def _norm(self, x: Floats, name: str) -> Floats:
        scale = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(self.eps))
        found: Floats = x / scale * self.weights[name]
        return found

    def _attend(self, x: Floats, prefix: str, turn: tuple[Floats, Floats], hidden: Floats) -> Floats:
        n, length, _ = x.shape

        def heads(name: str) -> Floats:
            rows = x @ self.weights[f"{prefix}{name}_proj.weight"].T
            split: Floats = rows.reshape(n, length, -1, len(turn[0][0])).transpose(0, 2, 1, 3)
            return split

        q, k = rotate(heads("q"), turn), rotate(heads("k"), turn)
        group = self.heads // self.kv_heads
        k, v = np.repeat(k, group, axis=1), np.repeat(heads("v"), group, axis=1)
        weight = q @ k.transpose(0, 1, 3, 2) / np.float32(q.shape[-1] ** 0.5) + hidden
        weight = np.exp(weight - weight.max(axis=-1, keepdims=True))
        weight /= weight.sum(axis=-1, keepdims=True)
        mixed = (weight @ v).transpose(0, 2, 1, 3).reshape(n, length, -1)
        found: Floats = mixed @ self.weights[prefix + "o_proj.weight"].T
        return found

    def exact(self, ids: Sequence[Sequence[int]], answer: Sequence[int], batch: int = 256) -> float:
        """Share of rows whose tokens from `answer` on are all the likeliest, as greedy decoding would have them.

        Args:
            ids: rows of tokens, padded on the right with 0.
            answer: for each row, where the answer begins.
            batch: rows computed at a time.
        """
        right = 0
        for start in range(0, len(ids), batch):
            tokens = np.array(ids[start : start + batch], dtype=np.int64)
            begin = np.array(answer[start : start + batch])[:, None]
            position = np.arange(1, tokens.shape[1])
            asked = (position >= begin) & (tokens[:, 1:] != 0)
            best = self.scores(tokens)[:, :-1].argmax(axis=-1)
            right += int(((best == tokens[:, 1:]) | ~asked).all(axis=1).sum())
        return right / len(ids)


def rotary(length: int, size: int, theta: float) -> tuple[Floats, Floats]:
    """Cosines and sines of every position, both halves alike."""
    frequencies = theta ** (-np.arange(0, size, 2) / size)
    angles = np.outer(np.arange(length), np.concatenate((frequencies, frequencies)))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(x: Floats, turn: tuple[Floats, Floats]) -> Floats:
    """Turn the two halves of each head by the position's angles."""
    first, second = np.split(x, 2, axis=-1)
    found: Floats = x * turn[0] + np.concatenate((-second, first), axis=-1) * turn[1]
    return found
