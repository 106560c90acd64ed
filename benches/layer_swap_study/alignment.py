"""How alike a model's inner states are for the same question in two languages, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from data import Ints, question
from language import Language, Pair
from model import Llama
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Similarity:
    """Of one depth: mean cosine of parallel and of random pairs, and retrieval.

    Each language's mean state is subtracted first, which leaves nothing of depth 0, the embedding, for all rows end in
    the same word. Retrieval is the share of questions whose nearest neighbour in the
    other language, among all, is their own translation.
    """

    parallel: float
    random: float
    retrieval: float


@torch.inference_mode()
def states(model: Llama, language: Language, operation: str, operands: Ints) -> list[Tensor]:
    """The stream where the answer begins, after each layer, centred."""
    rows = [[*question(language, operation, xs), *language.words["equals"]] for xs in operands.tolist()]
    longest = max(len(row) for row in rows)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    last = torch.tensor([len(row) - 1 for row in rows])
    keep: list[Tensor] = []
    model(ids, keep)
    found = [x[torch.arange(len(rows)), last] for x in keep]
    return [x - x.mean(dim=0) for x in found]


def alignment(model: Llama, pair: Pair, operations: tuple[str, ...], operands: Ints) -> list[Similarity]:
    """Similarity after each layer, averaged over the operations."""
    each = [_alignment(model, pair, operation, operands) for operation in operations]
    return [
        Similarity(*(sum(getattr(s[i], field) for s in each) / len(each) for field in Similarity.__dataclass_fields__))
        for i in range(len(each[0]))
    ]


def _alignment(model: Llama, pair: Pair, operation: str, operands: Ints) -> list[Similarity]:
    found = []
    for x, y in zip(*(states(model, language, operation, operands) for language in (pair.a, pair.b)), strict=True):
        cosines = functional.normalize(x, dim=1) @ functional.normalize(y, dim=1).T
        own = cosines.diagonal()
        n = len(own)
        others = (cosines.sum() - own.sum()) / (n * (n - 1))
        retrieval = (cosines.argmax(dim=1) == torch.arange(n)).float().mean()
        found.append(Similarity(own.mean().item(), others.item(), retrieval.item()))
    return found
