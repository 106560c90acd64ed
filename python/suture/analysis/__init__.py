"""The verbs that only read. Each is a module."""

from suture.analysis.diff import diff
from suture.analysis.inspect import inspect
from suture.analysis.methods import methods
from suture.analysis.verify import verify

__all__ = ["diff", "inspect", "methods", "verify"]
