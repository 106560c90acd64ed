"""The model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suture._core import __version__
from suture.escape import json_text, printable
from suture.recipe import with_names


def model_card(recipe: dict[str, Any], models: Sequence[Path]) -> bytes:
    """A README.md in the form model hubs read: what the output was made from, and the recipe.

    Models go by the names of their folders: the card is for others, who have them elsewhere.
    """
    swap = recipe.get("swap")
    other = "convert" if "convert" in recipe else recipe.get("merge_method")
    title = other if swap is None else "revert" if swap.get("revert") else "swap"
    called = [printable(m.resolve().name) for m in models]
    names = "\n".join(f"  - {json.dumps(name)}" for name in called)
    listed = "\n".join(f"* `{name}`" for name in called)
    body = json_text(with_names(recipe), indent=2)
    text = f"""---
base_model:
{names}
tags:
  - merge
  - suture
---

# {title} of {len(models)} models

Made by suture {__version__} from

{listed}

by this recipe; `suture.json` beside it holds the digest of every tensor.

```json
{body}
```
"""
    return text.encode()
