"""Text into numbers of tokens, by the library that models are used with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture.errors import SutureError, UsageError
from suture.vocab.entries import FLAGS, Added

#: Words whose tokens the library remembers: with 10,000, as it has by itself, many languages take a third longer.
_WORDS = 200_000


class Segmenter:
    """A tokenizer, loaded from the bytes of its file.

    Args:
        data: tokenizer.json.
        ids: the number of every token, by its text.
        added: the tokens that are found in text before the rest, by their number; those that the file lacks join.
        path: the file, for messages.

    Raises:
        UsageError: if the extra ``vocab`` is not installed, or the tokenizer draws random numbers.
        SutureError: if the library does not load it, or numbers tokens otherwise.
    """

    def __init__(self, data: bytes, ids: Mapping[str, int], added: Mapping[int, Added], path: Path) -> None:
        try:
            import tokenizers
        except ImportError:
            raise UsageError(f"{path}: needs the package tokenizers: pip install tokenizers") from None
        try:
            self._whole = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
        except Exception as e:
            raise SutureError(f"{path}: the library tokenizers cannot load it: {e}", path) from None
        self._whole.no_truncation()
        self._whole.no_padding()
        for number in sorted(added):
            if self._whole.token_to_id(added[number].text) is None:
                flags = {flag: flag in added[number].flags for flag in FLAGS}
                self._whole.add_tokens([tokenizers.AddedToken(added[number].text, **flags)])
        model = self._whole.model
        if getattr(model, "dropout", None) or getattr(model, "alpha", None):
            raise UsageError(f"{path}: leaves merges out at random; set model.dropout to null", at=str(path))
        more = getattr(model, "_resize_cache", None)
        # Where the model takes lines whole they would be remembered whole, and none comes again.
        if more is not None and len(self.words("a b c d")) > 1:
            more(_WORDS)
        self._check(ids, path)

    def _check(self, ids: Mapping[str, int], path: Path) -> None:
        found = self._whole.get_vocab(with_added_tokens=True)
        if found == ids:
            return
        text = next((text for text in (*ids, *found) if found.get(text) != ids.get(text)), "")
        has, said = found.get(text, "none"), ids.get(text, "none")
        message = f"`{text:.40}` has number {said} in the file, but {has} in the library, which leaves no holes"
        raise SutureError(f"{path}: {message}", path)

    def encodings(self, lines: Sequence[str]) -> list[Any]:
        """What the library says of lines, nothing put around them."""
        # The fast form, without places in the text, is of a later version.
        encode = getattr(self._whole, "encode_batch_fast", self._whole.encode_batch)
        return list(encode(list(lines), add_special_tokens=False))

    def words(self, line: str) -> list[str]:
        """The words of a line that the model makes tokens of, each by itself."""
        normal, before = self._whole.normalizer, self._whole.pre_tokenizer
        text = line if normal is None else normal.normalize_str(line)
        return [text] if before is None else [word for word, _ in before.pre_tokenize_str(text)]


def flat(encodings: Sequence[Any]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The numbers of the tokens of lines one behind the other (int32), and where each line ends (int64)."""
    numbers = [encoding.ids for encoding in encodings]
    ends = np.cumsum([len(line) for line in numbers], dtype=np.int64)
    whole = np.fromiter((n for line in numbers for n in line), dtype=np.int32, count=int(ends[-1]) if len(ends) else 0)
    return whole, ends
