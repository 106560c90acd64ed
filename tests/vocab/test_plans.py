"""Plans that were kept: what is refused of them, whose files an output has, where they may lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture.vocab.kept import NAME

from ..support.checkpoints import encode, write_checkpoint
from ..support.vocabularies import bpe, letters, whole, write

ROWS, WIDTH = 19, 8


def model(folder: Path, **more: Any) -> Path:
    """A model of a few tokens, with settings of its own."""
    values = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)
    tensors = {"model.embed_tokens.weight": encode(values, "F32"), "lm_head.weight": encode(values + 1, "F32")}
    config = {"model_type": "llama", "vocab_size": ROWS, "tie_word_embeddings": False, "num_hidden_layers": 0}
    write_checkpoint(folder, tensors, config=config)
    write(folder, whole("bytes", bpe(letters(ROWS), [])))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512, **more}))
    return folder


def test_what_a_plan_leaves_is_the_siblings_own(tmp_path: Path) -> None:
    """A clone's tokenizer stays; applied to a chat model, its settings and its template are the chat model's."""
    base, chat = model(tmp_path / "base"), model(tmp_path / "chat", chat_template="{{ messages }}", model_max_length=77)
    suture.vocabulary.clone(base, tmp_path / "twice")
    report = suture.vocabulary.apply(tmp_path / "twice", chat, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer_config.json").read_bytes() == (chat / "tokenizer_config.json").read_bytes()
    assert not [w for w in report.warnings if "otherwise" in w]


def test_what_a_plan_made_is_told_and_the_template_stays(tmp_path: Path) -> None:
    """Where the plan wrote a file anew that the sibling has otherwise, it says so, and keeps the chat template."""
    base, chat = model(tmp_path / "base"), model(tmp_path / "chat", chat_template="{{ messages }}", model_max_length=77)
    for folder in (base, chat):
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings["added_tokens_decoder"] = {}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    suture.vocabulary.add(base, tmp_path / "more", tokens="<x>")
    report = suture.vocabulary.apply(tmp_path / "more", chat, tmp_path / "out")
    assert [w for w in report.warnings if "tokenizer_config.json otherwise than the plan" in w]
    made = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert made["chat_template"] == "{{ messages }}"


def test_undo_is_of_what_the_plan_made(tmp_path: Path) -> None:
    """A plan of an earlier step does not undo a later one."""
    base = model(tmp_path / "base")
    suture.vocabulary.clone(base, tmp_path / "half", share=0.5, shift=True)
    suture.vocabulary.add(tmp_path / "half", tmp_path / "more", tokens="<x>")
    with pytest.raises(suture.SutureError, match=r"its tokens are not those that the plan .* made|rows of tokens, and"):
        suture.vocabulary.undo(tmp_path / "more", tmp_path / "back", plan=tmp_path / "half" / NAME)
    assert not (tmp_path / "back").exists()


HAND: dict[str, Callable[[dict[str, Any]], object]] = {
    "tokenizer that is no JSON": lambda p: p["files"].update({"tokenizer.json": "!!!"}),
    "a config": lambda p: p["files"].update({"config.json": "{}"}),
    "a path": lambda p: p["files"].update({"../tokenizer.json": "{}"}),
    "numbers below zero": lambda p: p.update(moved=[[-3, 0, 10]]),
    "names of numbers": lambda p: p.update(names=list(range(ROWS))),
    "roles beyond": lambda p: p.update(roles={"eos": 1_000_000}),
    "rows": lambda p: p.update(rows=10**15),
    "no verb": lambda p: p.update(verb=None),
    "runs": lambda p: p["table"].update(runs=[[10**12, 0, 0]]),
    "noise": lambda p: p["table"].update(starts=[0, 1], index=[0], weight=[1.0], noise=[-1.0]),
    "weights": lambda p: p["table"].update(starts=[0, 1], index=[0], weight=["x"], noise=[0.0]),
}


@pytest.mark.parametrize("what", HAND)
def test_a_plan_edited_by_hand_is_refused(what: str, tmp_path: Path) -> None:
    """What does not fit together in a plan is an error that names it, before anything is written."""
    base = model(tmp_path / "base")
    suture.vocabulary.clone(base, tmp_path / "twice", keep=tmp_path / "plan.json")
    plan = json.loads((tmp_path / "plan.json").read_text())
    HAND[what](plan)
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(suture.SutureError, match=r"plan\.json: is damaged"):
        suture.vocabulary.apply(tmp_path / "plan.json", base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_plan_takes_no_place_that_is_taken(tmp_path: Path) -> None:
    """A file that is there, a folder and the model itself are no places for a plan; nothing is written then."""
    base = model(tmp_path / "base")
    (tmp_path / "mine.txt").write_text("mine")
    for place, said in (
        (tmp_path / "mine.txt", "is there already"),
        (tmp_path, "is a folder"),
        (base / "config.json", "lies in the model"),
        (tmp_path / "nowhere" / "plan.json", "does not exist"),
    ):
        with pytest.raises(suture.UsageError, match=said):
            suture.vocabulary.clone(base, tmp_path / "out", keep=place)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "out").exists()


def test_adapters_are_folded_first(tmp_path: Path) -> None:
    """A model with an adapter on top is refused, and the adapter not lost without a word."""
    base = model(tmp_path / "base")
    (tmp_path / "t.txt").write_text("abc\n")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(suture.UsageError, match="fold the adapters into a model first"):
        suture.vocabulary.trim(f"{base}+{tmp_path / 'adapter'}", tmp_path / "out", text=tmp_path / "t.txt")


@pytest.mark.parametrize("side", ["model", "adapted"])
def test_a_graft_loses_no_adapter(side: str, tmp_path: Path) -> None:
    """Neither model of a graft may be one with an adapter on top, which its folder does not have."""
    base, other = model(tmp_path / "base"), model(tmp_path / "other")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    on_top = f"{base if side == 'model' else other}+{tmp_path / 'adapter'}"
    pair = (on_top, other) if side == "model" else (base, on_top)
    with pytest.raises(suture.UsageError, match="fold the adapters into a model first"):
        suture.vocabulary.graft(pair[0], pair[1], tmp_path / "out", trunk="ignore")


def test_no_folder_is_named_in_what_is_written(tmp_path: Path) -> None:
    """suture.json and the card name models, texts and donors without their folders, two files of one name too."""
    base, donor = model(tmp_path / "base"), model(tmp_path / "donor")
    for place in ("x", "y"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "t.txt").write_text("abc\n")
    how = suture.Settings(model_card=True)
    texts = [tmp_path / "x" / "t.txt", tmp_path / "y" / "t.txt"]
    suture.vocabulary.trim(base, tmp_path / "small", text=texts, settings=how)
    suture.vocabulary.transplant(base, donor, tmp_path / "new", method="overlap", settings=how)
    for folder in (tmp_path / "small", tmp_path / "new"):
        for name in ("suture.json", "README.md"):
            assert str(tmp_path) not in (folder / name).read_text(), (folder, name)
    said = json.loads((tmp_path / "small" / NAME).read_text())["options"]["texts"]
    assert said == {"t.txt": ["t.txt", "t.txt"]}


def test_files_of_the_sibling_alone(tmp_path: Path) -> None:
    """They stay where the plan leaves the tokenizer as it was; else they are left out, and that is told."""
    base, chat = model(tmp_path / "base"), model(tmp_path / "chat")
    (chat / "special_tokens_map.json").write_text("{}")
    suture.vocabulary.clone(base, tmp_path / "twice")
    suture.vocabulary.apply(tmp_path / "twice", chat, tmp_path / "cloned")
    assert (tmp_path / "cloned" / "special_tokens_map.json").read_text() == "{}"
    suture.vocabulary.add(base, tmp_path / "more", tokens="<x>")
    report = suture.vocabulary.apply(tmp_path / "more", chat, tmp_path / "added")
    assert [w for w in report.warnings if "special_tokens_map.json, which the plan's model lacks" in w]
    assert not (tmp_path / "added" / "special_tokens_map.json").exists()
