"""The Python API: settings, opening and reading, verifying, progress, threads."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture.settings import parse_size

from ..support.checkpoints import (
    DTYPE_BITS,
    NUMPY_DTYPES,
    Raw,
    encode,
    llama_family,
    read_checkpoint,
    write_checkpoint,
    write_file,
)

WRONG_SETTINGS: list[tuple[str, Any]] = [
    ("threads", 0),
    ("threads", -1),
    ("threads", 1025),
    ("nan", "ignore"),
    ("io", "uring"),
    ("seed", -1),
    ("seed", 2**64),
    ("memory", "lots"),
    ("memory", "0"),
    ("memory", 0),
    ("memory", ""),
    ("memory", "-1MiB"),
    ("memory", "1.5.2GB"),
    ("memory", "5 PB"),
    ("memory", "MiB"),
    ("shard_size", "0.1"),
    ("shard_size", "1e9"),
    ("chunk", "none"),
]


@pytest.mark.parametrize(("name", "value"), WRONG_SETTINGS)
def test_wrong_settings_are_refused_at_once(name: str, value: Any) -> None:
    """Law 8: a setting that cannot be is a usage error that names it and what was found."""
    with pytest.raises(suture.UsageError) as caught:
        suture.Settings(**{name: value})
    assert caught.value.at == name
    assert caught.value.exit_code == 2
    assert f"{name}: expected " in str(caught.value)
    assert str(value) in str(caught.value)
    assert isinstance(caught.value, suture.SutureError)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        (1, 1),
        ("1048576", 2**20),
        ("1B", 1),
        ("1k", 1000),
        ("1KiB", 1024),
        ("256MiB", 256 * 2**20),
        ("256 mib", 256 * 2**20),
        ("5GB", 5 * 10**9),
        (" 5 gb ", 5 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("2T", 2 * 10**12),
        ("2TiB", 2 * 2**40),
        (3 * 10**9, 3 * 10**9),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str | int, size: int) -> None:
    """Units of 1000 without an i, of 1024 with it, in any case."""
    assert parse_size(text, "memory") == size


@pytest.mark.parametrize("dtype", ["float8", "int8", "bf17", ""])
def test_an_unknown_dtype_is_a_usage_error(dtype: str, tmp_path: Path) -> None:
    """Law 8: an output dtype that is not computed is refused before anything is written."""
    base, tuned = llama_family(tmp_path, layers=2, hidden=16, heads=2, kv_heads=1, n=1)
    with pytest.raises(suture.UsageError, match="dtype"):
        suture.swap(base, tuned, tmp_path / "out", bottom=1, settings=suture.Settings(dtype=dtype))
    assert not (tmp_path / "out").exists()


def one_of_each() -> dict[str, Raw]:
    """A tensor of every dtype, of random bytes where any are valid."""
    rng = np.random.default_rng(1)
    tensors = {}
    for dtype, bits in DTYPE_BITS.items():
        if dtype in ("F64", "F32", "F16", "BF16"):
            tensors[dtype] = encode(rng.normal(size=(4, 3, 2)), dtype)
        elif dtype == "BOOL":
            tensors[dtype] = encode(rng.integers(0, 2, (4, 3, 2)), dtype)
        else:
            tensors[dtype] = Raw(dtype, (4, 3, 2), rng.bytes(24 * bits // 8))
    return tensors


@pytest.mark.parametrize("shards", [1, 4])
def test_every_dtype_is_described_and_read(shards: int, tmp_path: Path) -> None:
    """Bytes are read as NumPy has them, bf16 widened to f32, anything else as raw bytes."""
    tensors = one_of_each()
    folder = write_checkpoint(tmp_path / "model", tensors, shards=shards)
    checkpoint = suture.open(folder)
    assert sorted(checkpoint.names) == sorted(tensors)
    for name, raw in tensors.items():
        info = checkpoint.info(name)
        assert isinstance(info, suture.TensorInfo)
        assert (info.name, info.dtype, info.shape, info.nbytes) == (name, raw.dtype, raw.shape, len(raw.data))
        assert Path(info.shard).name in {path.name for path in folder.glob("*.safetensors")}
        values = checkpoint.numpy(name)
        if raw.dtype == "BF16":
            assert values.dtype == np.float32
            np.testing.assert_array_equal(values, raw.values())
        elif raw.dtype in NUMPY_DTYPES:
            assert (values.dtype, values.shape) == (np.dtype(NUMPY_DTYPES[raw.dtype]), raw.shape)
            assert values.tobytes() == raw.data
        else:
            assert (values.dtype, values.shape) == (np.dtype(np.uint8), (len(raw.data),))
            assert values.tobytes() == raw.data


def test_scalars_and_empty_tensors_are_read(tmp_path: Path) -> None:
    """No dimension is one element; a dimension of nothing is none."""
    tensors = {"scalar": encode(np.array(1.5, np.float32), "BF16"), "empty": Raw("F16", (3, 0), b"")}
    checkpoint = suture.open(write_file(tmp_path / "a.safetensors", tensors))
    assert (checkpoint.numpy("scalar").shape, float(checkpoint.numpy("scalar"))) == ((), 1.5)
    assert checkpoint.numpy("empty").shape == (3, 0)


def test_an_unknown_tensor_is_a_usage_error(tmp_path: Path) -> None:
    """Law 8: the message names the checkpoint and the tensor."""
    checkpoint = suture.open(write_file(tmp_path / "a.safetensors", {"a": np.ones(2, np.float32)}))
    for read in (checkpoint.info, checkpoint.numpy):
        with pytest.raises(suture.UsageError, match=r"a\.safetensors.*`b`"):
            read("b")


def test_inspect_counts_and_measures(tmp_path: Path) -> None:
    """Bytes, elements and dtypes add up; with stats every float tensor has figures, NaN counted apart."""
    tensors = one_of_each()
    tensors["odd"] = encode(np.array([1, -3, 0, np.nan, np.inf, 2], np.float32), "F32")
    folder = write_checkpoint(tmp_path / "model", tensors, config={"model_type": "x", "unknown": 1})
    found = suture.inspect(folder, stats=True)
    assert found["bytes"] == sum(len(raw.data) for raw in tensors.values())
    assert sum(entry["tensors"] for entry in found["dtypes"].values()) == len(tensors)
    assert found["dtypes"]["F32"] == {"tensors": 2, "elements": 30, "bytes": 120}
    assert found["config"] == {"model_type": "x"}
    stats: dict[str, Any] = {tensor["name"]: tensor["stats"] for tensor in found["tensors"]}
    assert {name for name, figures in stats.items() if figures} == {"F64", "F32", "F16", "BF16", "odd"}
    odd = stats["odd"]
    assert (odd["min"], odd["max"], odd["zeros"], odd["nonfinite"]) == (-3, 2, 1, 2)
    assert (odd["mean_abs"], odd["l2"]) == (1.5, pytest.approx(14**0.5, rel=1e-6))
    assert all("stats" not in tensor for tensor in suture.inspect(folder)["tensors"])
    json.dumps(found, allow_nan=False)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    base, tuned = llama_family(tmp_path / "in", layers=3, hidden=16, heads=2, kv_heads=1, n=1)
    suture.swap(base, tuned, tmp_path / "out", bottom=1, transition=1, settings=suture.Settings(shard_size="5kB"))
    return tmp_path / "out"


def verify(out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "suture", "verify", str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_sound_output_verifies(output: Path) -> None:
    """Every tensor is read again and has its digest, whatever the threads and the back end."""
    tensors = read_checkpoint(output)
    size = sum(len(raw.data) for raw in tensors.values())
    for threads, io in ((1, "auto"), (3, "pread"), (2, "mmap"), (2, "direct")):
        found = suture.verify(output, settings=suture.Settings(threads=threads, io=io))
        assert found == {
            "schema": 1,
            "tensors": len(tensors),
            "bytes": size,
            "differing": [],
            "files": [],
            "unknown": 0,
        }
    done = verify(output)
    assert (done.returncode, done.stderr) == (0, "")
    assert str(len(tensors)) in done.stdout


@pytest.mark.parametrize("how", ["changed", "gone", "a pipe"])
def test_files_beside_the_tensors_are_verified(how: str, output: Path) -> None:
    """A config that was changed, lost or replaced is told, and the tensors are said to be sound."""
    config = output / "config.json"
    config.write_text("{}") if how == "changed" else config.unlink()
    if how == "a pipe":
        os.mkfifo(config)
    found = suture.verify(output)
    assert (found["differing"], found["files"]) == ([], ["config.json"])
    done = verify(output)
    assert (done.returncode, done.stdout) == (1, "")
    assert "`config.json` is changed or gone" in done.stderr


@pytest.mark.parametrize("name", ["../outside", "/dev/zero", "a/../../b"])
def test_a_record_that_names_what_is_elsewhere(name: str, output: Path) -> None:
    """Nothing outside the output is read, however much a record asks for it."""
    record = json.loads((output / "suture.json").read_text())
    record["beside"][name] = "0" * 32
    (output / "suture.json").write_text(json.dumps(record))
    assert suture.verify(output)["files"] == [name]


def flip(output: Path, name: str, at: int, bit: int) -> None:
    """Flip one bit of one element of a tensor in place."""
    checkpoint = suture.open(output)
    info = checkpoint.info(name)
    path = output / Path(info.shard).name
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    offsets = json.loads(content[8 : 8 + length])[name]["data_offsets"]
    content[8 + length + offsets[0] + at] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
)
def test_one_flipped_bit_is_found_and_named(name: str, output: Path) -> None:
    """`verify` names the tensor that differs, and ends with exit code 1."""
    nbytes = suture.open(output).info(name).nbytes
    for at, bit in ((0, 0), (nbytes // 2, 3), (nbytes - 1, 7)):
        flip(output, name, at, bit)
        assert suture.verify(output)["differing"] == [name]
        done = verify(output)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: ")
        assert name in done.stderr
        flip(output, name, at, bit)
    assert suture.verify(output)["differing"] == []


def test_verify_needs_digests(output: Path) -> None:
    """No suture.json, one that is none, and one of another checkpoint are errors that say so."""
    record = output / "suture.json"
    whole = record.read_text()
    for text, said in (
        (None, "suture.json"),
        ("{", "not valid JSON"),
        ("{}", "digests"),
        (whole.replace("model.norm.weight", "model.morn.weight"), "model.morn.weight"),
    ):
        if text is None:
            record.unlink()
        else:
            record.write_text(text)
        with pytest.raises(suture.SutureError, match=said.replace(".", r"\.")):
            suture.verify(output)
        done = verify(output)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)


def test_a_tensor_that_was_added_or_removed_is_named(output: Path) -> None:
    """Law 5: verify is over all tensors, not over those that both sides know."""
    (output / "extra.safetensors").write_bytes(b"")
    tensors: dict[str, Any] = dict(read_checkpoint(output))
    for path in [*output.glob("*.safetensors"), output / "model.safetensors.index.json"]:
        path.unlink()
    added = tensors | {"zzz": np.ones(2, np.float32)}
    removed = {name: raw for name, raw in tensors.items() if name != "lm_head.weight"}
    for changed, name in ((added, "zzz"), (removed, "lm_head.weight")):
        write_file(output / "model.safetensors", changed)
        with pytest.raises(suture.SutureError, match=name):
            suture.verify(output)
    write_file(output / "model.safetensors", tensors)
    assert suture.verify(output)["differing"] == []


def test_methods_describe_themselves() -> None:
    """Every method says what it is, what it takes and where it is from; the first methods are all there."""
    specs = suture.methods()
    names = [spec["name"] for spec in specs]
    assert {"linear", "task_arithmetic", "passthrough", "slerp", "ties", "dare_linear", "dare_ties"} <= set(names)
    assert len(set(names)) == len(names)
    for spec in specs:
        assert spec["summary"]
        assert spec["summary"][0].islower()
        assert not spec["summary"].endswith(".")
        assert spec["base"] in ("none", "optional", "required", "first", "input")
        assert spec["reads"] >= 1
        for parameter in spec["parameters"]:
            assert parameter["name"]
            assert parameter["summary"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Models that take a few hundred ticks of work when read in the smallest chunks."""
    folder = tmp_path_factory.mktemp("large")
    base, first, second = llama_family(folder, layers=4, hidden=512, heads=8, kv_heads=8, ff=1024, vocab=2000, n=2)
    return base, first, second


def ties(models: tuple[Path, Path, Path]) -> dict[str, Any]:
    parameters = {"weight": 1.0, "density": 0.3}
    return {
        "merge_method": "ties",
        "base_model": str(models[0]),
        "models": [{"model": str(path), "parameters": parameters} for path in models[1:]],
    }


SLOW = suture.Settings(threads=1, chunk="16KiB", io="pread")


def test_progress_grows_to_its_end(large: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """`progress` hears bytes done, never fewer than before, and in the end all of them."""
    heard: dict[str, list[tuple[int, int]]] = {}

    def listen(what: str) -> Any:
        return lambda done, total: heard.setdefault(what, []).append((done, total))

    suture.merge(ties(large), tmp_path / "merged", settings=SLOW, progress=listen("merge"))
    suture.swap(
        large[0], large[1], tmp_path / "swapped", bottom=1, transition=1, settings=SLOW, progress=listen("swap")
    )
    suture.diff(*large[:2], settings=SLOW, progress=listen("diff"))
    suture.inspect(large[0], stats=True, settings=SLOW, progress=listen("inspect"))
    suture.verify(tmp_path / "merged", settings=SLOW, progress=listen("verify"))
    assert sorted(heard) == ["diff", "inspect", "merge", "swap", "verify"]
    for what, calls in heard.items():
        done = [call[0] for call in calls]
        assert done == sorted(done), what
        assert len({total for _, total in calls}) == 1, what
        assert done[-1] == calls[0][1] > 0, what
    assert len(heard["merge"]) > 2


class StopHereError(Exception):
    """Raised by a caller's own progress callback."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Models whose work is done before anyone asks how far it is."""
    folder = tmp_path_factory.mktemp("small")
    base, first, second = llama_family(folder, layers=2, hidden=16, heads=2, kv_heads=1, n=2)
    return base, first, second


def stop(done: int, total: int) -> None:
    raise StopHereError(f"{done} of {total}")


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("verb", ["merge", "swap", "diff", "inspect"])
def test_an_exception_in_progress_is_raised(
    verb: str, size: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The caller's exception comes out unchanged, from the last call too; nothing half-written looks whole."""
    models, out = request.getfixturevalue(size), tmp_path / "out"
    calls: dict[str, Callable[[], object]] = {
        "merge": lambda: suture.merge(ties(models), out, settings=SLOW, progress=stop),
        "swap": lambda: suture.swap(models[0], models[1], out, bottom=1, transition=1, settings=SLOW, progress=stop),
        "diff": lambda: suture.diff(*models[:2], settings=SLOW, progress=stop),
        "inspect": lambda: suture.inspect(models[0], stats=True, settings=SLOW, progress=stop),
    }
    with pytest.raises(StopHereError):
        calls[verb]()
    assert not out.exists()


def test_an_exception_is_raised_though_it_comes_once(large: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """An interrupt comes once: whichever call it comes in, the work does not go on as if nothing had been."""
    heard: list[int] = []

    def once(at: int) -> Any:
        def listen(done: int, total: int) -> None:
            heard.append(done)
            if len(heard) == at:
                raise StopHereError(f"{done} of {total}")

        return listen

    for at in (1, 2, 3):
        heard.clear()
        with pytest.raises(StopHereError):
            suture.merge(ties(large), tmp_path / str(at), settings=SLOW, progress=once(at))
        assert not (tmp_path / str(at)).exists()


def test_what_an_exception_stopped_is_taken_up_again(large: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Law 6: the same call after it ends in the bytes of an undisturbed run, and clears its work away."""
    out = tmp_path / "out"
    with pytest.raises(StopHereError):
        suture.merge(ties(large), out, settings=SLOW, progress=stop)
    suture.merge(ties(large), out)
    suture.merge(ties(large), tmp_path / "undisturbed")
    assert read_checkpoint(out) == read_checkpoint(tmp_path / "undisturbed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "undisturbed"]


def test_work_goes_on_in_other_threads(large: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Calls from several threads at once, none of them the main one, run without the GIL and end right."""
    results: dict[int, Any] = {}

    def work(number: int) -> None:
        try:
            heard: list[int] = []
            out = tmp_path / str(number)
            suture.merge(ties(large), out, progress=lambda done, _: heard.append(done))
            results[number] = (
                suture.verify(out)["differing"],
                suture.diff(large[0], out)["models"][0]["total"]["l2"] > 0,
                bool(heard),
            )
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert results == dict.fromkeys(range(3), ([], True, True))
    first = read_checkpoint(tmp_path / "0")
    assert all(read_checkpoint(tmp_path / str(number)) == first for number in (1, 2))


def test_the_python_thread_is_not_held(large: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """A long call releases the GIL: another thread counts on meanwhile."""
    counted, stop = [0], threading.Event()

    def count() -> None:
        while not stop.wait(0.001):
            counted[0] += 1

    counter = threading.Thread(target=count)
    counter.start()
    suture.merge(ties(large), tmp_path / "out", settings=SLOW)
    stop.set()
    counter.join()
    assert counted[0] > 5


def test_everything_public_is_documented() -> None:
    """The API is what `__all__` says, and each name has a docstring."""
    for name in suture.__all__:
        thing = getattr(suture, name)
        assert name == "__version__" or inspect.getdoc(thing), name
