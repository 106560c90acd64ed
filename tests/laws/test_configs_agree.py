"""Models whose layers come together agree in what these rely on, or it is told or refused; and their tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint

LAYERS = 4
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": LAYERS,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "head_dim": 4,
}


def plain(seed: int, prefix: str = "model.") -> dict[str, Raw]:
    rng = np.random.default_rng(seed)
    names = [f"{prefix}embed_tokens.weight", f"{prefix}norm.weight"]
    names += [f"{prefix}layers.{i}.mlp.up_proj.weight" for i in range(LAYERS)]
    return {n: encode(rng.normal(0, 1, (6, 8)), "F32") for n in names}


Verb = Callable[[Path, Path, Path, suture.Settings], suture.Report]


def entries(*models: Path, **more: Any) -> list[dict[str, Any]]:
    return [{"model": str(m), "parameters": {"weight": 0.5}, **more} for m in models]


VERBS: dict[str, Verb] = {
    "swap": lambda a, b, out, s: suture.swap(a, b, out, layers="0", settings=s),
    "swap, mean": lambda a, b, out, s: suture.swap(a, b, out, layers="0", non_layer="mean", settings=s),
    "revert": lambda a, b, out, s: suture.revert(b, a, out, layers="0", settings=s),
    "merge": lambda a, b, out, s: suture.merge({"merge_method": "linear", "models": entries(a, b)}, out, settings=s),
    "onto a base": lambda a, b, out, s: suture.merge(
        {"merge_method": "task_arithmetic", "base_model": str(a), "models": entries(b)}, out, settings=s
    ),
    "slices": lambda a, b, out, s: suture.merge(
        {"merge_method": "linear", "slices": [{"sources": entries(a, b, layer_range=[0, LAYERS])}]}, out, settings=s
    ),
    "stacked in place": lambda a, b, out, s: suture.merge(
        {
            "merge_method": "passthrough",
            "slices": [
                {"sources": [{"model": str(a), "layer_range": [0, 2]}]},
                {"sources": [{"model": str(b), "layer_range": [2, LAYERS]}]},
            ],
        },
        out,
        settings=s,
    ),
    "modules": lambda a, b, out, s: suture.merge(
        {"merge_method": "linear", "modules": {"default": {"models": entries(a, b)}}}, out, settings=s
    ),
}
#: What differs, and how: told.
TOLD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rope_theta": ({"rope_theta": 10000.0}, {"rope_theta": 1000000.0}),
    "rope_theta, whole": ({"rope_theta": 10000.0}, {"rope_theta": 500000}),
    "rope_parameters": (
        {"rope_theta": None, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
        {"rope_theta": None, "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}},
    ),
    "rope_scaling": (
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    ),
    "rms_norm_eps": ({"rms_norm_eps": 1e-5}, {"rms_norm_eps": 1e-6}),
    "layer_norm_epsilon": (
        {"rms_norm_eps": None, "layer_norm_epsilon": 1e-5},
        {"rms_norm_eps": None, "layer_norm_epsilon": 1e-12},
    ),
    "attn_logit_softcapping": ({"attn_logit_softcapping": 50.0}, {"attn_logit_softcapping": 30.0}),
}
#: What makes layers meaningless in the other model.
BREAKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "hidden_act": ({"hidden_act": "silu"}, {"hidden_act": "gelu"}),
    "hidden_act, relu": ({"hidden_act": "relu"}, {"hidden_act": "gelu_new"}),
    "head_dim": ({"head_dim": 4}, {"head_dim": 8}),
    "do_layer_norm_before": ({"do_layer_norm_before": True}, {"do_layer_norm_before": False}),
    "layer_types": (
        {"layer_types": ["full_attention"] * LAYERS},
        {"layer_types": ["sliding_attention", *["full_attention"] * (LAYERS - 1)], "sliding_window": 16},
    ),
    "layer_types, linear": (
        {"model_type": "qwen3_next", "layer_types": ["linear_attention", "full_attention"] * 2},
        {"model_type": "qwen3_next", "layer_types": ["full_attention", "linear_attention"] * 2},
    ),
}


def write(place: Path, name: str, seed: int, config: Mapping[str, Any], nested: bool) -> Path:
    """A model, whose config may be that of a language model inside of another."""
    own = {k: v for k, v in {**LLAMA, **config}.items() if v is not None}
    if not nested:
        return write_checkpoint(place / name, plain(seed), config=own)
    inner = {"model_type": "llava", "text_config": own, "vision_config": {"num_hidden_layers": 9}}
    return write_checkpoint(place / name, plain(seed, "language_model.model."), config=inner)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("what", TOLD)
def test_what_differs_is_told(what: str, verb: str, nested: bool, place: Path) -> None:
    """rope_theta, epsilons and the like that differ: a warning with the key and both values; the work goes on."""
    a, b = (write(place, n, i, c, nested) for i, (n, c) in enumerate(zip("ab", TOLD[what], strict=True)))
    report = VERBS[verb](a, b, place / "out", suture.Settings())
    key = what.partition(",")[0]
    told = [w for w in report.warnings if key in w or (key == "rope_parameters" and "rope_theta" in w)]
    assert told, report.warnings
    config = json.loads((place / "out" / "config.json").read_text())
    mine = json.loads((a / "config.json").read_text())
    assert (config["text_config"] if nested else config).get(key) == (mine["text_config"] if nested else mine).get(key)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("what", BREAKS)
def test_what_makes_layers_meaningless_is_an_error(what: str, verb: str, nested: bool, place: Path) -> None:
    """Another activation, other kinds of layers, heads or places of norms: refused; `--allow-mixed` tells."""
    a, b = (write(place, n, i, c, nested) for i, (n, c) in enumerate(zip("ab", BREAKS[what], strict=True)))
    known = {p.name for p in place.iterdir()}
    key = what.partition(",")[0]
    if verb in ("stacked in place", "slices") and key == "layer_types":
        pytest.skip("tests/laws/test_anatomy_faults.py has slices; stacked, the config says which layers are which")
    with pytest.raises(suture.SutureError, match=f"{key}|--allow-mixed"):
        VERBS[verb](a, b, place / "out", suture.Settings())
    assert {p.name for p in place.iterdir()} == known
    report = VERBS[verb](a, b, place / "out", suture.Settings(allow_mixed=True))
    assert any(key in w or "kind" in w for w in report.warnings)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "pair",
    [
        ({}, {}),
        ({"hidden_act": "silu"}, {"hidden_act": "swish"}),
        ({"rope_theta": 10000.0}, {"rope_theta": 10000}),
        ({"_name_or_path": "a"}, {"_name_or_path": "b"}),
        ({"transformers_version": "4.1"}, {"transformers_version": "5.0"}),
        ({"use_cache": True}, {"use_cache": False}),
        ({"torch_dtype": "float32"}, {"dtype": "float32"}),
        ({"rope_theta": 1e4}, {"rope_theta": None, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}),
    ],
    ids=str,
)
def test_what_means_the_same_is_not_told(pair: tuple[dict[str, Any], dict[str, Any]], verb: str, place: Path) -> None:
    """Other words for the same, and keys of no consequence, are no warning."""
    a, b = (write(place, n, i, c, False) for i, (n, c) in enumerate(zip("ab", pair, strict=True)))
    assert not VERBS[verb](a, b, place / "out", suture.Settings()).warnings


def test_a_model_without_a_config_cannot_disagree(place: Path) -> None:
    """Where a model has no config.json, nothing is told and nothing refused."""
    a = write(place, "a", 0, {}, False)
    b = write_checkpoint(place / "b", plain(1))
    for i, verb in enumerate(VERBS.values()):
        verb(a, b, place / f"out-{i}", suture.Settings())


WORDS = ["<s>", "</s>", "the", "of", "and", "in"]


def tokenizer(words: list[str]) -> dict[str, str]:
    vocabulary = {w: i for i, w in enumerate(words)}
    return {
        "tokenizer.json": json.dumps({"model": {"vocab": vocabulary}, "added_tokens": []}),
        "tokenizer_config.json": json.dumps({"model_max_length": len("".join(words))}),
    }


def as_vocab(words: list[str]) -> dict[str, str]:
    return {"vocab.json": json.dumps({w: i for i, w in enumerate(words)}), "merges.txt": "#version\n"}


def as_text(words: list[str]) -> dict[str, str]:
    return {"vocab.txt": "\n".join(words) + "\n"}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", [tokenizer, as_vocab, as_text])
@pytest.mark.parametrize(
    ("other", "count"),
    [
        (WORDS, 0),
        ([*WORDS, "more"], 0),
        (WORDS[:4], 0),
        ([*WORDS[:2], "ya", "na", *WORDS[4:]], 2),
        (WORDS[::-1], len(WORDS)),
    ],
    ids=str,
)
def test_other_words_at_the_same_ids_are_counted(
    other: list[str], count: int, kind: Callable[[list[str]], dict[str, str]], verb: str, place: Path
) -> None:
    """Tokenizers that have other words at the same ids: a warning with the count, and none where they agree."""
    a = write_checkpoint(place / "a", plain(0), config=LLAMA, files=kind(WORDS))
    b = write_checkpoint(place / "b", plain(1), config=LLAMA, files=kind(other))
    report = VERBS[verb](a, b, place / "out", suture.Settings())
    told = [w for w in report.warnings if "token" in w]
    assert len(told) == (count > 0), report.warnings
    assert all(f"{count}" in w for w in told)


@pytest.mark.parametrize("non_layer", ["into", "from", "mean", "base"])
def test_the_tokenizer_goes_with_the_embedding(non_layer: str, place: Path) -> None:
    """`--non-layer from` takes the donor's tokenizer files, all and no others; else they are the recipient's."""
    own, other = (
        tokenizer(WORDS) | {"chat_template.jinja": "a"},
        tokenizer(WORDS[::-1]) | {"special_tokens_map.json": "{}"},
    )
    a = write_checkpoint(place / "a", plain(0), config=LLAMA, files=own | {"generation_config.json": '{"a": 1}'})
    b = write_checkpoint(place / "b", plain(1), config=LLAMA, files=other | {"generation_config.json": '{"a": 2}'})
    suture.swap(a, b, place / "out", layers="0", non_layer=non_layer, base=a)
    found = {p.name: p.read_text() for p in (place / "out").iterdir() if p.suffix in (".json", ".jinja")}
    wanted = other if non_layer == "from" else own
    assert {n: found.get(n) for n in own | other} == {n: wanted.get(n) for n in own | other}
    assert found["generation_config.json"] == '{"a": 1}'
    embedding = "model.embed_tokens.weight"
    lender = plain(1 if non_layer == "from" else 0)[embedding]
    assert (read_checkpoint(place / "out")[embedding] == lender) == (non_layer != "mean")


def test_a_reset_of_what_is_outside_takes_the_bases_tokenizer(place: Path) -> None:
    """`revert --outside` puts the base's embedding back, and its tokenizer with it."""
    a = write_checkpoint(place / "a", plain(0), config=LLAMA, files=tokenizer(WORDS))
    b = write_checkpoint(place / "b", plain(1), config=LLAMA, files=tokenizer(WORDS[::-1]))
    suture.revert(b, a, place / "out", layers="0", outside=True)
    assert (place / "out" / "tokenizer.json").read_text() == tokenizer(WORDS[::-1])["tokenizer.json"]


@pytest.mark.parametrize("broken", ["", "[]", "null", "{", '{"model": 3}', '{"model": {"vocab": 3}}', "\ud800"])
def test_a_tokenizer_that_cannot_be_read_stops_nothing(broken: str, place: Path) -> None:
    """The weights do not need it: no error, and no count that is made up."""
    a = write_checkpoint(place / "a", plain(0), config=LLAMA, files=tokenizer(WORDS))
    b = write_checkpoint(place / "b", plain(1), config=LLAMA)
    (b / "tokenizer.json").write_bytes(broken.encode("utf-8", "surrogatepass"))
    report = suture.swap(a, b, place / "out", layers="0")
    assert not [w for w in report.warnings if "token" in w]
