"""Tokenizers of unions are what transformers loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from suture.recipe.vocabulary import Row

from ..support.vocabularies import bpe, whole, write
from ..vocab.test_files import laid, made

transformers = pytest.importorskip("transformers")


def test_transformers_loads_what_is_written(tmp_path: Path) -> None:
    """By AutoTokenizer, with the numbers of the plan; from older files too, of BPE and WordPiece."""
    auto = transformers.AutoTokenizer
    other = write(tmp_path / "b", whole("bytes", bpe(["a", "b", "Ġ"], [("b", "a")]), ["<x>"], plain=["<y>"]))
    fast = write(tmp_path / "fast", whole("bytes", bpe(["a", "b", "Ġ"], [("a", "b")]), ["<s>"]), {"bos": "<s>"})
    gpt = write(
        tmp_path / "gpt", None, vocab={"a": 0, "b": 1, "Ġ": 2, "ab": 3, "<|endoftext|>": 4},
        tokenizer_config={"tokenizer_class": "GPT2Tokenizer"},
    )  # fmt: skip
    (gpt / "merges.txt").write_text("#version: 0.2\na b\n")
    bert = write(tmp_path / "bert", None, tokenizer_config={"tokenizer_class": "BertTokenizer"})
    (bert / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"]) + "\n")
    for lead, own in ((fast, "ab"), (gpt, "ab"), (bert, "a##b")):
        new = {"<new>": Row("at", str(lead), 1)}
        found, given = made([lead, other], "union", tokens=new)
        loaded = auto.from_pretrained(laid(given, tmp_path / f"out-{lead.name}"))
        text = "ab<x>ab<y>ab<new>"
        tokens = loaded.convert_ids_to_tokens(loaded(text, add_special_tokens=False)["input_ids"])
        assert "".join(tokens) == f"{own}<x>{own}<y>{own}<new>"
        numbers = loaded.get_vocab()
        for at, name in enumerate(found.names):
            if name not in found.hidden and name is not None:
                assert numbers[name] == at
        assert loaded.decode(loaded("<x>", add_special_tokens=False)["input_ids"], skip_special_tokens=True) == ""
