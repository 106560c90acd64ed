"""What only the extra `text` brings: imported when it is used, never before."""

from __future__ import annotations

import importlib
import os
from typing import Any

from suture.errors import UsageError


def need(module: str) -> Any:
    """Import `torch` or `transformers`, or say which extra has it.

    Raises:
        UsageError: if it is not installed.
    """
    # No model is asked for by its name here: what is run lies in a folder.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        message = f"torch and transformers run models (no module {e.name}): pip install torch transformers tokenizers"
        raise UsageError(message) from None
