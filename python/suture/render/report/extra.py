"""What only the extra `report` brings: imported when it is used, never before."""

from __future__ import annotations

import importlib
from typing import Any

from suture.errors import UsageError


def need(module: str, what: str) -> Any:
    """Import `module`, or say which extra has it.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        raise UsageError(
            f"{what} needs the extra `report` (no module {e.name}): pip install altair vl-convert-python pyarrow"
        ) from None


def vega_lite() -> str:
    """The version of Vega-Lite to convert with: the one Altair writes, or the newest there is of its major version."""
    wanted = need("altair", "a chart").SCHEMA_VERSION.lstrip("v").split(".")
    known = [v.split(".") for v in need("vl_convert", "a chart").get_vegalite_versions()]
    fitting = [v for v in known if v[0] == wanted[0]] or known
    return ".".join(wanted[:2] if wanted[:2] in fitting else max(fitting, key=lambda v: [int(n) for n in v]))
