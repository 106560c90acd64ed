"""Single attention heads move bit for bit: rows of q, k and v, columns of o, whole groups of grouped queries."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..reference import swap
from ..support.checkpoints import Raw, encode, llama_config, llama_shapes, read_checkpoint, write_checkpoint
from ..support.swapping import same, with_heads

LAYERS, HIDDEN, FF, VOCAB = 3, 16, 20, 12


@dataclass(frozen=True)
class Pair:
    """A recipient and a donor with so many heads."""

    into: Path
    donor: Path
    heads: int
    groups: int

    @classmethod
    def write(
        cls, folder: Path, heads: int, groups: int, size: int = 4, dtype: str = "BF16", hidden: int = HIDDEN
    ) -> Pair:
        """Heads of `size` elements, whatever the hidden size is, with biases and the norms of q and k."""
        rng = np.random.default_rng([heads, groups, size])
        shapes = llama_shapes(LAYERS, hidden, heads, groups, FF, VOCAB, tied=False)
        for layer in range(LAYERS):
            prefix = f"model.layers.{layer}.self_attn."
            for name, rows in (("q_proj", heads * size), ("k_proj", groups * size), ("v_proj", groups * size)):
                shapes |= {f"{prefix}{name}.weight": (rows, hidden), f"{prefix}{name}.bias": (rows,)}
            shapes |= {f"{prefix}o_proj.weight": (hidden, heads * size), f"{prefix}o_proj.bias": (hidden,)}
            shapes |= {f"{prefix}q_norm.weight": (size,), f"{prefix}k_norm.weight": (size,)}
        config = llama_config(LAYERS, hidden, heads, groups, FF, VOCAB, False, dtype) | {"head_dim": size}
        folders = []
        for label, shards in (("into", 2), ("donor", 1)):
            tensors = {name: encode(rng.normal(0, 0.02, shape), dtype) for name, shape in sorted(shapes.items())}
            folders.append(write_checkpoint(folder / label, tensors, shards=shards, config=config))
        return cls(folders[0], folders[1], heads, groups)

    def expected(self, layers: list[int], listed: list[int], kept: tuple[str, ...] = ()) -> dict[str, Raw]:
        """The recipient with these heads of the donor; modules of `kept` stay."""
        into, donor = read_checkpoint(self.into), read_checkpoint(self.donor)
        movable = {name: raw for name, raw in into.items() if not any(f".{module}." in name for module in kept)}
        return into | with_heads(movable, donor, layers, listed, self.heads, self.groups)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair.write(tmp_path_factory.mktemp("grouped"), 6, 3)


def test_the_oracle_of_heads_by_hand() -> None:
    """Of four heads in two groups the heads 2 and 3 are the second half of q and o and the second k/v head."""
    into, donor = np.zeros((4, 4), int), np.arange(16).reshape(4, 4)
    found = {m: swap.with_heads(into, donor, m, [2, 3], 4, 2) for m in ("q_proj", "o_proj", "k_proj", "up_proj")}
    assert found["q_proj"].tolist() == [[0] * 4, [0] * 4, [8, 9, 10, 11], [12, 13, 14, 15]]
    assert found["o_proj"].tolist() == [[0, 0, 2, 3], [0, 0, 6, 7], [0, 0, 10, 11], [0, 0, 14, 15]]
    assert found["k_proj"].tolist() == found["q_proj"].tolist()
    assert found["up_proj"].tolist() == into.tolist()
    assert swap.key_value_heads([0, 1, 2, 3], 4, 2) == [0, 1]
    with pytest.raises(ValueError, match="head 1"):
        swap.key_value_heads([0, 1, 2], 4, 2)


@pytest.mark.parametrize("listed", ["0-1", "2,3", "4-5,0-1", "0-5", "1,0"])
@pytest.mark.parametrize("place", [{"bottom": 1}, {"layers": "0-2"}, {"bottom": 1, "top": 1}], ids=str)
def test_heads_move_bit_for_bit(place: dict[str, Any], listed: str, grouped: Pair, tmp_path: Path) -> None:
    """Law 2: the listed heads in the donor's layers are its bytes, every other element is the recipient's."""
    suture.swap(grouped.into, grouped.donor, tmp_path / "out", **place, heads=listed)
    layers = {"bottom": [0], "layers": [0, 1, 2], "top": [0, 2]}[list(place)[-1]]
    same(read_checkpoint(tmp_path / "out"), grouped.expected(layers, swap.parse_layers(listed)))


@pytest.mark.parametrize(("heads", "groups", "listed"), [(4, 4, "0,3"), (4, 1, "0-3"), (8, 2, "4-7"), (1, 1, "0")])
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_heads_of_any_grouping(dtype: str, heads: int, groups: int, listed: str, tmp_path: Path) -> None:
    """Law 2: a key/value head for each, for all, for some; heads that do not add up to the hidden size."""
    pair = Pair.write(tmp_path, heads, groups, size=6, dtype=dtype)
    suture.swap(pair.into, pair.donor, tmp_path / "out", layers="1", heads=listed)
    same(read_checkpoint(tmp_path / "out"), pair.expected([1], swap.parse_layers(listed)))


@pytest.mark.parametrize("io", ["mmap", "pread", "direct"])
@pytest.mark.parametrize("chunk", ["4KiB", "16KiB", "1MiB"])
def test_heads_do_not_depend_on_how_a_tensor_is_cut(io: str, chunk: str, tmp_path: Path) -> None:
    """Law 3: columns of o are found in whatever pieces its rows are read."""
    pair = Pair.write(tmp_path, 4, 2, size=40, hidden=130)
    how = suture.Settings(io=io, chunk=chunk, threads=3, shard_size="30kB")
    suture.swap(pair.into, pair.donor, tmp_path / "out", layers="0,2", heads="2-3", settings=how)
    same(read_checkpoint(tmp_path / "out"), pair.expected([0, 2], [2, 3]))


@pytest.mark.parametrize("listed", ["0", "1-2", "0-4", "5"])
def test_a_group_that_is_partly_listed_is_refused(listed: str, grouped: Pair, tmp_path: Path) -> None:
    """Law 8: a key/value head cannot go with some of its query heads and stay with the others."""
    with pytest.raises(suture.UsageError, match="heads") as caught:
        suture.swap(grouped.into, grouped.donor, tmp_path / "out", layers="0", heads=listed)
    assert not list(tmp_path.iterdir())
    assert any(word in str(caught.value) for word in ("key/value", "k_proj", "group")), str(caught.value)


@pytest.mark.parametrize("modules", ["self_attn.q_proj,self_attn.o_proj", "self_attn.[qo]_proj"])
def test_queries_alone_may_be_partly_listed(modules: str, grouped: Pair, tmp_path: Path) -> None:
    """Law 2: where keys and values do not move, any query head may."""
    suture.swap(grouped.into, grouped.donor, tmp_path / "out", layers="0,2", heads="0,3-4", modules=modules)
    same(read_checkpoint(tmp_path / "out"), grouped.expected([0, 2], [0, 3, 4], kept=("k_proj", "v_proj")))


def test_one_module_of_a_head(grouped: Pair, tmp_path: Path) -> None:
    """Law 2: with `modules` only that part of the heads moves."""
    suture.swap(grouped.into, grouped.donor, tmp_path / "out", layers="1", heads="2-3", modules="self_attn.v_proj")
    same(read_checkpoint(tmp_path / "out"), grouped.expected([1], [2, 3], kept=("q_proj", "k_proj", "o_proj")))


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ("6", ("6", "6 heads|there are 6")),
        ("0-9", ("9|6",)),
        ("3-1", ("3-1",)),
        ("a", ("heads", "a")),
        ("", ("heads",)),
    ],
)
def test_heads_that_do_not_exist_are_refused(listed: str, said: tuple[str, ...], grouped: Pair, tmp_path: Path) -> None:
    """Law 8: a usage error that says how many heads there are, or how a list is written."""
    with pytest.raises(suture.UsageError) as caught:
        suture.swap(grouped.into, grouped.donor, tmp_path / "out", layers="0", heads=listed)
    told = str(caught.value)
    assert "head" in told
    assert all(any(either in told for either in part.split("|")) for part in said), told
    assert not list(tmp_path.iterdir())


def test_heads_need_a_config(tmp_path: Path) -> None:
    """Law 8: how many heads there are is in config.json; without it nothing is guessed."""
    pair = Pair.write(tmp_path, 4, 2)
    (pair.into / "config.json").unlink()
    with pytest.raises(suture.SutureError, match=r"config\.json"):
        suture.swap(pair.into, pair.donor, tmp_path / "out", layers="0", heads="0-1")
    assert not (tmp_path / "out").exists()


def test_models_with_other_heads_are_refused(tmp_path: Path) -> None:
    """Law 8: the same rows cut into heads of another size are other heads."""
    pair = Pair.write(tmp_path, 4, 4)
    config = json.loads((pair.donor / "config.json").read_text())
    changed = config | {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 2}
    (pair.donor / "config.json").write_text(json.dumps(changed))
    with pytest.raises(suture.SutureError, match="heads"):
        suture.swap(pair.into, pair.donor, tmp_path / "out", layers="0", heads="0-1")
    assert not (tmp_path / "out").exists()


def test_every_head_is_every_row(grouped: Pair, tmp_path: Path) -> None:
    """All heads together are q, k, v and o whole, but for the bias of o, which is of no head."""
    suture.swap(grouped.into, grouped.donor, tmp_path / "heads", layers="0-2", heads="0-5")
    suture.swap(grouped.into, grouped.donor, tmp_path / "modules", layers="0-2", modules="self_attn.[qkvo]_proj")
    found, whole = (read_checkpoint(tmp_path / name) for name in ("heads", "modules"))
    into = read_checkpoint(grouped.into)
    same(found, {name: into[name] if name.endswith("o_proj.bias") else raw for name, raw in whole.items()})
