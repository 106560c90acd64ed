"""Published weights as fixtures. A fetch that fails, fails the test; with `SUTURE_OFFLINE=1` it is a skip."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import fetch


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        if fetch.offline():
            pytest.skip(f"SUTURE_OFFLINE=1 and no {name}")
        raise


def _fetched(get: Callable[[], Path]) -> Path:
    try:
        return get()
    except fetch.OfflineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def torch() -> Any:
    return _module("torch")


@pytest.fixture(scope="session")
def transformers(torch: Any) -> Any:
    return _module("transformers")


@pytest.fixture(scope="session")
def rxnfp(torch: Any) -> Path:
    return _fetched(fetch.rxnfp)


@pytest.fixture(scope="session")
def rxnfp_published() -> Path:
    return _fetched(fetch.rxnfp_published)


@pytest.fixture(scope="session")
def minilm() -> Path:
    return _fetched(fetch.minilm)


@pytest.fixture(scope="session")
def smollm() -> Path:
    return next(_fetched(fetch.smollm).rglob("*.gguf"))
