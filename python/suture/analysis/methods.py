"""What merge methods there are."""

from __future__ import annotations

import json
from typing import cast

from suture import _core
from suture.results import Spec


def methods() -> list[Spec]:
    """The spec of every merge method: name, summary, formula, paper, parameters, inputs, cost."""
    return cast(list[Spec], json.loads(_core.methods_json()))
