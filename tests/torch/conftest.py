"""Tests of `suture.torch`: passed over where there is no torch."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = ["test_*.py"]
if importlib.util.find_spec("torch"):
    import torch

    collect_ignore_glob = []
    # Tensors of tests are small: threads would wait for each other longer than they work.
    torch.set_num_threads(1)
