"""Laws of the study of layer swapping on a published model that need torch: a stopped training, and who is right."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from ..support.arrows import ROOT
from ..support.texts import tiny

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
TEXTS = [("two and two:", "4"), ("one and two:", "3"), ("", "bir iki uc"), ("five and four:", "9"), ("", "satu dua")]


class Part:
    """A module of the study."""

    def __init__(self, name: str) -> None:
        self.module: Any = importlib.import_module(f"layer_swap_real.{name}")


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benches"))
    return Part("train").module


class Stops:
    """A clock whose time is over after so many steps."""

    def __init__(self, train: Any, steps: int) -> None:
        self.left, self.error = steps, train.OutOfTimeError

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise self.error


def weights(folder: Path) -> dict[str, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    return dict(model.state_dict())


@pytest.mark.parametrize("rank", [None, 2])
def test_a_training_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path, train: Any, rank: int | None) -> None:
    """Law: stopped twice and gone on with, an expert has the same weights, and no checkpoint is left."""
    if rank is not None:
        pytest.importorskip("peft")
    base = tiny(tmp_path / "base", dtype="bfloat16")
    recipe = Part("setups").module.Recipe(len(TEXTS), 5, batch=2, rate=1e-2)

    def tune(name: str, steps: int) -> Any:
        clock = Stops(train, steps)
        return train.tune(base, tmp_path / name, TEXTS, recipe, 1, clock, train.How(), rank, lambda _: None)

    whole = tune("whole", 5)
    for steps in (2, 2):
        with pytest.raises(train.OutOfTimeError):
            tune("stopped", steps)
        assert not (tmp_path / "stopped").exists()
    stopped = tune("stopped", 5)
    assert (stopped["steps"], stopped["resumed"], whole["resumed"]) == (5, 2, 0)
    assert stopped["losses"] == whole["losses"]
    one, other, before = (weights(tmp_path / name) for name in ("whole", "stopped", "base"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not all(torch.equal(one[name], before[name]) for name in one)
    assert not list(tmp_path.glob("*.pt"))
    assert not list(tmp_path.glob("*.part"))


def test_right_is_what_greedy_decoding_says(tmp_path: Path, train: Any) -> None:
    """Law: right in one pass is right when decoded step by step; the loss is that of each problem run alone."""
    base, expert = tiny(tmp_path / "base"), tmp_path / "expert"
    recipe = Part("setups").module.Recipe(len(TEXTS), 60, batch=5, rate=1e-2)
    train.tune(base, expert, TEXTS, recipe, 0, Stops(train, 60), train.How(autocast=False), None, lambda _: None)
    problem = Part("data").module.Problem
    asked = [problem((i,), prompt, said) for i, (prompt, said) in enumerate(TEXTS) if prompt]
    asked += [problem((9,), "five and four:", "4"), problem((8,), "one and two:", "34")]
    found = Part("evaluate").module.answers(expert, {"task": asked}, train.How(autocast=False))["task"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(expert))
    model = transformers.AutoModelForCausalLM.from_pretrained(str(expert), dtype=torch.float32).eval()
    right, losses = "", []
    for one in asked:
        prompt = tokenizer(one.prompt, add_special_tokens=False)["input_ids"]
        wanted = [*tokenizer(f" {one.answer}", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        ids, nats = list(prompt), 0.0
        with torch.no_grad():
            for _ in wanted:
                logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
                ids.append(int(logits.argmax()))
            for i in range(len(wanted)):
                logits = model(input_ids=torch.tensor([[*prompt, *wanted[:i]]])).logits[0, -1]
                nats -= float(torch.log_softmax(logits, -1)[wanted[i]])
        right += "01"[ids[len(prompt) :] == wanted]
        losses.append(nats)
    assert found["right"] == right
    assert right.startswith("111"), "the expert knows what it was taught"
    assert right.endswith("00")
    assert found["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
