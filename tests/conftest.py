"""No test asks a hub, or finds what the machine has of one; tests/hub has a hub of its own."""

from __future__ import annotations

import os

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_CACHE=os.devnull + "/hub")
