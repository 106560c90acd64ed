"""Candidates in memory have the scores of those on a disk."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import suture
from suture.errors import SutureError, UsageError

from ..support.checkpoints import NUMPY_DTYPES, llama_family, read_checkpoint
from ..support.layered import sliced
from .common import command, config, searched, trajectory, written

pytest.importorskip("cmaes")
if not importlib.util.find_spec("torch"):
    pytest.skip("needs torch", allow_module_level=True)

import torch
from torch import Tensor


def score_of(tensors: Mapping[str, bytes]) -> float:
    """A number that is a function of the bytes of all tensors."""
    text = b"".join(name.encode() + tensors[name] for name in sorted(tensors))
    return int(hashlib.sha256(text).hexdigest()[:8], 16) / 2**32


def on_disk(place: Path) -> float:
    return score_of({name: raw.data for name, raw in read_checkpoint(place).items()})


def raw(tensor: Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def in_memory(model: Any) -> float:
    held = model.state_dict() if isinstance(model, torch.nn.Module) else model
    return score_of({name: raw(t) for name, t in held.items()})


FILTERS = [
    {"filter": "mlp", "value": {"search": [0.1, 1], "layer_granularity": 2}},
    {"value": {"search": [0.1, 1], "layer_granularity": 1, "smooth": True}},
]
SHARED = {"search": [0.1, 1], "layer_granularity": 3}


def wanted(folder: Path, case: str) -> dict[str, Any]:
    """A config of each form that a value may stand in."""
    if case == "slerp":
        made = config(folder, lambda _: 1)
        pair = [{"model": entry["model"]} for entry in made["models"]]
        return {"merge_method": "slerp", "base_model": pair[0]["model"], "models": pair, "parameters": {"t": FILTERS}}
    method, _, rest = case.partition(" ")
    made = config(folder, lambda i: FILTERS if i else 0.5, method)
    if rest == "of all":
        for entry in made["models"]:
            del entry["parameters"]["weight"]
        made["parameters"] = {"weight": SHARED}
    if rest == "density":
        made["parameters"] = {"density": {"search": [0.2, 0.9]}}
    if rest == "lambda":
        made["parameters"] = {"lambda": {"search": [0.2, 2]}, "density": 0.4}
    if rest == "bf16":
        made["out_dtype"] = "bfloat16"
    return made


CASES = ("linear", "task_arithmetic of all", "task_arithmetic", "task_arithmetic bf16", "slerp")
THINNED = ("ties density", "ties lambda", "dare_ties density", "della lambda", "breadcrumbs lambda")


@pytest.mark.parametrize("case", [*CASES, *THINNED, "nuslerp"])
def test_scores_are_those_of_the_disk(tmp_path: Path, case: str) -> None:
    """Law: in memory the same candidates get the same scores, whatever form the searched values have."""
    given = wanted(tmp_path, case)
    how = suture.Settings(seed=3)
    disk = suture.search(given, tmp_path / "disk", evaluate=on_disk, budget=4, settings=how)
    held = suture.search(given, tmp_path / "held", evaluate=in_memory, in_memory=True, budget=4, settings=how)
    assert [c["score"] for c in held.data["candidates"]] == [c["score"] for c in disk.data["candidates"]]
    one, two = (trajectory(tmp_path / name / "search.sqlite") for name in ("disk", "held"))
    assert one == two
    assert len({score for _, _, score in one}) == 4
    assert (tmp_path / "held" / "best.yml").read_text() == (tmp_path / "disk" / "best.yml").read_text()


class Tiny(torch.nn.Module):  # type: ignore[misc]
    """A module with the tensors of a checkpoint."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            *folders, last = name.split(".")
            node: torch.nn.Module = self
            for folder in folders:
                if not hasattr(node, folder):
                    node.add_module(folder, torch.nn.Module())
                node = getattr(node, folder)
            node.register_parameter(last, torch.nn.Parameter(tensor))


def blank(folder: Path, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    kinds = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    found = read_checkpoint(folder)
    assert kinds.keys() <= NUMPY_DTYPES.keys() | {"BF16"}
    return {n: torch.zeros(r.shape, dtype=dtype or kinds[r.dtype]) for n, r in found.items()}


def test_a_model_of_the_caller_ends_as_the_best(tmp_path: Path) -> None:
    """Law: a module is written where it is, candidate by candidate, and has the best when the search ends."""
    given = searched(tmp_path)
    model = Tiny(blank(tmp_path / "base"))
    places = {n: p.data_ptr() for n, p in model.named_parameters()}
    found = suture.search(given, tmp_path / "out", evaluate=in_memory, in_memory=model, budget=9)
    assert {n: p.data_ptr() for n, p in model.named_parameters()} == places
    assert in_memory(model) == found.score == max(c["score"] or 0 for c in found.data["candidates"])
    suture.merge(found.config, tmp_path / "best")
    assert on_disk(tmp_path / "best") == found.score
    # A larger budget goes on, and so does the same call.
    again = suture.search(given, tmp_path / "out", evaluate=in_memory, in_memory=model, budget=9)
    assert again.data["candidates"] == found.data["candidates"]
    assert in_memory(model) == found.score
    assert not found.warnings


def test_another_dtype_is_told_and_is_another_search(tmp_path: Path) -> None:
    """Candidates of a model of another dtype are rounded to it, which is told; their scores are not mixed."""
    given = searched(tmp_path)
    model = blank(tmp_path / "base", torch.float32)
    found = suture.search(given, tmp_path / "out", evaluate=in_memory, in_memory=model, budget=2)
    (told,) = found.warnings
    assert "rounded to it" in told
    with pytest.raises(UsageError, match="whose in memory was"):
        suture.search(given, tmp_path / "out", evaluate=in_memory, in_memory=True, budget=3)
    with pytest.raises(UsageError, match="whose in memory was"):
        suture.search(given, tmp_path / "out", evaluate=in_memory, budget=3)


@pytest.mark.parametrize(
    ("more", "form", "said"),
    [
        ({"evaluate": command()}, "", "a command is given a folder; leave in_memory out"),
        ({"objective": "balance", "evaluate": None}, "", "an objective reads files"),
        ({"workers": 2}, "", "workers: candidates in memory are one at a time"),
        ({"keep": True}, "", "keep: candidates in memory"),
        ({"in_memory": 3}, "", "expected a torch module or a mapping"),
        ({}, "slices", "`slices` is not done in memory"),
    ],
)
def test_what_does_not_go_with_it(tmp_path: Path, more: dict[str, Any], form: str, said: str) -> None:
    """Refused by the key before anything is read or written, with what to do."""
    given = searched(tmp_path)
    if form == "slices":
        given = sliced(config(tmp_path, lambda _: {"search": [0, 1]}), [(0, 4)])
    how: dict[str, Any] = {"evaluate": in_memory, "in_memory": True} | more
    with pytest.raises(UsageError) as raised:
        suture.search(given, tmp_path / "out", **how)
    assert said in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_model_that_lacks_a_tensor(tmp_path: Path) -> None:
    """A model into which a candidate does not go is refused by the tensor's name."""
    given = searched(tmp_path)
    model = blank(tmp_path / "base")
    del model["model.norm.weight"]
    with pytest.raises(SutureError, match=r"model\.norm\.weight"):
        suture.search(given, tmp_path / "out", evaluate=in_memory, in_memory=model)


def test_the_verb_says_that_commands_have_folders(tmp_path: Path) -> None:
    """`--in-memory` is Python's: on the command line it is a mistake of usage, with what to do."""
    from click.testing import CliRunner

    from suture.cli.search import search

    path = written(tmp_path, searched(tmp_path))
    done = CliRunner().invoke(search, [str(path), "--in-memory", "--evaluate", command()])
    assert isinstance(done.exception, UsageError)
    assert "in Python give a callable that takes the model" in str(done.exception)


@pytest.mark.parametrize("tied", [False, True])
def test_models_with_configs(tmp_path: Path, tied: bool) -> None:
    """Law: what configs decide (a head that is tied, layers that are counted) is as on a disk."""
    base, one, two = llama_family(tmp_path, layers=2, n=2, tied=tied, vocab=32, hidden=16, heads=2, ff=24)
    (tmp_path / "other").mkdir()
    two = two.rename(tmp_path / "other" / "expert")
    models = [{"model": str(m), "parameters": {"weight": SHARED, "density": 0.5}} for m in (one, two)]
    given = {"merge_method": "dare_ties", "base_model": str(base), "models": models, "dtype": "bfloat16"}
    for name, how in {"disk": {"evaluate": on_disk}, "held": {"evaluate": in_memory, "in_memory": True}}.items():
        suture.search(given, tmp_path / name, budget=3, **how)  # type: ignore[arg-type]
    disk, held = (trajectory(tmp_path / name / "search.sqlite") for name in ("disk", "held"))
    assert disk == held
    assert len({score for _, _, score in disk}) == 3


def test_models_called_alike_are_refused(tmp_path: Path) -> None:
    """Folders of one name in two places have labels with both, which models in memory have not: it says so."""
    config(tmp_path, lambda _: 1)
    for i in (1, 2):
        (tmp_path / f"place-{i}").mkdir()
        (tmp_path / f"tuned-{i}").rename(tmp_path / f"place-{i}" / "tuned")
    models = [{"model": str(tmp_path / f"place-{i}" / "tuned"), "parameters": {"weight": SHARED}} for i in (1, 2)]
    given = {"merge_method": "task_arithmetic", "base_model": str(tmp_path / "base"), "models": models}
    with pytest.raises(UsageError, match="called like another"):
        suture.search(given, tmp_path / "out", evaluate=in_memory, in_memory=True)
