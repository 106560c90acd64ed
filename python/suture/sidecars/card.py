"""The model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from suture._core import __version__


def model_card(recipe: dict[str, Any], models: list[str]) -> bytes:
    """A README.md in the form model hubs read: what the output was made from, and the recipe."""
    title = "swap" if "swap" in recipe else recipe["merge_method"]
    names = "\n".join(f"  - {json.dumps(Path(m).resolve().name)}" for m in models)
    listed = "\n".join(f"* `{Path(m).resolve().name}`" for m in models)
    body = json.dumps(recipe, indent=2, ensure_ascii=False)
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
