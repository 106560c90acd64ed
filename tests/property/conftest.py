"""Families of models, made once for all laws."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.catalogue import LARGE, shapes, write_family


@pytest.fixture(autouse=True)
def tidy(tmp_path: Path) -> Iterator[None]:
    """Outputs are large; none is kept."""
    yield
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """A family with a tensor of three spans, so that the order in which spans are added can be wrong."""
    folder = tmp_path_factory.mktemp("family")
    yield write_family(folder, shapes(LARGE))
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A family of tensors of a few chunks at most."""
    return write_family(tmp_path_factory.mktemp("small"), shapes(20_011))


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """A family with a tensor of two spans, one of whose rows lies across the border."""
    folder = tmp_path_factory.mktemp("rows")
    yield write_family(folder, {"a": ("BF16", (700, 6007))})
    shutil.rmtree(folder)
