"""One cluster for all tests of this folder: to start one takes seconds."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import suture

from . import world


@pytest.fixture(scope="package")
def cluster() -> Iterator[Any]:
    """A head that makes no part, and two nodes of a thread each."""
    pytest.importorskip("ray")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
        from ray.cluster_utils import Cluster

        # What nodes import is what is tested.
        places = [str(Path(suture.__file__).parents[1]), str(Path(__file__).parents[2])]
        kept = {name: os.environ.get(name) for name in ("PYTHONPATH", "RAY_ADDRESS", "RAY_USAGE_STATS_ENABLED")}
        os.environ |= {"PYTHONPATH": os.pathsep.join(places), "RAY_USAGE_STATS_ENABLED": "0"}
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        os.environ["RAY_ADDRESS"] = found.address
        for _ in range(2):
            found.add_node(num_cpus=1)
        yield found
        ray.shutdown()
        found.shutdown()
        for name, value in kept.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@pytest.fixture(scope="package")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The config of a merge of three models."""
    return world.models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="package")
def whole(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run makes by it."""
    out = tmp_path_factory.mktemp("whole") / "out"
    world.merge(config, out, ray=None)
    return out
