"""Laws of runs on torch's devices: what the CPU writes, under the same plan, journal, memory and report."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import suture
from suture.torch import device
from tests.faults import test_kill as killing
from tests.faults.test_kill import file_digests, finish, journalled, killed_after, resumed, write_config, write_models
from tests.support.catalogue import CASES, DEFAULTS, SPECS, Case, configure, merge
from tests.support.checkpoints import read_checkpoint, write_checkpoint
from tests.support.forms import FORMS, Form, World, linear, write_world
from tests.support.forms import merge as merging
from tests.support.resident import as_torch
from tests.torch.test_parity import WORDS, agreement, allowed, family, whole

TORCH = suture.Settings(device="torch-cpu")
#: What computed the tensors of each method that have elements.
SEEN: dict[str, set[str]] = {}


def listed(*models: str) -> dict[str, Any]:
    """A merge of models as they are written."""
    entries = [{"model": model, "parameters": {"weight": 0.5}} for model in models]
    return {"merge_method": "linear", "models": entries}


#: What else is a source of elements: adapters, f64, gradients over layers.
SOURCES: dict[str, Form] = {
    "adapters": merging(lambda w: listed(f"{w.base}+{w.path('a-one')}", f"{w.base}+{w.path('a-two')}")),
    "an adapter and a model": merging(lambda w: listed(f"{w.base}+{w.path('a-one')}", str(w.two))),
    "float64": linear("one", "two", out_dtype="float64"),
    "gradient": merging(
        lambda w: {
            "merge_method": "slerp", "base_model": str(w.one), "models": [{"model": str(w.two)}],
            "parameters": {"t": [{"filter": "mlp", "value": [0, 0.5, 1]}, {"value": 0.3}]},
        }
    ),
}  # fmt: skip


def report(out: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((out / "suture.json").read_text())
    return told


def backends(out: Path) -> dict[str, str]:
    """What computed each tensor, as the report has it."""
    told = report(out)
    moved = ("copy", "move")
    return {n: t.get("backend", told["backend"]) for n, t in told["tensors"].items() if t["action"] not in moved}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_device_writes_what_the_cpu_writes(case: Case, tmp_path: Path) -> None:
    paths, held = family(tmp_path, "BF16")
    config = configure(case, paths)
    expected = merge(config, tmp_path / "cpu")
    found = merge(config, tmp_path / "device", device="torch-cpu")
    assert found.keys() == expected.keys()
    for name, raw in expected.items():
        if not as_torch(raw).is_floating_point():
            assert found[name] == raw
            continue
        word = agreement(as_torch(found[name]), as_torch(raw), held[0][name] if whole(case) else None)
        assert WORDS.index(word) <= WORDS.index(allowed(case)), f"{name}: {word}"
    assert set(backends(tmp_path / "cpu").values()) <= {"cpu"}
    assert report(tmp_path / "cpu")["backend"] == "cpu"
    told = report(tmp_path / "device")
    assert told["backend"] == "torch-cpu"
    elements = {n for n, t in told["tensors"].items() if 0 not in t["shape"]}
    SEEN.setdefault(case.name, set()).update(who for n, who in backends(tmp_path / "device").items() if n in elements)


def test_every_method_is_computed_there_or_said_to_be_the_cpus() -> None:
    """Where a method takes its tensors one by one, the device computes; thresholds over a whole model are the CPU's."""
    if len(SEEN) < len(SPECS):
        pytest.skip("only when all methods were merged before it")
    assert {name for name, who in SEEN.items() if "torch-cpu" not in who} == {"localize_and_stitch", "metagpt"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def models(world: World) -> list[Path]:
    return [world.base, world.one, world.two]


def same(a: Path, b: Path) -> bool:
    digests = [{n: t["digest"] for n, t in report(out)["tensors"].items()} for out in (a, b)]
    return digests[0] == digests[1]


def config_of(models: list[Path], method: str = "linear", **more: Any) -> dict[str, Any]:
    base = {"base_model": str(models[0])} if method != "linear" else {}
    listed = [{"model": str(m)} for m in models[1:]]
    return {"merge_method": method, "models": listed, "parameters": {"weight": 0.5, **more}, **base}


#: Of these each method has its own test, and some sum in another order.
REGISTRY = {str(case) for case in DEFAULTS}


@pytest.mark.parametrize("name", [name for name in (*FORMS, *SOURCES) if name not in REGISTRY])
def test_every_form_writes_what_it_writes_without(name: str, world: World, tmp_path: Path) -> None:
    form = {**FORMS, **SOURCES}[name]
    form(world, tmp_path / "cpu", suture.Settings())
    form(world, tmp_path / "device", TORCH)
    assert same(tmp_path / "cpu", tmp_path / "device")


def test_several_documents_and_outputs(models: list[Path], tmp_path: Path) -> None:
    first = {"name": "inner", **config_of(models)}
    second = {"merge_method": "slerp", "base_model": str(models[0]), "models": [{"model": "inner"}]}
    configs = [first, {**second, "parameters": {"t": 0.3}}]
    text = "---\n".join(json.dumps(config) + "\n" for config in configs)
    path = tmp_path / "two.yml"
    path.write_text(text)
    suture.merge(path, tmp_path / "cpu")
    suture.merge(path, tmp_path / "device", settings=TORCH)
    assert same(tmp_path / "cpu", tmp_path / "device")


def test_stopped_and_gone_on_with_ends_in_the_same_bytes(models: list[Path], tmp_path: Path) -> None:
    """A run that is stopped half-way leaves what the same call resumes; another device starts over."""
    config = config_of(models, "dare_ties", density=0.4)
    suture.merge(config, tmp_path / "whole", settings=TORCH)
    stopped = 0

    def stop(done: int, total: int) -> None:
        nonlocal stopped
        if done > total // 3 and not stopped:
            stopped = done
            raise KeyboardInterrupt

    compute = device.Slot.compute

    def slowly(self: device.Slot) -> None:
        time.sleep(0.05)
        compute(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device.Slot, "compute", slowly)
        with pytest.raises(KeyboardInterrupt):
            suture.merge(config, tmp_path / "out", settings=TORCH, progress=stop)
    assert not (tmp_path / "out" / "suture.json").exists()
    suture.merge(config, tmp_path / "out", settings=TORCH)
    assert report(tmp_path / "out")["run"]["tensors_resumed"] > 0
    assert same(tmp_path / "whole", tmp_path / "out")
    assert read_checkpoint(tmp_path / "out") == read_checkpoint(tmp_path / "whole")


def test_what_does_not_fit_the_device_is_the_cpus(models: list[Path], tmp_path: Path) -> None:
    config = config_of(models, "dare_ties", density=0.4)
    suture.merge(config, tmp_path / "cpu")
    small = suture.Settings(device="torch-cpu", device_memory="30KiB")
    suture.merge(config, tmp_path / "device", settings=small)
    assert same(tmp_path / "cpu", tmp_path / "device")
    assert set(backends(tmp_path / "device").values()) == {"cpu", "torch-cpu"}


def test_a_bound_on_memory_is_shared(models: list[Path], tmp_path: Path) -> None:
    config = config_of(models, "dare_ties", density=0.4)
    suture.merge(config, tmp_path / "cpu")
    suture.merge(config, tmp_path / "device", settings=suture.Settings(device="torch-cpu", memory="128MiB"))
    assert same(tmp_path / "cpu", tmp_path / "device")
    with pytest.raises(
        suture.UsageError, match=r"too little .* with --device torch-cpu; the smallest that works is \d+ MiB"
    ):
        suture.merge(config, tmp_path / "none", settings=suture.Settings(device="torch-cpu", memory="1MiB"))


def test_what_is_not_finite_is_refused(models: list[Path], tmp_path: Path) -> None:
    config = {
        "merge_method": "task_arithmetic", "base_model": str(models[0]), "parameters": {"weight": 1e37, "lambda": 1e20},
        "models": [{"model": str(models[1])}],
    }  # fmt: skip
    said = []
    for settings in (suture.Settings(), TORCH):
        with pytest.raises(suture.SutureError) as error:
            suture.merge(config, tmp_path / settings.device, settings=settings)
        said.append(str(error.value))
    assert all("not a finite BF16" in text for text in said)


def command(models: list[Path], folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "c.yml").write_text(json.dumps(config_of(models)))
    arguments = [sys.executable, "-m", "suture", "merge", str(folder / "c.yml"), str(folder / "out"), *options]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "expected cpu, cuda, cuda:N or torch-cpu, found `gpu`"),
        ("mps", "MPS has no float64"),
        *([] if torch.cuda.is_available() else [("cuda", "finds no CUDA device"), ("cuda:3", "finds no CUDA device")]),
    ],
)
def test_a_device_that_is_not_there(name: str, message: str, models: list[Path], tmp_path: Path) -> None:
    # Where torch is asked it takes seconds to load.
    for more in ([], ["--dry-run"]) if name == "gpu" else (["--dry-run"],):
        done = command(models, tmp_path, "--device", name, *more)
        assert done.returncode == 2
        assert message in " ".join(done.stderr.split())
        assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_mergekits_flag_without_a_gpu_is_noted(models: list[Path], tmp_path: Path) -> None:
    done = command(models, tmp_path, "--cuda")
    assert done.returncode == 0
    assert "note: --cuda has no effect: this PyTorch" in " ".join(done.stderr.split())
    assert report(tmp_path / "out")["backend"] == "cpu"


def test_the_memory_of_no_device(models: list[Path], tmp_path: Path) -> None:
    done = command(models, tmp_path, "--device-memory", "1GiB")
    assert done.returncode == 2
    assert "no device but the CPU" in " ".join(done.stderr.split())


def test_a_killed_run_ends_in_the_same_bytes(tmp_path: Path) -> None:
    """SIGKILL once some tensors are done; the same command goes on and ends in the same files."""
    config = write_config(tmp_path / "ties.yml", write_models(tmp_path, 0))

    def arguments(out: Path) -> list[str]:
        return [*killing.command(config, out), "--device", "torch-cpu"]

    finish(arguments(tmp_path / "whole"))
    out = tmp_path / "out"
    killed_after(lambda: len(journalled(out)) > 0, arguments(out))
    known = len(journalled(out))
    finish(arguments(out))
    assert resumed(out) == known > 0
    assert file_digests(out) == file_digests(tmp_path / "whole")
    assert set(backends(out).values()) == {"torch-cpu"}


@pytest.mark.parametrize("memory", ["80MiB", "150MiB", "200MiB"])
def test_a_tensor_that_fails_gives_its_room_to_those_that_wait(memory: str, tmp_path: Path) -> None:
    """Else a run with a fault would never end."""
    tensors = {f"w{i}": np.ones(1 << 20, dtype=np.float32) for i in range(4)}
    base = write_checkpoint(tmp_path / "base", tensors)
    tensors["w0"] = tensors["w0"].copy()
    tensors["w0"][-1] = np.nan
    tuned = write_checkpoint(tmp_path / "tuned", tensors)
    config = config_of([base, tuned], "ties", density=0.5)
    (tmp_path / "c.yml").write_text(json.dumps(config))
    options = ["--device", "torch-cpu", "--device-memory", memory]
    arguments = [sys.executable, "-m", "suture", "merge", str(tmp_path / "c.yml"), str(tmp_path / "out"), *options]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "is NaN or infinite" in done.stderr


def test_what_computed_is_said(models: list[Path], tmp_path: Path) -> None:
    done = command(models, tmp_path, "--device", "torch-cpu")
    assert "computed on torch-cpu: " in done.stderr
