"""Tuning an expert: AdamW, warm-up and cosine, the loss on what is predicted; a stopped training goes on."""

from __future__ import annotations

import importlib
import math
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import suture
from layer_swap_real.encoding import Encoded, batch, encode, scores
from layer_swap_real.setups import Recipe

#: Seconds between two checkpoints of a training.
EVERY = 180.0
#: What adapters are put on.
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class OutOfTimeError(Exception):
    """The time of this run is over; what is done is kept."""


@dataclass(frozen=True)
class Clock:
    """When a run must stop."""

    end: float

    def check(self) -> None:
        """Raises :class:`OutOfTimeError` when the time is over."""
        if time.monotonic() > self.end:
            raise OutOfTimeError


@dataclass(frozen=True)
class How:
    """What trainings and tests are run on.

    Attributes:
        device: torch's, such as ``cpu`` or ``cuda``.
        autocast: whether matrix products are computed in bfloat16; weights and their updates are float32. On one core
            of a processor with AVX512-BF16 a step of 16 problems took 4.7 s, and 7.8 s without.
    """

    device: str = "cpu"
    autocast: bool = True


def schedule(step: int, recipe: Recipe) -> float:
    """The learning rate of a step."""
    warm = max(1, recipe.steps // 20)
    left = max(0, step - warm) / max(1, recipe.steps - warm)
    return recipe.rate * min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * left))


def drawn(seed: int, count: int, step: int, size: int) -> list[int]:
    """The texts of a step, by place: every text once, in an order of the seed's, before any comes again."""
    found = []
    for at in range(step * size, (step + 1) * size):
        order = list(range(count))
        random.Random(f"{seed} {at // count}").shuffle(order)
        found.append(order[at % count])
    return found


def tune(
    base: Path,
    out: Path,
    texts: Sequence[tuple[str, str]],
    recipe: Recipe,
    seed: int,
    clock: Clock,
    how: How,
    rank: int | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Tune the base on texts, and write the expert to `out`, which appears when it is whole.

    A checkpoint lies beside it every three minutes and when the time is over; the same call goes on from there, with
    the same texts in the same order.

    Args:
        base: the folder of the base.
        out: the folder of the expert.
        texts: prompts (or nothing) and what is said.
        recipe: how it is tuned.
        seed: draws the order of texts, and the start of adapters.
        clock: when to stop.
        how: what it runs on.
        rank: of an adapter, which suture folds into the base; None to tune all weights.
        say: told of progress.

    Returns:
        Steps, losses, seconds a step (the median), tokens a step, and how often it was resumed.

    Raises:
        OutOfTimeError: if the time is over; the checkpoint is written.
    """
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    encoded = [encode(tokenizer, prompt, said) for prompt, said in texts]
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).to(how.device)
    if rank is not None:
        peft = importlib.import_module("peft")
        model = peft.get_peft_model(
            model, peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=PROJECTIONS, bias="none")
        )
    inner = model.get_base_model() if rank is not None else model
    model.train()
    tuned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for p in tuned.values() if p.dim() > 1], "weight_decay": recipe.decay},
        {"params": [p for p in tuned.values() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=recipe.rate, betas=(0.9, 0.98))
    state = out.with_name(f"{out.name}.training.pt")
    told: dict[str, Any] = {"steps": 0, "losses": [], "seconds": [], "tokens": 0, "resumed": 0}
    if state.exists():
        kept = torch.load(state, map_location=how.device, weights_only=True)
        with torch.no_grad():
            for name, p in tuned.items():
                p.copy_(kept["weights"][name])
        optimizer.load_state_dict(kept["optimizer"])
        told = {**kept["told"], "resumed": kept["told"]["resumed"] + 1}
        say(f"{out.name}: goes on after step {told['steps']} of {recipe.steps}")

    def keep() -> None:
        part = state.with_suffix(".part")
        weights = {name: p.detach() for name, p in tuned.items()}
        torch.save({"weights": weights, "optimizer": optimizer.state_dict(), "told": told}, part)
        part.replace(state)

    saved = time.monotonic()
    while told["steps"] < recipe.steps:
        try:
            clock.check()
        except OutOfTimeError:
            keep()
            raise
        began = time.monotonic()
        told["losses"].append(_update(torch, inner, optimizer, tuned, encoded, recipe, seed, told, how))
        told["seconds"].append(time.monotonic() - began)
        told["steps"] += 1
        if told["steps"] % 10 == 0:
            recent = told["losses"][-10:]
            say(f"{out.name}: step {told['steps']} of {recipe.steps}, loss {sum(recent) / len(recent):.3f}")
        if time.monotonic() - saved > EVERY:
            keep()
            saved = time.monotonic()
    _write(torch, model, tokenizer, base, out, rank)
    state.unlink(missing_ok=True)
    seconds = sorted(told["seconds"])
    return {**told, "seconds": seconds[len(seconds) // 2], "tokens": told["tokens"] / recipe.steps}


def _update(
    torch: Any,
    model: Any,
    optimizer: Any,
    tuned: dict[str, Any],
    texts: Sequence[Encoded],
    recipe: Recipe,
    seed: int,
    told: dict[str, Any],
    how: How,
) -> float:
    step = told["steps"]
    for group in optimizer.param_groups:
        group["lr"] = schedule(step, recipe)
    given = batch(torch, [texts[i] for i in drawn(seed, len(texts), step, recipe.batch)], how.device)
    told["tokens"] += int(given.mask.sum())
    with torch.autocast(how.device.split(":")[0], dtype=torch.bfloat16, enabled=how.autocast):
        logits = scores(model, given)
    loss = torch.nn.functional.cross_entropy(logits.float(), given.targets)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(list(tuned.values()), 1.0)
    optimizer.step()
    return float(loss.detach())


def _write(torch: Any, model: Any, tokenizer: Any, base: Path, out: Path, rank: int | None) -> None:
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    if rank is None:
        model.to(torch.bfloat16).save_pretrained(part)
        tokenizer.save_pretrained(part)
    else:
        adapter = out.with_name(f"{out.name}.adapter")
        model.save_pretrained(adapter)
        suture.fold(base, [adapter], part, settings=suture.Settings(overwrite=True))
    part.replace(out)
