"""Models as their headers and configs show them: what can be known of them at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture import _core
from suture.results.reading import Stack
from suture.sidecars.files import INNER, read_config

#: Dtype and shape of a tensor.
Header = tuple[str, tuple[int, ...]]
#: Dtypes that are computed on.
COMPUTES = frozenset({"F64", "F32", "F16", "BF16"})
#: What loaders compute again: it need not be there, nor be alike.
_BUFFERS = (
    "inv_freq", "original_inv_freq", "position_ids", "token_type_ids", "cos_cached", "sin_cached", "masked_bias",
    "relative_position_index",
)  # fmt: skip
#: Heads over the vocabulary, which may be tied to its table.
_HEADS = ("lm_head.weight", "embed_out.weight", "proj_out.weight", "decoder.weight", "vocab_projector.weight")
#: Tables of the tokens.
_TABLES = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "shared.weight",
           "tok_embeddings.weight", "tokens_embed.weight")  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """A model.

    Attributes:
        path: where it is, as it was named.
        label: a short name, which no other of those seen together has.
        folder: where its small files are; None of a lone file.
        tensors: dtype and shape of every tensor.
        stacks: its stacks of layers.
        config: its config.json, if there is one.
        warnings: what was passed over.
    """

    path: str
    label: str
    folder: Path | None
    tensors: dict[str, Header]
    stacks: list[Stack]
    config: dict[str, Any] | None
    warnings: list[str]

    @property
    def main(self) -> Stack | None:
        """The main stack, if it can be told."""
        return next((s for s in self.stacks if s["main"]), None)

    @property
    def tied(self) -> bool | None:
        """Whether config.json ties the head to the table of the tokens, for the whole or for its language model."""
        config = self.config or {}
        said = [config, *(inner for k in INNER if isinstance(inner := config.get(k), dict))]
        found = (section.get("tie_word_embeddings") for section in said)
        return next((tie for tie in found if isinstance(tie, bool)), None)

    @property
    def table(self) -> int | None:
        """The rows of the first table of tokens."""
        shapes = (shape for name, (_, shape) in self.tensors.items() if name.endswith(_TABLES))
        return next((shape[0] for shape in shapes if len(shape) == 2), None)

    @property
    def adapter(self) -> bool:
        """Whether it holds factors of adapters."""
        return any(".lora_" in name for name in self.tensors)

    def lacks(self, name: str) -> bool:
        """Whether a tensor of another model has nothing to stand for it here, not even what it is tied to."""
        if name in self.tensors:
            return False
        return not (name.endswith(_HEADS) and self.tied is not False and self.table is not None)


def is_buffer(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor is one that loaders compute again."""
    last = name.rpartition(".")[2]
    return last in _BUFFERS or (last == "bias" and len(shape) >= 3 and "att" in name)


def is_vocabulary(name: str) -> bool:
    """Whether a tensor has a row for each token."""
    return name.endswith((*_TABLES, *_HEADS))


def layer_of(stack: Stack, name: str) -> int | None:
    """The number, from 0, of the layer of a stack that a tensor is in."""
    if not name.startswith(stack["prefix"]):
        return None
    number = name[len(stack["prefix"]) :].partition(".")[0]
    layer = int(number) - stack["first"] if number.isdigit() else -1
    return layer if 0 <= layer < stack["layers"] else None


def look(paths: Sequence[str | PathLike[str]]) -> list[Seen]:
    """Open models by their headers, and read their configs.

    Raises:
        SutureError: if a checkpoint or a config.json is not sound.
    """
    with ThreadPoolExecutor() as threads:
        opened = list(threads.map(lambda path: _core.Checkpoint(fspath(path)), paths))
    labels = labels_of([Path(c.path) for c in opened])
    known: dict[str, dict[str, Header]] = {}
    return [_seen(fspath(p), c, label, known) for p, c, label in zip(paths, opened, labels, strict=True)]


def _seen(path: str, opened: _core.Checkpoint, label: str, known: dict[str, dict[str, Header]]) -> Seen:
    # Name by name: half the time that the description of the whole takes.
    text = f"[{','.join(map(opened.info_json, opened.names()))}]"
    if text not in known:
        # Fine-tunes most often have the same headers, which then are read once.
        known[text] = {t["name"]: (t["dtype"], tuple(t["shape"])) for t in json.loads(text)}
    folder = opened.path if opened.path.is_dir() else None
    config = None if folder is None else read_config(folder)
    stacks: list[Stack] = json.loads(opened.stacks_json())
    return Seen(path, label, folder, known[text], stacks, config, opened.warnings)


def labels_of(paths: Sequence[Path]) -> list[str]:
    """The names of folders or files; where they repeat, with as much of the path before them as tells them apart."""
    whole = [path.resolve() for path in paths]
    found = []
    for path in whole:
        parts = path.parts
        tails = (parts[-n:] for n in range(1, len(parts) + 1))
        same = (t for t in tails if sum(p.parts[-len(t) :] == t for p in whole) == 1)
        found.append("/".join(next(same, parts)))
    return found
