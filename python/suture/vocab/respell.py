"""A token's text as the tokens of another vocabulary: the pieces whose rows may stand for it.

The mean of the pieces' rows is "FVT", fast vocabulary transfer (Gee et al., arXiv 2402.09977).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from suture.vocab.keys import SPACE, spelled_bytes
from suture.vocab.segmenter import segmenter
from suture.vocab.tokens import Vocabulary

#: Runs of bytes that are no text, as Python decodes them, and of text.
_RUNS = re.compile("[\udc80-\udcff]+|[^\udc80-\udcff]+")


def speller(old: Vocabulary, *, whole_only: bool = False) -> Callable[[bool, bytes], list[int]]:
    """A function that gives the pieces of ``(whether a word begins there, bytes)``: numbers of `old`; none at worst.

    What the vocabulary cannot say of a text is left out of its pieces; with `whole_only` such a text has none.

    The model of the tokenizer is asked alone, without what cuts text into words before it: a token is one part of a
    word already. Bytes that are no text are tokens of single bytes, where the vocabulary has them.

    Raises:
        UsageError, SutureError: as `suture.vocab.segmenter.segmenter` does.
    """
    whole = segmenter(old.folder)
    model, normal = whole.model, whole.normalizer
    unknown = _unknown(old)
    byte = {key.content[0]: n for n in old.names if (key := old.key(n)).byte}

    def pieces(starts: bool, content: bytes) -> list[int]:
        if old.marks == "bytes":
            return _known(model, spelled_bytes((b" " if starts else b"") + content))
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            return broken(starts, content)
        if old.marks == "words":
            return _greedy(old, text, starts) or _greedy(old, _normalised(normal, text), starts)
        mark = {"pieces": SPACE, "plain": " "}[old.marks] if starts else ""
        written = mark + (text.replace(" ", SPACE) if old.marks == "pieces" else text)
        return _known(model, written) or _known(model, _normalised(normal, text))

    def broken(starts: bool, content: bytes) -> list[int]:
        """Parts that are text, and bytes that are none."""
        found: list[int] = []
        for part in _RUNS.findall(content.decode("utf-8", "surrogateescape")):
            raw = part.encode("utf-8", "surrogateescape")
            if "\udc80" <= part[0] <= "\udcff":
                found += pieces(True, b"") if starts else []
                found += [byte[b] for b in raw if b in byte]
            else:
                found += pieces(starts, raw)
            starts = False
        return found

    def wholly(starts: bool, content: bytes) -> list[int]:
        found = pieces(starts, content)
        spelt = b"".join(old.key(n).content for n in found)
        lacks = spelt not in (content, _normalised(normal, content.decode("utf-8", "replace")).encode().strip())
        return [] if lacks else found

    def _known(model: Any, text: str) -> list[int]:
        try:
            return [token.id for token in model.tokenize(text) if token.id not in unknown] if text else []
        except Exception:  # Models without a token for the unknown raise.
            return []

    return wholly if whole_only else pieces


def _unknown(old: Vocabulary) -> set[int]:
    """The numbers of what stands for the unknown."""
    model: Any = (old.whole or {}).get("model") or {}
    texts = {str(text) for text in (model.get("unk_token"), old.roles.get("unk")) if text is not None}
    found = {old.ids[text] for text in texts if text in old.ids}
    return found | ({model["unk_id"]} if isinstance(model.get("unk_id"), int) else set())


def _normalised(normal: Any, text: str) -> str:
    return text if normal is None else str(normal.normalize_str(text))


def _greedy(old: Vocabulary, text: str, starts: bool) -> list[int]:
    """The longest tokens one after the other, as WordPiece has them; none where a part is unknown."""
    found, at = [], 0
    while at < len(text):
        mark = "" if at == 0 and starts else "##"
        stop = next((end for end in range(len(text), at, -1) if mark + text[at:end] in old.ids), None)
        if stop is None:
            return []
        found.append(old.ids[mark + text[at:stop]])
        at = stop
    return found
