"""How much of a change lies below the step of the quantisation, and what a merge that is encoded rounds away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import suture

from ..reference.quantised import encoders
from ..reference.quantised.floats import E2M1, E4M3
from ..reference.quantised.ggml import TYPES, decode
from ..support.checkpoints import encode, read_checkpoint, write_checkpoint
from ..support.diffing import run
from ..support.gguf import quantised, write_gguf
from . import test_encode_gguf as gguf_file
from .encoded import model as plain_model_of
from .encoded import weights
from .worlds import FORMS, model, plain_model, stem_of

F32 = NDArray[np.float32]
#: What holds the codes of a weight.
CODES = (".weight", ".weight_packed", "_blocks", ".qweight")
#: Forms whose tables hold random numbers here, so that one step may be longer than several others.
TABLES = ("nf4", "fp4", "nf4 nested")


def told(base: Path, tuned: Path, name: str) -> tuple[int, int]:
    """Changed elements of a tensor whose step is known, and how many of them changed by less than half of it."""
    row = next(t for t in suture.diff(base, tuned)["models"][0]["tensors"] if t["name"] == name)
    return row["stepped"], round(row["below_step"] * row["stepped"])


def weights_of(folder: Path, out: Path) -> dict[str, F32]:
    suture.convert(folder, out, settings=suture.Settings(to="f32"))
    return {n: np.asarray(t.values(), np.float32) for n, t in read_checkpoint(out).items()}


@pytest.mark.parametrize("name", [n for n in FORMS if n not in TABLES])
def test_another_code_is_never_below_a_step(name: str, tmp_path: Path) -> None:
    """With the scales of the base, an element of another code changed by a step at least: only a zero whose sign
    changed did not."""
    a, b = (model(tmp_path / f"q{i}", FORMS[name], seed=i) for i in range(2))
    mixed = {n: (b if n.endswith(CODES) and "mlp" in n else a).stored[n] for n in a.stored}
    config = json.loads((a.path / "config.json").read_text())
    write_checkpoint(tmp_path / "mixed", mixed, config=config)
    found, wanted = weights_of(tmp_path / "mixed", tmp_path / "plain"), a.plain
    for weight in (n for n in wanted if "mlp" in n):
        changed = found[weight].view(np.uint32) != wanted[weight].view(np.uint32)
        signs = int((changed & (found[weight] == wanted[weight])).sum())
        assert told(a.path, tmp_path / "mixed", weight) == (changed.sum(), signs)


@pytest.mark.parametrize("name", FORMS)
def test_next_to_nothing_is_below_a_step(name: str, tmp_path: Path) -> None:
    """A change of a millionth is less than half a step of any form of 8 bits or fewer, whichever side is quantised."""
    a = model(tmp_path / "q", FORMS[name], seed=0)
    plain = plain_model(tmp_path / "p", {n: v * np.float32(1 + 1e-6) for n, v in a.plain.items()})
    weight = next(n for n in a.plain if n.startswith(stem_of(FORMS[name], 0)))
    changed = int((a.plain[weight] != a.plain[weight] * np.float32(1 + 1e-6)).sum())
    assert changed > 0
    for base, tuned in ((a.path, plain), (plain, a.path)):
        assert told(base, tuned, weight) == (changed, changed)


def counted(own: F32, tuned: F32, part: NDArray[Any]) -> tuple[int, int]:
    """Elements that changed, zeros that lost their sign among them, and those that changed by less than half a step,
    where all changed by these parts of one."""
    changed = own.view(np.uint32) != tuned.view(np.uint32)
    return int(changed.sum()), int((changed & (np.abs(part) < 0.5)).sum())


def fp8_step(codes: NDArray[Any]) -> F32:
    """A unit in the last of three places of the fraction; exponents begin at -6."""
    exponent = np.maximum(codes >> 3 & 15, 1).astype(np.float64) - 7
    return np.asarray(2.0 ** (exponent - 3), np.float32)


def fp4_step(codes: NDArray[Any]) -> F32:
    """0, 0.5, 1, 1.5, 2, 3, 4, 6: what a code and the one with the other last bit are apart."""
    return np.asarray(np.abs(E2M1[codes] - E2M1[codes ^ 1]), np.float32)


@pytest.mark.parametrize("form", ["fp8", "mxfp4"])
def test_half_a_step_is_the_border(form: str, tmp_path: Path) -> None:
    """Just less than half a step is below it, just more is not; of small floats a step goes by the exponent."""
    values = weights(5, plain=True)
    plain_model_of(tmp_path / "m", values, "F32")
    suture.convert(tmp_path / "m", tmp_path / "q", settings=suture.Settings(to=form))
    name = "model.layers.0.mlp.up_proj.weight"
    if form == "fp8":
        codes, scales = encoders.fp8(values[name])
        steps = fp8_step(codes) * np.repeat(np.repeat(scales, 128, 0), 128, 1)
        own = E4M3[codes] * np.repeat(np.repeat(scales, 128, 0), 128, 1)
    else:
        pairs, exponents = encoders.mxfp4(values[name])
        codes = np.stack([pairs & 15, pairs >> 4], -1).reshape(values[name].shape)
        scales = np.repeat(2.0 ** (exponents.astype(np.float64) - 127), 32, -1).astype(np.float32)
        steps, own = fp4_step(codes) * scales, E2M1[codes] * scales
    own = own.astype(np.float32)
    rng = np.random.default_rng(1)
    part = (rng.choice([0, 0.3, 0.49, 0.51, 0.9, 2], own.shape) * rng.choice([-1, 1], own.shape)).astype(np.float32)
    tuned = weights_of(tmp_path / "q", tmp_path / "p") | {name: (own + part * steps).astype(np.float32)}
    plain_model_of(tmp_path / "t", tuned, "F32")
    assert told(tmp_path / "q", tmp_path / "t", name) == counted(own, tuned[name], part)


def steps_of(kind: str, raw: bytes) -> F32:
    """The least change that turning a single bit round makes of one element of a block and of no other: its step."""
    size, per = TYPES[kind].bytes, TYPES[kind].elements
    out = []
    for block in np.frombuffer(raw, np.uint8).reshape(-1, size):
        flipped = np.repeat(block[None], 8 * size, 0)
        bits = np.arange(8 * size)
        flipped[bits, bits // 8] ^= (1 << bits % 8).astype(np.uint8)
        own = decode(kind, block.tobytes())
        change = np.abs(decode(kind, flipped.tobytes()).reshape(-1, per) - own)
        alone = np.where(((change > 0).sum(1) == 1)[:, None] & (change > 0), change, np.inf)
        out.append(alone.min(0))
    return np.concatenate(out).astype(np.float32)


@pytest.mark.parametrize("kind", [k for k in TYPES if k not in ("TQ1_0", "Q1_0")])
def test_types_of_gguf(kind: str, tmp_path: Path) -> None:
    """The step of every type is what its bits say, wherever they lie in a block."""
    stored = quantised(kind, (8, 256), 3)
    named = {"general.architecture": "qwen3", "qwen3.block_count": 1}
    path = write_gguf(tmp_path / "m.gguf", named, {"blk.0.attn_v.weight": stored})
    name = "model.layers.0.self_attn.v_proj.weight"
    steps = steps_of(kind, stored.raw).reshape(8, 256)
    # Where f32 has room for a hundredth of a step.
    fit = np.isfinite(steps) & (steps > 1e-4 * np.abs(stored.values)) & (steps > 1e-30)
    rng = np.random.default_rng(2)
    part = np.where(fit, rng.choice([0, 0.2, -0.49, 0.51, -3], steps.shape), 0)
    tuned = (stored.values + np.where(fit, part * np.where(fit, steps, 0), 0)).astype(np.float32)
    write_checkpoint(tmp_path / "t", {name: encode(tuned, "F32")})
    assert (part != 0).sum() > 500
    assert told(path, tmp_path / "t", name) == counted(stored.values, tuned, part)


@pytest.mark.parametrize("kind", ["TQ1_0", "Q1_0"])
def test_types_without_steps_are_not_counted(kind: str, tmp_path: Path) -> None:
    """Digits of base 3 and signs alone have no code beside them: no figure is made up."""
    stored = quantised(kind, (8, 256), 3)
    named = {"general.architecture": "qwen3", "qwen3.block_count": 1}
    path = write_gguf(tmp_path / "m.gguf", named, {"blk.0.attn_v.weight": stored})
    name = "model.layers.0.self_attn.v_proj.weight"
    write_checkpoint(tmp_path / "t", {name: encode(stored.values * 2, "F32")})
    assert told(path, tmp_path / "t", name) == (0, 0)


def test_the_command_says_it(tmp_path: Path) -> None:
    """The terminal has a line of it, tables sort by it, and plain models have neither figure nor line."""
    a = model(tmp_path / "q", FORMS["fp8 ragged blocks"], seed=0)
    plain = plain_model(tmp_path / "p", a.plain)
    tuned = plain_model(tmp_path / "t", {n: v * np.float32(1 + 1e-6) for n, v in a.plain.items()})
    found = run("diff", str(a.path), str(tuned), "--by", "tensor", "--sort", "below_step")
    assert "of quantised weights 100.0% changed by less than half a step" in found.stdout
    none = run("diff", str(plain), str(tuned))
    assert none.returncode == 0
    assert "half a step" not in none.stdout
    wrong = run("diff", str(plain), str(tuned), "--sort", "below_step")
    assert wrong.returncode == 2
    assert "quantised weights" in wrong.stderr
    assert "below_step" not in suture.diff(plain, tuned)["models"][0]["total"]


def codes_of(form: str, values: F32, scaled_as: F32) -> F32:
    """The codes that values get with the scales of others, by magnitude and sign; both zeros alike."""
    if form == "fp8":
        tiles = np.abs(scaled_as.reshape(scaled_as.shape[0] // 128, 128, -1, 128)).max(axis=(1, 3))
        rate = np.repeat(np.repeat(np.float32(1) / tiles * np.float32(448), 128, 0), 128, 1)
        return np.asarray(E4M3[encoders.e4m3((values * rate).astype(np.float32))], np.float32)
    groups, own = (v.reshape(-1, 32) for v in (scaled_as, values))
    if form == "mxfp4":
        exponent = encoders.mxfp4(groups)[1].astype(np.float64) - 127
        return np.asarray(E2M1[encoders.nearest(own / 2.0**exponent, E2M1[:8])] * np.sign(own), np.float32)
    over = np.float32(1) / (np.abs(groups).max(-1, keepdims=True) / np.float32(127))
    times = own * over
    whole = np.floor(np.abs(times))
    whole += np.abs(times) - whole >= 0.5
    out: F32 = (whole * np.sign(times)).astype(np.float32)
    return out


@pytest.mark.parametrize("form", ["fp8", "mxfp4", "gguf:q8_0"])
def test_a_merge_says_what_was_rounded_back(form: str, tmp_path: Path) -> None:
    """Of what a merge changed of a quantised weight, the report counts the elements whose code is what the base's
    own value would have got; with five threads and small chunks as with one."""
    gguf = form.startswith("gguf")
    base = gguf_file.weights(7) if gguf else weights(7, plain=True)
    rng = np.random.default_rng(8)
    change = {n: rng.normal(0, 6e-3, v.shape) * (rng.random(v.shape) < 0.7) for n, v in base.items()}
    for name, values in (("b", base), ("t", {n: (v + change[n]).astype(np.float32) for n, v in base.items()})):
        (gguf_file.model if gguf else plain_model_of)(tmp_path / name, values, "F32")
        suture.convert(tmp_path / name, tmp_path / f"q{name}", settings=suture.Settings(to="mxfp4" if gguf else "fp8"))
    recipe = {
        "merge_method": "task_arithmetic", "base_model": str(tmp_path / "qb"),
        "models": [{"model": str(tmp_path / "qt"), "parameters": {"weight": 0.02 if gguf else 0.3}}],
    }  # fmt: skip
    ways: list[dict[str, Any]] = [{"threads": 1}, {"threads": 5, "chunk": "64KiB"}]
    reports = [
        suture.merge(recipe, tmp_path / f"o{i}", settings=suture.Settings(to=form, **w)) for i, w in enumerate(ways)
    ]
    told = [{n: t["found"] for n, t in r.data["tensors"].items() if "found" in t} for r in reports]
    suture.merge(recipe, tmp_path / "plain", settings=suture.Settings(to="f32"))
    merged = {n: np.asarray(t.values(), np.float32) for n, t in read_checkpoint(tmp_path / "plain").items()}
    before = weights_of(tmp_path / "qb", tmp_path / "pb")
    assert told[0] == told[1]
    for name in (n for n in merged if n.endswith("mlp.up_proj.weight")):
        v, b = merged[name], before[name]
        changed = v != b
        same = (codes_of(form, v, v) == codes_of(form, b, v)).reshape(v.shape)
        layer = name.split(".")[2]
        stored = {"fp8": name, "mxfp4": f"{name}_packed"}.get(form, f"blk.{layer}.ffn_up.weight")
        found = told[0][stored]
        assert found["rounded_back"] == (changed & same).sum()
        # Of FP8 values are told apart times their rates, which may make two of a last place one.
        assert abs(found["changed"] - changed.sum()) <= 1e-4 * changed.sum()
        assert 0.02 < found["rounded_back"] / found["changed"] < 0.98


def test_the_share_is_told_and_kept(tmp_path: Path) -> None:
    """The terminal says it after a merge; a merge of plain models, and a mere conversion, have nothing to say."""
    for i in range(2):
        plain_model_of(tmp_path / f"m{i}", weights(i, plain=True))
        suture.convert(tmp_path / f"m{i}", tmp_path / f"q{i}", settings=suture.Settings(to="fp8"))
    recipe = tmp_path / "c.yml"
    for name, share in (("q", "of them"), ("m", "")):
        entries = [{"model": str(tmp_path / f"{name}{i}"), "parameters": {"weight": 1.0}} for i in range(2)]
        recipe.write_text(json.dumps({"merge_method": "linear", "models": entries}))
        done = run("merge", str(recipe), str(tmp_path / f"o{name}"), "--to", "fp8")
        assert done.returncode == 0
        assert ("rounded back" in done.stderr) == bool(share)
    assert "rounded back" not in run("convert", str(tmp_path / "q0"), str(tmp_path / "c"), "--to", "mxfp4").stderr
