"""Hostile names of layers and configs of nonsense: an answer or an error of ours, and soon."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture.analysis.layers import frozen, listed_layers, moved

from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint
from ..support.refusals import refusal

#: What anything on headers alone may take, in seconds, on a busy machine.
SOON = 4.0


def tensors(names: Iterable[str], seed: int = 1) -> dict[str, Raw]:
    rng = np.random.default_rng(seed)
    return {n: encode(rng.normal(1, 0.2, (2, 3)), "F32") for n in names}


#: Names of tensors of which anybody's stacks are made.
HOSTILE: dict[str, list[str]] = {
    "called outside": [f"outside.layers.{i}.w.weight" for i in range(2)]
    + [f"model.layers.{i}.w.weight" for i in range(3)],
    "called -": [f"-.layers.{i}.w.weight" for i in range(2)] + [f"model.layers.{i}.w.weight" for i in range(3)],
    "called main": [f"main.layers.{i}.w.weight" for i in range(2)] + [f"model.layers.{i}.w.weight" for i in range(3)],
    "called 0": [f"0.layers.{i}.w.weight" for i in range(2)] + [f"model.layers.{i}.w.weight" for i in range(3)],
    "called 0-1": [f"0-1.layers.{i}.w.weight" for i in range(2)] + [f"model.layers.{i}.w.weight" for i in range(3)],
    "with a colon": [f"a:b.layers.{i}.w.weight" for i in range(2)] + [f"model.layers.{i}.w.weight" for i in range(3)],
    "with a comma": [f"a,b.layers.{i}.w.weight" for i in range(2)] + [f"model.layers.{i}.w.weight" for i in range(3)],
    "a colon and a number": [f"model:0.layers.{i}.w.weight" for i in range(2)]
    + [f"model.layers.{i}.w.weight" for i in range(3)],
    "empty words": [f"..layers.{i}.w.weight" for i in range(2)] + [f"layers.{i}.w.weight" for i in range(3)],
    "an empty word before": [f".layers.{i}.w.weight" for i in range(2)] + [f"a.layers.{i}.w.weight" for i in range(3)],
    "spaces": [f" .layers.{i}.w.weight" for i in range(2)] + [f"model.layers.{i}.w.weight" for i in range(3)],
    "not of this alphabet": [f"ü\u202e.layers.{i}.w" for i in range(2)] + [f"模型.layers.{i}.w" for i in range(3)],
    "control": [f"\x1b[31m.layers.{i}.w" for i in range(2)] + [f"\n.layers.{i}.w" for i in range(3)],
    "nothing behind the number": ["model.layers.0.", "model.layers.1.", "model.layers.2.x"],
    "a number with zeros": ["model.layers.00.w", "model.layers.1.w", "model.layers.2.w"],
    "a number twice": ["model.layers.0.w", "model.layers.00.w", "model.layers.1.w"],
    "a prefix of another": [f"a.layers.{i}.w" for i in range(2)]
    + [f"a.layers.{i}.layers.{j}.w" for i in range(2) for j in range(3)],
    "the same words": [f"a.b.layers.{i}.w" for i in range(2)] + [f"b.a.layers.{i}.w" for i in range(3)],
    "nothing but predictions": [f"model.layers.{i}.eh_proj.weight" for i in range(3)],
    "one layer far off": ["model.layers.99999.w", "model.layers.0.w"],
    "numbers beyond all layers": ["model.layers.100000.w", "model.layers.184467440737095516160.w", "model.layers.0.w"],
    "layers of layers": ["layers.0.layers.0.layers.0.w", "layers.1.layers.0.layers.0.w"],
    "attentions and layers": ["t.attentions.0.w", "t.layers.0.w", "t.attentions.1.w", "t.layers.1.w", "t.ffns.0.w"],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_every_stack_can_be_named_and_cut(name: str, place: Path) -> None:
    """Names tell stacks apart, whatever they hold: each can be swapped and compared by the name it is given."""
    into = write_checkpoint(place / "into", tensors(HOSTILE[name], 1))
    donor = write_checkpoint(place / "donor", tensors(HOSTILE[name], 2))
    stacks = suture.inspect(into)["stacks"]
    labels = [s["name"] for s in stacks]
    assert len(set(labels)) == len(labels)
    assert sum(s["main"] for s in stacks) <= 1
    found = suture.diff(into, donor)
    named = {row["layer"] for row in found["models"][0]["layers"]}
    seen: dict[str, set[str]] = {}
    for number, stack in enumerate(stacks):
        last = stack["layers"] - 1
        out = place / f"out-{number}"
        suture.swap(into, donor, out, layers=[last], stack=stack["name"])
        made, own, other = (read_checkpoint(p) for p in (out, into, donor))
        changed = {n for n in made if made[n] != own[n]}
        assert changed
        assert {n: made[n] for n in changed} == {n: other[n] for n in changed}
        seen[stack["name"]] = changed
        label = str(last) if stack["main"] else f"{stack['name']}:{last}"
        assert label in named
        rows = {t["name"] for t in found["models"][0]["tensors"] if t["layer"] == label}
        assert rows == changed
    assert len(set().union(*seen.values())) == sum(map(len, seen.values()))


@pytest.mark.parametrize("name", HOSTILE)
def test_layers_are_listed_by_the_names_that_inspect_tells(name: str, place: Path) -> None:
    """`NAME:0` means layer 0 of the stack of that name, in `--frozen`, `--trained` and `--layers`; or is refused."""
    into = write_checkpoint(place / "into", tensors(HOSTILE[name], 1))
    for number, stack in enumerate(suture.inspect(into)["stacks"]):
        if not stack["name"].strip() or "," in stack["name"]:
            continue  # Nothing can be listed that way; `--stack` can.
        own = tensors(HOSTILE[name], 1)
        last = stack["layers"] - 1
        other = tensors(HOSTILE[name], 2)
        donor = write_checkpoint(place / f"donor-{number}", other)
        suture.swap(into, donor, place / f"a-{number}", layers=[last], stack=stack["name"])
        suture.swap(into, donor, place / f"b-{number}", layers=f"{stack['name']}:{last}")
        made = read_checkpoint(place / f"b-{number}")
        assert made == read_checkpoint(place / f"a-{number}")
        found = suture.diff(into, place / f"b-{number}")
        listed = listed_layers(into, f"{stack['name']}:{last}")
        moved(found, listed)
        with pytest.raises(suture.SutureError, match="changes in"):
            frozen(found, listed)
        assert {n for n in made if made[n] != own[n]}
        frozen(found, listed_layers(into, "outside"))


def soon(call: Callable[[], Any]) -> Any:
    """What a call gives, or the error of ours it ends in; within the time."""
    began = time.monotonic()
    try:
        return call()
    except suture.SutureError as e:
        return str(e)
    finally:
        assert time.monotonic() - began < SOON


LARGE: dict[str, Callable[[], list[str]]] = {
    "20,000 stacks of one layer": lambda: [f"s{i}.layers.0.w" for i in range(20_000)],
    "20,000 stacks of predictions": lambda: [f"s{i}.layers.{n}" for i in range(10_000) for n in ("0.w", "1.eh_proj.w")],
    "a stack of 20,000 layers": lambda: [f"model.layers.{i}.w" for i in range(20_000)],
    "99,999 layers, all but two missing": lambda: ["model.layers.99998.w", "model.layers.0.w"],
    "500 stacks of 99,999 layers, missing": lambda: [f"s{i}.layers.{n}.w" for i in range(500) for n in (0, 99_998)],
}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    made: dict[str, tuple[Path, Path]] = {}

    def get(name: str) -> tuple[Path, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp("large")
            raw = encode(np.ones(1), "F32")
            both = [write_checkpoint(folder / n, dict.fromkeys(LARGE[name](), raw)) for n in "ab"]
            made[name] = both[0], both[1]
        return made[name]

    return get


@pytest.mark.parametrize("verb", ["inspect", "swap", "named", "merge", "slices", "listed"])
@pytest.mark.parametrize("name", LARGE)
def test_many_stacks_and_layers_take_no_time(
    name: str, verb: str, large: Callable[[str], tuple[Path, Path]], place: Path
) -> None:
    """Headers of 20,000 stacks or of 99,999 layers are planned within a second or two."""
    a, b = large(name)
    ranged = [{"sources": [{"model": str(m), "layer_range": [0, 1], "parameters": {"weight": 0.5}} for m in (a, b)]}]
    listed = [{"model": str(m), "parameters": {"weight": 0.5}} for m in (a, b)]
    calls: dict[str, Callable[[], Any]] = {
        "inspect": lambda: suture.inspect(a),
        "swap": lambda: suture.swap(a, b, place / "out", layers="0", dry_run=True),
        "named": lambda: suture.swap(a, b, place / "out", layers="0", stack="s7", non_layer="mean", dry_run=True),
        "merge": lambda: suture.merge({"merge_method": "linear", "models": listed}, place / "out", dry_run=True),
        "slices": lambda: suture.merge(
            {"merge_method": "linear", "slices": ranged, "stack": "s7"}, place / "out", dry_run=True
        ),
        "listed": lambda: listed_layers(a, "s7:0,outside"),
    }
    soon(calls[verb])


NONSENSE: list[Any] = [
    [],
    None,
    3,
    "x",
    {},
    {"num_hidden_layers": "4"},
    {"num_hidden_layers": "four"},
    {"num_hidden_layers": -1},
    {"num_hidden_layers": 0},
    {"num_hidden_layers": 99_999},
    {"num_hidden_layers": 2**64},
    {"num_hidden_layers": 10**30},
    {"num_hidden_layers": 3.0},
    {"num_hidden_layers": 1e308},
    {"num_hidden_layers": True},
    {"num_hidden_layers": []},
    {"num_hidden_layers": [3]},
    {"num_hidden_layers": {"a": 3}},
    {"num_hidden_layers": None},
    {"depths": [2, 2]},
    {"layers_block_type": "MMM"},
    {"hybrid_override_pattern": "M-*"},
    {"num_hidden_layers": 3, "num_attention_heads": -4},
    {"num_hidden_layers": 3, "num_attention_heads": "4"},
    {"num_hidden_layers": 3, "num_attention_heads": 0},
    {"num_hidden_layers": 3, "num_attention_heads": 2**62, "num_key_value_heads": 2**62},
    {"num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 2},
    {"num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 0},
    {"num_hidden_layers": 3, "num_attention_heads": 2, "head_dim": -1},
    {"num_hidden_layers": 3, "num_nextn_predict_layers": 2**63},
    {"num_hidden_layers": 3, "num_nextn_predict_layers": -1},
    {"num_hidden_layers": 2, "num_nextn_predict_layers": 99},
    {"num_hidden_layers": 3, "model_type": 3, "architectures": "x"},
    {"num_hidden_layers": 3, "architectures": [3, None]},
    {"num_hidden_layers": 3, "tie_word_embeddings": "yes"},
    {"num_hidden_layers": 3, "text_config": 3, "vision_config": []},
    {"text_config": {"num_hidden_layers": -3}, "llm_config": {"num_hidden_layers": 3}},
    {"text_config": {"text_config": {"text_config": {"text_config": {"num_hidden_layers": 3}}}}},
    {"num_hidden_layers": 3, "layer_types": "full"},
    {"num_hidden_layers": 3, "layer_types": ["full_attention"]},
    {"num_hidden_layers": 3, "layer_types": [3, None, {}]},
    {"num_hidden_layers": 3, "rope_theta": "x", "rope_parameters": 3, "hidden_act": 3, "head_dim": "x"},
    {"num_hidden_layers": 3, "rope_theta": {}, "rms_norm_eps": []},
    {"num_hidden_layers": 3, "quantization_config": 3},
    {"num_hidden_layers": 3, "quantization_config": {"quant_method": []}},
    {"num_hidden_layers": 3, "is_encoder_decoder": "x"},
    {"num_layers": 3, "num_hidden_layers": 5, "n_layer": 7},
]
CALLS: dict[str, Callable[[Path, Path, Path], Any]] = {
    "inspect": lambda a, b, out: suture.inspect(a),
    "diff": lambda a, b, out: suture.diff(a, b, heads=True),
    "swap": lambda a, b, out: suture.swap(a, b, out, layers="1", non_layer="mean"),
    "swap as donor": lambda a, b, out: suture.swap(b, a, out, layers="1", non_layer="from"),
    "heads": lambda a, b, out: suture.swap(a, b, out, layers="1", heads="0"),
    "auto": lambda a, b, out: suture.swap(a, b, out, base=b, auto="module"),
    "merge": lambda a, b, out: suture.merge({"merge_method": "linear", "models": entries(a, b)}, out),
    "slices": lambda a, b, out: suture.merge(
        {"merge_method": "linear", "slices": [{"sources": entries(a, b, layer_range=[0, 2])}]}, out
    ),
    "stacked": lambda a, b, out: suture.merge(
        {
            "merge_method": "passthrough",
            "slices": [{"sources": [{"model": str(m), "layer_range": [0, 2]}]} for m in (a, b)],
        },
        out,
    ),
    "mixed": lambda a, b, out: suture.merge(
        {
            "merge_method": "passthrough",
            "slices": [{"sources": [{"model": str(m), "layer_range": [0, 2]}]} for m in (a, b)],
        },
        out,
        settings=suture.Settings(allow_mixed=True),
    ),
    "revert": lambda a, b, out: suture.revert(a, b, out, layers="0-1", outside=True),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("config", NONSENSE, ids=lambda c: json.dumps(c)[:60])
def test_a_config_of_nonsense_is_an_error_of_ours_or_no_matter(config: Any, call: str, place: Path) -> None:
    """Configs that are not objects, or hold anything: no traceback, no half of an output, and the tensors are right."""
    names = ["model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"]
    names += [f"model.layers.{i}.self_attn.{p}_proj.weight" for i in range(3) for p in "qkvo"]
    good = {"model_type": "llama", "num_hidden_layers": 3, "num_attention_heads": 2}
    a = write_checkpoint(place / "a", tensors(names, 1))
    (a / "config.json").write_text(json.dumps(config))
    b = write_checkpoint(place / "b", tensors(names, 2), config=good)
    refused = refusal(CALLS[call], a, b, place / "out")
    left = {p.name for p in place.iterdir()} - {"a", "b"}
    assert left == (set() if refused is not None or call in ("inspect", "diff") else {"out"})


def entries(*models: Path, **more: Any) -> list[dict[str, Any]]:
    return [{"model": str(m), "parameters": {"weight": 0.5}, **more} for m in models]


@pytest.mark.parametrize("deep", [100, 5000, 200_000])
def test_a_deep_config_is_no_crash(deep: int, place: Path) -> None:
    """A config nested without end is an error of ours or passed over."""
    names = [f"model.layers.{i}.w" for i in range(3)]
    a, b = (write_checkpoint(place / n, tensors(names, i)) for i, n in enumerate("ab"))
    (a / "config.json").write_text('{"text_config":' * deep + '{"num_hidden_layers": 3}' + "}" * deep)
    for i, call in enumerate(CALLS.values()):
        refusal(call, a, b, place / f"out-{i}")


@pytest.mark.parametrize("counted", [2, 4, 30])
@pytest.mark.parametrize("nested", [False, True])
def test_a_config_of_another_length_is_told(counted: int, nested: bool, place: Path) -> None:
    """The stack's length is compared with the config's: what is missing, or of another model, is told by every verb."""
    prefix = "language_model.model.layers." if nested else "model.layers."
    names = [f"{prefix}{i}.w.weight" for i in range(3)]
    config: dict[str, Any] = {"num_hidden_layers": counted}
    if nested:
        config = {"text_config": config, "vision_config": {"num_hidden_layers": 7}}
    a, b = (write_checkpoint(place / n, tensors(names, i), config=config) for i, n in enumerate("ab"))
    told = [
        suture.inspect(a)["warnings"],
        suture.diff(a, b)["warnings"],
        suture.swap(a, b, place / "out", layers="0").warnings,
        suture.merge({"merge_method": "linear", "models": entries(a, b)}, place / "out-2").warnings,
    ]
    for warnings in told:
        assert [w for w in warnings if "3" in w and str(counted) in w and "layers" in w], warnings


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_shard_that_is_missing_is_told(missing: int, place: Path) -> None:
    """A download that lacks a shard, with no index to say so, is told: by its name, or by missing layers."""
    names = [f"model.layers.{i}.w.weight" for i in range(6)]
    a = write_checkpoint(place / "a", tensors(names), shards=3, index=False, config={"num_hidden_layers": 6})
    gone = sorted(a.glob("*.safetensors"))[missing]
    gone.rename(place / "gone")
    with pytest.raises(suture.SutureError, match=gone.name):
        suture.inspect(a)
    for i, file in enumerate(sorted(a.glob("*.safetensors"))):
        # Renamed by hand, as nothing that counts them.
        file.rename(a / f"part{i}.safetensors")
    warnings = suture.inspect(a)["warnings"]
    assert [w for w in warnings if "layer" in w and "complete" in w], warnings
