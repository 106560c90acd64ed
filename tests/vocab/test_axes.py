"""Whatever has a row for each token follows the tokens, whatever it is called and wherever the axis is."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import suture

from ..support.checkpoints import encode, write_checkpoint
from ..support.vocabularies import bpe, letters, whole, write

WIDTH, ROWS = 8, 19
TABLE = "model.embed_tokens.weight"
#: Names and the shapes behind the rows.
NAMES: dict[str, tuple[int, ...]] = {
    "lm_head.weight": (WIDTH,),
    "lm_head.bias": (),
    "model.embed_tokens_per_layer.weight": (6,),
    "cls.predictions.bias": (),
    "decoder.bias": (),
    "decoder.weight": (WIDTH,),
    "lm_loss.weight": (WIDTH,),
    "lm_loss.bias": (),
    "output_projection.weight": (WIDTH,),
    "ctc_head.weight": (WIDTH, 1),
    "something.nobody.knows": (3,),
    "frequencies": (),
}


def model(folder: Path, tokens: Sequence[str], tensors: Mapping[str, NDArray[Any]]) -> Path:
    """A model with these tokens in this order, and one layer."""
    layer = {"model.layers.0.mlp.up_proj.weight": np.ones((4, WIDTH))}
    stored = {name: encode(t.astype(np.float32), "F32") for name, t in {**tensors, **layer}.items()}
    config = {"model_type": "llama", "num_hidden_layers": 1, "vocab_size": len(tokens), "tie_word_embeddings": False}
    write_checkpoint(folder, stored, config=config)
    return write(folder, whole("bytes", bpe(tokens, [])))


def merged(place: Path, make: Any) -> Path:
    """The union of two models of the same tokens, each with its own order."""
    known = letters(ROWS)
    folders = []
    for seed in range(2):
        tokens = random.Random(seed).sample(known, len(known))
        numbers = np.array([ord(t) for t in tokens], dtype=np.float32)
        folders.append(model(place / f"m{seed}", tokens, make(numbers)))
    models = [{"model": str(f), "parameters": {"weight": 0.5}} for f in folders]
    recipe = {"merge_method": "linear", "models": models, "tokenizer_source": "union"}
    suture.merge(recipe, place / "out")
    return place / "out"


def rows(numbers: NDArray[Any], rest: tuple[int, ...]) -> NDArray[Any]:
    """A row for each token that tells which it is."""
    return np.broadcast_to(numbers.reshape(-1, *([1] * len(rest))), (len(numbers), *rest)).copy()


@pytest.mark.parametrize("name", NAMES)
def test_rows_follow_their_tokens(name: str, tmp_path: Path) -> None:
    """Both models have the same row for each token: so has the output, in the order of the first."""
    out = merged(tmp_path, lambda n: {TABLE: rows(n, (WIDTH,)), name: rows(n, NAMES[name])})
    found, first = suture.open(out), suture.open(tmp_path / "m0")
    for tensor in (TABLE, name):
        np.testing.assert_array_equal(np.asarray(found[tensor]), np.asarray(first[tensor]), err_msg=tensor)


def test_biases_of_one_row(tmp_path: Path) -> None:
    """[1, rows], as BART's."""
    out = merged(tmp_path, lambda n: {TABLE: rows(n, (WIDTH,)), "final_logits_bias": n[None]})
    found = suture.open(out)
    np.testing.assert_array_equal(found["final_logits_bias"][0], np.asarray(found[TABLE])[:, 0])


def test_columns_for_tokens_are_refused(tmp_path: Path) -> None:
    """A table laid the other way round is not taken for something else."""
    with pytest.raises(suture.SutureError, match=rf"`transposed`.*expected {ROWS} rows"):
        merged(tmp_path, lambda n: {TABLE: rows(n, (WIDTH,)), "transposed": rows(n, (5,)).T})


def test_positions_are_no_tokens(tmp_path: Path) -> None:
    """A table of positions that is as long by chance stays as it is."""
    places = rows(np.arange(ROWS), (WIDTH,))
    name = "model.embed_positions.weight"
    out = merged(tmp_path, lambda n: {TABLE: rows(n, (WIDTH,)), name: places})
    np.testing.assert_array_equal(np.asarray(suture.open(out)[name]), places)
