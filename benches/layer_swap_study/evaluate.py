"""What a model can do: shares of problems answered exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from data import KNOWN, Batch, Ints, Row, problem, translation
from language import HELD_OUT, Pair
from model import Llama
from torch.nn import functional


@dataclass(frozen=True)
class Answers:
    """How a set of problems was answered.

    Attributes:
        exact: share with every token right; under greedy decoding it is the same.
        tokens: share of tokens right, each given the right ones before it.
        loss: mean negative log-likelihood of a token of the answers.
        in_language: share of answers' tokens predicted in the language asked for.
    """

    exact: float
    tokens: float
    loss: float
    in_language: float


@torch.inference_mode()
def answers(model: Llama, rows: Sequence[Row], language: frozenset[int] = frozenset(), at_once: int = 128) -> Answers:
    """Score a set of problems, some at once."""
    exact, right, inside, loss, tokens = 0.0, 0.0, 0.0, 0.0, 0
    own = torch.tensor(sorted(language))
    for start in range(0, len(rows), at_once):
        batch = Batch.of(rows[start : start + at_once])
        ids, asked = torch.from_numpy(batch.ids), torch.from_numpy(batch.asked)
        scores = model(ids)
        target = ids.roll(-1, dims=1)
        best = scores.argmax(dim=-1)
        exact += float(((best == target) | ~asked).all(dim=1).sum())
        right += float((best == target)[asked].sum())
        inside += float(torch.isin(best[asked], own).sum())
        loss += float(functional.cross_entropy(scores[asked], target[asked], reduction="sum"))
        tokens += int(asked.sum())
    return Answers(exact / len(rows), right / tokens, loss / tokens, inside / tokens)


def tokens_of(pair: Pair) -> tuple[frozenset[int], frozenset[int]]:
    """All tokens of either language."""
    a, b = (
        frozenset(t for said in (*language.numbers, *language.words.values()) for t in said)
        for language in (pair.a, pair.b)
    )
    return a, b


def abilities(model: Llama, pair: Pair, operands: Ints, task_a: int, known: int) -> dict[str, float]:
    """The four abilities: the task and the known operations, each in A and in B.

    Args:
        model: the model.
        pair: the languages.
        operands: of the problems; all are asked in B.
        task_a: how many of them are asked in A.
        known: how many of them are asked of each known operation.
    """
    found: dict[str, float] = {}
    for name, language, own in zip("ab", (pair.a, pair.b), tokens_of(pair), strict=True):
        asked = operands[:task_a] if name == "a" else operands
        task = answers(model, [problem(language, HELD_OUT, xs, pair.modulus) for xs in asked.tolist()], own)
        rows = [problem(language, op, xs, pair.modulus) for op in KNOWN for xs in operands[:known].tolist()]
        general = answers(model, rows)
        found |= {
            f"task_{name}": task.exact, f"task_{name}_tokens": task.tokens, f"task_{name}_loss": task.loss,
            f"task_{name}_in_language": task.in_language,
            f"known_{name}": general.exact, f"known_{name}_loss": general.loss,
        }  # fmt: skip
    return found


def known_each(model: Llama, pair: Pair, operands: Ints) -> dict[str, float]:
    """Each known operation in A and in B, and translation of the left-out one both ways."""
    found = {
        f"{op} {language.name}": answers(
            model, [problem(language, op, xs, pair.modulus) for xs in operands.tolist()]
        ).exact
        for language in (pair.a, pair.b)
        for op in KNOWN
    }
    both = ((pair.a, pair.b), (pair.b, pair.a))
    rows = [translation(source, target, HELD_OUT, xs) for source, target in both for xs in operands.tolist()]
    return found | {"translation": answers(model, rows).exact}
