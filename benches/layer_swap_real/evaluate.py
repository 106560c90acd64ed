"""What a model answers: exactly right or not, problem by problem."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from layer_swap_real.data import Problem
from layer_swap_real.encoding import batch, encode, scores
from layer_swap_real.train import How

#: Problems that are run together.
TOGETHER = 32


def answers(folder: Path, sets: Mapping[str, Sequence[Problem]], how: How) -> dict[str, dict[str, Any]]:
    """Answers of a model to sets of problems.

    A problem is right if the likeliest token is the right one at each place of the answer and of the token that ends
    it, the right ones before it given: that is when greedy decoding says the answer and no more, found in one pass.

    Returns:
        For each set: `right`, a string of a 0 or 1 for each problem in order, and `loss`, the mean over problems of the
        right answer's negative log-likelihood in nats.
    """
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(how.device).eval()
    return {name: _answers(torch, model, tokenizer, problems, how) for name, problems in sets.items()}


def _answers(torch: Any, model: Any, tokenizer: Any, problems: Sequence[Problem], how: How) -> dict[str, Any]:
    texts = [encode(tokenizer, problem.prompt, problem.answer) for problem in problems]
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i].ids), i))
    right, losses = [True] * len(texts), [0.0] * len(texts)
    for start in range(0, len(order), TOGETHER):
        places = order[start : start + TOGETHER]
        given = batch(torch, [texts[i] for i in places], how.device)
        autocast = torch.autocast(how.device.split(":")[0], dtype=torch.bfloat16, enabled=how.autocast)
        with torch.inference_mode(), autocast:
            logits = scores(model, given).float()
        said = (logits.argmax(-1) == given.targets).tolist()
        loss = torch.nn.functional.cross_entropy(logits, given.targets, reduction="none").tolist()
        for row, one, nats in zip(given.rows.tolist(), said, loss, strict=True):
            right[places[row]] &= one
            losses[places[row]] += nats
    return {"right": "".join("01"[one] for one in right), "loss": sum(losses) / len(losses)}
