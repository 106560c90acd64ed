"""A tokenizer.json whose tokens get other numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suture.errors import SutureError, UsageError
from suture.vocab.entries import Added
from suture.vocab.extend import with_tokens
from suture.vocab.moves import Moves, NewToken


def renumbered(moves: Moves) -> dict[str, Any]:
    """The tokenizer.json of a vocabulary after moves; all that has no number in it stays.

    Raises:
        UsageError: if a token leaves that the file needs: the unknown one, one that is put around texts or pads them.
        SutureError: if its format cannot number tokens so.
    """
    own = moves.own
    path = own.folder / "tokenizer.json"
    whole = dict(own.whole or {})
    whole["model"] = model_of(whole["model"], moves, path)
    whole["added_tokens"] = _added(whole.get("added_tokens") or [], moves)
    if whole.get("post_processor"):
        whole["post_processor"] = _around(whole["post_processor"], moves, path)
    if isinstance(padding := whole.get("padding"), dict) and "pad_id" in padding:
        whole["padding"] = {**padding, "pad_id": _needed(padding.get("pad_token"), moves, path, "padding.pad_token")}
    return whole


def model_of(model: Mapping[str, Any], moves: Moves, path: Path) -> dict[str, Any]:
    """The model of a tokenizer.json, or what vocab.json and merges.txt have of one, after moves."""
    made = dict(model)
    if isinstance(unknown := model.get("unk_token"), str) and moves.left(unknown):
        raise _lost(unknown, path, "model.unk_token")
    if isinstance(vocab := model["vocab"], list):
        made["vocab"] = _pieces(vocab, moves, path)
        if (at := model.get("unk_id")) is not None:
            made["unk_id"] = _needed(vocab[at][0], moves, path, "model.unk_id")
        _numbered(made["vocab"], moves.added(), path)
        return made
    stay = {text: new for text in vocab if (new := moves.of(text)) is not None}
    stay |= {token.text: at for at, token in moves.new.items() if token.inside}
    made["vocab"] = dict(sorted(stay.items(), key=lambda pair: pair[1]))
    # Numbers that the library gives added tokens by itself.
    made["vocab"] = with_tokens(made["vocab"], {}, moves.added(), "BPE", path)
    if "merges" in model:
        made["merges"] = merges_of(model["merges"], moves, model.get("continuing_subword_prefix") or "", made["vocab"])
    return made


def merges_of(merges: list[Any], moves: Moves, prefix: str, vocab: Mapping[str, int]) -> list[Any]:
    """The merges, in the form that the file has them in: texts or pairs."""
    texts = bool(merges) and isinstance(merges[0], str)
    if moves.merges is not None:
        # A text is split at its space, so that a token with one can only be in a pair.
        if texts and not any(" " in part for pair in moves.merges for part in pair):
            return [f"{left} {right}" for left, right in moves.merges]
        return [list(pair) for pair in moves.merges]
    kept = []
    for merge in merges:
        left, right = merge.split(" ") if texts else merge
        if left in vocab and right in vocab and left + right.removeprefix(prefix) in vocab:
            kept.append(merge)
    return kept


def _pieces(vocab: list[Any], moves: Moves, path: Path) -> list[Any]:
    stay = {new: pair for pair in vocab if (new := moves.of(pair[0])) is not None}
    made = moves.listed(stay, _piece)
    if made is None:
        raise SutureError(f"{path}: a Unigram tokenizer numbers its tokens by their place; some places are empty", path)
    return made


def _piece(token: NewToken) -> list[Any]:
    return [token.text, token.score]


def _numbered(vocab: list[Any], added: Mapping[int, Added], path: Path) -> None:
    with_tokens(vocab, {}, added, "Unigram", path)


def _added(listed: list[Any], moves: Moves) -> list[Any]:
    """The added tokens; with those that only other files of the model have where one joins, which would be numbered
    behind it."""
    made = [{**entry, "id": moves.moved[entry["id"]]} for entry in listed if entry["id"] in moves.moved]
    if any(not token.inside for token in moves.new.values()):
        known = {entry["id"] for entry in made}
        made += [{"id": at, **token.entry()} for at, token in moves.added().items() if at not in known]
    return sorted(made, key=lambda entry: int(entry["id"]))


def _around(node: Any, moves: Moves, path: Path) -> Any:
    """A post-processor, which has numbers of the tokens that it puts around texts."""
    if not isinstance(node, dict):
        return node
    made = dict(node)
    match node.get("type"):
        case "Sequence":
            made["processors"] = [_around(part, moves, path) for part in node.get("processors") or []]
        case "BertProcessing" | "RobertaProcessing":
            for key in ("sep", "cls"):
                text = node[key][0]
                made[key] = [text, _needed(text, moves, path, f"post_processor.{key}")]
        case "TemplateProcessing":
            made["special_tokens"] = {
                key: _special(entry, moves, path) for key, entry in (node.get("special_tokens") or {}).items()
            }
    return made


def _special(entry: Mapping[str, Any], moves: Moves, path: Path) -> dict[str, Any]:
    texts = entry.get("tokens") or []
    return {**entry, "ids": [_needed(text, moves, path, "post_processor") for text in texts]}


def _needed(text: Any, moves: Moves, path: Path, what: str) -> int:
    """The new number of a token that the file cannot be without."""
    if not isinstance(text, str) or text not in moves.own.ids:
        raise SutureError(f"{path}: {what}: `{text!s:.40}` is no token", path)
    if (at := moves.of(text)) is None:
        raise _lost(text, path, what)
    return at


def _lost(text: str, path: Path, what: str) -> UsageError:
    return UsageError(f"{path}: {what} is `{text:.40}`, which cannot leave the vocabulary", at=str(path))


def needed_by(whole: Mapping[str, Any]) -> set[str]:
    """The tokens that a tokenizer.json cannot be without, by their text."""
    model = whole.get("model") or {}
    found = {model.get("unk_token"), (whole.get("padding") or {}).get("pad_token")}
    if isinstance(model.get("vocab"), list) and model.get("unk_id") is not None:
        found.add(model["vocab"][model["unk_id"]][0])
    parts = [whole.get("post_processor")]
    while parts:
        if isinstance(node := parts.pop(), dict):
            parts += node.get("processors") or []
            found |= {node[key][0] for key in ("sep", "cls") if isinstance(node.get(key), list)}
            for entry in (node.get("special_tokens") or {}).values():
                found |= set(entry.get("tokens") or [])
    return {text for text in found if isinstance(text, str)}
