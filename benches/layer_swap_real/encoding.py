"""Texts as tokens: what is asked, and what must be said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: Most tokens of a text; the longest problem has 90 or so, and a longer message is cut off here.
LONGEST = 160


@dataclass(frozen=True)
class Encoded:
    """Tokens of a text; those from `start` on are predicted, each from all before it."""

    ids: list[int]
    start: int


def encode(tokenizer: Any, prompt: str, said: str) -> Encoded:
    """A prompt and its answer, after a blank, with the token that ends a text; or a text without a prompt, all of which
    is predicted but its first token."""
    asked = tokenizer(prompt, add_special_tokens=False)["input_ids"] if prompt else []
    answer = tokenizer(f" {said}" if prompt else said, add_special_tokens=False)["input_ids"]
    ids = [*asked, *answer, tokenizer.eos_token_id]
    return Encoded(ids[:LONGEST], len(asked) or 1)


@dataclass(frozen=True)
class Batch:
    """Texts padded at the right.

    Attributes:
        ids: int64 [texts, length].
        mask: 1 for a token, 0 for padding, int64 [texts, length].
        rows, columns: of the positions whose next token is predicted, text by text.
        targets: these next tokens.
    """

    ids: Any
    mask: Any
    rows: Any
    columns: Any
    targets: Any


def batch(torch: Any, texts: Sequence[Encoded], device: str) -> Batch:
    """Several texts as one batch."""
    length = max(len(text.ids) for text in texts)
    ids, mask = (torch.zeros((len(texts), length), dtype=torch.int64) for _ in range(2))
    places: list[tuple[int, int, int]] = []
    for row, text in enumerate(texts):
        ids[row, : len(text.ids)] = torch.tensor(text.ids)
        mask[row, : len(text.ids)] = 1
        places += [(row, at - 1, text.ids[at]) for at in range(text.start, len(text.ids))]
    rows, columns, targets = torch.tensor(places, dtype=torch.int64).T.to(device)
    return Batch(ids.to(device), mask.to(device), rows, columns, targets)


def scores(model: Any, given: Batch) -> Any:
    """Logits where a token is predicted, [predicted, vocabulary]: the head is not run anywhere else."""
    states = model.model(input_ids=given.ids, attention_mask=given.mask, use_cache=False).last_hidden_state
    return model.lm_head(states[given.rows, given.columns])
