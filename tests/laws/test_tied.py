"""Tied tensors are one tensor, in every family, however often they are stored; untying is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.catalogue import CASES, DEFAULTS, Case, configure
from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint

ROWS, WIDTH = 40, 24


@dataclass(frozen=True)
class Family:
    """A family that ties: its table, the tensors that are copies of it, a layer, and its config."""

    table: str
    copies: tuple[str, ...]
    layer: str
    config: Mapping[str, Any]
    #: Where the config says that the head is tied, if not at its top.
    inside: str = ""
    layers: int = 2
    more: tuple[str, ...] = ()


LLAMA = "model.layers.{}.mlp.up_proj.weight"
FAMILIES: dict[str, Family] = {
    "llama": Family(
        "model.embed_tokens.weight",
        ("lm_head.weight",),
        LLAMA,
        {"model_type": "llama", "num_hidden_layers": 2, "tie_word_embeddings": True},
    ),
    "gpt-2": Family(
        "transformer.wte.weight",
        ("lm_head.weight",),
        "transformer.h.{}.mlp.c_fc.weight",
        {"model_type": "gpt2", "n_layer": 2},
    ),
    "bert": Family(
        "bert.embeddings.word_embeddings.weight",
        ("cls.predictions.decoder.weight",),
        "bert.encoder.layer.{}.output.dense.weight",
        {"model_type": "bert", "num_hidden_layers": 2},
    ),
    "roberta": Family(
        "roberta.embeddings.word_embeddings.weight",
        ("lm_head.decoder.weight",),
        "roberta.encoder.layer.{}.output.dense.weight",
        {"model_type": "roberta", "num_hidden_layers": 2},
    ),
    "distilbert": Family(
        "distilbert.embeddings.word_embeddings.weight",
        ("vocab_projector.weight",),
        "distilbert.transformer.layer.{}.ffn.lin1.weight",
        {"model_type": "distilbert", "n_layers": 2},
    ),
    "electra": Family(
        "electra.embeddings.word_embeddings.weight",
        ("generator_lm_head.weight",),
        "electra.encoder.layer.{}.output.dense.weight",
        {"model_type": "electra", "num_hidden_layers": 2},
    ),
    "albert": Family(
        "albert.embeddings.word_embeddings.weight",
        ("predictions.decoder.weight",),
        "albert.encoder.albert_layer_groups.{}.albert_layers.0.ffn.weight",
        {"model_type": "albert", "num_hidden_groups": 2, "num_hidden_layers": 12},
    ),
    "t5": Family(
        "shared.weight",
        ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"),
        "decoder.block.{}.layer.0.SelfAttention.q.weight",
        {"model_type": "t5", "num_layers": 2, "num_decoder_layers": 2, "is_encoder_decoder": True},
        more=("encoder.block.0.layer.0.SelfAttention.q.weight", "encoder.block.1.layer.0.SelfAttention.q.weight"),
    ),
    "bart": Family(
        "model.shared.weight",
        ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"),
        "model.decoder.layers.{}.fc1.weight",
        {
            "model_type": "mbart",
            "encoder_layers": 2,
            "decoder_layers": 2,
            "num_hidden_layers": 2,
            "is_encoder_decoder": True,
        },
        more=("model.encoder.layers.0.fc1.weight", "model.encoder.layers.1.fc1.weight"),
    ),
    "whisper": Family(
        "model.decoder.embed_tokens.weight",
        ("proj_out.weight",),
        "model.decoder.layers.{}.fc1.weight",
        {"model_type": "whisper", "encoder_layers": 2, "decoder_layers": 2, "is_encoder_decoder": True},
        more=("model.encoder.layers.0.fc1.weight", "model.encoder.layers.1.fc1.weight"),
    ),
    "bloom": Family(
        "transformer.word_embeddings.weight",
        ("lm_head.weight",),
        "transformer.h.{}.mlp.dense_4h_to_h.weight",
        {"model_type": "bloom", "n_layer": 2},
    ),
    "gpt-neox": Family(
        "gpt_neox.embed_in.weight",
        ("embed_out.weight",),
        "gpt_neox.layers.{}.mlp.dense_4h_to_h.weight",
        {"model_type": "gpt_neox", "num_hidden_layers": 2, "tie_word_embeddings": True},
    ),
    "opt": Family(
        "model.decoder.embed_tokens.weight",
        ("lm_head.weight",),
        "model.decoder.layers.{}.fc1.weight",
        {"model_type": "opt", "num_hidden_layers": 2},
    ),
    "mamba": Family(
        "backbone.embeddings.weight",
        ("lm_head.weight",),
        "backbone.layers.{}.mixer.out_proj.weight",
        {"model_type": "mamba", "num_hidden_layers": 2},
    ),
    "xlm": Family(
        "transformer.embeddings.weight",
        ("pred_layer.proj.weight",),
        "transformer.ffns.{}.lin1.weight",
        {"model_type": "xlm", "n_layers": 2},
    ),
    "vision and language, old names": Family(
        "language_model.model.embed_tokens.weight",
        ("language_model.lm_head.weight",),
        "language_model.model.layers.{}.mlp.up_proj.weight",
        {
            "model_type": "llava",
            "text_config": {"model_type": "llama", "num_hidden_layers": 2, "tie_word_embeddings": True},
        },
        "text_config",
        more=("vision_tower.encoder.layers.0.fc1.weight",),
    ),
    "vision and language, new names": Family(
        "model.language_model.embed_tokens.weight",
        ("lm_head.weight",),
        "model.language_model.layers.{}.mlp.up_proj.weight",
        {"model_type": "x", "text_config": {"num_hidden_layers": 2, "tie_word_embeddings": True}},
        "text_config",
        more=("model.visual.blocks.0.fc1.weight",),
    ),
    "a language model called llm": Family(
        "llm.model.embed_tokens.weight",
        ("llm.lm_head.weight",),
        "llm.model.layers.{}.mlp.up_proj.weight",
        {"model_type": "x", "llm_config": {"num_hidden_layers": 2, "tie_word_embeddings": True}},
        "llm_config",
    ),
}
#: tests/laws/test_anatomy_faults.py has the others.
KNOWN = [name for name in FAMILIES if name not in ("albert", "mamba", "xlm")]
UNTIED = [name for name in KNOWN if name != "distilbert"]
#: Methods whose masks are drawn.
RANDOM = [case for case in DEFAULTS if case.drawn]
DRAWN = [case for case in CASES if case.drawn]
LISTED = ["dare_linear", "dare_ties", "della"]


def family_of(name: str) -> Family:
    return FAMILIES[name]


def made(family: Family, seed: int, *, twice: bool, untied: bool = False) -> dict[str, Raw]:
    """A model near a common base; `twice` stores the copies too, `untied` makes them something else."""
    names = [family.table, *(family.layer.format(i) for i in range(family.layers)), *family.more]
    base, rng = np.random.default_rng(0), np.random.default_rng(seed)
    found = {n: encode(base.normal(0, 1, (ROWS, WIDTH)) + rng.normal(0, 0.1, (ROWS, WIDTH)), "F32") for n in names}
    head = encode(rng.normal(0, 1, (ROWS, WIDTH)), "F32")
    found |= dict.fromkeys(family.copies if twice else (), found[family.table])
    return found | ({family.copies[-1]: head} if untied else {})


def written(place: Path, family: Family, name: str, seed: int, **how: bool) -> Path:
    return write_checkpoint(place / name, made(family, seed, **how), config=family.config)


@pytest.mark.parametrize("listed", LISTED)
def test_the_registry_has_methods_that_draw(listed: str) -> None:
    """The laws below are over the random methods of the registry, and these are among them."""
    assert listed in [case.name for case in RANDOM]


@pytest.mark.parametrize("case", RANDOM, ids=str)
@pytest.mark.parametrize("name", KNOWN)
def test_stored_twice_is_one_tensor_for_random_masks(name: str, case: Case, place: Path) -> None:
    """A head that is its table's copy stays that copy, by every method that draws masks."""
    family = FAMILIES[name]
    twice = [written(place, family, f"m{i}", i, twice=True) for i in range(4)]
    suture.merge(configure(case, twice), place / "out")
    found = read_checkpoint(place / "out")
    table, base = found[family.table], read_checkpoint(twice[0])[family.table]
    assert table != base
    assert [n for n in family.copies if found[n] != table] == []


@pytest.mark.parametrize("case", DRAWN, ids=str)
def test_stored_once_and_twice_are_merged_alike(case: Case, place: Path) -> None:
    """What is stored twice gets the masks that it gets stored once, whatever the method is set to."""
    family = FAMILIES["llama"]
    once, twice = (
        [written(place, family, f"{how}-{i}", i, twice=how == "twice") for i in range(4)] for how in ("once", "twice")
    )
    # Words depend on labels; both have the same.
    found = []
    for number, models in enumerate((once, twice)):
        folder = place / f"set-{number}"
        folder.mkdir()
        moved = [m.rename(folder / f"m{i}") for i, m in enumerate(models)]
        suture.merge(configure(case, moved), place / f"out-{number}")
        found.append(read_checkpoint(place / f"out-{number}"))
    assert found[1][family.table] == found[0][family.table]
    if case.parameters.get("scope") != "model":
        assert {n: found[1][n] for n in found[0]} == found[0]


def some_once_some_twice(name: str, pattern: tuple[int, ...], case: Case, place: Path) -> None:
    """Merges tied models, of which some store the copy: the output has one tensor, and says so."""
    family = FAMILIES[name]
    models = [written(place, family, f"m{i}", i, twice=bool(twice)) for i, twice in enumerate(pattern)]
    suture.merge(configure(case, models), place / "out")
    found = read_checkpoint(place / "out")
    assert [n for n in family.copies if n in found and found[n] != found[family.table]] == []
    assert ties(place / "out", family)


@pytest.mark.parametrize("case", RANDOM, ids=str)
@pytest.mark.parametrize("name", ["llama", "bert", "vision and language, old names"])
def test_a_base_that_stores_twice_is_one_tensor_with_those_that_store_once(name: str, case: Case, place: Path) -> None:
    """Where all models tie, the copy that the base stores is its table's, whoever else stores it."""
    some_once_some_twice(name, (1, 0, 1, 0), case, place)


def ties(out: Path, family: Family) -> bool:
    """Whether the config says, or by its family does not deny, that the head is the embedding."""
    config = json.loads((out / "config.json").read_text())
    said = [config.get("tie_word_embeddings"), config.get(family.inside, {}).get("tie_word_embeddings")]
    return False not in said


@pytest.mark.parametrize("name", FAMILIES)
def test_a_merge_of_tied_models_is_tied(name: str, place: Path) -> None:
    """Stored once or twice, the merge of tied models has a config that ties, and no warning of a head of its own."""
    family = FAMILIES[name]
    for twice in (False, True):
        models = [written(place, family, f"m{i}-{twice}", i, twice=twice) for i in (1, 2)]
        report = suture.merge(linear(models), place / f"out-{twice}")
        found = read_checkpoint(place / f"out-{twice}")
        assert sorted(found) == sorted(read_checkpoint(models[0]))
        assert [n for n in family.copies if twice and found[n] != found[family.table]] == []
        assert ties(place / f"out-{twice}", family)
        assert not [w for w in report.warnings if "head" in w]


def linear(models: list[Path], **more: Any) -> dict[str, Any]:
    """A mean."""
    listed = [{"model": str(m), "parameters": {"weight": 0.5}} for m in models]
    return {"merge_method": "linear", "models": listed, **more}


def says_untied(out: Path, family: Family) -> None:
    """The config admits to the head, at the place where it had said otherwise, and nowhere says that it ties."""
    config = json.loads((out / "config.json").read_text())
    inner = config.get(family.inside) if family.inside else None
    assert config.get("tie_word_embeddings") is not True
    if inner is not None:
        assert inner.get("tie_word_embeddings") is False
    else:
        assert config.get("tie_word_embeddings") is False


@pytest.mark.parametrize("first", ["tied", "untied"])
@pytest.mark.parametrize("verb", ["merge", "slices", "swap"])
@pytest.mark.parametrize("name", UNTIED)
def test_tied_beside_untied_gives_a_config_that_admits_to_its_head(
    name: str, verb: str, first: str, place: Path
) -> None:
    """A tied and an untied model give one with a head of its own, and a config, nested or not, that says so."""
    family = FAMILIES[name]
    free = dict(family.config)
    if family.inside:
        free[family.inside] = {**free[family.inside], "tie_word_embeddings": False}
    else:
        free["tie_word_embeddings"] = False
    tied = written(place, family, "tied", 1, twice=False)
    untied = write_checkpoint(place / "untied", made(family, 2, twice=False, untied=True), config=free)
    models = [tied, untied] if first == "tied" else [untied, tied]
    if verb == "merge":
        suture.merge(linear(models), place / "out")
    elif verb == "slices":
        slices = [
            {"sources": [{"model": str(m), "layer_range": [0, 2], "parameters": {"weight": 0.5}} for m in models]}
        ]
        suture.merge({"merge_method": "linear", "slices": slices}, place / "out")
    else:
        suture.swap(models[0], models[1], place / "out", layers=[0], non_layer="mean")
    found, once, head = read_checkpoint(place / "out"), read_checkpoint(tied), read_checkpoint(untied)
    copy = family.copies[-1]
    wanted = (once[family.table].values().astype(np.float64) + head[copy].values()) / 2
    np.testing.assert_allclose(found[copy].values(), wanted, rtol=1e-5, atol=1e-6)
    says_untied(place / "out", family)


@pytest.mark.parametrize("name", [*UNTIED, "mamba", "xlm"])
def test_a_head_that_a_swap_gives_to_a_tied_model_unties_it(name: str, place: Path) -> None:
    """`--non-layer from` an untied donor: the head comes with it, the config admits to it, and it is told."""
    family = FAMILIES[name]
    inside = {"tie_word_embeddings": False}
    free = dict(family.config) | (
        {family.inside: {**family.config[family.inside], **inside}} if family.inside else inside
    )
    tied = written(place, family, "tied", 1, twice=False)
    untied = write_checkpoint(place / "untied", made(family, 2, twice=False, untied=True), config=free)
    report = suture.swap(tied, untied, place / "out", layers=[0], non_layer="from")
    found, head = read_checkpoint(place / "out"), read_checkpoint(untied)
    assert found[family.copies[-1]] == head[family.copies[-1]]
    says_untied(place / "out", family)
    assert any(family.copies[-1] in w for w in report.warnings)


@pytest.mark.parametrize("name", ["llama", "gpt-neox", "vision and language, old names"])
def test_untied_without_a_head_is_told(name: str, place: Path) -> None:
    """A config that does not tie, of an architecture with a head, over files without one: every verb says so."""
    family = FAMILIES[name]
    config = dict(family.config) | {"architectures": ["XForCausalLM"]}
    if family.inside:
        config[family.inside] = {**config[family.inside], "tie_word_embeddings": False}
    else:
        config["tie_word_embeddings"] = False
    models = [write_checkpoint(place / f"m{i}", made(family, i, twice=False), config=config) for i in (1, 2)]
    assert any("head" in w for w in suture.inspect(models[0])["warnings"])
    report = suture.merge(linear(models), place / "out")
    assert any("head" in w for w in report.warnings)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_tied_model_that_is_stacked_stays_tied(name: str, place: Path) -> None:
    """Layers on top of each other leave the tie as it was, stored once or twice."""
    family = FAMILIES[name]
    for twice in (False, True):
        model = written(place, family, f"m-{twice}", 1, twice=twice)
        slices = [{"sources": [{"model": str(model), "layer_range": [a, b]}]} for a, b in ((0, 2), (1, 2))]
        how = suture.Settings(allow_mixed=True)
        suture.merge({"merge_method": "passthrough", "slices": slices}, place / f"out-{twice}", settings=how)
        assert ties(place / f"out-{twice}", family)
        found = read_checkpoint(place / f"out-{twice}")
        assert [n for n in family.copies if n in found and found[n] != found[family.table]] == []
