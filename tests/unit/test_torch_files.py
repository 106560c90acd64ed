"""Files of `torch.save`: the same state as safetensors is the same checkpoint, whatever way torch keeps it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import suture

from ..support.checkpoints import DTYPE_BITS, Raw, as_raw, encode, read_checkpoint, write_checkpoint, write_json
from ..support.pickles import (
    FORMS,
    NAMED,
    STORAGES,
    Call,
    Named,
    ordered,
    saved,
    state_dict,
    storage,
    tensor,
    write_torch,
)

RANDOM = np.random.default_rng(7)
DTYPES = [*STORAGES, *NAMED]


def some(dtype: str, shape: tuple[int, ...]) -> Raw:
    """Random bytes as a tensor; booleans are booleans."""
    data = RANDOM.integers(0, 2 if dtype == "BOOL" else 256, int(np.prod(shape)) * DTYPE_BITS[dtype] // 8, np.uint8)
    return Raw(dtype, shape, data.tobytes())


def read(path: Path) -> dict[str, Raw]:
    """Every tensor as suture reads it."""
    opened = suture.open(path)
    infos = [opened.info(name) for name in opened.names]
    return {i.name: Raw(i.dtype, i.shape, opened._core.read(i.name)) for i in infos}


def put(path: Path, value: Any, **how: Any) -> Path:
    path.write_bytes(saved(value, **how))
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_dtype_is_read(protocol: int, form: str, tmp_path: Path) -> None:
    """Law 7: name, dtype, shape and bytes are those that were saved, in the order of their bytes."""
    tensors = {f"{dtype}.{shape}": some(dtype, shape) for dtype in DTYPES for shape in ((), (0,), (3, 5), (2, 1, 4))}
    path = write_torch(tmp_path / "weights.bin", tensors, protocol=protocol, **FORMS[form])
    assert read(path) == tensors
    opened = suture.open(path)
    assert opened.describe()["warnings"] == []
    # Before 1.6 torch wrote storages in the order of their keys, as text.
    keys = {name: str(i) for i, name in enumerate(tensors)}
    order = sorted(tensors, key=keys.__getitem__) if form == "legacy" else list(tensors)
    assert [n for n in opened.names if "(0,)" not in n] == [n for n in order if "(0,)" not in n]


@pytest.mark.parametrize("form", FORMS)
def test_parameters_and_old_tensors(form: str, tmp_path: Path) -> None:
    """A parameter is its tensor; what torch called before its present names is read too."""
    raw = some("F32", (2, 3))
    one = tensor(storage("0", "F32", raw.data), "F32", raw.shape)
    utils, hooks = "torch._utils", ordered({})
    made = {
        "parameter": Call(Named(utils, "_rebuild_parameter"), (one, True, hooks)),
        "with state": Call(Named(utils, "_rebuild_parameter_with_state"), (one, True, hooks, {})),
        "first": Call(Named(utils, "_rebuild_tensor"), one.args[:4]),
        "metadata": Call(one.function, (*one.args, {})),
        "size": Call(one.function, (*one.args[:2], Call(Named("torch", "Size"), ((2, 3),)), *one.args[3:])),
    }
    assert read(put(tmp_path / "w.pt", made, **FORMS[form])) == dict.fromkeys(made, raw)


@st.composite
def strided(draw: st.DrawFn) -> tuple[str, list[int], list[int], int, int]:
    """Dtype, shape, strides, offset, and how many elements the storage has."""
    dtype = draw(st.sampled_from(["U8", "BF16", "F32", "F64"]))
    dims = draw(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 30)), max_size=4))
    shape, strides = [n for n, _ in dims], [s for _, s in dims]
    offset = draw(st.integers(0, 9))
    last = offset + sum((n - 1) * s for n, s in dims if n) if 0 not in shape else offset
    return dtype, shape, strides, offset, last + 1 + draw(st.integers(0, 5))


@settings(max_examples=150, deadline=None)
@given(strided(), st.booleans())
def test_strides_are_followed(case: tuple[str, list[int], list[int], int, int], legacy: bool) -> None:
    """Law 7: elements are where NumPy finds them by the same strides, in whatever order and however often."""
    dtype, shape, strides, offset, numel = case
    width = DTYPE_BITS[dtype] // 8
    data = RANDOM.integers(0, 256, numel * width, np.uint8)
    elements = data.reshape(numel, width)[offset:]
    steps = (*(s * width for s in strides), 1)
    view = np.lib.stride_tricks.as_strided(elements, (*shape, width), steps)
    with tempfile.TemporaryDirectory() as folder:
        made = tensor(storage("0", dtype, data.tobytes()), dtype, shape, strides, offset)
        path = put(Path(folder) / "w.pth", {"t": made}, legacy=legacy)
        assert read(path) == {"t": Raw(dtype, tuple(shape), np.ascontiguousarray(view).tobytes())}


def model(scale: float) -> tuple[dict[str, Raw], Call]:
    """A model of two layers as arrays, and as torch keeps it: transposed, cut out, expanded, and two names of one."""
    values = (RANDOM.standard_normal((64, 40)) * scale).astype(np.float32)
    wide = storage("0", "F32", values.tobytes())
    down = storage("1", "BF16", encode(values, "BF16").data)
    tensors = {
        "model.embed_tokens.weight": as_raw(values),
        "lm_head.weight": as_raw(values),
        "model.layers.0.up.weight": as_raw(np.ascontiguousarray(values.T)),
        "model.layers.0.down.weight": encode(np.ascontiguousarray(values[8:40, 3:36]), "BF16"),
        "model.layers.1.up.weight": as_raw(np.ascontiguousarray(values[::2].T)),
        "model.layers.1.down.weight": encode(np.broadcast_to(values[3:4], (32, 40)), "BF16"),
        "model.norm.weight": as_raw(np.ascontiguousarray(values[:, 7])),
    }
    shapes = {name: raw.shape for name, raw in tensors.items()}
    places = {
        "model.embed_tokens.weight": (wide, "F32", None, 0),
        "lm_head.weight": (wide, "F32", None, 0),
        "model.layers.0.up.weight": (wide, "F32", (1, 40), 0),
        "model.layers.0.down.weight": (down, "BF16", (40, 1), 8 * 40 + 3),
        "model.layers.1.up.weight": (wide, "F32", (1, 80), 0),
        "model.layers.1.down.weight": (down, "BF16", (0, 1), 3 * 40),
        "model.norm.weight": (wide, "F32", (40,), 7),
    }
    made = {n: tensor(s, dtype, shapes[n], strides, at) for n, (s, dtype, strides, at) in places.items()}
    return tensors, ordered(made)


@pytest.fixture(params=["streamed", "legacy"])
def pairs(request: pytest.FixtureRequest, tmp_path: Path) -> list[tuple[Path, Path]]:
    """Models, each in safetensors and by torch, in two of its forms."""
    found = []
    for i, name in enumerate(("base", "one", "two")):
        tensors, made = model(1 + i)
        plain = write_checkpoint(tmp_path / "plain" / name, tensors, config={"model_type": "llama"})
        torch = tmp_path / "torch" / name
        torch.mkdir(parents=True)
        put(torch / "pytorch_model.bin", made, **FORMS[request.param])
        write_json(torch / "config.json", {"model_type": "llama"})
        found.append((plain, torch))
    return found


@pytest.mark.parametrize("method", ["linear", "ties", "passthrough", "swap", "stack"])
def test_surgery_is_the_same(method: str, pairs: list[tuple[Path, Path]], tmp_path: Path) -> None:
    """Law 10: every verb makes the same tensors of both forms, from digests of the same inputs; they verify."""
    out = []
    for form in (0, 1):
        base, one, two = (pair[form] for pair in pairs)
        out.append(tmp_path / f"out{form}")
        if method == "swap":
            report = suture.swap(one, two, out[-1], layers="1")
        elif method == "stack":
            slices = [{"sources": [{"model": str(m), "layer_range": [0, 1]}]} for m in (one, two)]
            report = suture.merge({"merge_method": "passthrough", "slices": slices}, out[-1])
        else:
            models = [{"model": str(m), "parameters": {"weight": 0.5}} for m in (one, two)]
            config: dict[str, Any] = {"merge_method": method, "models": models}
            if method == "ties":
                config["base_model"] = str(base)
            if method == "passthrough":
                config["models"] = [{"model": str(one)}]
            report = suture.merge(config, out[-1], settings=suture.Settings(chunk="16KiB"))
        assert suture.verify(out[-1])["differing"] == []
        inputs = {name: t["from"] for name, t in report.data["tensors"].items()}
        assert all(digest is not None for listed in inputs.values() for _, _, digest in listed)
    assert read_checkpoint(out[0]) == read_checkpoint(out[1])
    assert sorted(p.name for p in out[1].iterdir()) == sorted(p.name for p in out[0].iterdir())


@pytest.mark.parametrize("io", ["mmap", "pread", "direct"])
def test_every_way_to_read_gives_the_same(io: str, pairs: list[tuple[Path, Path]], tmp_path: Path) -> None:
    """Law 3: heads cut out of strided tensors, in small chunks, by whatever I/O."""
    how = suture.Settings(io=io, chunk="4KiB", memory="200MiB")
    for form in (0, 1):
        config = {
            "merge_method": "linear",
            "models": [{"model": str(p[form]), "parameters": {"weight": 1}} for p in pairs],
        }
        suture.merge(config, tmp_path / f"merged{form}", settings=how)
        suture.convert(pairs[1][form], tmp_path / f"converted{form}", settings=how)
    for name in ("merged", "converted"):
        assert read_checkpoint(tmp_path / f"{name}0") == read_checkpoint(tmp_path / f"{name}1")


def test_heads_of_strided_tensors_move(tmp_path: Path) -> None:
    """Law 10: parts of tensors that lie apart in the file are the parts that they are in safetensors."""
    config = {"model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 8}
    names = [f"model.layers.{i}.self_attn.{p}_proj.weight" for i in range(2) for p in "qkvo"]
    for model in ("into", "donor"):
        values = {name: RANDOM.standard_normal((8, 8)).astype(np.float32) for name in names}
        write_checkpoint(tmp_path / f"{model}0", {n: as_raw(v) for n, v in values.items()}, config=config)
        made = {
            n: tensor(storage(str(i), "F32", np.ascontiguousarray(v.T).tobytes()), "F32", (8, 8), (1, 8))
            for i, (n, v) in enumerate(values.items())
        }
        (tmp_path / f"{model}1").mkdir()
        put(tmp_path / f"{model}1" / "pytorch_model.bin", made)
        write_json(tmp_path / f"{model}1" / "config.json", config)
    for form in "01":
        suture.swap(
            tmp_path / f"into{form}", tmp_path / f"donor{form}", tmp_path / f"out{form}", layers="1", heads="0,2"
        )
    assert read_checkpoint(tmp_path / "out0") == read_checkpoint(tmp_path / "out1")


def test_readers_see_the_same(pairs: list[tuple[Path, Path]]) -> None:
    """Law 10: statistics and comparisons of both forms are the same figures."""
    (plain, torch), (tuned, other), _ = pairs
    stats = [{t["name"]: t for t in suture.inspect(p, stats=True)["tensors"]} for p in (plain, torch)]
    assert {n: t | {"shard": ""} for n, t in stats[0].items()} == {n: t | {"shard": ""} for n, t in stats[1].items()}
    found = [suture.diff(plain, tuned), suture.diff(torch, other), suture.diff(plain, other)]
    rows = [sorted(f["models"][0]["tensors"], key=lambda r: r["name"]) for f in found]
    assert rows[0] == rows[1] == rows[2]
    same = suture.diff(plain, torch)["models"][0]["tensors"]
    assert [row["changed"] for row in same] == [0] * len(same)


@pytest.mark.parametrize("form", FORMS)
def test_state_dicts_inside_others(form: str, tmp_path: Path) -> None:
    """What a training run saves is read as its weights, and a warning names everything else."""
    tensors = {"a.weight": some("F32", (2, 2)), "b": some("F32", (3,))}
    weights, moments = state_dict(tensors), {"state": {0: {"exp_avg": state_dict({"m": some("F32", (2,))}, 9)}}}
    for key in ("state_dict", "model_state_dict", "model", "module"):
        path = put(
            tmp_path / f"{key}.ckpt",
            {"epoch": 3, key: weights, "optimizer": moments, "loss": [0.5], "best": None},
            **FORMS[form],
        )
        assert read(path) == tensors
        [warning] = suture.open(path).describe()["warnings"]
        for text in (str(path), f"what its `{key}` holds", "`epoch`", "`optimizer`", "`loss`", "`best`"):
            assert text in warning
    nested = {"encoder": {"layer": weights, "step": 3}, "decoder": state_dict({"w": some("I64", ())}, 7)}
    path = put(tmp_path / "nested.pt", nested | {"optimizer": moments}, **FORMS[form])
    assert sorted(read(path)) == ["decoder.w", "encoder.layer.a.weight", "encoder.layer.b"]
    [warning] = suture.open(path).describe()["warnings"]
    assert "passed over: `encoder.step`, `optimizer`" in warning


SMALL = state_dict({"a": some("F32", (1,))})


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"model": SMALL, "module": SMALL}, ["`model`", "`module`"]),
        ({"x": SMALL, "y": {3: SMALL}}, ["`y.`", "no text"]),
        ([1, 2], ["no dict"]),
        ({"step": 3, "args": [1]}, ["no tensor", "`step`", "`args`"]),
        ({"state": {}, "param_groups": [{"lr": 0.1}]}, ["no tensor"]),
    ],
)  # fmt: skip
def test_what_is_no_model_is_refused(value: Any, says: list[str], tmp_path: Path) -> None:
    """Law 8: several candidates, keys that are no text, and files without weights are named."""
    path = put(tmp_path / "w.pt", value)
    with pytest.raises(suture.SutureError) as caught:
        suture.open(path)
    for text in [str(path), *says]:
        assert text in str(caught.value)


@pytest.mark.parametrize("form", ["streamed", "legacy"])
def test_fifty_thousand_tensors_open_in_time(form: str, tmp_path: Path) -> None:
    """Law 9: a file of many tensors opens in less than a second, here with room for a busy machine."""
    import time

    data = storage("0", "BF16", bytes(4096))
    many = {
        f"model.layers.{i // 500}.experts.{i % 500}.weight": tensor(data, "BF16", (4, 4), None, i % 2000)
        for i in range(50_000)
    }
    path = put(tmp_path / "pytorch_model.bin", many, **FORMS[form])
    began = time.monotonic()
    opened = suture.open(path)
    took = time.monotonic() - began
    assert len(opened) == 50_000
    assert took < 3
