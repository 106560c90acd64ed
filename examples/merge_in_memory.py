"""Merges a model in place between two generations, and searches for the weight of the merge; 20 seconds on two cores.

    pip install suture torch transformers        # in a clone: pip install . torch transformers
    python examples/merge_in_memory.py

A tiny Llama begins to learn to count up and down around ten digits. Two experts go on from there, each with one task
alone, and forget the other. A session tries ten weights for the changes of both, and does not plan, read or find out
anything twice; the best merge goes into the base's own memory, whose parameters stay the objects that they were.
"""

from __future__ import annotations

import copy
import time

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import suture.torch

DIGITS, UP, DOWN, LENGTH = 10, 10, 11, 8
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def lines(task: int, count: int, seed: int) -> Tensor:
    """A task's word, a digit, and what follows it: counting up or down, around the ten digits."""
    first = torch.randint(0, DIGITS, (count, 1), generator=torch.Generator().manual_seed(seed))
    steps = torch.arange(LENGTH) * (1 if task == UP else -1)
    return torch.cat([torch.full((count, 1), task), (first + steps) % DIGITS], 1).to(DEVICE)


def train(model: LlamaForCausalLM, data: Tensor, steps: int, rate: float) -> None:
    """Plain training; the loss is that of every next token."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        model(input_ids=data, labels=data).loss.backward()
        optimiser.step()


def loss(model: LlamaForCausalLM) -> float:
    """The loss over unseen lines of both tasks."""
    with torch.no_grad():
        both = [lines(task, 64, seed=9) for task in (UP, DOWN)]
        return sum(model(input_ids=data, labels=data).loss.item() for data in both) / 2


def told(model: LlamaForCausalLM) -> str:
    """What the model makes of the digit 3, for both tasks."""
    said = []
    for task in (UP, DOWN):
        start = torch.tensor([[task, 3]], device=DEVICE)
        mask = torch.ones_like(start)
        found = model.generate(start, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0)
        said.append(f"{'up' if task == UP else 'down'}: {' '.join(map(str, found[0, 1:].tolist()))}")
    return "   ".join(said)


def main() -> None:
    """Trains, searches, merges."""
    torch.manual_seed(0)
    # Threads cost such a small model more than they bring.
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=12, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    base = LlamaForCausalLM(config).to(DEVICE)
    train(base, torch.cat([lines(task, 128, seed=1) for task in (UP, DOWN)]), 8, 3e-3)
    up, down = copy.deepcopy(base), copy.deepcopy(base)
    train(up, lines(UP, 256, seed=2), 30, 1e-3)
    train(down, lines(DOWN, 256, seed=3), 30, 1e-3)
    print(f"base    loss {loss(base):.3f}   {told(base)}")
    print(f"up      loss {loss(up):.3f}   {told(up)}")
    print(f"down    loss {loss(down):.3f}   {told(down)}")

    models = {"up": up, "down": down}
    session = suture.torch.prepare(models, "task_arithmetic", base=base, parameters={"weight": 0.5})
    trial, found, began = copy.deepcopy(base), {}, time.perf_counter()
    for weight in (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0):
        session.apply_(weight, into=trial)
        found[weight] = loss(trial)
    losses = "  ".join(f"{weight}: {value:.2f}" for weight, value in found.items())
    print(f"ten weights in {time.perf_counter() - began:.2f} s, and their losses:  {losses}")

    best = min(found, key=found.__getitem__)
    before = [(p, p.data_ptr()) for p in base.parameters()]
    report = suture.torch.merge_(base, models, "task_arithmetic", base=base, parameters={"weight": best})
    assert all(p is q and p.data_ptr() == address for q, (p, address) in zip(base.parameters(), before, strict=True))
    print(f"merged  loss {loss(base):.3f}   {told(base)}   ({len(report.tensors)} tensors, weight {best}, in place)")


if __name__ == "__main__":
    main()
