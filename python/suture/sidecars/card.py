"""The model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suture._core import __version__
from suture.escape import json_text, printable
from suture.recipe import adapters_of, with_names
from suture.reference import called

#: In the name of a folder of what was computed for an output.
COMPUTED = ".suture-given-"


def model_card(recipe: dict[str, Any], models: Sequence[Path]) -> bytes:
    """A README.md in the form model hubs read: what the output was made from, and the recipe.

    Models go by the names of their folders: the card is for others, who have them elsewhere.
    """
    # What was computed for an output lies beside it while it is made, and is no model.
    models = [model for model in models if COMPUTED not in model.name]
    swap = recipe.get("swap")
    title = "revert" if swap and swap.get("revert") else "swap" if swap else recipe.get("merge_method")
    title = title or recipe.get("copy", recipe.get("assemble", {}))["title"]
    copied = recipe.get("copy") or {}
    merged = [Path(entry["model"]) for entry in copied.get("of") or ()]
    adapters = [Path(path) for path in adapters_of(recipe)]
    count = f"{len(merged)} adapters" if merged else f"{len(models)} model{'' if len(models) == 1 else 's'}"
    if adapters:
        count += f" and {len(adapters)} adapter{'' if len(adapters) == 1 else 's'}"
    names_of = [printable(called(m)) for m in [*(merged or models), *adapters]]
    names = "\n".join(f"  - {json.dumps(name)}" for name in names_of)
    listed = "\n".join(f"* `{name}`" for name in names_of)
    body = json_text(with_names(recipe), indent=2)
    text = f"""---
base_model:
{names}
tags:
  - merge
  - suture
---

# {title} of {count}

Made by suture {__version__} from

{listed}

by this recipe; `suture.json` beside it holds the digest of every tensor.

```json
{body}
```
"""
    return text.encode()
