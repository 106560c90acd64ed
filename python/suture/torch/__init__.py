"""Merging, swapping and comparing of models that torch holds, on a GPU or on the CPU; it needs the extra `torch`.

>>> import suture.torch
>>> suture.torch.merge_(model, [expert], "task_arithmetic", base=base, parameters={"weight": [0.5, 0.5]})
"""

from __future__ import annotations

from suture.errors import UsageError

#: The oldest torch that has all that is used here.
_LEAST = (2, 5)

try:
    import torch
except ImportError:
    raise UsageError("suture.torch needs PyTorch; install it: pip install torch") from None
if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _LEAST:
    raise UsageError(
        f"suture.torch needs PyTorch {_LEAST[0]}.{_LEAST[1]} or newer, found {torch.__version__}; upgrade it"
    )

from suture.torch.comparing import diff  # noqa: E402
from suture.torch.merging import merge, merge_  # noqa: E402
from suture.torch.report import Report  # noqa: E402
from suture.torch.serving import iter_merged  # noqa: E402
from suture.torch.sessions import Session, prepare  # noqa: E402
from suture.torch.swapping import swap_  # noqa: E402
from suture.torch.twins import Twin  # noqa: E402

__all__ = ["Report", "Session", "Twin", "diff", "iter_merged", "merge", "merge_", "prepare", "swap_"]
