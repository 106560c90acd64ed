"""What a fine-tune changed, by attention head, neuron group and token: against the oracle, and planted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import suture

from ..reference import delta
from ..support.checkpoints import Raw, encode, llama_config, llama_shapes, write_checkpoint, write_file
from ..support.diffing import agrees, joined, label, only, tune

HIDDEN, HEADS, KEYS, FF, VOCAB = 32, 8, 2, 50, 29
SHAPES = llama_shapes(3, HIDDEN, HEADS, KEYS, FF, VOCAB, tied=False)
BIASES = {
    f"model.layers.{layer}.self_attn.{end}.bias": (size,)
    for layer in (0, 2)
    for end, size in (("q_proj", HIDDEN), ("k_proj", HIDDEN // HEADS * KEYS), ("v_proj", HIDDEN // HEADS * KEYS))
}
CONFIG = llama_config(3, HIDDEN, HEADS, KEYS, FF, VOCAB, False, "BF16")
Model = dict[str, Raw]


def written(folder: Path, tensors: Mapping[str, Raw], **options: Any) -> Path:
    """A checkpoint folder with a config."""
    return write_checkpoint(folder, tensors, **{"config": CONFIG, **options})


def tuned_pair(shapes: Mapping[str, tuple[int, ...]], dtypes: tuple[str, str]) -> tuple[Model, Model]:
    """A model and a fine-tune with something changed everywhere."""
    base, tuned = {}, {}
    for seed, (name, shape) in enumerate(shapes.items()):
        values = tune(shape, seed)
        base[name], tuned[name] = (encode(side, dtype) for side, dtype in zip(values, dtypes, strict=True))
    return base, tuned


def touched(base: Model, parts: Mapping[str, Any], dtype: str) -> Model:
    """The model with every element of these parts (an index for each tensor) changed, and nothing else."""
    tuned = dict(base)
    for name, index in parts.items():
        values = base[name].values().copy()
        values[index] = values[index] * 1.5 + 1
        tuned[name] = encode(values, dtype)
    return tuned


def plain(shapes: Mapping[str, tuple[int, ...]], dtype: str) -> Model:
    rng = np.random.default_rng(12)
    return {name: encode(rng.normal(0, 0.1, shape).astype(np.float32), dtype) for name, shape in shapes.items()}


def heads_of(
    base: Model, tuned: Model, config: Mapping[str, Any]
) -> dict[tuple[Any, ...], list[tuple[NDArray[Any], NDArray[Any]]]]:
    """The parts of every head by (layer, module, head), as the oracle cuts them."""
    wanted: dict[tuple[Any, ...], list[tuple[NDArray[Any], NDArray[Any]]]] = {}
    for name, raw in base.items():
        sides = (delta.heads(name, side.values(), config) for side in (raw, tuned[name]))
        for head, both in enumerate(zip(*sides, strict=True)):
            wanted.setdefault((*delta.place(name), head), []).append(both)
    return wanted


def check_heads(model: Mapping[str, Any], base: Model, tuned: Model, config: Mapping[str, Any] = CONFIG) -> int:
    wanted = heads_of(base, tuned, config)
    found = {label(row): row for row in model["heads"]}
    assert len(found) == len(model["heads"])
    assert sorted(found) == sorted(wanted)
    for key, row in found.items():
        agrees(row, *joined(wanted[key]))
    return len(found)


@pytest.mark.parametrize("dtypes", [("F32", "F32"), ("F16", "F16"), ("BF16", "BF16"), ("BF16", "F32")])
def test_slices_agree_with_the_oracle(dtypes: tuple[str, str], tmp_path: Path) -> None:
    """Law 2: the figures of a head, a neuron group, a token are those of its elements alone."""
    base, tuned = tuned_pair(SHAPES | BIASES, dtypes)
    paths = written(tmp_path / "base", base, shards=3), written(tmp_path / "tuned", tuned, shards=2)
    model = only(suture.diff(*paths, heads=True, neurons=7, tokens=VOCAB))
    assert check_heads(model, base, tuned) == 3 * (2 * HEADS + 2 * KEYS)
    count = 0
    for name in SHAPES:
        b, x = base[name].values(), tuned[name].values()
        layer, module = delta.place(name)
        rows = [row for row in model["neurons"] if (row["layer"], row["module"]) == (layer, module)]
        sides = (delta.neurons(name, side, 7) for side in (b, x))
        parts = list(zip(*sides, strict=True))
        assert [(r["group"], r["first"], r["last"]) for r in rows] == [(g, *p[0][:2]) for g, p in enumerate(parts)]
        for row, (of_base, of_tuned) in zip(rows, parts, strict=True):
            agrees(row, of_base[2], of_tuned[2])
        count += len(rows)
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            rows = [row for row in model["tokens"] if row["tensor"] == name]
            assert [row["row"] for row in rows] == delta.tokens(b, x, VOCAB)
            for row in rows:
                agrees(row, b[row["row"]], x[row["row"]])
                assert row["token"] is None
    assert count == len(model["neurons"]) == 3 * 3 * 7
    assert {row["tensor"] for row in model["tokens"]} == {"model.embed_tokens.weight", "lm_head.weight"}


def test_slices_are_in_order(tmp_path: Path) -> None:
    """Heads and groups come by layer, then in the order of their number."""
    shapes = {name.replace("layers.1.", "layers.10."): shape for name, shape in SHAPES.items()}
    paths = [written(tmp_path / side, tensors) for side, tensors in
             zip(("base", "tuned"), tuned_pair(shapes, ("BF16", "BF16")), strict=True)]  # fmt: skip
    model = only(suture.diff(*paths, heads=True, neurons=12))
    for section, number in (("heads", "head"), ("neurons", "group")):
        rows = model[section]
        layers = [int(row["layer"]) for row in rows]
        assert layers == sorted(layers)
        for row, following in pairwise(rows):
            same = (row["layer"], row["module"]) == (following["layer"], following["module"])
            assert following[number] == (row[number] + 1 if same else 0)


def test_slices_are_asked_for(tmp_path: Path) -> None:
    """Without being asked for there are no slices, by that name or another."""
    paths = [written(tmp_path / side, tensors) for side, tensors in
             zip(("base", "tuned"), tuned_pair(SHAPES, ("BF16", "BF16")), strict=True)]  # fmt: skip
    model = only(suture.diff(*paths))
    assert not any(model.get(section) for section in ("heads", "neurons", "tokens", "vocabularies"))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_planted_layers_are_found(dtype: str, tmp_path: Path) -> None:
    """Only the layers that were touched have changed, and every element of them."""
    base = plain(SHAPES, dtype)
    tuned = touched(base, {name: ... for name in SHAPES if delta.place(name)[0] == "1"}, dtype)
    model = only(suture.diff(written(tmp_path / "base", base), written(tmp_path / "tuned", tuned)))
    assert {row["layer"]: row["changed"] for row in model["layers"]} == {"0": 0, "1": 1, "2": 0, "-": 0}
    for row in model["tensors"]:
        inside = ".layers.1." in row["name"]
        assert (row["changed"], row["unchanged"], row["equal"]) == (int(inside), int(not inside), not inside)
        assert (row["l2"] > 0) == inside
    assert {(row["layer"], row["changed"]) for row in model["cells"]} == {("0", 0), ("1", 1), ("2", 0), ("-", 0)}


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_planted_heads_are_found(dtype: str, tmp_path: Path) -> None:
    """Rows of q, k and v, columns of o, elements of a bias: the head that was touched, and no other."""
    base = plain(SHAPES | BIASES, dtype)
    width = HIDDEN // HEADS

    def head(number: int) -> slice:
        return slice(number * width, (number + 1) * width)

    attention = {layer: f"model.layers.{layer}.self_attn." for layer in range(3)}
    parts = {
        attention[0] + "q_proj.weight": head(5),
        attention[0] + "q_proj.bias": head(5),
        attention[1] + "o_proj.weight": (slice(None), head(0)),
        attention[1] + "k_proj.weight": head(1),
        attention[2] + "v_proj.weight": head(0),
        attention[2] + "v_proj.bias": head(0),
        attention[2] + "o_proj.weight": (slice(None), head(HEADS - 1)),
    }
    tuned = touched(base, parts, dtype)
    paths = written(tmp_path / "base", base), written(tmp_path / "tuned", tuned)
    model = only(suture.diff(*paths, heads=True))
    check_heads(model, base, tuned)
    shares = {label(row): row["changed"] for row in model["heads"] if row["changed"] != 0}
    planted = [("0", "q_proj", 5), ("1", "o_proj", 0), ("1", "k_proj", 1), ("2", "v_proj", 0), ("2", "o_proj", 7)]
    assert shares == {(layer, f"self_attn.{end}", number): 1 for layer, end, number in planted}


def test_a_bias_is_part_of_its_head(tmp_path: Path) -> None:
    """A head whose bias alone changed has changed, by the share of its elements that the bias is."""
    base = plain(SHAPES | BIASES, "F32")
    tuned = touched(base, {"model.layers.0.self_attn.k_proj.bias": slice(16 // 2 // 2, 16 // 2)}, "F32")
    paths = written(tmp_path / "base", base), written(tmp_path / "tuned", tuned)
    model = only(suture.diff(*paths, heads=True))
    check_heads(model, base, tuned)
    (row,) = [row for row in model["heads"] if row["changed"] != 0]
    assert label(row) == ("0", "self_attn.k_proj", 1)
    assert (row["elements"], row["changed"]) == (4 * HIDDEN + 4, 4 / (4 * HIDDEN + 4))


BERT = {
    "bert.embeddings.word_embeddings.weight": (VOCAB, 24),
    **{
        f"bert.encoder.layer.{layer}.{end}": shape
        for layer in range(2)
        for end, shape in {
            "attention.self.query.weight": (24, 24),
            "attention.self.query.bias": (24,),
            "attention.self.key.weight": (24, 24),
            "attention.self.key.bias": (24,),
            "attention.self.value.weight": (24, 24),
            "attention.self.value.bias": (24,),
            "attention.output.dense.weight": (24, 24),
            "attention.output.dense.bias": (24,),
            "intermediate.dense.weight": (36, 24),
            "output.dense.weight": (24, 36),
        }.items()
    },
}


def test_heads_by_other_names(tmp_path: Path) -> None:
    """BERT's names, as many key heads as query heads; `output.dense` is an attention's only below `attention`."""
    config = {"model_type": "bert", "num_attention_heads": 3, "hidden_size": 24}
    base, tuned = tuned_pair(BERT, ("F32", "F16"))
    paths = written(tmp_path / "base", base, config=config), written(tmp_path / "tuned", tuned)
    model = only(suture.diff(*paths, heads=True))
    assert check_heads(model, base, tuned, config) == 2 * 4 * 3


@pytest.mark.parametrize("end", ["out_proj", "o_proj"])
def test_out_proj_is_cut_by_columns(end: str, tmp_path: Path) -> None:
    """OPT's `out_proj` is an `o_proj`; its bias belongs to no head."""
    shapes = {
        f"model.decoder.layers.0.self_attn.{end}.weight": (12, 20),
        f"model.decoder.layers.0.self_attn.{end}.bias": (12,),
        "model.decoder.layers.0.self_attn.k_proj.weight": (20, 12),
    }
    config = {"num_attention_heads": 4}
    base, tuned = tuned_pair(shapes, ("BF16", "BF16"))
    paths = written(tmp_path / "base", base, config=config), written(tmp_path / "tuned", tuned)
    assert check_heads(only(suture.diff(*paths, heads=True)), base, tuned, config) == 8


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": 5},
        {"num_attention_heads": 33},
        {"num_key_value_heads": 3},
        {"num_key_value_heads": 64},
        {"num_attention_heads": HIDDEN, "num_key_value_heads": 1},
    ],
    ids=str,
)
def test_heads_that_do_not_come_out_even(change: dict[str, int], tmp_path: Path) -> None:
    """A module whose rows are no multiple of its heads has no rows of heads; the others have theirs."""
    base, tuned = tuned_pair(SHAPES | BIASES, ("BF16", "BF16"))
    config = CONFIG | change
    paths = written(tmp_path / "base", base, config=config), written(tmp_path / "tuned", tuned)
    model = only(suture.diff(*paths, heads=True, neurons=2))
    check_heads(model, base, tuned, config)
    assert len(model["neurons"]) == 3 * 3 * 2


def heads_or_refusal(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The rows of heads; none where they are refused, with a word on heads."""
    try:
        rows: list[dict[str, Any]] = only(suture.diff(*paths, heads=True))["heads"]
    except suture.SutureError as error:
        if "heads" not in str(error):
            raise
        return []
    return rows


@pytest.mark.parametrize("odd", [0, -4, 2**63, 10**30, 3.5, "8", None, True, [8], {"a": 8}], ids=str)
@pytest.mark.parametrize("key", ["num_attention_heads", "num_key_value_heads"])
def test_an_odd_number_of_heads_is_no_crash(key: str, odd: Any, tmp_path: Path) -> None:
    """Law 7: what a config says of heads may be anything; there are no such heads, or it is said what is wrong."""
    base, tuned = tuned_pair(SHAPES, ("BF16", "BF16"))
    paths = written(tmp_path / "base", base, config={**CONFIG, key: odd}), written(tmp_path / "tuned", tuned)
    rows = heads_or_refusal(paths)
    assert all(row["elements"] > 0 for row in rows)
    if key == "num_attention_heads":
        assert not [row for row in rows if row["module"] == "self_attn.q_proj"]


@pytest.mark.parametrize("text", [None, "", "not json", "[]", "null", "{}", '{"num_attention_heads": '], ids=repr)
def test_heads_without_a_config_are_refused_or_none(text: str | None, tmp_path: Path) -> None:
    """Law 8: nothing is made up where no config tells of heads; everything else needs none."""
    base, tuned = tuned_pair(SHAPES, ("BF16", "BF16"))
    paths = [write_checkpoint(tmp_path / side, tensors, files={} if text is None else {"config.json": text})
             for side, tensors in (("base", base), ("tuned", tuned))]  # fmt: skip
    assert heads_or_refusal(paths) == []
    assert len(only(suture.diff(*paths, neurons=2, tokens=2))["neurons"]) == 3 * 3 * 2


@pytest.mark.parametrize("count", [1, 2, 3, 7, FF - 1, FF, FF + 1, 10**6])
def test_planted_neurons_are_found(count: int, tmp_path: Path) -> None:
    """Groups hold every neuron once, of sizes one apart; rows of gate and up, columns of down."""
    base = plain(SHAPES, "BF16")
    mlp = {layer: f"model.layers.{layer}.mlp." for layer in range(3)}
    planted = {(0, "gate_proj"): [0, 13], (1, "up_proj"): [FF - 1], (2, "down_proj"): [24, 25]}
    parts = {
        f"{mlp[layer]}{end}.weight": (slice(None), chosen) if end == "down_proj" else chosen
        for (layer, end), chosen in planted.items()
    }
    tuned = touched(base, parts, "BF16")
    paths = written(tmp_path / "base", base), written(tmp_path / "tuned", tuned)
    rows = only(suture.diff(*paths, neurons=count))["neurons"]
    for layer in range(3):
        for end in ("gate_proj", "up_proj", "down_proj"):
            of_module = [r for r in rows if (r["layer"], r["module"]) == (str(layer), f"mlp.{end}")]
            bounds = [(row["first"], row["last"]) for row in of_module]
            assert bounds == delta.groups(FF, count)
            for row, (first, last) in zip(of_module, bounds, strict=True):
                chosen = [n for n in planted.get((layer, end), []) if first <= n <= last]
                assert row["changed"] == len(chosen) / (last - first + 1)
                assert row["elements"] == HIDDEN * (last - first + 1)
                assert (row["l2"] > 0) == bool(chosen)


@pytest.mark.parametrize("number", [-1, -(2**40)])
@pytest.mark.parametrize("option", ["neurons", "tokens"])
def test_a_negative_number_is_refused(option: str, number: int, tmp_path: Path) -> None:
    """Law 8: fewer than none cannot be asked for."""
    base = written(tmp_path / "base", plain(SHAPES, "BF16"))
    with pytest.raises((suture.UsageError, ValueError, OverflowError)):
        suture.diff(base, base, **{option: number})  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_planted_tokens_are_found(dtype: str, tmp_path: Path) -> None:
    """The rows that were touched, the most changed first, equal ones by their number; and how many they are."""
    base = plain(SHAPES, dtype)
    chosen = [3, 17, VOCAB - 1, 4]
    values = base["model.embed_tokens.weight"].values().copy()
    values[:] = 0.5
    base["model.embed_tokens.weight"] = encode(values, dtype)
    values[chosen] += np.array([0.5, 2, 0.5, 1], np.float32)[:, None]
    tuned = base | {"model.embed_tokens.weight": encode(values, dtype)}
    paths = written(tmp_path / "base", base), written(tmp_path / "tuned", tuned)
    for count in (1, 2, 3, 4, 5, 10**9):
        model = only(suture.diff(*paths, tokens=count))
        order = [17, 4, 3, VOCAB - 1][:count]
        assert [(row["tensor"], row["row"]) for row in model["tokens"]] == [
            ("model.embed_tokens.weight", row) for row in order
        ]
        assert all(row["changed"] == 1 and row["elements"] == HIDDEN for row in model["tokens"])
        listed = {v["tensor"]: (v["rows"], v["changed"]) for v in model["vocabularies"]}
        assert listed.pop("model.embed_tokens.weight") == (VOCAB, 4)
        assert all(found == (VOCAB, 0) for found in listed.values())


def tokenizer(kind: str, vocab: Any, added: Any = ()) -> str:
    """A tokenizer.json with what names tokens in it."""
    model: dict[str, Any] = {"type": kind, "vocab": vocab}
    if kind == "BPE":
        model["merges"] = []
    return json.dumps({"version": "1.0", "added_tokens": list(added), "model": model})


WORDS = {word: number for number, word in enumerate(["<unk>", "the", "cat", "sat", "on", 'a "mat"', "größe", "猫"])}
ADDED = [{"id": 0, "content": "<unk>", "special": True}, {"id": 9, "content": "<|end|>", "special": True}]


@pytest.mark.parametrize("kind", ["WordLevel", "BPE", "WordPiece"])
def test_tokens_have_their_names(kind: str, tmp_path: Path) -> None:
    """The text of a row is what the base's tokenizer.json says of its number; padding rows have none."""
    shapes = {"model.embed_tokens.weight": (12, 8), "model.layers.0.mlp.up_proj.weight": (8, 8)}
    base, tuned = tuned_pair(shapes, ("F32", "F32"))
    files = {"tokenizer.json": tokenizer(kind, WORDS, ADDED)}
    paths = written(tmp_path / "base", base, files=files), written(tmp_path / "tuned", tuned, files=files)
    rows = only(suture.diff(*paths, tokens=12))["tokens"]
    names = {number: word for word, number in WORDS.items()} | {9: "<|end|>"}
    assert len(rows) == 12
    assert {row["row"]: row["token"] for row in rows} == {number: names.get(number) for number in range(12)}


def test_tokens_of_a_unigram_model_have_their_names(tmp_path: Path) -> None:
    """SentencePiece's vocabulary is a list of pieces with their scores."""
    shapes = {"model.embed_tokens.weight": (3, 8)}
    base, tuned = tuned_pair(shapes, ("F32", "F32"))
    files = {"tokenizer.json": tokenizer("Unigram", [["<unk>", 0.0], ["s", -1.5]], [{"id": 2, "content": "<s>"}])}
    paths = written(tmp_path / "base", base, files=files), written(tmp_path / "tuned", tuned)
    rows = only(suture.diff(*paths, tokens=3))["tokens"]
    assert {row["row"]: row["token"] for row in rows} == {0: "<unk>", 1: "s", 2: "<s>"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "{}",
        '{"model": null}',
        '{"model": []}',
        '{"model": {"vocab": 5}}',
        '{"model": {"vocab": [1, [2], ["a"], null]}}',
        '{"model": {"vocab": {"a": -1, "b": 1e99, "c": "x", "d": null, "e": 18446744073709551616}}}',
        '{"model": {"vocab": {}}, "added_tokens": {"a": 1}}',
        '{"model": {"vocab": {"a": 1, "b": 1}}, "added_tokens": [{"id": 3, "content": 5}, {"id": 4, "content": null}]}',
        '{"model": {"vocab": [[1, 2], [null], [["a"]]]}}',
        '{"model": {"vocab": {}}, "added_tokens": [1, null, {}, {"id": "x"}, {"id": -1, "content": 5}]}',
    ],
)
def test_an_odd_tokenizer_names_nothing(text: str, tmp_path: Path) -> None:
    """Law 7: a tokenizer.json may be anything; rows are measured all the same."""
    shapes = {"model.embed_tokens.weight": (12, 8)}
    base, tuned = tuned_pair(shapes, ("F32", "F32"))
    files = {"tokenizer.json": text}
    paths = written(tmp_path / "base", base, files=files), written(tmp_path / "tuned", tuned, files=files)
    found = only(suture.diff(*paths, tokens=12))["tokens"]
    assert sorted(row["row"] for row in found) == list(range(12))
    assert all(row["token"] is None or isinstance(row["token"], str) for row in found)


def test_slices_leave_out_what_is_not_finite(tmp_path: Path) -> None:
    """A NaN in one head, group or row is counted there and nowhere else."""
    base, tuned = tuned_pair(SHAPES, ("F32", "F32"))
    names = (
        "model.embed_tokens.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.2.mlp.down_proj.weight",
    )
    for name in names:
        values = tuned[name].values().copy()
        values[4, 5] = np.nan
        tuned[name] = encode(values, "F32")
    paths = written(tmp_path / "base", base), written(tmp_path / "tuned", tuned)
    model = only(suture.diff(*paths, heads=True, neurons=FF, tokens=VOCAB))
    check_heads(model, base, tuned)
    odd = {section: [label(row) for row in model[section] if row["nonfinite"]] for section in ("heads", "neurons")}
    assert odd["heads"] == [("1", "self_attn.q_proj", 1)]
    assert odd["neurons"] == [("2", "mlp.down_proj", 5, 5, 5)]
    assert [row["row"] for row in model["tokens"] if row["nonfinite"]] == [4]


def test_slices_of_large_tensors(tmp_path: Path) -> None:
    """Heads, groups and rows that cross the border of a span (2^22 elements) are whole."""
    shapes = {
        "model.embed_tokens.weight": (2100, 2048),
        "model.layers.0.self_attn.o_proj.weight": (2060, 2048),
        "model.layers.0.mlp.down_proj.weight": (2049, 2060),
    }
    rng = np.random.default_rng(3)
    base, tuned = {}, {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape, np.float32)
        base[name] = encode(values, "BF16")
        tuned[name] = encode(values + rng.standard_normal(shape, np.float32) * np.float32(0.1), "BF16")
    config = {"num_attention_heads": 4}
    paths = written(tmp_path / "base", base, config=config), written(tmp_path / "tuned", tuned, config=config)
    model = only(suture.diff(*paths, heads=True, neurons=3, tokens=2))
    assert check_heads(model, base, tuned, config) == 4
    name = "model.layers.0.mlp.down_proj.weight"
    sides = (delta.neurons(name, side[name].values(), 3) for side in (base, tuned))
    for row, (b, x) in zip(model["neurons"], zip(*sides, strict=True), strict=True):
        agrees(row, b[2], x[2])
    name = "model.embed_tokens.weight"
    b, x = base[name].values(), tuned[name].values()
    assert [row["row"] for row in model["tokens"]] == delta.tokens(b, x, 2)


@pytest.mark.parametrize("shape", [(0, 8), (8, 0), (0, 0)], ids=str)
def test_slices_of_nothing(shape: tuple[int, int], tmp_path: Path) -> None:
    """Law 7: tensors without elements have no slices, and stop nobody."""
    ends = ("embed_tokens", "layers.0.self_attn.q_proj", "layers.0.self_attn.o_proj", "layers.0.mlp.up_proj",
            "layers.0.mlp.down_proj")  # fmt: skip
    tensors = {f"model.{end}.weight": Raw("F32", shape, b"") for end in ends}
    tensors |= {"model.norm.weight": encode(np.ones(8, np.float32), "F32"), "a": Raw("F32", (0,), b"")}
    paths = written(tmp_path / "base", tensors), written(tmp_path / "tuned", tensors)
    found = suture.diff(*paths, paths[1], heads=True, neurons=3, tokens=3, spread=True)
    for model in found["models"]:
        assert len(model["tensors"]) == len(tensors)
        assert model["total"]["elements"] == 8
        assert all(row["elements"] == 0 for row in (*model["heads"], *model["neurons"], *model["tokens"]))
    json.dumps(found, allow_nan=False)


def test_a_lone_file_has_slices_that_need_no_config(tmp_path: Path) -> None:
    """Neuron groups and tokens are there for a single file; heads are refused, which are told by a config."""
    base, tuned = tuned_pair(SHAPES, ("F32", "F32"))
    paths = [write_file(tmp_path / f"{name}.safetensors", side) for name, side in (("base", base), ("tuned", tuned))]
    model = only(suture.diff(*paths, neurons=2, tokens=5))
    assert (len(model["neurons"]), len(model["tokens"])) == (3 * 3 * 2, 2 * 5)
    assert all(row["token"] is None for row in model["tokens"])
    with pytest.raises(suture.SutureError, match=r"config\.json"):
        suture.diff(*paths, heads=True)
