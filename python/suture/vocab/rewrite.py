"""All tokenizer files of a model whose tokens get other numbers, some of which leave, and which others join."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from suture.errors import SutureError
from suture.sidecars.files import as_bytes, read_config
from suture.sidecars.tokenizer import TOKENIZER_FILES
from suture.vocab import fast, pieces
from suture.vocab.entries import ADDED, CONFIG, MAP
from suture.vocab.moves import KINDS, Moves, NewToken, without
from suture.vocab.old import lines_of, merges_of
from suture.vocab.tokens import Vocabulary
from suture.vocab.told import named
from suture.vocab.write import Files, compact

__all__ = ["KINDS", "NewToken", "rewritten"]

_TEMPLATES = ("chat_template.jinja", "chat_template.json")


def rewritten(
    own: Vocabulary,
    moved: Mapping[int, int],
    *,
    new: Mapping[int, NewToken] | None = None,
    merges: Sequence[tuple[str, str]] | None = None,
) -> Files:
    """The tokenizer files of a model after its tokens got other numbers. What is no token's number or text stays.

    Files that hold nothing that changes are copied. One whose form cannot number its tokens so is left out and told.

    Args:
        own: the vocabulary of the model.
        moved: the new number of each token that stays, by its old one.
        new: the tokens that join, by their number.
        merges: all merges of the output, in their order, as pairs of tokens; None for those of the model whose
            tokens are all in the output.

    Raises:
        UsageError: if two tokens get one number or one text, or a token leaves that a file cannot be without: the
            unknown one, one that is put around texts or pads them; or the extra ``vocab`` is needed and missing.
        SutureError: if a file is not sound, or tokenizer.json cannot number its tokens so.
    """
    moves = Moves(own, moved, new or {}, merges)
    moves.check()
    folder = own.folder
    made: dict[str, bytes | None] = {}
    if own.whole is not None:
        made["tokenizer.json"] = compact(fast.renumbered(moves))
    made |= _old(moves)
    for name in TOKENIZER_FILES:
        if (folder / name).is_file() and name.endswith((".model", ".spm")):
            made[name] = pieces.renumbered(folder / name, moves)
    if (folder / "tekken.json").is_file():
        made["tekken.json"] = None
    made |= _configs(moves)
    told = [
        f"{folder / name}: cannot number its tokens as the output does and is left out"
        for name, data in made.items()
        if data is None
    ]
    told += _templates(moves)
    written = [(name, made[name]) for name in TOKENIZER_FILES if made.get(name) is not None]
    present = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    same = {name for name, data in written if (folder / name).is_file() and data == (folder / name).read_bytes()}
    copied = [(name, str(folder / name)) for name in present if name not in made or name in same]
    return Files([(name, data) for name, data in written if data is not None and name not in same], copied, told=told)


def _old(moves: Moves) -> dict[str, bytes | None]:
    """vocab.json and merges.txt, vocab.txt."""
    folder = moves.own.folder
    made: dict[str, bytes | None] = {}
    vocab, lines = read_config(folder, "vocab.json"), lines_of(folder / "merges.txt")
    words = lines_of(folder / "vocab.txt")
    for name, texts in (("vocab.json", vocab), ("vocab.txt", words)):
        if (wrong := next((text for text in texts or () if text not in moves.own.ids), None)) is not None:
            raise SutureError(f"{folder}: `{wrong:.40}` of {name} is no token of tokenizer.json", folder)
    if vocab is not None:
        model: dict[str, Any] = {"vocab": vocab} | ({} if lines is None else {"merges": merges_of(lines)})
        model = fast.model_of(model, moves, folder / "vocab.json")
        made["vocab.json"] = compact(model["vocab"])
        if lines is not None:
            head = lines[:1] if lines[:1] and lines[0].startswith("#version") else []
            merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
            made["merges.txt"] = "".join(f"{line}\n" for line in [*head, *merges]).encode("utf-8", "surrogatepass")
    if words is not None:
        stay = {at: word for word in words if (at := moves.of(word)) is not None}
        listed = moves.listed(stay, lambda token: token.text)
        made["vocab.txt"] = None if listed is None else "".join(f"{word}\n" for word in listed).encode()
    return made


def _configs(moves: Moves) -> dict[str, bytes | None]:
    """The JSON files that list tokens."""
    folder, added = moves.own.folder, moves.added()
    joined = {at: token for at, token in added.items() if at in moves.new}
    made: dict[str, bytes | None] = {}
    for name in (CONFIG, MAP):
        if (data := read_config(folder, name)) is not None:
            changed = _named(data, moves)
            if name == CONFIG and ("added_tokens_decoder" in data or (joined and moves.own.whole is None)):
                listed = data.get("added_tokens_decoder") or {}
                stay = {moves.moved[int(at)]: entry for at, entry in listed.items() if int(at) in moves.moved}
                stay |= {at: token.entry() for at, token in (added if joined else {}).items() if at not in stay}
                changed["added_tokens_decoder"] = {str(at): stay[at] for at in sorted(stay)}
            if changed != data:
                made[name] = as_bytes(changed)
    own = read_config(folder, ADDED)
    if own is not None or (joined and moves.own.whole is None):
        numbers = {text: at for text in own or {} if (at := moves.of(text)) is not None}
        made[ADDED] = as_bytes({**numbers, **{token.text: at for at, token in joined.items()}})
    return made


def _named(data: Mapping[str, Any], moves: Moves) -> dict[str, Any]:
    """A config without the tokens that leave: roles, and lists of further special tokens."""
    made: dict[str, Any] = {}
    for key, value in data.items():
        if key.endswith("_token"):
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str) and moves.left(text):
                continue
        made[key] = without(value, moves) if key.endswith("special_tokens") else value
    return made


def _templates(moves: Moves) -> list[str]:
    """What to tell of chat templates that name tokens that leave."""
    folder = moves.own.folder
    texts = {CONFIG: (read_config(folder, CONFIG) or {}).get("chat_template")}
    for name in _TEMPLATES:
        if (folder / name).is_file():
            texts[name] = (folder / name).read_text(encoding="utf-8", errors="replace")
    # Those that are found in text whatever is around them; others are parts of words.
    gone = [token.text for old, token in moves.own.added.items() if old not in moves.moved]
    told = []
    for name, text in texts.items():
        whole = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
        if text and (lost := [token for token in gone if token in whole]):
            told.append(f"{folder / name}: the chat template names {named(lost)}, no longer in the vocabulary")
    return told
