"""Tensor surgery for model checkpoints: inspect, compare, swap layers and merge, out of core.

>>> import suture
>>> report = suture.swap("task-expert", "language-expert", "out", bottom=5, top=2, transition=1)

Every function takes paths and a :class:`Settings`; the same functions are behind the command line.
"""

from suture._core import __version__
from suture.analysis import diff, inspect, methods, verify
from suture.checkpoint import Checkpoint, TensorInfo, open
from suture.errors import SutureError, UsageError
from suture.settings import Settings
from suture.surgery import Report, merge, swap

__all__ = [
    "Checkpoint",
    "Report",
    "Settings",
    "SutureError",
    "TensorInfo",
    "UsageError",
    "__version__",
    "diff",
    "inspect",
    "merge",
    "methods",
    "open",
    "swap",
    "verify",
]
