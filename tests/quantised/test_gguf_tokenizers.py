"""Tokenizers rebuilt of GGUF metadata segment as the ones that the metadata was taken from."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers

import suture
from suture.sidecars.gguf.bpe import SPLITS
from suture.sidecars.gguf.tokenizer import files_of

from ..support.gguf import llama

TEXTS = [
    "the cat sat on the mat, and the bat ate that hat in 1984.",
    "don't you think it's Theirs? they'll see 12345 THE END",
    "  two  spaces\n\n\tand a tab \r\n",
    "\u00fcn\u00efc\u00f6de \u6f22\u5b57 \U0001f642 \u0928\u092e\u0938\u094d\u0924\u0947",
    "Zw\u00f6lf Boxk\u00e4mpfer jagen Viktor quer \u00fcber den gro\u00dfen Sylter Deich",
]


def rebuilt(metadata: dict[str, Any], folder: Path) -> tokenizers.Tokenizer:
    """The tokenizer of the metadata, `tokenizer.ggml.` before each key."""
    files = files_of({f"tokenizer.ggml.{k}": v for k, v in metadata.items()}, {})
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_bytes(files["tokenizer.json"])
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def pieces(kind: str, **more: Any) -> sentencepiece.SentencePieceProcessor:
    """A small SentencePiece model."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20), model_writer=model, model_type=kind, vocab_size=400,
        character_coverage=0.99, hard_vocab_limit=False, minloglevel=2, num_threads=1, **more,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def of_pieces(model: sentencepiece.SentencePieceProcessor, kind: str) -> dict[str, Any]:
    count = range(model.vocab_size())
    types = [
        2
        if model.is_unknown(i)
        else 3
        if model.is_control(i)
        else 6
        if model.is_byte(i)
        else 5
        if model.is_unused(i)
        else 1
        for i in count
    ]
    return {
        "model": kind,
        "tokens": [model.id_to_piece(i) for i in count],
        "scores": [model.get_score(i) for i in count],
        "token_type": types,
        "unknown_token_id": model.unk_id(),
        "bos_token_id": model.bos_id(),
        "eos_token_id": model.eos_id(),
    }


def test_sentencepiece_bpe_segments_as_sentencepiece(tmp_path: Path) -> None:
    """Merges made of scores alone, a space before every text, bytes for what is unknown, the first token before it."""
    model = pieces("bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False)
    ours = rebuilt(of_pieces(model, "llama"), tmp_path)
    for text in TEXTS:
        assert ours.encode(text).ids == [model.bos_id(), *model.encode(text)], text
        assert ours.decode(ours.encode(text).ids) == text


def test_without_a_space_before_texts(tmp_path: Path) -> None:
    """`add_space_prefix` false, as Gemma has it: nothing is put before a text or taken from it."""
    model = pieces(
        "bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=False, split_by_whitespace=True,
    )  # fmt: skip
    metadata = of_pieces(model, "llama") | {"add_space_prefix": False, "add_bos_token": False}
    ours = rebuilt(metadata, tmp_path)
    for text in TEXTS:
        assert ours.decode(ours.encode(text).ids) == text


def test_unigram_segments_as_sentencepiece(tmp_path: Path) -> None:
    """The best sum of scores, the last token behind every text."""
    model = pieces("unigram", normalization_rule_name="identity")
    ours = rebuilt(of_pieces(model, "t5"), tmp_path)
    for text in TEXTS[:2] + TEXTS[4:]:
        assert ours.encode(text).ids == [*model.encode(text), model.eos_id()], text


@pytest.mark.parametrize("pre", [*SPLITS, "smollm"])
def test_byte_level_bpe_is_what_it_was(pre: str, tmp_path: Path) -> None:
    """Tokens and merges of a trained tokenizer, with its regular expression called by its name, segment alike."""
    from tokenizers import decoders, models, pre_tokenizers, trainers

    whole = tokenizers.Tokenizer(models.BPE())
    split = SPLITS.get(pre)
    first = (
        pre_tokenizers.Digits(individual_digits=True)
        if pre == "smollm"
        else pre_tokenizers.Split(tokenizers.Regex(split), "isolated")
        if split
        else None
    )
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    whole.pre_tokenizer = pre_tokenizers.Sequence([first, level]) if first else level
    whole.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    # One special token before all others, one behind them.
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=["<|s|>"])
    whole.train_from_iterator(TEXTS * 5, trainer)
    whole.add_special_tokens(["<|end|>"])
    data = json.loads(whole.to_str())
    vocab = {**data["model"]["vocab"], **{t["content"]: t["id"] for t in data["added_tokens"]}}
    tokens = sorted(vocab, key=vocab.__getitem__)
    metadata = {
        "model": "gpt2",
        "pre": pre,
        "tokens": [*tokens, "[PAD0]", "[PAD1]"],
        "token_type": [3 if t in ("<|s|>", "<|end|>") else 1 for t in tokens] + [5, 5],
        "merges": [m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]],
        "eos_token_id": vocab["<|end|>"],
        "add_bos_token": False,
    }
    ours = rebuilt(metadata, tmp_path)
    assert ours.get_vocab() == vocab
    for text in [*TEXTS, "<|s|>the<|end|> cat"]:
        # Whole words that are tokens are taken as they are by some; of trained merges that is what merges give.
        assert ours.encode(text).ids == whole.encode(text).ids, text


def test_special_tokens_and_ends_are_told(tmp_path: Path) -> None:
    """The tokens at the ends, by name in tokenizer_config.json; those that end a turn in generation_config.json."""
    more = {"tokenizer.ggml.eot_token_id": 259, "tokenizer.ggml.add_eos_token": True}
    suture.convert(llama(tmp_path / "m.gguf", layers=1, more=more).path, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert (found["eos_token"], found["pad_token"]) == ("<|end|>", "<|pad|>")
    assert found["chat_template"] == "{{ messages }}"
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == [258, 259]
    ours = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert ours.encode("the").tokens == ["the", "<|end|>"]
    assert ours.get_vocab_size() == 260


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"tokenizer.ggml.pre": "unheard-of"}, "`unheard-of`"),
        ({"tokenizer.ggml.model": "rwkv"}, "`rwkv`"),
        ({"tokenizer.ggml.merges": ["a"]}, "two tokens and a space"),
        ({"tokenizer.ggml.merges": 3}, "no merges"),
        ({"tokenizer.ggml.token_type": [1, 2]}, "expected 264 values"),
        ({"tokenizer.ggml.tokens": ["a"] * 264, "tokenizer.ggml.token_type": [1] * 264}, "token 0 and token 1"),
        ({"tokenizer.ggml.eos_token_id": 999}, "there are 264 tokens"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "expected texts"),
        ({"tokenizer.ggml.tokens": "text"}, "no tokenizer"),
    ],
)
def test_what_cannot_be_rebuilt_is_said(more: dict[str, Any], says: str, tmp_path: Path) -> None:
    """Law 8: what a file says of its tokenizer and is not sound, or not known, is named, with what to give instead."""
    made = llama(tmp_path / "m.gguf", layers=1, more=more)
    with pytest.raises(suture.SutureError, match=says) as caught:
        suture.convert(made.path, tmp_path / "out")
    assert "--tokenizer FILE" in str(caught.value)
    assert not (tmp_path / "out").exists()
    # What does not need it is done.
    assert suture.inspect(made.path)["forms"]
