"""The verbs that write. Each is a module; what they share compiles a plan and runs it."""

from suture.surgery.merge import merge
from suture.surgery.propose import propose
from suture.surgery.revert import revert
from suture.surgery.swap import swap

__all__ = ["merge", "propose", "revert", "swap"]
