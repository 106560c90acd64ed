"""A family's checkpoints, made once for all tests; without torch and transformers these tests are skipped."""

from __future__ import annotations

import importlib
import os

import pytest

from .case import Case
from .facts import Family
from .families import FAMILIES


@pytest.fixture(scope="session", params=FAMILIES, ids=lambda family: str(family.name))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    # Nothing here is on a hub, and nothing is to be looked for there.
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in ("torch", "safetensors", "transformers"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            pytest.skip(f"no {name}; `make real-deps` fetches it")
    family: Family = request.param
    return Case.make(family, tmp_path_factory.mktemp(family.name))
