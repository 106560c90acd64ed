"""No test asks a hub, or finds what the machine has of one (tests/hub has a hub of its own); which tests are heavy."""

from __future__ import annotations

import os

import pytest

from .support.catalogue import Case

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_CACHE=os.devnull + "/hub")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put variants of methods of whole matrices, and of what measures matrices, among the heavy tests: defaults stay.

    They take seconds each, and what a variant changes is inside the method, which tests of its own look at.
    """
    for item in items:
        callspec = getattr(item, "callspec", None)
        cases = [value for value in callspec.params.values() if isinstance(value, Case)] if callspec else []
        if any(case.variant != "default" and _whole(case) for case in cases):
            item.add_marker(pytest.mark.heavy)


def _whole(case: Case) -> bool:
    measured = [name for name in ("svc", "larv") if case.parameters.get(name) not in (None, 0, 0.0, "none")]
    return case.spec["class"] == "matrix" or bool(measured)
