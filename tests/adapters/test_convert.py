"""Adapters in other forms: the same factors bit for bit, the same scales, and what a form cannot say is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture import AdapterFacts, Settings, SutureError, UsageError

from ..reference import lora as oracle
from ..support.adapters import CONFIG, WEIGHTS
from ..support.checkpoints import (
    Raw,
    encode,
    llama_family,
    parse_file,
    read_checkpoint,
    write_checkpoint,
    write_file,
    write_json,
)
from ..support.lora import exact, factors, random, read_lora, write_lora
from ..support.pickles import write_torch
from .kinds import KINDS, Made

SHAPE: dict[str, Any] = {"layers": 2, "hidden": 16, "heads": 2, "kv_heads": 1, "ff": 24, "vocab": 20, "n": 0}
Q, UP = "self_attn.q_proj", "mlp.up_proj"
SEVEN = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    UP,
    "mlp.down_proj",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers, in f32: sums show every bit of a scale."""
    (folder,) = llama_family(tmp_path_factory.mktemp("base"), dtype="f32", **SHAPE)
    return folder


def made(base: Path, modules: tuple[str, ...] = (Q, UP), r: int = 4, dtype: str = "F16") -> dict[str, Raw]:
    """Factors of modules of both layers."""
    rng, own = np.random.default_rng(0), read_checkpoint(base)
    out: dict[str, Raw] = {}
    for name in (f"model.layers.{i}.{m}" for i in range(2) for m in modules):
        rows, columns = own[f"{name}.weight"].shape
        out |= factors(rng, name, (rows, columns), r=r, dtype=dtype)
    return out


def tensors(file: Path) -> dict[str, Raw]:
    """The tensors of a file."""
    return parse_file(file.read_bytes())


def check_folded(base: Path, one: Path, two: Path, folder: Path) -> None:
    """Two adapters make the same model, bit for bit, and another than the base."""
    suture.fold(base, [one], folder / "folded-one")
    suture.fold(base, [two], folder / "folded-two")
    found = read_checkpoint(folder / "folded-one")
    assert found == read_checkpoint(folder / "folded-two")
    assert found != read_checkpoint(base)


# PEFT and sd-scripts


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_peft_to_sd_scripts_and_back(dtype: str, base: Path, tmp_path: Path) -> None:
    """Law: ranks and alphas by module go into `.alpha` and come back; every factor's bytes are the same."""
    given = made(base, dtype=dtype)
    more = {"alpha_pattern": {"q_proj": 6, r"^model\.layers\.1\.mlp\.up_proj": 0.5}, "lora_alpha": 12}
    one = write_lora(tmp_path / "one", given, **more)
    suture.convert_adapter(one, tmp_path / "sd.safetensors", to="sd-scripts", given=AdapterFacts(prefix="lora_te"))
    found = tensors(tmp_path / "sd.safetensors")
    for name, raw in given.items():
        module, _, side = name.removesuffix(".weight").rpartition(".lora_")
        own = f"lora_te_{module.replace('.', '_')}"
        assert found.pop(f"{own}.lora_{'down' if side == 'A' else 'up'}.weight") == raw
        alpha = 6 if "q_proj" in name else 0.5 if "layers.1" in name else 12
        assert found.get(f"{own}.alpha") == encode(np.array(alpha, dtype=np.float32), dtype)
    assert {n.rpartition(".")[2] for n in found} == {"alpha"}
    suture.convert_adapter(tmp_path / "sd.safetensors", tmp_path / "two", to="peft", given=AdapterFacts(model=base))
    assert read_lora(tmp_path / "two") == given
    check_folded(base, one, tmp_path / "two", tmp_path)


def sd_file(base: Path, path: Path, *, alphas: bool = True) -> dict[str, Raw]:
    """A file as sd-scripts writes it: ranks 2 and 5, alphas of their own."""
    rng, own = np.random.default_rng(2), read_checkpoint(base)
    out: dict[str, Raw] = {}
    for i, module in enumerate(f"model.layers.{i}.{m}" for i in range(2) for m in (Q, UP)):
        (rows, columns), r = own[f"{module}.weight"].shape, (2, 5, 5, 5)[i]
        name = f"lora_te1_{module.replace('.', '_')}"
        out |= {f"{name}.lora_down.weight": random(rng, r, columns), f"{name}.lora_up.weight": random(rng, rows, r)}
        out |= {f"{name}.alpha": encode(np.array([1, 0.1, 3, 0][i], dtype=np.float32), "F32")} if alphas else {}
    write_file(path, out)
    return out


@pytest.mark.parametrize("alphas", [True, False])
def test_what_sd_scripts_means(alphas: bool, base: Path, tmp_path: Path) -> None:
    """Oracle: W + alpha / rank up down; alpha that is not there, or 0, is the rank. Back again the bytes are those."""
    given = sd_file(base, tmp_path / "style.safetensors", alphas=alphas)
    suture.convert_adapter(tmp_path / "style.safetensors", tmp_path / "peft", to="peft", given=AdapterFacts(model=base))
    found = suture.open(f"{base}+{tmp_path / 'peft'}")
    own = read_checkpoint(base)
    for name, raw in own.items():
        total = exact(raw)
        stem = f"lora_te1_{name.removesuffix('.weight').replace('.', '_')}"
        if f"{stem}.lora_up.weight" in given:
            down, up = (exact(given[f"{stem}.lora_{side}.weight"]) for side in ("down", "up"))
            alpha = float(exact(given[f"{stem}.alpha"])) if alphas else 0.0
            total = total + (alpha or len(down)) / len(down) * (up @ down)
        np.testing.assert_allclose(found.numpy(name), total, rtol=2.0**-23, atol=1e-15, err_msg=name)
    suture.convert_adapter(
        tmp_path / "peft", tmp_path / "again.safetensors", to="sd-scripts", given=AdapterFacts(prefix="lora_te1")
    )
    wanted = dict(given)
    for stem, down in ((n.split(".")[0], raw) for n, raw in given.items() if "lora_down" in n):
        if not alphas or not exact(given[f"{stem}.alpha"]):
            wanted[f"{stem}.alpha"] = encode(np.array(down.shape[0], dtype=np.float32), "F32")
    assert tensors(tmp_path / "again.safetensors") == wanted
    config = json.loads((tmp_path / "peft" / CONFIG).read_text())
    assert config["r"] == 5
    assert list(config["rank_pattern"].values()) == [2]


def test_convolutions(tmp_path: Path) -> None:
    """Law: kernels of a U-Net go over as they lie, and mean what they meant."""
    kind = KINDS["convolution"](Made("F32", "F32"))
    model = write_checkpoint(tmp_path / "base", kind.base)
    one = write_lora(tmp_path / "one", kind.adapter)
    suture.convert_adapter(one, tmp_path / "sd.safetensors", to="sd-scripts", given=AdapterFacts(prefix="lora_unet"))
    suture.convert_adapter(tmp_path / "sd.safetensors", tmp_path / "two", to="peft", given=AdapterFacts(model=model))
    check_folded(model, one, tmp_path / "two", tmp_path)


def test_a_part_of_a_pipeline_is_named(base: Path, tmp_path: Path) -> None:
    """Law: a file of several models' modules is converted part by part, and what is left out is told."""
    given = sd_file(base, tmp_path / "a.safetensors")
    other = {n.replace("lora_te1_", "lora_unet_"): raw for n, raw in given.items() if "layers_0" in n}
    write_file(tmp_path / "both.safetensors", given | other)
    with pytest.raises(UsageError, match=r"prefix: .*lora_te1, lora_unet"):
        suture.convert_adapter(
            tmp_path / "both.safetensors", tmp_path / "no", to="peft", given=AdapterFacts(model=base)
        )
    how = AdapterFacts(model=base, prefix="lora_unet")
    report = suture.convert_adapter(tmp_path / "both.safetensors", tmp_path / "out", to="peft", given=how)
    assert any("4 modules of other parts than lora_unet" in w for w in report.warnings)
    assert all("layers.0" in name for name in read_lora(tmp_path / "out"))


# loralib


def test_peft_to_loralib_and_back(base: Path, tmp_path: Path) -> None:
    """Law: factors and trained biases go to their modules' names and back; alpha is told, and has to be said again."""
    given = made(base, dtype="F32") | {f"model.layers.0.{Q}.base_layer.bias": random(np.random.default_rng(1), 16)}
    one = write_lora(tmp_path / "one", given, lora_alpha=12, bias="lora_only")
    report = suture.convert_adapter(one, tmp_path / "l.safetensors", to="loralib")
    assert any("lora_alpha=12" in w and "r=4" in w for w in report.warnings)
    names = {n.replace(".base_layer", "").removesuffix(".weight"): raw for n, raw in given.items()}
    assert tensors(tmp_path / "l.safetensors") == names
    with pytest.raises(UsageError, match="alpha: loralib's files do not hold lora_alpha"):
        suture.convert_adapter(tmp_path / "l.safetensors", tmp_path / "two", to="peft")
    suture.convert_adapter(tmp_path / "l.safetensors", tmp_path / "two", to="peft", given=AdapterFacts(alpha=12))
    assert read_lora(tmp_path / "two") == given
    assert json.loads((tmp_path / "two" / CONFIG).read_text())["bias"] == "lora_only"


def merged(weight: Any, a: Any, b: Any, enabled: tuple[bool, ...], r: int) -> Any:
    """Oracle, of loralib's MergedLinear: a convolution of as many groups as parts are enabled, zeros where none is."""
    groups, size = sum(enabled), len(weight) // len(enabled)
    apart = [b[i * size : (i + 1) * size] @ a[i * r : (i + 1) * r] for i in range(groups)]
    return np.concatenate([apart.pop(0) if on else np.zeros((size, a.shape[1])) for on in enabled])


@pytest.mark.parametrize("enabled", [(True, False, True), (True, True, True), (False, True, False)], ids=str)
@pytest.mark.parametrize("turned", [False, True], ids=["plain", "fan_in_fan_out"])
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickled"])
def test_merged_linear(enabled: tuple[bool, ...], turned: bool, pickled: bool, tmp_path: Path) -> None:
    """Oracle: a fused matrix of a state dict, converted fused, or as q, k and v of a model that has them apart."""
    rng, r, name = np.random.default_rng(3), 2, "h.0.attn.c_attn"
    weight = rng.normal(0, 1, (24, 10)).astype(np.float32)
    a, b = random(rng, r * sum(enabled), 10), random(rng, 8 * sum(enabled), r)
    state = {f"{name}.weight": encode(weight.T if turned else weight, "F32"), f"{name}.bias": random(rng, 24)}
    state |= {f"{name}.lora_A": a, f"{name}.lora_B": b}
    file = tmp_path / ("state.pt" if pickled else "state.safetensors")
    (write_torch if pickled else write_file)(file, state)
    change = 16 / r * merged(weight, exact(a), exact(b), enabled, r)
    given = AdapterFacts(alpha=16, enable_lora=enabled)
    report = suture.convert_adapter(file, tmp_path / "fused", to="peft", given=given)
    assert any("2 tensors besides the factors" in w for w in report.warnings)
    model = write_checkpoint(tmp_path / "model", {f"{name}.weight": state[f"{name}.weight"]})
    found = suture.open(f"{model}+{tmp_path / 'fused'}").numpy(f"{name}.weight")
    np.testing.assert_allclose(found.T if turned else found, weight + change, rtol=1e-6, atol=1e-6)
    assert json.loads((tmp_path / "fused" / CONFIG).read_text())["fan_in_fan_out"] is turned
    parts = [f"h.0.attn.{p}.weight" for p in "qkv"]
    model = write_checkpoint(tmp_path / "apart", dict(zip(parts, np.split(weight, 3), strict=True)))
    how = AdapterFacts(alpha=16, enable_lora=enabled, parts=["q", "k", "v"])
    suture.convert_adapter(file, tmp_path / "split", to="peft", given=how)
    found = np.concatenate([suture.open(f"{model}+{tmp_path / 'split'}").numpy(p) for p in parts])
    np.testing.assert_allclose(found, weight + change, rtol=1e-6, atol=1e-6)
    assert len(read_lora(tmp_path / "split")) == 2 * sum(enabled)


def test_what_loralibs_shapes_do_not_tell(tmp_path: Path) -> None:
    """Law 8: a table, parts of a fused matrix, a convolution: asked for or refused, never guessed."""
    rng = np.random.default_rng(4)
    pair = {"wte.lora_A": random(rng, 2, 30), "wte.lora_B": random(rng, 8, 2)}
    fused = {"c_attn.lora_A": random(rng, 4, 8), "c_attn.lora_B": random(rng, 16, 2)}
    write_file(tmp_path / "table.safetensors", pair)
    write_file(tmp_path / "fused.safetensors", fused)
    how: dict[str, Any] = {"to": "peft", "given": AdapterFacts(alpha=4)}
    with pytest.raises(UsageError, match="model: whether `wte` is a table"):
        suture.convert_adapter(tmp_path / "table.safetensors", tmp_path / "no", **how)
    with pytest.raises(UsageError, match="enable_lora: which parts of `c_attn`"):
        suture.convert_adapter(tmp_path / "fused.safetensors", tmp_path / "no", **how)
    weights = {"wte.weight": random(rng, 30, 8), "c_attn.weight": random(rng, 24, 8)}
    model = write_checkpoint(tmp_path / "model", weights)
    suture.convert_adapter(
        tmp_path / "table.safetensors", tmp_path / "t", to="peft", given=AdapterFacts(alpha=4, model=model)
    )
    found = suture.open(f"{model}+{tmp_path / 't'}").numpy("wte.weight")
    wanted = exact(weights["wte.weight"]) + 2 * oracle.table(*map(exact, pair.values()))
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    for enabled, message in (((True, False), "3 parts, and enable_lora has 2"), ((True,) * 3, "holds 2 products")):
        given = AdapterFacts(alpha=4, model=model, enable_lora=enabled)
        with pytest.raises(SutureError, match=message):
            suture.convert_adapter(tmp_path / "fused.safetensors", tmp_path / "no", to="peft", given=given)
    write_file(
        tmp_path / "conv.safetensors",
        {"c.lora_A": random(rng, 6, 9), "c.lora_B": random(rng, 12, 6), "c.conv.weight": random(rng, 4, 3, 3, 3)},
    )
    with pytest.raises(SutureError, match="of a convolution"):
        suture.convert_adapter(tmp_path / "conv.safetensors", tmp_path / "no", **how)
    assert not (tmp_path / "no").exists()


# X-ALMA


def test_groups_of_x_alma(base: Path, tmp_path: Path) -> None:
    """Law: adapters become groups of a model, one behind the other, and come out again as they were; 2 B A is added."""
    own = read_checkpoint(base)
    one = write_lora(tmp_path / "one", made(base, SEVEN, dtype="F32"))
    two = write_lora(tmp_path / "two", {n: encode(-raw.values(), "F32") for n, raw in read_lora(one).items()})
    suture.convert_adapter(one, tmp_path / "alma-1", to="x-alma", given=AdapterFacts(model=base))
    suture.convert_adapter(two, tmp_path / "alma-2", to="x-alma", given=AdapterFacts(model=tmp_path / "alma-1"))
    found = read_checkpoint(tmp_path / "alma-2")
    assert {n: found[n] for n in own} == own
    assert len(found) == len(own) + 2 * len(read_lora(one))
    name = "model.layers.1.mlp.gate"
    assert found[f"{name}_lora_B.1.weight"] == read_lora(two)[f"{name}_proj.lora_B.weight"]
    assert (tmp_path / "alma-2" / "config.json").is_file()
    report = suture.split_adapter(tmp_path / "alma-2", tmp_path / "groups", by="language")
    assert list(report.parts) == ["0", "1"]
    for group, lora in (("0", one), ("1", two)):
        assert read_lora(tmp_path / "groups" / group) == read_lora(lora)
        suture.convert_adapter(tmp_path / "alma-2", tmp_path / f"g{group}", to="peft", group=group)
        check_folded(base, lora, tmp_path / f"g{group}", tmp_path / f"folded-{group}")
    assert {p.name for p in (tmp_path / "g0").iterdir()} == {WEIGHTS, CONFIG, "suture.json"}
    suture.convert_adapter(one, tmp_path / "alone.safetensors", to="x-alma")
    suture.convert_adapter(tmp_path / "alone.safetensors", tmp_path / "back", to="peft")
    assert read_lora(tmp_path / "back") == read_lora(one)
    assert [p.name for p in suture.modules.split(tmp_path / "alma-2", tmp_path / "old", ["1"])[0].out.parent.iterdir()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora_alpha": 4}, "has scale 1; X-ALMA's groups have 2"),
        ({"less": f"model.layers.1.{UP}"}, r"`model\.layers\.1\.mlp\.up_proj` is on one side alone"),
        ({"less": UP}, "`up_proj` is on one side alone"),
        ({"more": "lm_head"}, "is of `lm_head`; X-ALMA adapts"),
    ],
    ids=["scale", "a layer", "a module", "the head"],
)
def test_what_is_no_group(change: dict[str, Any], message: str, base: Path, tmp_path: Path) -> None:
    """Law 8: X-ALMA's code wants all seven modules of every layer, and scale 2: what differs is refused by name."""
    given = {n: r for n, r in made(base, SEVEN).items() if change.get("less", "-") not in n}
    given |= factors(np.random.default_rng(0), change["more"], (20, 16)) if "more" in change else {}
    one = write_lora(tmp_path / "one", given, **{k: v for k, v in change.items() if k == "lora_alpha"})
    with pytest.raises(SutureError, match=message):
        suture.convert_adapter(one, tmp_path / "g.safetensors", to="x-alma")


def test_groups_have_one_rank(base: Path, tmp_path: Path) -> None:
    """Law 8: a group of another rank than the model's groups is refused."""
    suture.convert_adapter(
        write_lora(tmp_path / "a", made(base, SEVEN)), tmp_path / "m", to="x-alma", given=AdapterFacts(model=base)
    )
    other = write_lora(tmp_path / "b", made(base, SEVEN, r=2), r=2, lora_alpha=4)
    with pytest.raises(SutureError, match="has rank 2, the groups of the model 4"):
        suture.convert_adapter(other, tmp_path / "no", to="x-alma", given=AdapterFacts(model=tmp_path / "m"))


def test_a_conversion_in_parts(base: Path, tmp_path: Path) -> None:
    """Law 3: what several processes make has the bytes of one run, alphas too, and nothing is left beside it."""
    one = write_lora(tmp_path / "one", made(base))
    how: dict[str, Any] = {"to": "sd-scripts", "given": AdapterFacts(prefix="lora_te")}
    for i in (1, 2):
        suture.convert_adapter(one, tmp_path / "x.safetensors", settings=Settings(part=f"{i}/2", threads=1), **how)
    suture.finish(tmp_path / "x.safetensors")
    suture.convert_adapter(one, tmp_path / "y.safetensors", **how)
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()
    assert {p.suffix for p in tmp_path.iterdir()} == {"", ".safetensors", ".json"}
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


# What is refused

LACKS: dict[str, dict[str, str]] = {
    "dora": {"sd-scripts": "lengths of rows", "loralib": "lengths of rows", "x-alma": "lengths of rows"},
    "saved": {"sd-scripts": "trained whole", "loralib": "trained whole"},
    "bias of the product": {"sd-scripts": "lora_bias", "loralib": "lora_bias"},
    "biases": {"sd-scripts": "a bias that was trained", "x-alma": "a bias that was trained"},
    "embedding": {"sd-scripts": "of a table of tokens", "x-alma": "of a table of tokens"},
    "convolution": {"loralib": "of convolution", "x-alma": "of convolution"},
    "transposed": {"sd-scripts": "of weights kept as"},
    "experts (10, 7)": {"sd-scripts": "of experts", "loralib": "of experts"},
}


@pytest.mark.parametrize(("kind", "to"), [(k, to) for k, forms in LACKS.items() for to in forms])
def test_what_a_form_cannot_say(kind: str, to: str, tmp_path: Path) -> None:
    """Law 5: what the form has no place for is refused by its tensor, and never dropped."""
    found = KINDS[kind](Made("F32", "F32"))
    one = write_lora(tmp_path / "one", found.adapter, **found.config)
    given = AdapterFacts(prefix="lora_te" if to == "sd-scripts" else None)
    with pytest.raises(SutureError, match=f"tensor `.*`: is .*{LACKS[kind][to]}.*, for which {to} has no place"):
        suture.convert_adapter(one, tmp_path / "out.safetensors", to=to, given=given)
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_a_dry_run_leaves_nothing_behind(base: Path, tmp_path: Path) -> None:
    """Law 6: alphas are written for the plan to read, and go with it."""
    one = write_lora(tmp_path / "one", made(base))
    how: dict[str, Any] = {"to": "sd-scripts", "given": AdapterFacts(prefix="lora_te")}
    report = suture.convert_adapter(one, tmp_path / "x.safetensors", dry_run=True, **how)
    assert len(report.actions) == 12
    assert [p.name for p in tmp_path.iterdir()] == ["one"]
    suture.convert_adapter(one, tmp_path / "x.safetensors", **how)
    assert {p.name for p in tmp_path.iterdir()} == {"one", "x.safetensors", "x.suture.json"}


def test_scales_are_kept_or_refused(base: Path, tmp_path: Path) -> None:
    """Law: of rank-stabilised LoRA alpha is lora_alpha times the root of the rank, where a float holds that."""
    for r in (4, 8):
        one = write_lora(tmp_path / f"r{r}", made(base, r=r), r=r, use_rslora=True)
        out = tmp_path / f"r{r}.safetensors"
        how: dict[str, Any] = {"to": "sd-scripts", "given": AdapterFacts(prefix="lora_te")}
        if r == 8:
            with pytest.raises(SutureError, match=r"has alpha 22.6.*float32 does not hold.*rank-stabilised"):
                suture.convert_adapter(one, out, **how)
            continue
        suture.convert_adapter(one, out, **how)
        assert {float(exact(raw)) for n, raw in tensors(out).items() if n.endswith("alpha")} == {16.0}
        suture.convert_adapter(out, tmp_path / "again", to="peft", given=AdapterFacts(model=base))
        check_folded(base, one, tmp_path / "again", tmp_path)
    one = write_lora(tmp_path / "odd", made(base), lora_alpha=257)
    wide: dict[str, Any] = {"given": AdapterFacts(prefix="lora_te"), "settings": Settings(dtype="bf16")}
    with pytest.raises(SutureError, match=r"alpha 257.0, which bfloat16 does not hold"):
        suture.convert_adapter(one, tmp_path / "no.safetensors", to="sd-scripts", **wide)
    two = write_lora(tmp_path / "two", made(base), alpha_pattern={"q_proj": 4})
    with pytest.raises(SutureError, match="has alpha 4, and others 8; loralib"):
        suture.convert_adapter(two, tmp_path / "no.safetensors", to="loralib")


FOREIGN: list[tuple[str, str]] = [
    ("lora_te_x.hada_w1_a", "is no `lora_down`"),
    ("lora_te_x.dora_scale", "is no `lora_down`"),
    ("lora_te_x.lora_down.weight", "has no `lora_up`"),
    ("lora_te_x.alpha", "has no `lora_down`"),
]


@pytest.mark.parametrize(("name", "message"), FOREIGN, ids=[n for n, _ in FOREIGN])
def test_files_of_sd_scripts_that_are_not_whole(name: str, message: str, base: Path, tmp_path: Path) -> None:
    """Law 8: LoHa, LoKr and DoRA of that form, and factors without a partner, are named."""
    given = sd_file(base, tmp_path / "a.safetensors")
    write_file(tmp_path / "b.safetensors", given | {name: encode(np.ones((2, 2), np.float32), "F32")})
    with pytest.raises(SutureError, match=message):
        suture.convert_adapter(
            tmp_path / "b.safetensors", tmp_path / "no", to="peft", given=AdapterFacts(model=base, prefix="lora_te")
        )


def test_names_without_dots_need_a_model(base: Path, tmp_path: Path) -> None:
    """Law 8: dots are never guessed: without a model, or with one that lacks the module, the conversion is refused."""
    sd_file(base, tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match=r"model: .*names modules without dots; give the model"):
        suture.convert_adapter(tmp_path / "a.safetensors", tmp_path / "no", to="peft")
    shapes = llama_family(tmp_path / "wider", dtype="f32", **SHAPE | {"ff": 32})[0]
    with pytest.raises(SutureError, match=r"is of a weight of shape \[24, 16\], and the model's `.*up_proj` has \[32"):
        suture.convert_adapter(tmp_path / "a.safetensors", tmp_path / "no", to="peft", given=AdapterFacts(model=shapes))
    other = write_checkpoint(tmp_path / "other", {"model.layers.0.self_attn.q.weight": np.ones((2, 2), np.float32)})
    with pytest.raises(SutureError, match=r"module `lora_te1_model_layers_.*the model has none of that name"):
        suture.convert_adapter(tmp_path / "a.safetensors", tmp_path / "no", to="peft", given=AdapterFacts(model=other))
    twice = {f"a.b{dot}c.weight": np.ones((2, 2), np.float32) for dot in "._"}
    model = write_checkpoint(tmp_path / "twice", twice)
    with pytest.raises(SutureError, match="are one name without dots"):
        suture.convert_adapter(tmp_path / "a.safetensors", tmp_path / "no", to="peft", given=AdapterFacts(model=model))


def test_other_mistakes(base: Path, tmp_path: Path) -> None:
    """Law 8: forms, places and options that do not go together."""
    one = write_lora(tmp_path / "one", made(base))
    for out, how, message in (
        ("x", {"to": "lora"}, "to: expected peft, loralib"),
        ("x", {"to": "loralib"}, "a file whose name ends in .safetensors"),
        ("x.safetensors", {"to": "peft"}, "is written as a folder"),
        ("x.safetensors", {"to": "sd-scripts"}, "prefix: expected which part"),
        ("x.safetensors", {"to": "sd-scripts", "given": AdapterFacts(prefix="unet")}, "found `unet`"),
        ("x", {"to": "peft", "given": AdapterFacts(source="kohya")}, "from: expected peft"),
        ("x", {"to": "peft", "group": "de"}, "holds no adapter `de`"),
        ("x", {"to": "peft", "given": AdapterFacts(alpha=2)}, "alpha: decides nothing of peft"),
        ("x", {"to": "peft", "given": AdapterFacts(model=base)}, "model: decides nothing of peft"),
        ("x.safetensors", {"to": "loralib", "given": AdapterFacts(prefix="lora_te")}, "prefix: decides nothing"),
    ):
        with pytest.raises(UsageError, match=message):
            suture.convert_adapter(one, tmp_path / out, **how)
    sd_file(base, tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="is sd-scripts already"):
        suture.convert_adapter(tmp_path / "a.safetensors", tmp_path / "b.safetensors", to="sd-scripts")
    with pytest.raises(SutureError, match="holds no factors whose names are known"):
        suture.convert_adapter(base, tmp_path / "x", to="peft")
    with pytest.raises(SutureError, match="holds no factors of x-alma"):
        suture.convert_adapter(one, tmp_path / "x", to="peft", given=AdapterFacts(source="x-alma"))
    assert not (tmp_path / "x").exists()


def test_adapters_of_adapterhub(base: Path, tmp_path: Path) -> None:
    """Law: alpha is that of the config beside it; one that scales activations is refused."""
    given = made(base, dtype="F32")
    folder = tmp_path / "hub"
    folder.mkdir()
    write_torch(
        folder / "adapter.pt",
        {n.replace(".lora_", ".loras.sw.lora_").removesuffix(".weight"): r for n, r in given.items()},
    )
    for mode in ("add", "scale"):
        own = {"architecture": "lora", "r": 4, "alpha": 12, "composition_mode": mode}
        write_json(folder / CONFIG, {"name": "sw", "config": own})
        if mode == "add":
            suture.convert_adapter(folder / "adapter.pt", tmp_path / "out", to="peft")
        else:
            with pytest.raises(SutureError, match="no sum of products"):
                suture.convert_adapter(folder / "adapter.pt", tmp_path / "no", to="peft")
    assert read_lora(tmp_path / "out") == given
    check_folded(base, write_lora(tmp_path / "alone", given, lora_alpha=12), tmp_path / "out", tmp_path)


def test_pickled_adapters_are_read_by_every_verb(base: Path, tmp_path: Path) -> None:
    """Law: `adapter_model.bin` in the place of safetensors gives fold, merge, swap and convert the same bytes."""
    one = write_lora(tmp_path / "one" / "lora", made(base))
    other = write_lora(tmp_path / "other", {n: encode(2 * r.values(), "F16") for n, r in made(base).items()})
    two = tmp_path / "two" / "lora"
    two.mkdir(parents=True)
    write_torch(two / "adapter_model.bin", tensors(one / WEIGHTS))
    (two / CONFIG).write_bytes((one / CONFIG).read_bytes())
    for place, lora in (("x", one), ("y", two)):
        out = tmp_path / place
        suture.fold(base, [lora], out / "fold")
        suture.merge_adapters([lora], out / "same")
        suture.merge_adapters([lora, lora], out / "merge", weights=[0.25, 0.5])
        suture.swap(lora, other, out / "swap", bottom=1)
        suture.convert_adapter(lora, out / "sd.safetensors", to="sd-scripts", given=AdapterFacts(prefix="lora_te"))
        suture.convert_adapter(lora, out / "peft", to="peft")
    for name in ("fold", "same", "merge", "swap", "peft", "sd.safetensors"):
        places = [tmp_path / place / name for place in "xy"]
        found = [tensors(p) if p.is_file() else read_checkpoint(p) for p in places]
        assert found[0] == found[1], name
