"""Law: what `compat` answers is what a merge and a swap say when they are planned, and it says why and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture.results import Compatibility
from suture.results.compat import Finding

from ..support.checkpoints import Raw, encode, llama_config, llama_shapes, write_checkpoint

HIDDEN, HEADS, FF, VOCAB, LAYERS = 16, 2, 24, 12, 3
WHOLE = {"model.layers.1.mlp.up_proj.weight": Raw("I32", (FF, HIDDEN), bytes(4 * FF * HIDDEN))}
SLIDING = {"layer_types": ["full_attention", "sliding_attention", "full_attention"], "sliding_window": 8}
Tensors = dict[str, Raw]


def config(**more: Any) -> dict[str, Any]:
    return llama_config(LAYERS, HIDDEN, HEADS, 1, FF, VOCAB, False, "BF16") | more


def tensors(seed: int = 0, layers: int = LAYERS, dtype: str = "BF16") -> Tensors:
    rng = np.random.default_rng(seed)
    shapes = llama_shapes(layers, HIDDEN, HEADS, 1, FF, VOCAB, False)
    return {name: encode(rng.normal(0, 0.02, shape).astype(np.float32), dtype) for name, shape in shapes.items()}


def widened(found: Mapping[str, Raw], rows: int) -> Tensors:
    """With a larger vocabulary."""
    table = encode(np.zeros((rows, HIDDEN), np.float32), "BF16")
    return {n: table if n.endswith(("embed_tokens.weight", "lm_head.weight")) else t for n, t in found.items()}


def without(found: Mapping[str, Raw], part: str) -> Tensors:
    return {n: t for n, t in found.items() if part not in n}


def renamed(found: Mapping[str, Raw]) -> Tensors:
    """As a later version of its family calls them."""
    return {n.replace("model.", "model.language_model.", 1): t for n, t in found.items()}


EXTRA = {f"model.layers.{i}.self_attn.q_norm.weight": encode(np.ones(8, np.float32), "BF16") for i in range(LAYERS)}
OUTER = {"model.extra.weight": encode(np.ones(8, np.float32), "BF16")}
BUFFER = {"model.layers.0.self_attn.rotary_emb.inv_freq": encode(np.ones(4, np.float32), "F32")}
OTHER = {f"vision_tower.blocks.{i}.mlp.weight": encode(np.ones((2, 2), np.float32), "BF16") for i in range(2)}
#: What the second model is, the row that tells, and whether it stands in the way of a merge and of a swap.
Made = tuple[Tensors, dict[str, Any] | None]
CASES: dict[str, tuple[Callable[[], Made], str, bool, bool]] = {
    "alike": (lambda: (tensors(1), config()), "", False, False),
    "prefix": (lambda: ({f"_orig_mod.{n}": t for n, t in tensors(1).items()}, config()), "tensors", False, False),
    "more in layers": (lambda: (tensors(1) | EXTRA, config()), "tensors", True, True),
    "less in layers": (lambda: (without(tensors(1), "v_proj"), config()), "tensors", True, True),
    "more outside": (lambda: (tensors(1) | OUTER, config()), "tensors", True, False),
    "buffer": (lambda: (tensors(1) | BUFFER, config()), "", False, False),
    "other stack": (lambda: (tensors(1) | OTHER, config()), "other stacks", True, False),
    "vocabulary": (lambda: (widened(tensors(1), 20), config(vocab_size=20)), "shapes", True, False),
    "shape in layers": (
        lambda: (tensors(1) | {"model.layers.1.mlp.up_proj.weight": tensors()["model.norm.weight"]}, config()),
        "shapes", True, True,
    ),
    "short": (lambda: (tensors(1, LAYERS - 1), config(num_hidden_layers=LAYERS - 1)), "layers", True, True),
    "wider dtype": (lambda: (tensors(1, dtype="F32"), config()), "dtypes", False, False),
    "integers": (
        lambda: (tensors(1) | WHOLE, config()),
        "dtypes", True, True,
    ),
    "tied": (lambda: (without(tensors(1), "lm_head"), config(tie_word_embeddings=True)), "head", False, False),
    "activation": (lambda: (tensors(1), config(hidden_act="gelu")), "activation", True, True),
    "rope": (lambda: (tensors(1), config(rope_theta=5e5)), "rope_theta", False, False),
    "heads": (lambda: (tensors(1), config(num_attention_heads=4, num_key_value_heads=2)), "heads", True, True),
    "kinds": (
        lambda: (tensors(1), config(**SLIDING)),
        "kinds of layers", True, True,
    ),
    "no config": (lambda: (tensors(1), None), "", False, False),
    "other names": (lambda: (renamed(tensors(1)), config()), "", False, False),
    "other names, other shapes": (
        lambda: (widened(renamed(tensors(1)), 20), config(vocab_size=20)), "shapes", True, False
    ),
    "adapter": (
        lambda: ({"base_model.model.layers.0.q_proj.lora_A.weight": encode(np.ones((2, 4), np.float32), "F32")}, None),
        "adapters", True, True,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("first") / "first", tensors(), config=config())


def rows(found: Compatibility) -> dict[str, Finding]:
    return {row["what"]: row for row in found["rows"]}


def fails(call: Callable[[], object]) -> bool:
    try:
        call()
    except suture.SutureError:
        return True
    return False


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("turned", [False, True])
def test_the_answer_is_that_of_a_dry_run(name: str, turned: bool, first: Path, tmp_path: Path) -> None:
    """Whichever is the first: no where a plan is refused, and yes where it is not."""
    made, what, _, _ = CASES[name]
    held, own = made()
    models = [first, write_checkpoint(tmp_path / "second", held, config=own)]
    models = models[::-1] if turned else models
    found = suture.compat(*models)
    listed = [{"model": str(m), "parameters": {"weight": 1}} for m in models]
    merge = fails(lambda: suture.merge({"merge_method": "linear", "models": listed}, tmp_path / "out", dry_run=True))
    swap = fails(lambda: suture.swap(models[0], models[1], tmp_path / "out", layers=f"0-{LAYERS - 1}", dry_run=True))
    assert (found["swap"]["answer"] == "no") == swap, found["swap"]
    assert (found["merge"]["answer"] == "no") == merge, found["merge"]
    if what:
        assert rows(found)[what]["status"] != "same"


@pytest.mark.parametrize("name", CASES)
def test_what_is_in_the_way_is_told(name: str, first: Path, tmp_path: Path) -> None:
    """By the row that concerns it, with the values of each, and what to do; what is not, is not."""
    made, what, merge, swap = CASES[name]
    held, own = made()
    found = suture.compat(first, write_checkpoint(tmp_path / "second", held, config=own))
    assert (found["merge"]["answer"] == "no", found["swap"]["answer"] == "no") == (merge, swap)
    for row in found["rows"]:
        assert row["status"] == ("same" if row["status"] == "same" else "blocks" if row["blocks"] else "differs")
        assert len(row["values"]) == len(found["labels"]) == 2
        assert bool(row["remedy"]) <= (row["status"] != "same")
        assert row["status"] != "blocks" or row["remedy"]
    if what:
        told = rows(found)[what]
        assert told["status"] in ("differs", "blocks")
        because = [*found["merge"]["because"], *found["swap"]["because"]]
        assert any(text.startswith(f"{what}: ") for text in because)
    if not merge and not swap:
        assert found["merge"]["answer"] == ("warnings" if what else "yes")


def test_the_prefix_that_explains_it(first: Path, tmp_path: Path) -> None:
    """Whichever side has it, all names it explains are counted."""
    other = write_checkpoint(tmp_path / "b", CASES["prefix"][0]()[0], config=config())
    for models in ([first, other], [other, first]):
        told = rows(suture.compat(*models))["tensors"]
        assert f"60 names are in one of {models[0].name} and {models[1].name} alone, 60 of them by" in told["told"]
        assert told["remedy"] == "merges and swaps match it; for other tools take `_orig_mod.` off the names in b"


def test_what_is_left_out_is_named(first: Path, tmp_path: Path) -> None:
    """The filter that is proposed for extra tensors is one that works, in a swap and in a merge."""
    other = write_checkpoint(tmp_path / "b", tensors(1) | EXTRA, config=config())
    glob = "glob:model.layers.*.self_attn.q_norm.weight"
    told = rows(suture.compat(first, other))["tensors"]["remedy"]
    assert told == f"exclude them (`--ignore '{glob}'`, `exclude`)"
    suture.swap(first, other, tmp_path / "swap", layers="0", ignore=glob)
    listed = [{"model": str(m), "parameters": {"weight": 1}} for m in (first, other)]
    suture.merge({"merge_method": "linear", "models": listed, "exclude": glob}, tmp_path / "merge")


def test_quantised_weights_are_to_be_dequantised(first: Path, tmp_path: Path) -> None:
    """Alike they can be swapped; a merge would compute on them."""
    fp8 = {n: Raw("F8_E4M3", t.shape, t.data[::2]) if "proj" in n else t for n, t in tensors(1).items()}
    stated = config(quantization_config={"quant_method": "fp8"})
    pair = [write_checkpoint(tmp_path / n, fp8, config=stated) for n in "ab"]
    alike, mixed = suture.compat(*pair), suture.compat(first, pair[0])
    assert rows(alike)["quantisation"]["values"] == ["fp8 (F8_E4M3)"] * 2
    assert rows(alike)["quantisation"]["remedy"] == "dequantise first"
    assert (alike["merge"]["answer"], alike["swap"]["answer"]) == ("no", "warnings")
    assert (mixed["merge"]["answer"], mixed["swap"]["answer"]) == ("no", "no")


def test_what_is_decoded_can_be_merged(first: Path, tmp_path: Path) -> None:
    """A merge decodes FP8 with scales, alone or beside a plain model; swaps want one form, or `--to`."""
    proj = {n for n in tensors(1) if "proj" in n}
    fp8 = {n: Raw("F8_E4M3", t.shape, t.data[::2]) if n in proj else t for n, t in tensors(1).items()}
    fp8 |= {f"{n}_scale": encode(np.ones((), np.float32), "F32") for n in proj}
    stated = config(quantization_config={"quant_method": "fp8"})
    pair = [write_checkpoint(tmp_path / n, fp8, config=stated) for n in "ab"]
    alike, mixed = suture.compat(*pair), suture.compat(first, pair[0])
    assert (alike["merge"]["answer"], alike["swap"]["answer"]) == ("warnings", "warnings")
    assert (mixed["merge"]["answer"], mixed["swap"]["answer"]) == ("warnings", "no")
    assert "--to bf16" in rows(mixed)["quantisation"]["remedy"]
    listed = [{"model": str(m), "parameters": {"weight": 1}} for m in (first, pair[0])]
    suture.merge(
        {"merge_method": "linear", "models": listed}, tmp_path / "merge", settings=suture.Settings(nan="allow")
    )
    suture.swap(first, pair[0], tmp_path / "swap", layers="0", settings=suture.Settings(to="bf16", nan="allow"))


def test_stacks_that_must_be_named(tmp_path: Path) -> None:
    """Without a main stack a swap needs --stack, and says so."""
    held = {
        f"{s}.layers.{i}.w.weight": encode(np.ones((2, 2), np.float32), "F32")
        for s in ("left", "right")
        for i in range(2)
    }
    pair = [write_checkpoint(tmp_path / n, held) for n in "ab"]
    found = suture.compat(*pair)
    if rows(found)["layers"]["status"] != "same":
        assert "`--stack left`" in rows(found)["layers"]["remedy"]
        suture.swap(pair[0], pair[1], tmp_path / "out", layers="0", stack="left")
    assert found["swap"]["answer"] != "no"


def test_tokens_that_differ_are_counted(first: Path, tmp_path: Path) -> None:
    """Other tokens at the same ids: told, with their number."""
    for name, words in (("a", ["x", "y", "z"]), ("b", ["x", "z", "y"]), ("c", ["x", "y", "z"])):
        write_checkpoint(tmp_path / name, tensors(), config=config(), files={"vocab.txt": "\n".join(words)})
    found = suture.compat(*(tmp_path / name for name in "abc"))
    assert rows(found)["tokenizer"]["values"] == ["its own", "2 other tokens", "as the first's"]
    assert found["merge"]["answer"] == "warnings"


def test_labels_tell_models_apart(tmp_path: Path) -> None:
    """Folders of one name have as much of their paths as it takes."""
    pair = [write_checkpoint(tmp_path / n / "model", tensors(), config=config()) for n in "ab"]
    assert suture.compat(*pair)["labels"] == ["a/model", "b/model"]


def test_mistakes(first: Path, tmp_path: Path) -> None:
    """Fewer than two models, one twice, none at all."""
    with pytest.raises(suture.UsageError, match="two at least"):
        suture.compat(first)
    with pytest.raises(suture.UsageError, match="given twice"):
        suture.compat(first, first / ".." / first.name)
    with pytest.raises(suture.SutureError, match="nowhere"):
        suture.compat(first, tmp_path / "nowhere")
