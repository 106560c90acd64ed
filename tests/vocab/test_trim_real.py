"""Law: a trim of real tokenizers segments none of 10,000 lines otherwise, and its SentencePiece file agrees.

The tokenizers are those that packages carry: Mistral's first, of 32,000 (SentencePiece BPE, as Llama's), and Tekken, of
131,072 (bytes). They are converted here by what the formats say.
"""

from __future__ import annotations

import base64
import importlib
import importlib.resources
import json
from pathlib import Path

import numpy as np
import pytest

from suture.vocab.rowplan import RowPlan
from suture.vocab.tokens import Vocabulary, read
from suture.vocab.trim import Asked, plan

from ..support.vocabularies import added, bpe, whole, write

tokenizers = pytest.importorskip("tokenizers")
sentencepiece = pytest.importorskip("sentencepiece")
carrier = pytest.importorskip("mistral_common")

LINES = 10_000


def carried(name: str) -> bytes:
    return (importlib.resources.files("mistral_common") / "data" / name).read_bytes()


def mistral(folder: Path) -> Path:
    """Every pair of pieces whose text is a piece is a merge, in the order of what it makes."""
    proto = importlib.import_module("sentencepiece.sentencepiece_model_pb2").ModelProto()
    proto.ParseFromString(carried("tokenizer.model.v1"))
    ids = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    merges = []
    for piece in sorted(proto.pieces, key=lambda piece: -piece.score):
        halves = [(piece.piece[:i], piece.piece[i:]) for i in range(1, len(piece.piece))]
        merges += [(a, b) for a, b in halves if a in ids and b in ids and piece.type == 1]
    assert len(merges) > 50_000
    model = bpe(list(ids), merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    data = whole("pieces", model)
    data["pre_tokenizer"] = None
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    data["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
    data["added_tokens"] = [added(i, text) for i, text in enumerate(["<unk>", "<s>", "</s>"])]
    write(folder, data, {"bos": "<s>", "eos": "</s>"})
    (folder / "tokenizer.model").write_bytes(carried("tokenizer.model.v1"))
    return folder


def tekken(folder: Path, looks_up: bool) -> Path:
    """The same of bytes, written as GPT-2 writes them."""
    raw = json.loads(carried("tekken_240718.json"))
    special = raw["config"]["default_num_special_tokens"]
    listed = [base64.b64decode(t["token_bytes"]) for t in raw["vocab"][: raw["config"]["default_vocab_size"] - special]]
    ranks = {token: i for i, token in enumerate(listed)}
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in seen]
    names = {byte: chr(byte) for byte in seen} | {byte: chr(256 + i) for i, byte in enumerate(rest)}
    written = ["".join(names[byte] for byte in token) for token in listed]
    merges = []
    for token, i in ranks.items():
        halves = [(token[:k], token[k:]) for k in range(1, len(token))]
        found = [(ranks[a], ranks[b]) for a, b in halves if a in ranks and b in ranks]
        merges += [(written[a], written[b]) for a, b in sorted(found)]
        assert i < len(written)
    controls = [f"<SPECIAL_{i}>" for i in range(special)]
    data = whole("bytes", bpe([*controls, *written], merges, ignore_merges=looks_up))
    split = {"type": "Split", "pattern": {"Regex": raw["config"]["pattern"]}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
    data["added_tokens"] = [added(i, control) for i, control in enumerate(controls)]
    return write(folder, data)


def lines_of(own: Vocabulary, seed: int) -> list[str]:
    """Lines of every script the tokenizer knows: words of a twentieth of its tokens, cut and put together anew."""
    rng = np.random.default_rng(seed)
    texts = []
    for text in own.ids:
        key = own.key(own.ids[text])
        if not key.role and not key.byte and (plain := key.content.decode("utf-8", "ignore").strip()):
            texts.append((" " if key.starts else "") + plain)
    some = rng.choice(texts, len(texts) // 20, replace=False)
    share = 1 / np.arange(1, len(some) + 1)
    words = rng.choice(some, (LINES, 12), p=share / share.sum())
    return ["".join(row).replace("\n", " ").replace("\r", " ") for row in words.tolist()]


def checked(folder: Path, tmp: Path, mode: str) -> tuple[RowPlan, list[str]]:
    """A trim whose lines are segmented alike, each token from its own row."""
    own = read(folder)
    lines = lines_of(own, 3)
    path = tmp / "lines"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    found = plan(own, own.size, Asked({"lines": [path]}, mode=mode))
    old = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    new = tokenizers.Tokenizer.from_str(dict(found.written)["tokenizer.json"].decode())
    for one, other in zip(old.encode_batch(lines), new.encode_batch(lines), strict=True):
        assert other.tokens == one.tokens
        assert found.table.row[other.ids].tolist() == one.ids
    assert found.figures["changed"] == 0
    assert found.figures["lines"] == LINES
    assert found.rows < own.size / 2
    return found, lines


@pytest.mark.parametrize("mode", ["exact", pytest.param("closure", marks=pytest.mark.heavy)])
def test_sentencepiece_bpe_of_32_000(mode: str, tmp_path: Path) -> None:
    """The library's own file, trimmed too, gives the pieces that tokenizer.json gives."""
    folder = mistral(tmp_path / "m")
    found, lines = checked(folder, tmp_path, mode)
    new = sentencepiece.SentencePieceProcessor(model_proto=dict(found.written)["tokenizer.model"])
    old = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert new.vocab_size() == found.rows
    assert [new.id_to_piece(i) for i in range(found.rows)] == list(found.names)
    for one, other in zip(old.encode(lines[:2000]), new.encode(lines[:2000]), strict=True):
        assert found.table.row[other].tolist() == one
    assert (new.unk_id(), new.bos_id(), new.eos_id()) == (0, 1, 2)
    if mode == "closure":
        exact, _ = checked(folder, tmp_path, "exact")
        assert set(exact.names) < set(found.names)


@pytest.mark.heavy
@pytest.mark.parametrize("looks_up", [False, True])
def test_byte_level_bpe_of_131_072(looks_up: bool, tmp_path: Path) -> None:
    """With words looked up before they are merged, and without."""
    checked(tekken(tmp_path / "m", looks_up), tmp_path, "exact")
