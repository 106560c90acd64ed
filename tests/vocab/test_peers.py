"""Rows are those that mergekit 0.1.5 gives, token by token; its outputs are kept under tests/goldens/vocab."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from suture.recipe.vocabulary import tokenizer_of
from suture.vocab.align import plan
from suture.vocab.write import files

from ..reference.rows import applied
from ..support.checkpoints import TOLERANCE, read_checkpoint
from ..support.peer_rows import CASES, GOLDENS, WEIGHTS, config_of, make_models, values


@pytest.mark.parametrize("name", CASES)
def test_rows_are_those_of_mergekit(name: str, tmp_path: Path) -> None:
    """Tokens, how many rows, each row of the merge of the new tables, and padding."""
    case = CASES[name]
    expected = json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))
    models = make_models(case, tmp_path)
    wanted = tokenizer_of(config_of(case, models))
    assert wanted is not None
    folders = list(models.values())
    base = models[case.base] if case.base else None
    tensors = {m: read_checkpoint(folder) for m, folder in models.items()}
    rows = [len(values(tensors[m]["model.embed_tokens.weight"])) for m in models]
    found = plan(wanted, folders, folders[0], base, rows)
    assert (found.same, found.rows) == (False, expected["rows"])
    assert len(expected["tables"]) == (1 if case.tied else 2)
    for table, by_token in expected["tables"].items():
        stored = [values(tensors[m][table]).astype(np.float64) for m in models]
        new = [applied(segments, stored) for segments in found.segments]
        merged = np.sum([WEIGHTS[m] * own for m, own in zip(models, new, strict=True)], axis=0)
        assert set(found.names) == by_token.keys()
        for at, token in enumerate(found.names):
            np.testing.assert_allclose(merged[at], by_token[token], atol=TOLERANCE, rtol=TOLERANCE, err_msg=str(token))
        padding = expected["padding"][table]
        assert len(padding) == found.rows - found.tokens
        for row, own in zip(padding, merged[found.tokens :], strict=True):
            np.testing.assert_allclose(own, row, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_the_files_have_the_tokens_of_mergekit(name: str, tmp_path: Path) -> None:
    """Those of its tokenizer; but words that would segment text otherwise have a row alone."""
    case = CASES[name]
    expected = json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))["tables"]
    tokenizers = pytest.importorskip("tokenizers")
    models = make_models(case, tmp_path)
    wanted = tokenizer_of(config_of(case, models))
    assert wanted is not None
    folders = list(models.values())
    found = plan(wanted, folders, folders[0], models[case.base] if case.base else None, [1000] * len(folders))
    made = files(found, folders[0])
    text = dict(made.written).get("tokenizer.json") or (found.lead / "tokenizer.json").read_bytes()
    vocab = tokenizers.Tokenizer.from_str(text.decode()).get_vocab()
    assert vocab.keys() | found.hidden == expected["model.embed_tokens.weight"].keys()
    assert found.hidden == ({"in", "th", "ing"} - {*vocab} if name == "unigram_union" else set())
