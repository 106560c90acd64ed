"""A base, adapters of it, and the same models folded beforehand, under the same names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import suture

from ..support.adapters import write_adapter
from ..support.checkpoints import llama_family, read_checkpoint

LAYERS = 4
SHAPE: dict[str, Any] = {"layers": LAYERS, "hidden": 16, "heads": 4, "kv_heads": 2, "ff": 24, "vocab": 12}
MODULES = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
COUNT = 3


@dataclass(frozen=True)
class World:
    """Models that are one thing in two forms: `base+adapter`, and a folder of that name."""

    folder: Path
    base: Path
    adapters: tuple[Path, ...]

    @property
    def named(self) -> list[Path]:
        """The base, and it with each adapter, as they are written on a command line."""
        return [self.base, *(Path(f"{self.base}+{a}") for a in self.adapters)]

    @property
    def folded(self) -> list[Path]:
        """The same, folded in f32: called alike, since random masks are a function of names."""
        return [self.base, *(self.folder / "folded" / f"base+{a.name}" for a in self.adapters)]


def write_world(folder: Path, dtype: str = "f32") -> World:
    """A base in a dtype, three adapters of it, and the folded models."""
    base, _ = llama_family(folder, n=1, dtype=dtype, **SHAPE)
    adapters = []
    for i in range(COUNT):
        # Each leaves a layer alone.
        layers = [layer for layer in range(LAYERS) if layer != i]
        adapters.append(
            write_adapter(folder / f"lora-{i}", read_checkpoint(base), MODULES, layers, seed=i, alpha=1, r=4 + i)
        )
    world = World(folder, base, tuple(adapters))
    (folder / "folded").mkdir()
    for adapter, out in zip(adapters, world.folded[1:], strict=True):
        suture.fold(base, [adapter], out, settings=suture.Settings(dtype="float32"))
    return world
