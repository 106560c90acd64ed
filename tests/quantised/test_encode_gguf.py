"""Models written as GGUF with blocks of Q8_0: the rule's blocks under GGML's names, rows in its order, and what the
header says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import suture

from ..reference.quantised.encoders import q8_0
from ..support.catalogue import DEFAULTS, Case, configure
from ..support.checkpoints import encode, llama_config, read_checkpoint, write_checkpoint
from ..support.gguf_file import Stored, read_gguf
from ..support.refusals import refusal

TO = suture.Settings(to="gguf:q8_0")
HIDDEN, FF, VOCAB, HEADS, SHARED = 64, 96, 40, 4, 2
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
Values = dict[str, NDArray[np.float32]]


def weights(seed: int, hidden: int = HIDDEN, ff: int = FF, tied: bool = False) -> Values:
    """A Llama of two layers."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, hidden), "model.norm.weight": (hidden,)}
    if not tied:
        shapes["lm_head.weight"] = (VOCAB, hidden)
    for i in range(2):
        at = f"model.layers.{i}."
        shapes |= {f"{at}{n}_layernorm.weight": (hidden,) for n in ("input", "post_attention")}
        shapes |= {f"{at}self_attn.{n}_proj.weight": (hidden, hidden) for n in "qo"}
        shapes |= {f"{at}self_attn.{n}_proj.weight": (hidden * SHARED // HEADS, hidden) for n in "kv"}
        shapes[f"{at}self_attn.q_proj.bias"] = (hidden,)
        shapes |= {f"{at}mlp.{n}_proj.weight": (ff, hidden) for n in ("gate", "up")}
        shapes[f"{at}mlp.down_proj.weight"] = (hidden, ff)
    return {n: rng.normal(0, 0.1, s).astype(np.float32) for n, s in shapes.items()}


def model(folder: Path, values: Values, dtype: str = "F32", **more: Any) -> Values:
    """Writes a model; returns its values as stored."""
    hidden = values["model.norm.weight"].shape[0]
    tied = "lm_head.weight" not in values
    config = llama_config(2, hidden, HEADS, SHARED, FF, VOCAB, tied, dtype) | more
    stored = {n: encode(v, dtype) for n, v in values.items()}
    write_checkpoint(folder, stored, config=config)
    return {n: t.values() for n, t in stored.items()}


def turned(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """In each head the rows of both halves take turns: row 2j + t is row t D/2 + j."""
    size = len(values) // heads
    order = [h * size + t * (size // 2) + j for h in range(heads) for j in range(size // 2) for t in (0, 1)]
    return values[order]


def wanted(values: Values, llama: bool = True) -> dict[str, Stored]:
    """What the file holds."""
    out = {}
    for name, v in values.items():
        stem, _, end = name.rpartition(".")
        if stem.startswith("model.layers."):
            _, _, layer, own = stem.split(".", 3)
            theirs = f"blk.{layer}.{NAMES[own]}.{end}"
        else:
            theirs = NAMES[name]
        if llama and ".q_proj" in name:
            v = turned(v, HEADS)
        elif llama and ".k_proj" in name:
            v = turned(v, SHARED)
        data = q8_0(v).tobytes() if v.ndim == 2 else v.astype("<f4").tobytes()
        out[theirs] = Stored(8 if v.ndim == 2 else 0, v.shape, data)
    return out


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_blocks_names_and_rows(dtype: str, tmp_path: Path) -> None:
    """Every weight is the rule's blocks of the values, rounded once; rows of queries and keys lie in GGML's order,
    biases too."""
    own = weights(1)
    own["model.layers.0.mlp.up_proj.weight"][0, :32] = 0
    own["model.layers.0.mlp.up_proj.weight"][1, :32] *= np.float32(1e-38)
    own["model.layers.0.mlp.up_proj.weight"][2, :4] = 127, 0.5, -0.5, 1.5
    values = model(tmp_path / "m", own, dtype)
    suture.convert(tmp_path / "m", tmp_path / "out", settings=TO)
    said, found = read_gguf(tmp_path / "out" / "model.gguf")
    assert found == wanted(values)
    assert said["general.architecture"] == "llama"
    assert said["general.file_type"] == 7
    assert (said["llama.block_count"], said["llama.attention.head_count_kv"]) == (2, SHARED)
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """decode(encode(x)): suture's own reader finds the model's names and order of rows, and each block's scale times
    its integers; the digests of suture.json are those of the file."""
    values = model(tmp_path / "m", weights(7))
    suture.convert(tmp_path / "m", tmp_path / "q", settings=TO)
    suture.convert(tmp_path / "q" / "model.gguf", tmp_path / "f.safetensors", settings=suture.Settings(to="f32"))
    back = read_checkpoint(tmp_path / "f.safetensors")
    assert back.keys() == values.keys()
    for name, own in values.items():
        expected = own
        if own.ndim == 2:
            blocks = q8_0(own).reshape(-1, 34)
            scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
            expected = (scale * blocks[:, 2:].view(np.int8)).reshape(own.shape)
        np.testing.assert_array_equal(back[name].values(), expected)
    assert not suture.verify(tmp_path / "q")["differing"]
    path = tmp_path / "q" / "model.gguf"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    assert len(suture.verify(tmp_path / "q")["differing"]) == 1


def test_how_the_work_is_done_changes_no_byte(tmp_path: Path) -> None:
    """Law 3: threads and chunks; tensors of several spans whose rows change places, and whose digests' leaves lie in
    several."""
    hidden = 2112
    values = model(tmp_path / "m", weights(2, hidden, FF, tied=True), "BF16")
    ways: list[dict[str, Any]] = [{"threads": 1}, {"threads": 5, "chunk": "100KiB"}, {"io": "pread"}]
    for i, more in enumerate(ways):
        suture.convert(tmp_path / "m", tmp_path / f"o{i}", settings=suture.Settings(to="gguf:q8_0", **more))
    first = (tmp_path / "o0" / "model.gguf").read_bytes()
    assert all((tmp_path / f"o{i}" / "model.gguf").read_bytes() == first for i in (1, 2))
    assert read_gguf(tmp_path / "o0" / "model.gguf")[1] == wanted(values)


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_a_merge_written_as_gguf_is_the_merge_encoded(case: Case, tmp_path: Path) -> None:
    """Law 10: rows change places after everything is computed, so that random and thinned methods give what the plain
    merge has."""
    paths = [tmp_path / f"m{i}" for i in range(4)]
    base = weights(10)
    for i, path in enumerate(paths):
        change = weights(10 + i)
        model(path, {n: (base[n] + (0.1 * change[n] if i else 0)).astype(np.float32) for n in base})
    config = configure(case, paths)
    config.pop("exclude", None)
    suture.merge(config, tmp_path / "plain")
    suture.merge(config, tmp_path / "out", settings=TO)
    values = {n: t.values() for n, t in read_checkpoint(tmp_path / "plain").items()}
    assert read_gguf(tmp_path / "out" / "model.gguf")[1] == wanted(values)


def test_other_families(tmp_path: Path) -> None:
    """Rows stay in Qwen's models, and Gemma's norms have 1 added; a family that is not known is refused by its name."""
    own = weights(3)
    values = model(tmp_path / "qwen", own, model_type="qwen2")
    suture.convert(tmp_path / "qwen", tmp_path / "q", settings=TO)
    assert read_gguf(tmp_path / "q" / "model.gguf")[1] == wanted(values, llama=False)
    model(tmp_path / "gemma", own, model_type="gemma2", query_pre_attn_scalar=16)
    suture.convert(tmp_path / "gemma", tmp_path / "g", settings=TO)
    found = read_gguf(tmp_path / "g" / "model.gguf")[1]
    norm = np.frombuffer(found["blk.0.post_attention_norm.weight"].data, "<f4")
    np.testing.assert_array_equal(norm, own["model.layers.0.post_attention_layernorm.weight"] + np.float32(1))
    model(tmp_path / "other", own, model_type="mamba")
    message = refusal(suture.convert, tmp_path / "other", tmp_path / "o", settings=TO)
    assert message is not None
    assert "`mamba`" in message


def test_scales_that_are_no_f16_are_refused(tmp_path: Path) -> None:
    """A block whose largest magnitude over 127 is beyond f16 is refused by its tensor, not written as infinity."""
    own = weights(4)
    own["model.layers.1.mlp.up_proj.weight"][3, 40] = 1e8
    model(tmp_path / "m", own)
    message = refusal(suture.convert, tmp_path / "m", tmp_path / "out", settings=TO)
    assert message is not None
    assert "blk.1.ffn_up.weight" in message
    assert f"element {3 * HIDDEN + 32}" in message


def test_factors_of_positions_are_a_tensor(tmp_path: Path) -> None:
    """Llama 3's positions: `rope_freqs` holds by what each frequency is divided; what cannot be said is refused."""
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}  # fmt: skip
    values = model(tmp_path / "m", weights(5), rope_scaling=scaling)
    suture.convert(tmp_path / "m", tmp_path / "out", settings=TO)
    _, found = read_gguf(tmp_path / "out" / "model.gguf")
    factors = np.frombuffer(found.pop("rope_freqs.weight").data, "<f4")
    size = HIDDEN // HEADS
    turns = 64 * 10000.0 ** (-np.arange(0, size, 2) / size) / (2 * np.pi)
    smooth = (turns - 1) / 3
    expected = np.where(turns > 4, 1, np.where(turns < 1, 8, 1 / ((1 - smooth) / 8 + smooth)))
    np.testing.assert_allclose(factors, expected, rtol=1e-6)
    assert found == wanted(values)
    model(tmp_path / "n", weights(5), rope_scaling={"rope_type": "longrope", "factor": 2.0})
    message = refusal(suture.convert, tmp_path / "n", tmp_path / "no", settings=TO)
    assert message is not None
    assert "`longrope`" in message


def test_a_plan_is_a_plan_again(tmp_path: Path) -> None:
    """Law 10: the plan as JSON, header and encodings with it, gives the same bytes."""
    from suture import _core

    model(tmp_path / "m", weights(6))
    for form in ("fp8", "mxfp4", "gguf:q8_0"):
        if form == "fp8":
            own = {"model.layers.0.mlp.up_proj.weight": np.ones((128, 128), np.float32)}
            write_checkpoint(tmp_path / "m8", own)
        source = tmp_path / ("m8" if form == "fp8" else "m")
        recipe = json.dumps({"copy": {"model": str(source), "title": "convert", "to": form}})
        plan = _core.Plan(recipe, None, 0, [], None)
        if form.startswith("gguf"):
            plan = plan.in_gguf(b"\0" * 8, [1.0, 2.0])
        again = _core.Plan.from_json(plan.to_json())
        assert (again.hash, again.to_json()) == (plan.hash, plan.to_json())
