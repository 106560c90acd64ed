"""The pieces of text in a vocabulary, and the other forms that they have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suture.errors import UsageError
from suture.sidecars.tokenizer import TOKENIZER_FILES
from suture.vocab.keys import SPACE, spelled_bytes
from suture.vocab.pieces import parsed
from suture.vocab.romanised import table_in
from suture.vocab.tokens import Vocabulary

#: How a SentencePiece file marks a piece of text.
_NORMAL = 1


@dataclass(frozen=True)
class Pieces:
    """The pieces of text in a vocabulary: no special tokens, no bytes, not the unknown one.

    Attributes:
        vocabulary: the vocabulary.
        texts: the text of each piece by its number, a space before a word as `SPACE`.
        scores: the score of each: that of a Unigram tokenizer, of BPE how early its merges are.
        end: the number behind the last, where others join.
        lowest: the lowest score in a SentencePiece file.
    """

    vocabulary: Vocabulary
    texts: Mapping[int, str] = field(repr=False)
    scores: Mapping[int, float] = field(repr=False)
    end: int
    lowest: float

    @property
    def model(self) -> Mapping[str, Any]:
        """The model in tokenizer.json."""
        found: Mapping[str, Any] = (self.vocabulary.whole or {})["model"]
        return found

    def spelled(self, form: str) -> str:
        """A text as the vocabulary writes it."""
        if self.vocabulary.marks != "bytes":
            return form
        return spelled_bytes((" " + form[1:] if form.startswith(SPACE) else form).encode("utf-8", "surrogatepass"))


def pieces_of(vocabulary: Vocabulary) -> Pieces:
    """The pieces of a vocabulary.

    Raises:
        UsageError: if its tokenizer cannot be given pieces, or the extra ``vocab`` is needed and missing.
        SutureError: if a SentencePiece file is none.
    """
    _check(vocabulary)
    model: Mapping[str, Any] = (vocabulary.whole or {})["model"]
    files = [vocabulary.folder / n for n in TOKENIZER_FILES if n.endswith((".model", ".spm"))]
    protos = [parsed(path) for path in files if path.is_file()]
    apart = {piece.piece for proto in protos for piece in proto.pieces if piece.type != _NORMAL}
    apart.add(model["unk_token"] if model.get("unk_token") is not None else "")
    unknown = model.get("unk_id")
    texts = {}
    for number, text in vocabulary.names.items():
        if number != unknown and text not in apart and vocabulary.kind(number) == "normal":
            shown = _shown(vocabulary, number, text)
            if shown is not None:
                texts[number] = shown
    if vocabulary.form == "Unigram":
        scores = {n: float(score) for n, (_, score) in enumerate(model["vocab"])}
    else:
        # Merges come in the order of numbers in all families; single characters behind them where they are pieces.
        scores = {n: float(-n) for n in texts}
    # A list of pieces has no place behind others; elsewhere nothing has to move.
    behind = vocabulary.form == "Unigram" or bool(protos)
    end = max(texts, default=-1) + 1 if behind else vocabulary.size
    lowest = min((piece.score for proto in protos for piece in proto.pieces), default=0.0)
    return Pieces(vocabulary, texts, scores, end, lowest)


def _check(vocabulary: Vocabulary) -> None:
    model = (vocabulary.whole or {}).get("model") or {}
    why = ""
    if vocabulary.form not in ("Unigram", "BPE"):
        why = f"its tokenizer is {vocabulary.form}, and only Unigram and BPE tokenizers can be given pieces of text"
    elif vocabulary.whole is None:
        why = "has no tokenizer.json; load its tokenizer with transformers once and save it, which writes that file"
    elif model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        why = "its BPE marks what is inside a word, or ends one; pieces of such a tokenizer are not given other forms"
    elif vocabulary.form == "BPE" and vocabulary.marks not in ("bytes", "pieces"):
        why = "its BPE writes no spaces; expected one of bytes, or one that writes them as SentencePiece does"
    if why:
        raise UsageError(f"{vocabulary.folder}: {why}")


def _shown(vocabulary: Vocabulary, number: int, text: str) -> str | None:
    """The text of a piece; None of one that is not whole characters."""
    if vocabulary.marks != "bytes":
        return text
    key = vocabulary.key(number)
    try:
        return (SPACE if key.starts else "") + key.content.decode("utf-8")
    except UnicodeDecodeError:
        return None


def forms_of(
    pieces: Pieces, chosen: Mapping[int, str], table: Path | None, romanise: Callable[[str], str] | None
) -> dict[int, list[str]]:
    """The other forms of each of the chosen pieces, by a table or by what romanises.

    Raises:
        UsageError: if the table names what is no piece of text.
        SutureError: if it is not sound.
    """
    if table is not None:
        found = table_in(table, pieces.vocabulary)
        if (wrong := next((n for n in found if n not in pieces.texts), None)) is not None:
            text = pieces.vocabulary.names[wrong]
            raise UsageError(f"{table}: `{text:.40}` is no piece of text", at="map")
        return {n: own for n, own in found.items() if n in chosen}
    if romanise is None:
        return {}
    # The mark of a space is no letter, and all that is ASCII beside it stays.
    changing = {n: text for n, text in chosen.items() if not text.replace(SPACE, "").isascii()}
    return {n: [romanise(text)] for n, text in changing.items()}


def sources_of(forms: Mapping[int, Sequence[str]], pieces: Pieces) -> tuple[dict[str, list[int]], dict[str, int]]:
    """The pieces of each new form as the vocabulary writes it, ascending; and how many forms are none, and why."""
    sources: dict[str, list[int]] = {}
    counts = {"changed": 0, "empty": 0, "with_space": 0, "already": 0}
    for number in sorted(forms):
        for form in forms[number]:
            same = form == pieces.texts[number]
            counts["changed"] += not same
            text = pieces.spelled(form)
            if not form.replace(SPACE, "").strip():
                counts["empty"] += 1
            elif any(c.isspace() for c in form) or SPACE in form[1:]:
                # Text is cut at spaces before it is cut into pieces.
                counts["with_space"] += 1
            elif text in pieces.vocabulary.ids:
                counts["already"] += not same
            else:
                sources.setdefault(text, []).append(number)
    return sources, counts
