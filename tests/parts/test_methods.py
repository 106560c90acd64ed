"""Every method makes the same bytes in parts as in one run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

import suture

from ..support.catalogue import CASES, Case, Config, configure, shapes, write_family
from .whole import check_same, in_parts

#: Small enough that the tensors of the family lie in several shards, layers and modules in two or more.
SHARD = 60_000


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and three fine-tunes."""
    return write_family(tmp_path_factory.mktemp("family"), shapes(20_011))


def _merge(config: Config, out: Path, settings: suture.Settings) -> None:
    suture.merge(config, out, settings=settings)


def _check(case: Case, family: list[Path], folder: Path, counts: tuple[int, ...]) -> None:
    config = configure(case, family)
    suture.merge(config, folder / "whole", settings=suture.Settings(shard_size=SHARD, threads=2))
    for n in counts:
        (folder / str(n)).mkdir()
        in_parts(partial(_merge, config), folder / str(n) / "whole", n, shard_size=SHARD, threads=2)
        check_same(folder / "whole", folder / str(n) / "whole")


def _plain(case: Case) -> bool:
    """Whether what it counts lies in one tensor, as in the default of the method, too: the heavy tests try it."""
    return case.variant != "default" and not any(word in case.variant for word in ("model", "larv"))


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.heavy] if _plain(c) else []) for c in CASES], ids=str
)
def test_two_parts(case: Case, family: list[Path], tmp_path: Path) -> None:
    """Law 3: every method and every variant of it gives the same files in two parts as in one run."""
    _check(case, family, tmp_path, (2,))


@pytest.mark.parametrize("name", ["linear", "slerp", "ties", "sce", "emr", "pcb", "passthrough", "tsvm"])
def test_other_numbers_of_parts(name: str, family: list[Path], tmp_path: Path) -> None:
    """Law 3: one of each class of methods in one part, in five, and in more than there are shards."""
    case = next(c for c in CASES if c.name == name)
    _check(case, family, tmp_path, (1, 5, 16))
