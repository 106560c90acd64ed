"""Law: a file that is changed anywhere gives an output or an error of ours, and never another."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from suture.errors import SutureError
from suture.recipe.vocabulary import Tokenizer
from suture.vocab.align import plan
from suture.vocab.differ import rows_differ
from suture.vocab.write import files

from ..support.vocabularies import FORMS, added, bpe, letters, unigram, whole, wordpiece, write

MODELS = {
    "bytes": bpe(letters(4), [("a", "b")]),
    "pieces": bpe(["<unk>", "▁", *letters(4)], [("a", "b")], unk_token="<unk>", byte_fallback=True),
    "Unigram": unigram({"<unk>": 0.0, "▁": -1.0, "a": -1.0}),
    "WordPiece": wordpiece(["[UNK]", "a", "##b"]),
}
CONFIG: Any = {"vocab_size": 9, "eos_token_id": [1, 2], "bad_words_ids": [[1, 2]], "text_config": {"bos_token_id": 1}}
WRONG = st.sampled_from(
    [None, True, -1, 0, 3, 2**70, 1.5, "", "a", "<s>", "\ud800", [], {}, [1], ["a"], [["a", 1]], {"a": 1}]
)


def places(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in a JSON value."""
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [place for key in keys for place in ((*at, key), *places(node[key], (*at, key)))]


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_files_changed_anywhere(data: st.DataObject) -> None:
    """tokenizer.json of every form, tokenizer_config.json, added_tokens.json, config.json."""
    form = data.draw(st.sampled_from(FORMS))
    every: Any = {
        "tokenizer": whole(form, MODELS[form], ["<s>"]),
        "tokenizer_config": {"bos_token": {"content": "<s>"}, "added_tokens_decoder": {"9": added(9, "<t>")}},
        "added_tokens": {"<t>": 9},
        "config": CONFIG,
        "generation_config": CONFIG,
    }
    if data.draw(st.booleans()):
        del every["tokenizer_config"]["added_tokens_decoder"], every["added_tokens"]
    every = copy.deepcopy(every)
    for _ in range(data.draw(st.integers(1, 2))):
        *way, last = data.draw(st.sampled_from(places(every)))
        node = every
        for key in way:
            node = node[key]
        node[last] = copy.deepcopy(data.draw(WRONG))
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        changed = write(place / "a", None)
        for stem, content in every.items():
            (changed / f"{stem}.json").write_text(json.dumps(content))
        other = write(place / "b", whole("bytes", bpe(letters(5), [("b", "c")]), ["<x>"]))
        rows_differ([changed, other], [5, 9])
        for models in ([changed, other], [other, changed]):
            for source in ("union", "base"):
                try:
                    found = plan(Tokenizer(source, "tokenizer"), models, models[0], models[0], [9, 9])
                    assert all(isinstance(content, bytes) for _, content in files(found, changed).written)
                    json.dumps(found.as_data())
                except SutureError:
                    continue
