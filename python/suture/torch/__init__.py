"""Merging, swapping and comparing of models that torch holds, on a GPU or on the CPU; it needs the extra `torch`.

>>> import suture.torch
>>> suture.torch.merge_(model, [expert], "task_arithmetic", base=base, parameters={"weight": [0.5, 0.5]})
"""

from __future__ import annotations

from suture.errors import UsageError

try:
    import torch
except ImportError as e:
    raise UsageError("suture.torch needs PyTorch; install it: pip install 'suture[torch]'") from e

from suture.torch.merging import merge, merge_
from suture.torch.report import Report

__all__ = ["Report", "merge", "merge_", "torch"]
