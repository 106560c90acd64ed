"""What a config says of tokens and padding is read strictly, by its keys and lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from suture.errors import UsageError
from suture.recipe import load
from suture.recipe.vocabulary import Row, tokenizer_of

from ..support.vocabularies import bpe, letters, whole, write


def test_rows_of_tokens_are_read() -> None:
    """A model, zeros, a token of a model by its text or its number; forced or not."""
    tokens = {
        "<a>": {"source": "models/x"},
        "<b>": {"source": {"kind": "zero"}, "force": True},
        "<c>": {"source": {"kind": "model_token", "model": "x", "token": "y"}},
        "<d>": {"source": {"kind": "model_token", "model": "x", "token_id": 3}},
        "<e>": {},
    }
    found = tokenizer_of({"tokenizer": {"source": "base", "tokens": tokens, "pad_to_multiple_of": 8}})
    assert found is not None
    at = "tokenizer.tokens"
    assert found.tokens == {
        "<a>": Row(f"{at}.<a>", "models/x"),
        "<b>": Row(f"{at}.<b>", zero=True, force=True),
        "<c>": Row(f"{at}.<c>", "x", "y"),
        "<d>": Row(f"{at}.<d>", "x", 3),
        "<e>": Row(f"{at}.<e>"),
    }
    assert (found.source, found.pad_to_multiple_of) == ("base", 8)


@pytest.mark.parametrize("empty", [{}, {"tokens": None, "pad_to_multiple_of": None}, {"pad_to_multiple_of": 0}])
def test_nothing_asked_is_nothing(empty: Any) -> None:
    """No padding and no tokens, as ever."""
    found = tokenizer_of({"tokenizer": empty})
    assert found is not None
    assert (found.source, found.tokens, found.pad_to_multiple_of) == ("union", {}, None)


MODEL = {"kind": "model_token", "model": "x"}
WRONG: list[tuple[str, Any]] = [
    ("tokenizer.tokens", ["<a>"]),
    ("tokenizer.tokens.7", {7: {}}),
    ("tokenizer.tokens.<a>", {"<a>": "x"}),
    ("tokenizer.tokens.<a>", {"<a>": {"force": True}}),
    ("tokenizer.tokens.<a>.force", {"<a>": {"source": "x", "force": "yes"}}),
    ("tokenizer.tokens.<a>.sorce", {"<a>": {"sorce": "x"}}),
    ("tokenizer.tokens.<a>.source", {"<a>": {"source": 7}}),
    ("tokenizer.tokens.<a>.source", {"<a>": {"source": {"kind": "one"}}}),
    ("tokenizer.tokens.<a>.source", {"<a>": {"source": {"kind": ["zero"]}}}),
    ("tokenizer.tokens.<a>.source.model", {"<a>": {"source": {"kind": "zero", "model": "x"}}}),
    ("tokenizer.tokens.<a>.source", {"<a>": {"source": MODEL}}),
    ("tokenizer.tokens.<a>.source", {"<a>": {"source": {**MODEL, "token": "y", "token_id": 1}}}),
    ("tokenizer.tokens.<a>.source.token", {"<a>": {"source": {**MODEL, "token": 7}}}),
    ("tokenizer.tokens.<a>.source.token_id", {"<a>": {"source": {**MODEL, "token_id": -1}}}),
    ("tokenizer.tokens.<a>.source.token_id", {"<a>": {"source": {**MODEL, "token_id": True}}}),
    ("tokenizer.tokens.<a>.source.model", {"<a>": {"source": {"kind": "model_token", "token": "y"}}}),
]


@pytest.mark.parametrize(("at", "tokens"), WRONG)
def test_what_makes_no_sense_is_refused_by_its_key(at: str, tokens: Any) -> None:
    """Unknown keys, other types, two things at once."""
    with pytest.raises(UsageError, match=r"expected|needs") as raised:
        tokenizer_of({"tokenizer": {"tokens": tokens}})
    assert raised.value.at == at


@pytest.mark.parametrize("value", [-8, 1.5, "8", True, 2**30, [8]])
def test_padding_is_a_number(value: Any) -> None:
    """From 1 on, and not absurd."""
    with pytest.raises(UsageError) as raised:
        tokenizer_of({"tokenizer": {"pad_to_multiple_of": value}})
    assert raised.value.at == "tokenizer.pad_to_multiple_of"


def test_models_of_tokens_are_found_beside_the_config(tmp_path: Path) -> None:
    """As other models are; tokens that are called like keys stay tokens."""
    write(tmp_path / "m", whole("bytes", bpe(letters(3), [])))
    text = """
merge_method: linear
models: [{model: m, parameters: {weight: 1}}]
tokenizer:
  tokens:
    model: {source: m}
    base: {source: {kind: zero}}
    from: {source: {kind: model_token, model: m, token: a}}
    <x>: {source: {kind: model_token, model: nowhere, token: a}}
"""
    path = tmp_path / "c.yml"
    path.write_text(text.replace("nowhere", "m"))
    found = tokenizer_of(load(path)[0].recipe)
    assert found is not None
    assert [row.model for row in found.tokens.values()] == [str(tmp_path / "m"), None, *[str(tmp_path / "m")] * 2]
    path.write_text(text)
    with pytest.raises(UsageError, match=r"c\.yml:9: .*nowhere"):
        load(path)
