"""The figures of a comparison of models that torch holds are those of files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import suture
import suture.torch
from suture.results import Comparison
from suture.torch.comparing import diff
from tests.support.checkpoints import llama_config, llama_shapes
from tests.support.forms import World, write_world
from tests.support.resident import Tensors, module_of

CONFIG = llama_config(3, 16, 4, 2, 24, 20, False, "F32")


def family(dtype: torch.dtype) -> list[Tensors]:
    """A base and a fine-tune: some elements and tensors unchanged, some zero, signs flipped, integers among them."""
    draw = torch.Generator().manual_seed(5)
    base, tuned = dict[str, torch.Tensor](), dict[str, torch.Tensor]()
    for name, shape in llama_shapes(3, 16, 4, 2, 24, 20, tied=False).items():
        values = torch.randn(shape, generator=draw) * 0.02
        change = torch.randn(shape, generator=draw) * 0.01 * (torch.rand(shape, generator=draw) > 0.4)
        base[name] = values.to(dtype)
        tuned[name] = base[name].clone() if name.endswith("norm.weight") else (values + change).to(dtype)
    base["model.layers.1.mlp.zero.weight"] = torch.zeros(8, 4, dtype=dtype)
    tuned["model.layers.1.mlp.zero.weight"] = torch.ones(8, 4, dtype=dtype)
    base["both_zero"], tuned["both_zero"] = torch.zeros(5, dtype=dtype), -torch.zeros(5, dtype=dtype)
    base["steps"], tuned["steps"] = torch.arange(6), torch.arange(6) * 2
    base["kept"], tuned["kept"] = torch.arange(3, dtype=torch.uint8), torch.arange(3, dtype=torch.uint8)
    base["scalar"], tuned["scalar"] = torch.tensor(0.5, dtype=dtype), torch.tensor(-0.25, dtype=dtype)
    base["none"], tuned["none"] = torch.zeros(0, 3, dtype=dtype), torch.zeros(0, 3, dtype=dtype)
    return [base, tuned]


def stored(folder: Path, models: Sequence[Tensors], config: Mapping[str, Any] = CONFIG) -> list[Path]:
    """The same as checkpoints."""
    paths = [folder / name for name in ("base", "tuned")]
    for path, tensors in zip(paths, models, strict=True):
        path.mkdir(parents=True)
        save_file({n: t.contiguous() for n, t in tensors.items()}, path / "model.safetensors")
        (path / "config.json").write_text(json.dumps(config))
    return paths


def agree(found: Any, wanted: Any, at: str = "") -> None:
    """The same keys, words and counts; numbers within 1e-6, sums with a sign within that of what is summed."""
    if isinstance(wanted, Mapping):
        assert set(found) == set(wanted), at
        scale = wanted.get("mean_abs") or 0.0
        for key, value in wanted.items():
            if key == "mean" and isinstance(value, float):
                assert abs(found[key] - value) <= 1e-6 * scale, at
            else:
                agree(found[key], value, f"{at}.{key}")
    elif isinstance(wanted, list):
        if wanted and isinstance(wanted[0], Mapping):
            key = next((k for k in ("name", "cell", "layer", "module") if k in wanted[0]), None)
            cell = "layer" in wanted[0] and "module" in wanted[0]
            named = [
                {(r["layer"], r["module"]) if cell else str(r.get(key)): r for r in rows} for rows in (found, wanted)
            ]
            assert set(named[0]) == set(named[1]), at
            for name, row in named[1].items():
                agree(named[0][name], row, f"{at}.{name}")
        else:
            assert sorted(map(str, found)) == sorted(map(str, wanted)), at
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-6, abs=1e-30), at
    else:
        assert found == wanted, at


def check(models: Sequence[Any], paths: Sequence[Path], **how: Any) -> Comparison:
    found, wanted = diff(*models, **how), suture.diff(*paths)
    for one in (found, wanted):
        one["base"] = one["models"][0]["tuned"] = one["models"][0]["label"] = ""
    json.dumps(found, allow_nan=False)
    agree(found, wanted)
    rows = [[row["layer"] for row in one["models"][0]["layers"]] for one in (found, wanted)]
    assert rows[0] == rows[1]
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("block", [None, 7])
def test_figures_are_those_of_files(dtype: torch.dtype, block: int | None, tmp_path: Path) -> None:
    models = family(dtype)
    found = check([module_of(m, CONFIG) for m in models], stored(tmp_path, models), block=block)
    row = next(r for r in found["models"][0]["tensors"] if r["name"] == "model.layers.1.mlp.zero.weight")
    assert row["relative_l2"] == "inf"
    assert found["models"][0]["uncomputed"]["elements_changed"] == 5


ON_TORCH = suture.Settings(device="torch-cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_files_on_a_device_have_the_same_figures(dtype: torch.dtype, tmp_path: Path) -> None:
    """`suture diff --device`; what it is told of progress ends with all bytes."""
    base, tuned = family(dtype)
    del base["scalar"]
    tuned["steps"] = torch.zeros(2, 2)
    paths = stored(tmp_path, [base, tuned])
    told: list[tuple[int, int]] = []
    found = suture.diff(*paths, settings=ON_TORCH, progress=lambda done, total: told.append((done, total)))
    agree(found, suture.diff(*paths))
    assert told[-1][0] <= told[-1][1] == sum(t.nbytes for model in (base, tuned) for t in model.values())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("world"))


def test_what_a_device_does_not_compare_is_refused(world: World, tmp_path: Path) -> None:
    base, tuned = family(torch.float32)
    one, two = stored(tmp_path, [base, tuned])
    for more in ({"heads": True}, {"spread": True}, {"tokens": 3}, {"neurons": 2}):
        with pytest.raises(suture.UsageError, match="by the figures of one reading; found"):
            suture.diff(one, two, settings=ON_TORCH, **more)
    with pytest.raises(suture.UsageError, match="several fine-tunes"):
        suture.diff(one, two, two, settings=ON_TORCH)
    with pytest.raises(suture.SutureError, match=r"is computed of a weight and its adapters.*leave --device out"):
        suture.diff(world.base, f"{world.base}+{world.path('a-one')}", settings=ON_TORCH)


@pytest.mark.parametrize("name", ["one", "wide", "tied", "buffered", "bare"])
def test_what_a_device_compares_is_what_the_cpu_compares(name: str, world: World) -> None:
    """Other dtypes, tied models, buffers, tensors that one of both lacks."""
    for pair in ((world.base, world.path(name)), (world.path(name), world.base)):
        agree(suture.diff(*pair, settings=ON_TORCH), suture.diff(*pair))


def test_a_quantised_model_is_refused(world: World) -> None:
    """It is decoded by the core as it is read, which is no work of a device."""
    with pytest.raises(suture.SutureError, match=r"quantised.*leave --device out"):
        suture.diff(world.base, world.path("q-one"), settings=ON_TORCH)


def test_names_and_experts_are_taken_as_the_base_has_them(tmp_path: Path) -> None:
    """Under another prefix, and packed in one tensor or apart."""
    base, tuned = family(torch.bfloat16)
    one, two = stored(tmp_path, [base, {f"language_model.{n}": t for n, t in tuned.items()}])
    agree(suture.diff(one, two, settings=ON_TORCH), suture.diff(one, two))
    config = {"model_type": "mixtral", "num_hidden_layers": 2, "num_local_experts": 2, "hidden_size": 4}
    suture_names = [
        f"model.layers.{i}.block_sparse_moe.experts.{e}.w{w}.weight" for i in (0, 1) for e in (0, 1) for w in (1, 2, 3)
    ]
    apart = {n: torch.randn(4, 4) for n in suture_names}
    changed = {n: t + 0.01 for n, t in apart.items()}
    first, second = stored(tmp_path / "experts", [apart, changed], config)
    packed = tmp_path / "packed"
    suture.merge(
        {"merge_method": "passthrough", "models": [{"model": str(second)}]},
        packed,
        settings=suture.Settings(experts="packed"),
    )
    assert suture.open(packed).names != suture.open(second).names
    for pair in ((first, packed), (packed, first)):
        agree(suture.diff(*pair, settings=ON_TORCH), suture.diff(*pair))


def test_dtypes_may_differ(tmp_path: Path) -> None:
    base, tuned = family(torch.float32)
    for other in (torch.bfloat16, torch.float64):
        cast = {n: t.to(other) if t.is_floating_point() else t for n, t in tuned.items()}
        check([module_of(base, CONFIG), module_of(cast, CONFIG)], stored(tmp_path / str(other), [base, cast]))


def test_what_is_not_finite_is_counted_and_left_out(tmp_path: Path) -> None:
    base, tuned = family(torch.float32)
    name = "model.layers.0.mlp.up_proj.weight"
    base[name][0, 1], tuned[name][0, 1] = float("nan"), float("nan")
    tuned[name][3, 3] = float("inf")
    check([module_of(base, CONFIG), module_of(tuned, CONFIG)], stored(tmp_path, [base, tuned]))


def test_names_and_shapes_that_differ_are_told(tmp_path: Path) -> None:
    base, tuned = family(torch.float32)
    base["model.layers.2.only"] = torch.ones(2)
    tuned["model.layers.0.extra"], tuned["more"] = torch.ones(2), torch.ones(3)
    tuned["scalar"] = torch.ones(2)
    tuned["steps"] = tuned["steps"].to(torch.int32)
    found = check([module_of(base, CONFIG), module_of(tuned, CONFIG)], stored(tmp_path, [base, tuned]))
    assert found["models"][0]["lost"]["model.layers.0.extra"] == "0"
    assert found["models"][0]["reshaped"] == ["steps", "scalar"]


def test_several_stacks_are_named(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(1)
    names = [f"{part}.block.{i}.layer.0.{m}.weight" for part in ("encoder", "decoder") for i in range(2) for m in "qv"]
    base = {n: torch.randn(3, 4, generator=draw) for n in ["shared.weight", *names]}
    tuned = {n: t + 0.1 * torch.randn(t.shape, generator=draw) for n, t in base.items()}
    config = {"model_type": "t5", "num_layers": 2, "num_decoder_layers": 2, "is_encoder_decoder": True}
    found = check([module_of(m, config) for m in (base, tuned)], stored(tmp_path, [base, tuned], config))
    assert any(":" in row["layer"] for row in found["models"][0]["layers"])


def test_layouts_do_not_matter() -> None:
    base, tuned = family(torch.float32)
    turned = {n: t.t().contiguous().t() if t.dim() == 2 else t for n, t in base.items()}
    agree(diff(turned, tuned, block=64), diff(base, tuned))
    agree(diff(base, base)["models"][0]["total"]["cosine"], 1.0)


def test_mistakes_are_named() -> None:
    base, tuned = family(torch.float32)
    with pytest.raises(suture.UsageError, match="no tensor in common"):
        diff(base, {"other": torch.ones(2)})
    with pytest.raises(suture.UsageError, match="no tensor of one shape in common"):
        diff({"a": torch.ones(3)}, {"a": torch.ones(2)})
    with pytest.raises(suture.UsageError, match="expected a torch module or a mapping"):
        diff(base, 3)
    with pytest.raises(suture.SutureError, match="`scalar`: is on the meta device"):
        diff(base, {**tuned, "scalar": torch.ones((), device="meta")})
