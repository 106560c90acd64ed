"""Tensors that models need not share: buffers, what is left out by name, and other names of one family."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.catalogue import DEFAULTS, Case, configure
from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint

LAYERS = 3


def plain(seed: int, prefix: str = "model.", head: str = "lm_head.weight") -> dict[str, Raw]:
    """A small model near a common one."""
    names = [f"{prefix}embed_tokens.weight", f"{prefix}norm.weight", head]
    names += [f"{prefix}layers.{i}.{n}.weight" for i in range(LAYERS) for n in ("mlp.up_proj", "self_attn.q_proj")]
    base, rng = np.random.default_rng(0), np.random.default_rng(seed)
    return {n: encode(base.normal(0, 1, (6, 8)) + rng.normal(0, 0.1, (6, 8)), "F32") for n in names}


#: Buffers by name, each in two lengths.
BUFFERS: dict[str, tuple[Raw, Raw]] = {
    "model.rotary_emb.inv_freq": (encode(np.ones(4), "F32"), encode(np.ones(8), "F32")),
    "model.layers.1.self_attn.rotary_emb.inv_freq": (encode(np.ones(4), "F32"), encode(np.ones(8), "F32")),
    "model.embeddings.position_ids": (encode(np.arange(5)[None], "I64"), encode(np.arange(7)[None], "I64")),
    "model.layers.0.attn.bias": (
        encode(np.tri(4)[None, None] > 0, "BOOL"),
        encode(np.tri(6)[None, None] > 0, "BOOL"),
    ),
    "model.layers.0.attn.masked_bias": (encode(np.asarray(-1e4), "F32"), encode(np.asarray([-1e4]), "F32")),
}
#: What a model has of a buffer: one length, the other, or nothing.
HAVE = (0, 1, None)


def written(place: Path, name: str, tensors: Mapping[str, Raw]) -> Path:
    return write_checkpoint(place / name, tensors, config={"model_type": "llama", "num_hidden_layers": LAYERS})


def linear(models: Sequence[Path], **more: Any) -> dict[str, Any]:
    """A mean."""
    listed = [{"model": str(m), "parameters": {"weight": 0.5}} for m in models]
    return {"merge_method": "linear", "models": listed, **more}


def swap(models: Sequence[Path], out: Path, **how: Any) -> suture.Report:
    return suture.swap(models[0], models[1], out, **how)


def sliced(models: Sequence[Path], out: Path) -> suture.Report:
    slices = [
        {"sources": [{"model": str(m), "layer_range": [a, b], "parameters": {"weight": 0.5}} for m in models]}
        for a, b in ((0, 1), (1, LAYERS))
    ]
    return suture.merge({"merge_method": "linear", "slices": slices}, out)


VERBS: dict[str, Callable[[Sequence[Path], Path], suture.Report]] = {
    "merge": lambda models, out: suture.merge(linear(models), out),
    "slices": sliced,
    "swap": lambda models, out: swap(models, out, layers=[0, 1]),
    "swap, from": lambda models, out: swap(models, out, layers=[0, 1], non_layer="from"),
    "swap, mean": lambda models, out: swap(models, out, layers="0-2", non_layer="mean"),
    "revert": lambda models, out: suture.revert(models[1], models[0], out, layers=[0, 1], outside=True),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("have", [h for h in itertools.product(HAVE, HAVE) if h[0] != h[1]], ids=str)
@pytest.mark.parametrize("buffer", BUFFERS)
def test_a_buffer_that_is_not_in_all_models_stays_as_the_first_has_it(
    buffer: str, have: tuple[int | None, int | None], verb: str, place: Path
) -> None:
    """A buffer that a model lacks, or has in another length, is the recipient's or the first model's, and is told."""
    models = []
    for i, which in enumerate(have):
        own = {} if which is None else {buffer: BUFFERS[buffer][which]}
        models.append(written(place, f"m{i}", plain(i) | own))
    report = VERBS[verb](models, place / "out")
    found = read_checkpoint(place / "out")
    assert found.get(buffer) == (None if have[0] is None else BUFFERS[buffer][have[0]])
    assert sorted(set(found) - {buffer}) == sorted(plain(0))
    # A swap that leaves what is outside alone has nothing to tell of it.
    if verb != "swap" or ".layers." in buffer:
        assert [w for w in report.warnings if buffer in w], report.warnings


@pytest.mark.parametrize("case", [c for c in DEFAULTS if c.name != "passthrough"], ids=str)
@pytest.mark.parametrize("base", HAVE, ids=str)
def test_by_every_method_buffers_stay_the_bases(base: int | None, case: Case, place: Path) -> None:
    """Whatever the method, a buffer that models differ in is as the base, or the first model, has it."""
    models = []
    for i, which in enumerate((base, 0, 1, None)):
        own = {} if which is None else {n: b[which] for n, b in BUFFERS.items()}
        models.append(written(place, f"m{i}", plain(i) | own))
    config = configure(case, models)
    config.pop("exclude", None)
    suture.merge(config, place / "out")
    found = read_checkpoint(place / "out")
    first = read_checkpoint(Path(config.get("base_model", config["models"][0]["model"])))
    assert {n: found.get(n) for n in BUFFERS} == {n: first.get(n) for n in BUFFERS}


EXTRA = {"visual_head.weight": encode(np.ones((3, 3)), "F32"), "model.layers.1.extra.weight": encode(np.ones(3), "F32")}


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("who", [0, 1, 2])
def test_what_is_excluded_need_not_be_in_all_models_in_any_order(who: int, first: int, place: Path) -> None:
    """`exclude` leaves out what one model alone has, wherever it is listed; the first model's own stays."""
    models = [written(place, f"m{i}", plain(i) | (EXTRA if i == who else {})) for i in range(3)]
    order = models[first:] + models[:first]
    with pytest.raises(suture.SutureError):
        suture.merge(linear(order), place / "none")
    suture.merge(linear(order, exclude=["visual_head", "extra"]), place / "out")
    found = read_checkpoint(place / "out")
    assert {n: raw for n, raw in found.items() if n in EXTRA} == (EXTRA if who == first else {})
    assert sorted(set(found) - set(EXTRA)) == sorted(plain(0))


@pytest.mark.parametrize("non_layer", ["into", "from", "mean", "base"])
@pytest.mark.parametrize("who", [0, 1, 2])
def test_what_is_ignored_need_not_be_in_all_models(who: int, non_layer: str, place: Path) -> None:
    """`--ignore` in swaps and resets: what is left out stays the recipient's, and need not be anywhere else."""
    into, donor, base = (written(place, f"m{i}", plain(i) | (EXTRA if i == who else {})) for i in range(3))
    how: dict[str, Any] = {"layers": [1], "non_layer": non_layer, "base": base}
    for i, ignore in enumerate(("visual_head,extra", ["visual_head", "extra"], "glob:*extra*,visual_head.weight")):
        suture.swap(into, donor, place / f"out-{i}", ignore=ignore, **how)
        found = read_checkpoint(place / f"out-{i}")
        assert {n: raw for n, raw in found.items() if n in EXTRA} == (EXTRA if who == 0 else {})
    if who < 2:
        suture.revert(donor, into, place / "reset", layers=[1], outside=True, ignore="visual_head,extra")
        found = read_checkpoint(place / "reset")
        assert {n: raw for n, raw in found.items() if n in EXTRA} == (EXTRA if who == 0 else {})


def test_ignored_is_the_recipients_though_the_donor_has_it(place: Path) -> None:
    """What is left out stays as it is even where both models have it."""
    into, donor = (written(place, f"m{i}", plain(i)) for i in range(2))
    suture.swap(into, donor, place / "out", layers="0-2", non_layer="from", ignore="q_proj,lm_head")
    found, own, other = (read_checkpoint(p) for p in (place / "out", into, donor))
    for name, raw in found.items():
        assert raw == (own if "q_proj" in name or "lm_head" in name else other)[name], name


@pytest.mark.parametrize("verb", ["merge", "swap", "revert"])
@pytest.mark.parametrize("missing", [1, 4])
def test_the_error_for_what_is_missing_counts(missing: int, verb: str, place: Path) -> None:
    """Tensors that models do not share are named, counted, and the way out is told."""
    extra = {f"model.layers.{i % LAYERS}.extra{i}.weight": encode(np.ones(3), "F32") for i in range(missing)}
    models = [written(place, "m0", plain(0) | extra), written(place, "m1", plain(1))]
    calls: dict[str, Callable[[], Any]] = {
        "merge": lambda: suture.merge(linear(models), place / "out"),
        "swap": lambda: suture.swap(models[0], models[1], place / "out", layers="0-2"),
        "revert": lambda: suture.revert(models[1], models[0], place / "out", layers="0-2"),
    }
    with pytest.raises(suture.SutureError) as e:
        calls[verb]()
    assert "extra" in str(e.value)
    assert re.search(r"--ignore|`exclude`", str(e.value))
    assert missing == 1 or re.search(rf"\b{missing}\b", str(e.value))


@pytest.mark.parametrize(("one", "other"), [("model.", "transformer.model."), ("model.", "")])
def test_names_that_differ_by_a_prefix_are_matched(one: str, other: str, place: Path) -> None:
    """The output has the names of the model that lends its config, and the plan says by what others differ."""
    models = [written(place, f"m{i}", plain(i, p, f"{p}lm_head.weight")) for i, p in enumerate((one, other))]
    for i, listed in enumerate((models, models[::-1])):
        report = suture.merge(linear(listed), place / f"out{i}")
        assert set(suture.open(place / f"out{i}").names) == set(suture.open(listed[0]).names)
        assert [title for title, _ in report.data["notes"]].count("names") == 1


#: Beginnings of names, old and new, of one family: language model, head, tower.
OLD = {"text": "language_model.model.", "head": "language_model.lm_head.weight", "tower": "vision_tower.", "join": ""}
NEW = {"text": "model.language_model.", "head": "lm_head.weight", "tower": "model.vision_tower.", "join": "model."}


def multimodal(seed: int, names: Mapping[str, str]) -> dict[str, Raw]:
    """A model with a tower, by old or new names; the values do not depend on these."""
    tensors = plain(seed, names["text"], names["head"])
    rng = np.random.default_rng(seed + 100)
    for name in ("encoder.layers.0.fc1.weight", "encoder.layers.1.fc1.weight", "patch_embedding.weight"):
        tensors[names["tower"] + name] = encode(rng.normal(0, 1, (4, 4)), "F32")
    tensors[f"{names['join']}multi_modal_projector.linear_1.weight"] = encode(rng.normal(0, 1, (4, 4)), "F32")
    return tensors


WORKS: dict[str, Callable[[Path, Path, Path], Any]] = {
    "merge": lambda a, b, out: suture.merge(linear([a, b]), out),
    "task_arithmetic": lambda a, b, out: suture.merge(
        {**linear([b]), "merge_method": "task_arithmetic", "base_model": str(a)}, out
    ),
    "dare_ties": lambda a, b, out: suture.merge(
        {**linear([b]), "merge_method": "dare_ties", "base_model": str(a), "parameters": {"density": 0.5}}, out
    ),
    "swap": lambda a, b, out: suture.swap(a, b, out, layers=[0]),
    "swap of the tower": lambda a, b, out: suture.swap(a, b, out, layers="vision_tower:0"),
    "swap, from": lambda a, b, out: suture.swap(a, b, out, layers=[0], non_layer="from"),
    "swap, mean": lambda a, b, out: suture.swap(a, b, out, layers=[0], non_layer="mean"),
    "swap, modules": lambda a, b, out: suture.swap(a, b, out, layers=[0], modules="mlp"),
    "swap, auto": lambda a, b, out: suture.swap(a, b, out, base=a, auto="layer"),
    "revert": lambda a, b, out: suture.revert(b, a, out, layers=[0, 1], outside=True),
}


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("old_first", [False, True])
def test_old_and_new_names_of_one_family_match(old_first: bool, work: str, place: Path) -> None:
    """`language_model.model.` against `model.language_model.`: the output is that of models named alike."""
    named_otherwise(old_first, WORKS[work], place)


def named_otherwise(old_first: bool, work: Callable[[Path, Path, Path], Any], place: Path) -> None:
    """Does a work on two models named alike, and on the same with one named otherwise."""
    config = {
        "model_type": "llava",
        "text_config": {"model_type": "llama", "num_hidden_layers": LAYERS},
        "vision_config": {"num_hidden_layers": 2},
    }
    first, second = (OLD, NEW) if old_first else (NEW, OLD)
    folders = {}
    for folder, names in (("alike", first), ("mixed", second)):
        (place / folder).mkdir()
        folders[folder] = [
            write_checkpoint(place / folder / f"m{i}", multimodal(i, n), config=config)
            for i, n in enumerate((first, names))
        ]
        work(folders[folder][0], folders[folder][1], place / f"out-{folder}")
    assert read_checkpoint(place / "out-mixed") == read_checkpoint(place / "out-alike")
    mixed, alike = (suture.diff(*folders[f])["models"][0] for f in ("mixed", "alike"))
    assert mixed["only_base"] == mixed["only_tuned"] == []
    assert mixed["layers"] == alike["layers"]
    assert mixed["total"] == alike["total"]
