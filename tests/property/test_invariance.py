"""Laws that hold for every method there is, and for swaps: what does not matter changes no byte."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from numpy.typing import NDArray

import suture

from ..reference.philox import keep_mask
from ..reference.select import keep_count, top_k_mask
from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint

Spec = dict[str, Any]
Config = dict[str, Any]

SPECS: dict[str, Spec] = {spec["name"]: spec for spec in suture.methods()}
SPAN = 2**22
#: Larger than a span of the engine (twice), of a tile, of a block, or smaller than each, and no multiple of any.
LARGE = 2 * SPAN + 1003
WEIGHTS = (0.55, 0.35, 0.6)
SHARES = (0.37, 0.81, 0.62)


@pytest.fixture(autouse=True)
def tidy(tmp_path: Path) -> Iterator[None]:
    """Outputs are large; none is kept."""
    yield
    shutil.rmtree(tmp_path)


def experts_of(spec: Spec) -> int:
    """How many models besides the base a generic merge has: three where the method takes them."""
    least, most = map(int, spec["inputs"])
    listed = max(least, min(most, 3))
    return listed - 1 if spec["base"] == "first" else listed


def value(parameter: Spec, position: int) -> Any:
    """A value for a parameter that is neither its default nor an end of its range."""
    kind = parameter["kind"]
    if kind["kind"] == "switch":
        return not parameter["default"]
    if kind["kind"] == "choice":
        return kind["words"][0]
    bounded = max(abs(kind["min"]), abs(kind["max"])) < 1e6
    if bounded:
        return kind["min"] + (kind["max"] - kind["min"]) * SHARES[position % 3]
    return WEIGHTS[position % 3]


def configure(
    spec: Spec,
    models: Sequence[Path],
    given: dict[str, Any] | None = None,
    *,
    only_required: bool = False,
    order: Sequence[int] | None = None,
) -> Config:
    """A merge by a method, all its number parameters set; `models` are the base and the experts.

    `given` sets parameters for all models together; `order` permutes the experts, parameters and all.
    """
    given = given or {}
    base, experts = models[0], list(models[1 : 1 + experts_of(spec)])
    config: Config = {"merge_method": spec["name"], "models": [], "parameters": dict(given)}
    if spec["base"] != "none":
        config["base_model"] = str(base)
    numbers = [p for p in spec["parameters"] if p["kind"]["kind"] == "number" and p["name"] not in given]
    if only_required:
        numbers = [p for p in numbers if p["default"] is None]
    for i in order or range(len(experts)):
        own = {p["name"]: value(p, i) for p in numbers if p["per_input"]}
        config["models"].append({"model": str(experts[i]), "parameters": own})
    config["parameters"] |= {p["name"]: value(p, 1) for p in numbers if not p["per_input"]}
    return config


def variants(spec: Spec) -> dict[str, dict[str, Any]]:
    """The defaults, every switch the other way, every word of every choice."""
    found: dict[str, dict[str, Any]] = {"default": {}}
    for parameter in spec["parameters"]:
        kind, name = parameter["kind"], parameter["name"]
        if kind["kind"] == "switch":
            found[f"{name}={not parameter['default']}"] = {name: not parameter["default"]}
        elif kind["kind"] == "choice":
            found |= {f"{name}={w}": {name: w} for w in kind["words"] if w != parameter["default"]}
    return found


VARIANTS = [(name, variant) for name, spec in SPECS.items() for variant in variants(spec)]
BASED = [(name, variant) for name, variant in VARIANTS if SPECS[name]["base"] == "required"]
HOMOGENEOUS = [(name, variant) for name, variant in VARIANTS if SPECS[name]["homogeneous"]]


def given(name: str, variant: str) -> dict[str, Any]:
    """The parameters of a variant."""
    return variants(SPECS[name])[variant]


def merge(config: Config, out: Path, **settings: Any) -> dict[str, Raw]:
    """The tensors a merge writes."""
    suture.merge(config, out, settings=suture.Settings(**settings))
    return read_checkpoint(out)


def one(config: Config, out: Path, **settings: Any) -> NDArray[Any]:
    """The only tensor a merge writes."""
    (raw,) = merge(config, out, **settings).values()
    return raw.values()


def model(folder: Path, **tensors: NDArray[Any]) -> Path:
    """A checkpoint of a few tensors."""
    return write_checkpoint(folder, tensors)


LAYERS: dict[str, tuple[str, tuple[int, ...]]] = {
    "model.layers.0.mlp.up_proj.weight": ("F32", (1021, 37)),
    "model.layers.0.mlp.down_proj.weight": ("BF16", (37, 1021)),
    "model.layers.0.scale": ("F16", (1,)),
    "model.layers.1.mlp.up_proj.weight": ("BF16", (1021, 37)),
    "model.layers.1.mlp.down_proj.weight": ("F64", (37, 101)),
    "model.layers.1.scale": ("F32", (1023,)),
    "model.layers.2.mlp.up_proj.weight": ("F16", (1021, 97)),
    "model.layers.2.mlp.down_proj.weight": ("F32", (8, 1024)),
    "model.layers.2.scale": ("F32", (1025,)),
}
SHAPES: dict[str, tuple[str, tuple[int, ...]]] = {
    "model.embed_tokens.weight": ("BF16", (LARGE,)),
    **LAYERS,
    "model.norm.weight": ("F32", ()),
    "lm_head.weight": ("BF16", (0, 5)),
    "head.bias": ("F16", (4095,)),
}


def write_family(folder: Path, shapes: dict[str, tuple[str, tuple[int, ...]]]) -> list[Path]:
    """A base and three fine-tunes: dtypes mixed in and across models, in 1, 7, 2 and 1 shards.

    Where all are bf16 many changes have the same magnitude, so that thresholds fall on equal elements.
    """
    rng = np.random.default_rng(11)
    base = {name: 0.02 * rng.standard_normal(shape, np.float32) for name, (_, shape) in shapes.items()}
    buffer = Raw("I64", (3,), bytes(range(24)))
    folders = []
    for number, (name, shards) in enumerate([("base", 1), ("one", 7), ("two", 2), ("three", 1)]):
        tensors = {"position_ids": buffer}
        for tensor, (dtype, shape) in shapes.items():
            change = np.float32(0.002) * rng.standard_normal(shape, np.float32) if number else np.float32(0)
            stored = "F32" if (name, dtype) == ("three", "F16") else dtype
            tensors[tensor] = encode(np.asarray(base[tensor] + change), stored)
        folders.append(write_checkpoint(folder / name, tensors, shards=shards))
    return folders


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A family with a tensor of three spans, so that the order in which spans are added can be wrong."""
    return write_family(tmp_path_factory.mktemp("family"), SHAPES)


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A family with a tensor of two spans."""
    shapes = SHAPES | {"model.embed_tokens.weight": ("BF16", (SPAN + 1003,))}
    return write_family(tmp_path_factory.mktemp("smaller"), shapes)


def differing(found: dict[str, Raw], expected: dict[str, Raw]) -> list[str]:
    """The tensors that are not the same; what pytest has to say of megabytes would take minutes."""
    names = sorted({*found, *expected})
    return [name for name in names if found.get(name) != expected.get(name)]


def limit_for(sizes: Sequence[int], shards: int) -> int:
    """A shard size that spreads tensors of these sizes, in this order, over so many shards."""

    def count(limit: int) -> int:
        number, filled = 1, 0
        for size in sizes:
            if filled and filled + size > limit:
                number, filled = number + 1, 0
            filled += size
        return number

    candidates = [sum(sizes[i:j]) for i, j in itertools.combinations(range(len(sizes) + 1), 2)]
    return next(limit for limit in sorted(candidates) if limit and count(limit) == shards)


def ways(sizes: Sequence[int], smallest: str) -> Iterator[dict[str, Any]]:
    """Settings that must not change a byte: every value that matters turns up, no two ways have much in common."""
    single, seven = sum(sizes) + 1, limit_for(sizes, 7)
    yield {"threads": 1, "io": "mmap", "chunk": "4KiB", "shard_size": seven}
    yield {"threads": 2, "io": "direct", "chunk": "16MiB", "shard_size": single}
    yield {"threads": 5, "io": "pread", "chunk": "12345"}
    yield {"threads": 2, "io": "auto", "memory": smallest}
    yield {"threads": 5, "io": "direct", "chunk": "64KiB", "shard_size": seven}


def smallest_memory(run: Any) -> str:
    """The smallest budget that works on two threads, as the refusal of a smaller one names it."""
    with pytest.raises(suture.UsageError) as caught:
        run({"memory": "1MiB", "threads": 2})
    found = re.search(r"smallest that works is (\d+) MiB", str(caught.value))
    assert found, caught.value
    return f"{found[1]}MiB"


def record(out: Path) -> Any:
    """What suture.json says of the tensors, digests and all."""
    return json.loads((out / "suture.json").read_text())["tensors"]


@pytest.mark.parametrize("name", [*SPECS, "swap"])
def test_settings_change_no_byte(name: str, family: list[Path], tmp_path: Path) -> None:
    """Laws 1 and 3: threads, I/O, chunks, shards and memory change neither a byte nor a digest of a tensor."""
    out = tmp_path / "out"

    def run(settings: dict[str, Any]) -> None:
        how = suture.Settings(overwrite=True, **settings)
        if name == "swap":
            options: dict[str, Any] = {"bottom": 1, "transition": 1, "blend": 0.3, "non_layer": "mean"}
            suture.swap(family[0], family[1], out, settings=how, **options)
        else:
            suture.merge(configure(SPECS[name], family), out, settings=how)

    run({})
    expected, told = read_checkpoint(out), record(out)
    assert suture.verify(out)["differing"] == []
    order = sorted(told, key=suture.open(out).names.index)
    sizes = [len(expected[tensor].data) for tensor in order]
    for settings in ways(sizes, smallest_memory(run)):
        run(settings)
        assert not differing(read_checkpoint(out), expected), settings
        assert record(out) == told, settings
        if "shard_size" in settings:
            wanted = 1 if settings["shard_size"] > sum(sizes) else 7
            assert len(list(out.glob("*.safetensors"))) == wanted
            assert suture.verify(out, settings=suture.Settings(threads=5))["differing"] == []


@pytest.mark.parametrize(("name", "variant"), [v for v in VARIANTS if v[1] != "default"])
def test_settings_change_no_byte_of_a_variant(name: str, variant: str, smaller: list[Path], tmp_path: Path) -> None:
    """Law 3 for every switch and word of every method: two ways of working that have nothing in common."""
    config = configure(SPECS[name], smaller, given(name, variant))
    first = merge(config, tmp_path / "a", threads=5, io="pread", chunk="20KiB", shard_size="500KB")
    second = merge(config, tmp_path / "b", threads=1, io="mmap", chunk="16MiB")
    assert not differing(first, second)
    assert record(tmp_path / "a") == record(tmp_path / "b")


def special_values(dtype: str) -> Raw:
    """Ordinary values, the largest, the smallest and subnormal ones, and zeros, of a dtype."""
    rng = np.random.default_rng(5)
    values = rng.standard_normal(5003).astype(np.float32)
    if dtype == "F64":
        return encode(values, dtype)
    width = {"F32": 4, "F16": 2, "BF16": 2}[dtype]
    edge = {"F32": 0x7F7FFFFF, "F16": 0x7BFF, "BF16": 0x7F7F}[dtype]
    sign = 1 << (8 * width - 1)
    small = {"F32": 0x00800000, "F16": 0x0400, "BF16": 0x0080}[dtype]
    bits = [edge, edge | sign, 1, 1 | sign, small - 1, small, small | sign, 0]
    data = encode(values, dtype).data + np.array(bits, dtype=f"<u{width}").tobytes()
    return Raw(dtype, (values.size + len(bits),), data)


def copies(source: Path, folder: Path, count: int) -> list[Path]:
    """The same checkpoint under several names, without the space."""
    made = []
    for number in range(count):
        target = folder / f"copy-{number}"
        target.mkdir(parents=True)
        for path in source.iterdir():
            os.link(path, target / path.name)
        made.append(target)
    return made


def identity_config(name: str, variant: str, source: Path, folder: Path) -> Config:
    """A merge of a base with copies of itself."""
    spec = SPECS[name]
    models = [source, *copies(source, folder, 3)]
    return configure(spec, models, given(name, variant), only_required=spec["base"] != "required")


IDENTITIES = [*BASED, *[(n, "default") for n, s in SPECS.items() if s["base"] != "required"]]


@pytest.mark.parametrize(("name", "variant"), IDENTITIES)
def test_merging_a_model_with_itself_changes_nothing(name: str, variant: str, tmp_path: Path) -> None:
    """Identity: all experts equal to the base give the base, bit for bit, whatever the parameters."""
    tensors = {dtype: special_values(dtype) for dtype in ("F32", "F16", "BF16", "F64")}
    tensors["one"] = encode(np.array([0.1]), "F32")
    base = write_checkpoint(tmp_path / "base", tensors)
    assert not differing(merge(identity_config(name, variant, base, tmp_path), tmp_path / "out"), tensors)


@pytest.mark.parametrize("name", SPECS)
def test_identity_keeps_negative_zero(name: str, tmp_path: Path) -> None:
    """Identity, bit for bit: a zero keeps its sign."""
    zeros = np.array([-0.0, 0.0, 1.0, -0.0], np.float32)
    tensors = {dtype: encode(zeros, dtype) for dtype in ("F32", "F16", "BF16")}
    base = write_checkpoint(tmp_path / "base", tensors)
    assert not differing(merge(identity_config(name, "default", base, tmp_path), tmp_path / "out"), tensors)


def near(base: NDArray[np.float32], rng: np.random.Generator, spread: float) -> NDArray[np.float32]:
    """A fine-tune whose elements stay within `spread` times those of the base."""
    return base * (1 + rng.uniform(-spread, spread, base.shape)).astype(np.float32)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_one_expert_of_full_weight_is_given_back(name: str, variant: str, tmp_path: Path) -> None:
    """N = 1: one expert with weight and density one (or t one) comes out as it went in, bit for bit.

    Base and expert are within a factor of two, where differences are exact in f32.
    """
    rng = np.random.default_rng(6)
    spec = SPECS[name]
    values = rng.standard_normal(3 * 1024 + 5).astype(np.float32)
    base = {dtype: encode(values, dtype) for dtype in ("F32", "F16", "BF16")}
    tuned = {dtype: encode(near(raw.values(), rng, 0.4), dtype) for dtype, raw in base.items()}
    models = [write_checkpoint(tmp_path / "base", base), write_checkpoint(tmp_path / "tuned", tuned)]
    numbers = {p["name"]: 1.0 for p in spec["parameters"] if p["kind"]["kind"] == "number"}
    config: Config = {
        "merge_method": name,
        "models": [{"model": str(models[1])}],
        "parameters": numbers | given(name, variant),
    }
    if spec["base"] != "none":
        config["base_model"] = str(models[0])
    assert not differing(merge(config, tmp_path / "out"), tuned)


PERMUTED = [(name, variant) for name, variant in VARIANTS if experts_of(SPECS[name]) > 1]


@pytest.mark.parametrize(("name", "variant"), PERMUTED)
def test_order_of_experts_does_not_matter(name: str, variant: str, tmp_path: Path) -> None:
    """Permutation: experts listed in another order, parameters and all, give the same within one f32 ulp."""
    rng = np.random.default_rng(7)
    base = rng.standard_normal(20_011).astype(np.float32)
    models = [model(tmp_path / "base", a=base)]
    models += [model(tmp_path / f"tuned-{i}", a=near(base, rng, 0.1)) for i in range(3)]
    spec = SPECS[name]
    first = one(configure(spec, models, given(name, variant)), tmp_path / "012")
    for order in [(2, 1, 0), (1, 2, 0)]:
        config = configure(spec, models, given(name, variant), order=order)
        other = one(config, tmp_path / "".join(map(str, order)))
        assert (np.abs(first - other) <= np.spacing(np.abs(first))).all(), order


CANCELLING = [name for name, spec in SPECS.items() if spec["base"] == "required" and experts_of(spec) > 2]


@pytest.mark.parametrize("name", CANCELLING)
@pytest.mark.parametrize("weights", [(0.1, 0.2, 0.3), (0.5, 0.3, 0.2), (1.0, 0.7, 0.3), (0.6, 0.1, 0.5)])
def test_order_does_not_matter_for_changes_that_cancel(weights: tuple[float, ...], name: str, tmp_path: Path) -> None:
    """Permutation where it is hard: fine-tunes in bf16 move by one step, and weighted steps cancel."""
    signs = np.array(list(itertools.product([-1, 0, 1], repeat=3)), dtype=np.float32).T
    base = np.repeat(np.array([1.0, 0.5, 1.5], np.float32), signs.shape[1])
    step = np.float32(2.0**-7)
    models = [model(tmp_path / "base", a=base)]
    models += [model(tmp_path / f"tuned-{i}", a=base + np.tile(s, 3) * step) for i, s in enumerate(signs)]
    results = []
    for order in itertools.permutations(range(3)):
        config = configure(SPECS[name], models, only_required=True, order=order)
        for place, i in enumerate(order):
            config["models"][place]["parameters"]["weight"] = weights[i]
        results.append(one(config, tmp_path / "".join(map(str, order))))
    for other in results[1:]:
        assert (np.abs(results[0] - other) <= np.spacing(np.abs(results[0]))).all()


@pytest.mark.parametrize(("name", "variant"), HOMOGENEOUS)
def test_changes_scale_on_a_base_of_zeros(name: str, variant: str, tmp_path: Path) -> None:
    """Scale law, exactly: on a base of zeros, changes 2**k times as large give a result 2**k times as large."""
    rng = np.random.default_rng(8)
    changes = [rng.standard_normal(5011).astype(np.float32) for _ in range(3)]
    results = []
    for number, factor in enumerate([1.0, 2.0**-20, 2.0**-60, 2.0**20]):
        folder = tmp_path / str(number)
        models = [model(folder / "base", a=np.zeros(5011, np.float32))]
        models += [model(folder / f"tuned-{i}", a=c * np.float32(factor)) for i, c in enumerate(changes)]
        found = one(configure(SPECS[name], models, given(name, variant)), folder / "out")
        results.append(found / np.float32(factor))
    assert results[0].any()
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


@pytest.mark.parametrize(("name", "variant"), HOMOGENEOUS)
def test_changes_scale_on_an_ordinary_base(name: str, variant: str, tmp_path: Path) -> None:
    """Scale law: changes of 1e-3 and of 1e-6 on weights of 0.1 are merged alike, up to the rounding of the sum."""
    rng = np.random.default_rng(9)
    size, grain = 20_011, np.float32(2.0**-14)
    base = (rng.integers(-(2**10), 2**10, size) * 2.0**-12).astype(np.float32)
    steps = [rng.integers(-64, 65, size).astype(np.float32) for _ in range(3)]
    found = []
    for number, factor in enumerate([1.0, 2.0**-10]):
        folder = tmp_path / str(number)
        models = [model(folder / "base", a=base)]
        models += [model(folder / f"tuned-{i}", a=base + s * grain * np.float32(factor)) for i, s in enumerate(steps)]
        merged = one(configure(SPECS[name], models, given(name, variant)), folder / "out")
        found.append((merged.astype(np.float64) - base) / factor)
    assert np.abs(found[0]).max() > 2.0**-10
    half_ulp = np.spacing(np.abs(base) + np.float32(2.0**-5)).astype(np.float64) / 2
    # Rounding of the small sum weighs 2**10 times as much; the products in f32 add their own, much smaller.
    assert (np.abs(found[0] - found[1]) <= half_ulp * (1 + 2.0**10) + 1e-6 * np.abs(found[0])).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", SPECS)
def test_nan_is_refused_in_every_input(name: str, bad: float, tmp_path: Path) -> None:
    """Law 7: NaN and infinities in any input of any method are named, whether the element would be kept or not."""
    rng = np.random.default_rng(10)
    values = [rng.standard_normal(9001).astype(np.float32) for _ in range(4)]
    spec = SPECS[name]
    involved = range(0 if spec["base"] != "none" else 1, 1 + experts_of(spec))
    for where in involved:
        folder = tmp_path / str(where)
        broken = values[where].copy()
        broken[8192] = bad
        models = [model(folder / f"m{i}", a=broken if i == where else v, b=v) for i, v in enumerate(values)]
        with pytest.raises(suture.SutureError, match=rf"m{where}\S*: tensor `a`: element 8192 "):
            suture.merge(configure(spec, models), folder / "out")
        assert not (folder / "out").exists()


@pytest.mark.parametrize("name", SPECS)
def test_nan_is_found_far_into_a_tensor(name: str, family: list[Path], tmp_path: Path) -> None:
    """Law 7: the position is that in the tensor, in whatever span of it the NaN lies."""
    spec = SPECS[name]
    last = experts_of(spec)
    tensors = read_checkpoint(family[last])
    raw = tensors["model.embed_tokens.weight"]
    data = bytearray(raw.data)
    data[2 * (LARGE - 2) : 2 * (LARGE - 1)] = b"\xc0\x7f"
    tensors["model.embed_tokens.weight"] = Raw(raw.dtype, raw.shape, bytes(data))
    models = [*family[:last], write_checkpoint(tmp_path / "broken", tensors), *family[last + 1 :]]
    with pytest.raises(suture.SutureError, match=rf"broken\S*: tensor `model.embed_tokens.weight`: .* {LARGE - 2} "):
        suture.merge(configure(spec, models), tmp_path / "out")


DARE = [name for name in SPECS if name.startswith("dare")]


def dare(name: str, folder: Path, size: int, density: float, seed: int, tensors: Sequence[str], label: str) -> Any:
    """The masks DARE makes for the tensors of one expert."""
    zeros, ones = np.zeros(size, np.float32), np.ones(size, np.float32)
    base, expert = folder / "base", folder / label
    if not base.exists():
        model(base, **dict.fromkeys(tensors, zeros))
    if not expert.exists():
        model(expert, **dict.fromkeys(tensors, ones))
    models = [{"model": str(expert), "parameters": {"weight": 1.0, "density": density}}]
    config = {"merge_method": name, "base_model": str(base), "models": models}
    out = merge(config, folder / f"out-{label}-{seed}-{density}", seed=seed)
    found = {tensor: out[tensor].values() for tensor in tensors}
    for values in found.values():
        kept = values[values != 0]
        np.testing.assert_allclose(kept, 1 / density, rtol=1e-6)
    return {tensor: values != 0 for tensor, values in found.items()}


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", DARE)
def test_dare_keeps_its_share(name: str, density: float, tmp_path: Path) -> None:
    """DARE: of n elements a binomial number is kept, within five deviations, in every part of the tensor."""
    size = 200_003
    mask = dare(name, tmp_path, size, density, 0, ["a"], "one")["a"]
    for part in (mask, mask[::2], mask[1::4], mask[: size // 3], mask[-1000:]):
        bound = 5 * np.sqrt(part.size * density * (1 - density)) + 1
        assert abs(int(part.sum()) - part.size * density) < bound
    # Neighbours are independent as well.
    both = int((mask[1:] & mask[:-1]).sum())
    assert abs(both - size * density**2) < 5 * np.sqrt(3 * size * density**2 * (1 - density**2)) + 1


@pytest.mark.parametrize("name", DARE)
def test_dare_masks_are_independent(name: str, tmp_path: Path) -> None:
    """DARE: masks of other tensors, models and seeds agree as often as chance has it, within five deviations."""
    size, density = 100_003, 0.3
    masks: list[NDArray[np.bool_]] = []
    for label, seed in [("one", 0), ("two", 0), ("one", 1), ("one", 2**64 - 1)]:
        masks += dare(name, tmp_path, size, density, seed, ["a", "b"], label).values()
    agree = density**2 + (1 - density) ** 2
    bound = 5 * np.sqrt(size * agree * (1 - agree))
    for first, second in itertools.combinations(masks, 2):
        assert abs(int((first == second).sum()) - size * agree) < bound


@pytest.mark.parametrize("name", DARE)
def test_dare_mask_depends_on_the_named_things_alone(name: str, tmp_path: Path) -> None:
    """Law 3: a mask is a function of seed, folder name, tensor name and index; place and company do not matter."""
    first = dare(name, tmp_path / "here", 5003, 0.4, 3, ["a", "b"], "one")
    again = dare(name, tmp_path / "there", 7001, 0.4, 3, ["b", "c"], "one")
    np.testing.assert_array_equal(first["b"], again["b"][:5003])
    # A smaller density keeps a part of what a larger one keeps.
    fewer = dare(name, tmp_path / "here", 5003, 0.2, 3, ["a", "b"], "one")
    assert not (fewer["a"] & ~first["a"]).any()


def test_both_dares_draw_the_same(tmp_path: Path) -> None:
    """DARE: the mask does not depend on what is done with it."""
    first, second = (dare(name, tmp_path / name, 5003, 0.4, 9, ["a"], "one")["a"] for name in DARE)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("name", DARE)
def test_dare_mask_is_philox(name: str, seed: int, tmp_path: Path) -> None:
    """Law 3 to the bit: Philox4x32-10 under the low half of XXH3-128 of seed, folder name and tensor name."""
    for label, tensor in [("one", "model.layers.3.mlp.up_proj.weight"), ("mödel", "ünï")]:
        mask = dare(name, tmp_path, 4099, 0.35, seed, [tensor], label)[tensor]
        key = xxhash.xxh3_128_intdigest(f"{seed}\0{label}\0{tensor}".encode()) & (2**64 - 1)
        np.testing.assert_array_equal(mask, keep_mask(key, 4099, 0.35))
        for path in tmp_path.glob("base"):
            path.rename(tmp_path / f"used-{label}")


def test_dare_mask_goes_on_beyond_a_span(tmp_path: Path) -> None:
    """Law 3: the counter is the element's index in the tensor, wherever the engine cuts it."""
    size = SPAN + 2051
    mask = dare("dare_linear", tmp_path, size, 0.5, 0, ["a"], "one")["a"]
    key = xxhash.xxh3_128_intdigest(b"0\0one\0a") & (2**64 - 1)
    np.testing.assert_array_equal(mask[-4099:], keep_mask(key, 4099, 0.5, start=size - 4099))
    np.testing.assert_array_equal(mask[:4099], keep_mask(key, 4099, 0.5))


SELECTIONS = [
    *itertools.product([1, 2, 9, 1023, 20_011], [1e-9, 0.1, 0.29, 0.5, 0.999, 1.0]),
    *itertools.product([SPAN + 1003], [0.29, 0.5]),
]


@pytest.mark.parametrize(("size", "density"), SELECTIONS)
def test_ties_keeps_exactly_k(size: int, density: float, tmp_path: Path) -> None:
    """Law 4: of bf16 fine-tunes, where magnitudes repeat all the time, exactly the top k remain, ties by index."""
    rng = np.random.default_rng(size)
    base = encode(np.round(rng.standard_normal(size) * 8) / 64 + 1, "BF16")
    tuned = encode(base.values() + rng.integers(-3, 4, size) / np.float32(64), "BF16")
    models = [write_checkpoint(tmp_path / "base", {"a": base}), write_checkpoint(tmp_path / "one", {"a": tuned})]
    config = {
        "merge_method": "ties", "base_model": str(models[0]), "out_dtype": "float32",
        "models": [{"model": str(models[1]), "parameters": {"weight": 1.0, "density": density}}],
    }  # fmt: skip
    found = one(config, tmp_path / "out")
    change = tuned.values() - base.values()
    k = keep_count(density, size)
    moved = found != base.values()
    assert int(moved.sum()) <= k
    kept = np.sort(np.abs(change[moved]))[::-1]
    np.testing.assert_array_equal(kept, np.sort(np.abs(change))[::-1][:k][: kept.size])
    np.testing.assert_array_equal(found, np.where(top_k_mask(change, k), tuned.values(), base.values()))


@pytest.mark.parametrize("density", [0.5, 0.9995])
@pytest.mark.parametrize("chunk", ["4KiB", "64KiB", "16MiB"])
def test_ties_keeps_exactly_k_however_it_is_cut(chunk: str, density: float, tmp_path: Path) -> None:
    """Laws 3 and 4: where all changes are equal the first k elements are kept, whatever the chunks and spans."""
    size = SPAN + 5003
    base = np.ones(size, np.float32)
    models = [model(tmp_path / "base", a=base), model(tmp_path / "one", a=base + np.float32(2.0**-7))]
    config = configure(SPECS["ties"], models, {"weight": 1.0, "density": density, "lambda": 1.0})
    moved = one(config, tmp_path / "out", chunk=chunk, threads=5) != base
    k = keep_count(density, size)
    assert int(moved.sum()) == k
    assert moved[:k].all()
