"""`--heads` moves rows and columns of the listed heads and nothing else; a block it does not know is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import suture

from ..support.checkpoints import DTYPE_BITS, Raw, llama_config, read_checkpoint, write_checkpoint
from ..support.refusals import left_behind, refusal

LAYERS, HEADS, GROUPS, SIZE = 2, 4, 2, 6
HIDDEN, KEYS = HEADS * SIZE, GROUPS * SIZE
#: Of four heads the last two share the last key and value head.
LISTED, SHARED = [2, 3], [1]
#: Rows of listed heads in a tensor of all query, or all key heads.
ROWS = [h * SIZE + i for h in LISTED for i in range(SIZE)]
KEY_ROWS = [h * SIZE + i for h in SHARED for i in range(SIZE)]

Right = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]


def take(*index: Any) -> Right:
    """The recipient's tensor with these elements of the donor's."""

    def right(into: NDArray[Any], donor: NDArray[Any]) -> NDArray[Any]:
        out = into.copy()
        out[index] = donor[index]
        return out

    return right


def stay(into: NDArray[Any], donor: NDArray[Any]) -> NDArray[Any]:
    """Of no head, or shared by all."""
    return into


ALL = slice(None)
QUERY, KEY, OUT = take(ROWS), take(KEY_ROWS), take(ALL, ROWS)
Part = tuple[tuple[int, ...], Right]


@dataclass(frozen=True)
class Block:
    """An attention block: what stands before the layer's number, and its tensors with what is right for each."""

    stack: str
    parts: Mapping[str, Part]
    #: Key and value heads; as many as query heads where they are not grouped.
    groups: int = GROUPS
    config: Mapping[str, Any] | None = None


def llama(names: tuple[str, str, str, str], bias: bool = False) -> dict[str, Part]:
    """The four projections."""
    q, k, v, o = names
    found: dict[str, Part] = {
        f"{q}.weight": ((HIDDEN, HIDDEN), QUERY),
        f"{k}.weight": ((KEYS, HIDDEN), KEY),
        f"{v}.weight": ((KEYS, HIDDEN), KEY),
        f"{o}.weight": ((HIDDEN, HIDDEN), OUT),
    }
    if bias:
        found |= {f"{q}.bias": ((HIDDEN,), QUERY), f"{k}.bias": ((KEYS,), KEY), f"{v}.bias": ((KEYS,), KEY)}
        found |= {f"{o}.bias": ((HIDDEN,), stay)}
    return found


def ungrouped(names: tuple[str, str, str, str], bias: bool = True) -> dict[str, Part]:
    """The four projections of a model whose every head has keys of its own."""
    found: dict[str, Part] = {f"{n}.weight": ((HIDDEN, HIDDEN), QUERY) for n in names[:3]}
    found |= {f"{names[3]}.weight": ((HIDDEN, HIDDEN), OUT)}
    if bias:
        found |= {f"{n}.bias": ((HIDDEN,), QUERY) for n in names[:3]} | {f"{names[3]}.bias": ((HIDDEN,), stay)}
    return found


def attention(*names: str) -> tuple[str, str, str, str]:
    """Names inside the module `self_attn`."""
    q, k, v, o = (f"self_attn.{name}" for name in names)
    return q, k, v, o


T5 = ("layer.0.SelfAttention.q", "layer.0.SelfAttention.k", "layer.0.SelfAttention.v", "layer.0.SelfAttention.o")
LLAMA = attention("q_proj", "k_proj", "v_proj", "o_proj")
PLAIN: dict[str, Block] = {
    "llama": Block("model.layers.", llama(LLAMA)),
    "qwen2, with biases": Block("model.layers.", llama(LLAMA, bias=True)),
    "qwen3, a norm for all heads": Block(
        "model.layers.",
        llama(LLAMA) | {f"self_attn.{n}_norm.weight": ((SIZE,), stay) for n in "qk"},
    ),
    "bert": Block(
        "bert.encoder.layer.",
        ungrouped(("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")),
        HEADS,
    ),
    "no grouping": Block("model.layers.", ungrouped(LLAMA, bias=False), HEADS),
}
#: Rows of fused tensors: all queries, then all keys, then all values.
FUSED_ROWS = [*ROWS, *(HIDDEN + r for r in KEY_ROWS), *(HIDDEN + KEYS + r for r in KEY_ROWS)]
THIRDS = [part * HIDDEN + r for part in range(3) for r in ROWS]
#: Or query, key and value of each head together.
BY_HEAD = [h * 3 * SIZE + i for h in LISTED for i in range(3 * SIZE)]
#: Blocks where something is fused, of low rank, or of heads in a way of its own.
HARD: dict[str, Block] = {
    "phi3": Block(
        "model.layers.",
        {
            "self_attn.qkv_proj.weight": ((HIDDEN + 2 * KEYS, HIDDEN), take(FUSED_ROWS)),
            "self_attn.o_proj.weight": ((HIDDEN, HIDDEN), OUT),
        },
    ),
    "neox": Block(
        "gpt_neox.layers.",
        {
            "attention.query_key_value.weight": ((3 * HIDDEN, HIDDEN), take(BY_HEAD)),
            "attention.query_key_value.bias": ((3 * HIDDEN,), take(BY_HEAD)),
            "attention.dense.weight": ((HIDDEN, HIDDEN), OUT),
            "attention.dense.bias": ((HIDDEN,), stay),
        },
        HEADS,
    ),
    "bloom": Block(
        "transformer.h.",
        {
            "self_attention.query_key_value.weight": ((3 * HIDDEN, HIDDEN), take(BY_HEAD)),
            "self_attention.dense.weight": ((HIDDEN, HIDDEN), OUT),
        },
        HEADS,
    ),
    "chatglm": Block(
        "transformer.encoder.layers.",
        {
            "self_attention.query_key_value.weight": ((HIDDEN + 2 * KEYS, HIDDEN), take(FUSED_ROWS)),
            "self_attention.dense.weight": ((HIDDEN, HIDDEN), OUT),
        },
    ),
    "gpt2": Block(
        "transformer.h.",
        {
            "attn.c_attn.weight": ((HIDDEN, 3 * HIDDEN), take(ALL, THIRDS)),
            "attn.c_attn.bias": ((3 * HIDDEN,), take(THIRDS)),
            # Stored the other way round: input by output.
            "attn.c_proj.weight": ((HIDDEN, HIDDEN), QUERY),
            "attn.c_proj.bias": ((HIDDEN,), stay),
        },
        HEADS,
    ),
    "mpt": Block(
        "transformer.blocks.",
        {
            "attn.Wqkv.weight": ((3 * HIDDEN, HIDDEN), take(THIRDS)),
            "attn.out_proj.weight": ((HIDDEN, HIDDEN), OUT),
        },
        HEADS,
    ),
    "modernbert": Block(
        "model.layers.",
        {"attn.Wqkv.weight": ((3 * HIDDEN, HIDDEN), take(THIRDS)), "attn.Wo.weight": ((HIDDEN, HIDDEN), OUT)},
        HEADS,
    ),
    "open_clip": Block(
        "text.layers.",
        {
            "attn.in_proj_weight": ((3 * HIDDEN, HIDDEN), take(THIRDS)),
            "attn.in_proj_bias": ((3 * HIDDEN,), take(THIRDS)),
            "attn.out_proj.weight": ((HIDDEN, HIDDEN), OUT),
        },
        HEADS,
    ),
    "internlm2": Block(
        "model.layers.",
        {
            # Each key head behind the query heads that share it, then its value head.
            "attention.wqkv.weight": ((HIDDEN + 2 * KEYS, HIDDEN), take(slice((HIDDEN + 2 * KEYS) // 2, None))),
            "attention.wo.weight": ((HIDDEN, HIDDEN), OUT),
        },
    ),
    "deepseek": Block(
        "model.layers.",
        {
            "self_attn.q_a_proj.weight": ((8, HIDDEN), stay),
            "self_attn.q_a_layernorm.weight": ((8,), stay),
            "self_attn.q_b_proj.weight": ((HEADS * SIZE, 8), QUERY),
            "self_attn.kv_a_proj_with_mqa.weight": ((10, HIDDEN), stay),
            "self_attn.kv_a_layernorm.weight": ((8,), stay),
            "self_attn.kv_b_proj.weight": ((HEADS * 8, 8), take([h * 8 + i for h in LISTED for i in range(8)])),
            "self_attn.o_proj.weight": ((HIDDEN, HEADS * SIZE), OUT),
        },
        HEADS,
        # What is of low rank serves all heads, and is another in each model: no head can be had alone.
        {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 2, "v_head_dim": 4},
    ),
    "gpt-oss, a sink for each head": Block(
        "model.layers.", llama(LLAMA) | {"self_attn.sinks": ((HEADS,), take(LISTED))}
    ),
    "olmo2, a norm over all heads": Block(
        "model.layers.",
        llama(LLAMA) | {
            "self_attn.q_norm.weight": ((HIDDEN,), QUERY),
            "self_attn.k_norm.weight": ((KEYS,), KEY),
        },
    ),
    "t5, a bias for each head": Block(
        "encoder.block.",
        ungrouped(T5, bias=False)
        | {"layer.0.SelfAttention.relative_attention_bias.weight": ((5, HEADS), take(ALL, LISTED))},
        HEADS,
    ),
    "qwen3-next, a gate beside each query head": Block(
        "model.layers.",
        llama(LLAMA) | {
            "self_attn.q_proj.weight": (
                (2 * HIDDEN, HIDDEN), take([h * 2 * SIZE + i for h in LISTED for i in range(2 * SIZE)])
            ),
        },
    ),
    "a projection and a fused pair": Block(
        "model.layers.",
        {
            "self_attn.q_proj.weight": ((HIDDEN, HIDDEN), QUERY),
            "self_attn.kv_proj.weight": ((2 * KEYS, HIDDEN), take([*KEY_ROWS, *(KEYS + r for r in KEY_ROWS)])),
            "self_attn.o_proj.weight": ((HIDDEN, HIDDEN), OUT),
        },
    ),
}  # fmt: skip
#: Where no answer is right, so that it has to be refused.
NO_ANSWER = ("deepseek",)


def words(shape: tuple[int, ...], dtype: str, seed: int) -> Raw:
    """Random bytes without NaN or infinity in any float."""
    rng = np.random.default_rng([seed, *shape])
    width = DTYPE_BITS[dtype] // 8
    data = rng.integers(0, 0x38, (int(np.prod(shape)), width), dtype=np.uint8)
    return Raw(dtype, shape, data.tobytes())


def bits(raw: Raw) -> NDArray[Any]:
    """The elements as whole numbers."""
    return np.frombuffer(raw.data, f"<u{DTYPE_BITS[raw.dtype] // 8}").reshape(raw.shape)


def write(folder: Path, block: Block, dtype: str, seed: int) -> Path:
    """A model of these blocks, with feed-forward, embedding and norm."""
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (8, HIDDEN), "norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        shapes |= {f"{block.stack}{layer}.{part}": shape for part, (shape, _) in block.parts.items()}
        shapes |= {f"{block.stack}{layer}.mlp.up_proj.weight": (8, HIDDEN)}
    tensors = {name: words(shape, dtype, seed) for name, shape in shapes.items()}
    config = llama_config(LAYERS, HIDDEN, HEADS, block.groups, 8, 8, False, "BF16") | dict(block.config or {})
    return write_checkpoint(folder, tensors, config=config)


def right(block: Block, into: Mapping[str, Raw], donor: Mapping[str, Raw], layer: int) -> dict[str, Raw]:
    """The recipient with the listed heads of the donor in a layer."""
    found = dict(into)
    for part, (_, rule) in block.parts.items():
        name = f"{block.stack}{layer}.{part}"
        raw = into[name]
        found[name] = Raw(raw.dtype, raw.shape, rule(bits(raw), bits(donor[name])).tobytes())
    return found


def both(place: Path, block: Block, dtype: str = "BF16") -> tuple[Path, Path]:
    """A recipient and a donor."""
    return write(place / "into", block, dtype, 1), write(place / "donor", block, dtype, 2)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("name", PLAIN)
def test_heads_are_rows_and_columns(name: str, dtype: str, place: Path) -> None:
    """Law 2: the listed heads are moved as bytes, whatever the dtype; nothing else moves."""
    into, donor = both(place, PLAIN[name], dtype)
    suture.swap(into, donor, place / "out", layers=[1], heads=LISTED)
    wanted = right(PLAIN[name], read_checkpoint(into), read_checkpoint(donor), 1)
    assert [n for n, raw in read_checkpoint(place / "out").items() if raw != wanted[n]] == []
    assert suture.verify(place / "out")["differing"] == []


@pytest.mark.parametrize("dtype", ["F8_E4M3", "I8", "U8", "I32"])
def test_heads_of_dtypes_that_do_not_compute(dtype: str, place: Path) -> None:
    """Law 2: they are moved as bytes, or refused with their dtype; never computed on."""
    block = PLAIN["llama"]
    into, donor = both(place, block, dtype)
    error = refusal(suture.swap, into, donor, place / "out", layers=[1], heads=LISTED)
    if error is None:
        wanted = right(block, read_checkpoint(into), read_checkpoint(donor), 1)
        assert read_checkpoint(place / "out") == wanted
    else:
        assert dtype in error
        assert left_behind(place, ["into", "donor"]) == []


@pytest.mark.parametrize("modules", [None, "*attn*,*ttention*"])
@pytest.mark.parametrize("name", HARD)
def test_a_block_that_is_not_understood_is_refused(name: str, modules: str | None, place: Path) -> None:
    """Law 10: heads of fused, low-rank or unusual blocks move right, or are refused by the name of a tensor of them."""
    block = HARD[name]
    into, donor = both(place, block)
    error = refusal(suture.swap, into, donor, place / "out", layers=[1], heads=LISTED, modules=modules)
    if error is not None:
        parts = {part.removesuffix(".weight").removesuffix(".bias") for part in block.parts}
        assert any(part in error for part in parts), error
        assert left_behind(place, ["into", "donor"]) == []
        return
    assert name not in NO_ANSWER
    wanted = right(block, read_checkpoint(into), read_checkpoint(donor), 1)
    assert [n for n, raw in read_checkpoint(place / "out").items() if raw != wanted[n]] == []


@pytest.mark.parametrize("name", HARD)
def test_the_feed_forward_has_no_heads(name: str, place: Path) -> None:
    """Where attention does not move at all, its layout is no matter; what has no heads stays."""
    into, donor = both(place, HARD[name])
    error = refusal(suture.swap, into, donor, place / "out", layers=[1], heads=LISTED, modules="mlp.*")
    assert error is not None or read_checkpoint(place / "out") == read_checkpoint(into)


@pytest.mark.parametrize(("have", "want"), [("F32", "BF16"), ("BF16", "F16"), ("F8_E4M3", "BF16")])
def test_heads_of_other_dtypes(have: str, want: str, place: Path) -> None:
    """Law 2: rows of two dtypes make no tensor: refused, with both named, or rounded and told."""
    block = PLAIN["llama"]
    into, donor = write(place / "into", block, want, 1), write(place / "donor", block, have, 2)
    error = refusal(suture.swap, into, donor, place / "out", layers=[1], heads=LISTED)
    if error is not None:
        assert have in error or want in error
        assert left_behind(place, ["into", "donor"]) == []
    else:
        assert have != "F8_E4M3"
        assert all(raw.dtype == want for raw in read_checkpoint(place / "out").values())
