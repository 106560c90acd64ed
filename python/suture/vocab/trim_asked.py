"""What a trim is asked, and what it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODES = ("exact", "closure")
CHARACTERS = ("all", "used")


@dataclass(frozen=True)
class Asked:
    """What a trim is asked.

    Attributes:
        texts: the files of each language, by its name.
        min_share: what share of a language's tokens a token must have in any of them to stay; 0 for any use at all.
        mode: of BPE, whether only the tokens stay that are made on the way to those that stay (``exact``), or all that
            any merges could make these from (``closure``), which segments more of other text alike.
        characters: whether all single characters stay (``all``), or only those in the texts (``used``).
        pad_to: a number that the rows are padded to a multiple of.
    """

    texts: Mapping[str, Sequence[Path]]
    min_share: float = 0.0
    mode: str = "exact"
    characters: str = "all"
    pad_to: int = 1

    def options(self) -> dict[str, Any]:
        """As JSON."""
        texts = {name: [str(path) for path in files] for name, files in self.texts.items()}
        own = {name: getattr(self, name) for name in ("min_share", "mode", "characters", "pad_to")}
        return {"texts": texts, **own}


@dataclass(frozen=True)
class Kept:
    """Which rows stay, and why.

    Attributes:
        why: int32 [rows]: the place in `needed.REASONS` of why each stays; -1 of what leaves.
        named: bool [rows]: which are tokens.
    """

    why: NDArray[np.int32]
    named: NDArray[np.bool_]

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The old numbers of those that stay, by the new ones: in their order, what is no token behind the others."""
        stays = self.why >= 0
        return np.concatenate([np.flatnonzero(stays & self.named), np.flatnonzero(stays & ~self.named)])

    @property
    def moved(self) -> dict[int, int]:
        """The new number of each that stays, by its old one."""
        return {int(old): new for new, old in enumerate(self.numbers)}
