"""Which weights are written in a quantised form, from what, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import suture

from ..reference.quantised.encoders import fp8
from ..support.catalogue import differing
from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint
from ..support.refusals import refusal
from .encoded import is_coded, model, weights
from .test_encode_fp8 import wanted

TO = suture.Settings(to="fp8")


def linear(*paths: Path, **more: Any) -> dict[str, Any]:
    return {
        "merge_method": "linear",
        "models": [{"model": str(p), "parameters": {"weight": 1.0}} for p in paths],
    } | more


def test_quantised_models_are_merged_and_written_quantised(tmp_path: Path) -> None:
    """Law 10: what is merged are the decoded values in f32, and what is written is encoded anew; no bf16 lies
    between."""
    for i in range(2):
        model(tmp_path / f"m{i}", weights(i, plain=True))
        suture.convert(tmp_path / f"m{i}", tmp_path / f"q{i}", settings=TO)
    suture.merge(linear(tmp_path / "q0", tmp_path / "q1"), tmp_path / "plain", settings=suture.Settings(to="f32"))
    suture.merge(linear(tmp_path / "q0", tmp_path / "q1", to="fp8"), tmp_path / "out")
    values = {n: t.values() for n, t in read_checkpoint(tmp_path / "plain").items()}
    found = read_checkpoint(tmp_path / "out")
    for name in filter(is_coded, values):
        codes, scales = fp8(values[name])
        assert (found[name].data, found[f"{name}_scale_inv"].data) == (codes.tobytes(), scales.tobytes())
    said = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert said["modules_to_not_convert"][0] == "lm_head"


def test_blends_and_heads_of_swaps_are_encoded(tmp_path: Path) -> None:
    """A swap of heads, and one that blends, is the plain swap encoded."""
    for i in range(2):
        model(tmp_path / f"m{i}", weights(20 + i, plain=True), "F32")
    ways: list[dict[str, Any]] = [{"layers": [1], "heads": "0,2"}, {"bottom": 1, "transition_bottom": 1}]
    for k, how in enumerate(ways):
        suture.swap(tmp_path / "m0", tmp_path / "m1", tmp_path / f"p{k}", **how)
        suture.swap(tmp_path / "m0", tmp_path / "m1", tmp_path / f"o{k}", settings=TO, **how)
        stored = read_checkpoint(tmp_path / f"p{k}")
        expected = wanted({n: t.values() for n, t in stored.items()}, stored)
        assert not differing(read_checkpoint(tmp_path / f"o{k}"), expected)


def test_packed_experts_and_transposed_matrices(tmp_path: Path) -> None:
    """Experts in one tensor with a row for each output get tiles each; kept the other way round, and matrices of
    GPT-2, stay plain."""
    rng = np.random.default_rng(1)
    at = "model.layers.0.mlp.experts."
    for upright in (True, False):
        up, down = ((3, 512, 128), (3, 128, 256)) if upright else ((3, 128, 512), (3, 256, 128))
        own = {f"{at}gate_up_proj": rng.normal(0, 1, up), f"{at}down_proj": rng.normal(0, 1, down),
               "model.layers.0.self_attn.q_proj.weight": rng.normal(0, 1, (128, 128)),
               "model.layers.0.attn.c_attn.weight": rng.normal(0, 1, (128, 384))}  # fmt: skip
        values = {n: v.astype(np.float32) for n, v in own.items()}
        folder = tmp_path / str(upright)
        write_checkpoint(folder, {n: encode(v, "F32") for n, v in values.items()}, config={"model_type": "x"})
        suture.convert(folder, tmp_path / f"o{upright}", settings=TO)
        found = read_checkpoint(tmp_path / f"o{upright}")
        for name in (f"{at}gate_up_proj", f"{at}down_proj"):
            if not upright:
                assert found[name].dtype == "F32"
                continue
            codes, scales = fp8(values[name])
            assert found[name] == Raw("F8_E4M3", codes.shape, codes.tobytes())
            assert found[f"{name}_scale_inv"] == Raw("F32", scales.shape, scales.tobytes())
        assert found["model.layers.0.attn.c_attn.weight"].dtype == "F32"
        said = json.loads((tmp_path / f"o{upright}" / "config.json").read_text())["quantization_config"]
        assert ("model.layers.0.mlp.experts" in said["modules_to_not_convert"]) != upright


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    """Before anything is read: a dtype beside, a form that is not known, one file of GGUF, nothing to encode,
    adapters."""
    model(tmp_path / "m", weights(2))
    with pytest.raises(suture.UsageError, match="leave dtype"):
        suture.Settings(to="fp8", dtype="bf16")
    with pytest.raises(suture.UsageError, match="gguf:q8_0, found `fp4`"):
        suture.Settings(to="fp4")
    with pytest.raises(suture.UsageError, match="one file"):
        suture.Settings(to="gguf:q8_0", shard_size="1GB")
    for name in ("x.safetensors", "x.gguf"):
        message = refusal(suture.convert, tmp_path / "m", tmp_path / name, settings=suture.Settings(to="gguf:q8_0"))
        assert message is not None
        assert not (tmp_path / name).exists()
    own = {"model.layers.0.a.weight": np.ones((100, 100), np.float32)}
    write_checkpoint(tmp_path / "odd", own)
    message = refusal(suture.convert, tmp_path / "odd", tmp_path / "o", settings=TO)
    assert message is not None
    assert "multiples of 128" in message
    # One file of safetensors holds codes and scales.
    suture.convert(tmp_path / "m", tmp_path / "one.safetensors", settings=TO)
    suture.convert(tmp_path / "m", tmp_path / "all", settings=TO)
    assert read_checkpoint(tmp_path / "one.safetensors") == read_checkpoint(tmp_path / "all")


def test_what_one_merge_makes_for_another_is_not_rounded(tmp_path: Path) -> None:
    """Several merges in a config: with --to what is made on the way stays as it would be, and the last is its values,
    encoded."""
    for i in range(3):
        model(tmp_path / f"m{i}", weights(30 + i, plain=True), "F32")
    first = linear(tmp_path / "m0", tmp_path / "m1") | {"name": "both"}
    others = [{"model": m, "parameters": {"weight": 1.0}} for m in ("both", str(tmp_path / "m2"))]
    second = {"merge_method": "linear", "models": others}
    (tmp_path / "c.yml").write_text(yaml.safe_dump_all([first, second]))
    suture.merge(tmp_path / "c.yml", tmp_path / "plain")
    suture.merge(tmp_path / "c.yml", tmp_path / "out", settings=TO)
    stored = read_checkpoint(tmp_path / "plain")
    assert not differing(read_checkpoint(tmp_path / "out"), wanted({n: t.values() for n, t in stored.items()}, stored))
    (tmp_path / "d.yml").write_text(yaml.safe_dump_all([first | {"to": "fp8"}, second]))
    message = refusal(suture.merge, tmp_path / "d.yml", tmp_path / "no")
    assert message is not None
    assert "`both` is written as fp8" in message


@pytest.mark.parametrize("to", ["fp8", "mxfp4"])
def test_layers_beyond_those_of_the_first_model(to: str, tmp_path: Path) -> None:
    """Layers that are stacked or repeated are encoded as all others, wherever they come to lie."""
    model(tmp_path / "m", weights(1, plain=True))
    slices = [{"sources": [{"model": str(tmp_path / "m"), "layer_range": r}]} for r in ([0, 2], [0, 2])]
    how = suture.Settings(to=to)
    suture.merge({"merge_method": "passthrough", "slices": slices}, tmp_path / "stack", settings=how)
    suture.layers(tmp_path / "m", tmp_path / "twice", repeat="0-1", settings=how)
    suture.convert(tmp_path / "m", tmp_path / "once", settings=how)
    once = read_checkpoint(tmp_path / "once")
    for name in ("stack", "twice"):
        found = read_checkpoint(tmp_path / name)
        assert len(found) > len(once)
        for n, t in found.items():
            head, _, layer = n.partition("layers.")
            own = [f"{head}layers.{i}.{layer.partition('.')[2]}" for i in range(2)] if layer else [n]
            assert any(once.get(o) == t for o in own), n


def test_towers_are_known_by_a_word(tmp_path: Path) -> None:
    """Loaders call towers otherwise than files do: what stays plain is named by a word too that no coded module has."""
    own = weights(1, plain=True)
    rng = np.random.default_rng(3)
    tower = "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight"
    own = {f"language_model.{n}": v for n, v in own.items()} | {tower: rng.normal(0, 1, (128, 128)).astype(np.float32)}
    model(tmp_path / "m", own)
    suture.convert(tmp_path / "m", tmp_path / "out", settings=suture.Settings(to="mxfp4"))
    said = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["ignore"]
    patterns = [s.removeprefix("re:") for s in said if s.startswith("re:")]

    def skipped(module: str) -> bool:
        return module in said or any(re.match(p, module) for p in patterns)

    assert skipped("model.vision_tower.encoder.layers.0.self_attn.q_proj")
    assert skipped("model.language_model.embed_tokens")
    assert skipped("model.language_model.layers.1.mlp.gate")
    assert not skipped("model.language_model.layers.1.self_attn.q_proj")
    assert not skipped("model.language_model.layers.1.mlp.up_proj")


def test_weights_without_a_config_are_told(tmp_path: Path) -> None:
    """Codes mean something to loaders by `quantization_config`: an output without config.json says so."""
    model(tmp_path / "m", weights(1, plain=True))
    one = suture.convert(tmp_path / "m", tmp_path / "one.safetensors", settings=TO)
    bare = suture.convert(tmp_path / "m" / "model.safetensors", tmp_path / "bare", settings=TO)
    whole = suture.convert(tmp_path / "m", tmp_path / "whole", settings=TO)
    told = [any("no config.json" in w for w in report.warnings) for report in (one, bare, whole)]
    assert told == [True, True, False]
