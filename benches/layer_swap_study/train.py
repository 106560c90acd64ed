"""Training: AdamW, warm-up and cosine, the loss on what can be predicted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from data import Batch, Ints, Mix
from language import Pair
from model import Llama
from torch.nn import functional


@dataclass(frozen=True)
class Recipe:
    """One training."""

    mix: Mix
    steps: int
    batch: int = 256
    rate: float = 3e-3
    warm_up: float = 0.05
    decay: float = 0.01
    frozen: tuple[str, ...] = ()


def train(
    model: Llama,
    recipe: Recipe,
    pair: Pair,
    operands: Ints,
    seed: int,
    say: Callable[[int, float], None] | None = None,
    every: int = 200,
) -> list[float]:
    """Train in place; returns the mean loss of each tenth."""
    rng = np.random.default_rng(seed)
    for name, p in model.named_parameters():
        p.requires_grad_(not any(part in name for part in recipe.frozen))
    tuned = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in tuned if p.dim() == 2], "weight_decay": recipe.decay},
        {"params": [p for p in tuned if p.dim() != 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98))
    warm = max(1, int(recipe.warm_up * recipe.steps))
    losses = []
    start = time.monotonic()
    for step in range(recipe.steps):
        factor = min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / recipe.steps))
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * factor
        batch = Batch.of(recipe.mix.rows(pair, operands, recipe.batch, rng))
        ids, asked = torch.from_numpy(batch.ids), torch.from_numpy(batch.asked)
        scores = model(ids)[asked]
        loss = functional.cross_entropy(scores, ids.roll(-1, dims=1)[asked])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(tuned, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if say and (step + 1) % every == 0:
            say(step + 1, time.monotonic() - start)
    tenth = max(1, recipe.steps // 10)
    return [float(np.mean(losses[i : i + tenth])) for i in range(0, len(losses), tenth)]
