"""Which tokens a tokenizer can be given without segmenting any text otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from suture.vocab.tokens import Vocabulary

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def inert_in(lead: Vocabulary) -> Callable[[str], bool]:
    """Whether a vocabulary can have a further token that no text is segmented into.

    BPE makes tokens by its merges alone, so that one without merges is never made. It looks up single characters,
    though, bytes, and with `ignore_merges` whole words. The other forms look up whatever is a token.
    """
    model: Any = (lead.whole or {}).get("model") or {}
    if lead.form != "BPE" or model.get("ignore_merges"):
        return lambda text: False
    prefix = model.get("continuing_subword_prefix") or ""
    suffix = model.get("end_of_word_suffix") or ""
    unknown = model.get("unk_token")

    def inert(text: str) -> bool:
        if model.get("byte_fallback") and _BYTE.fullmatch(text):
            return False
        return len(text.removeprefix(prefix).removesuffix(suffix)) > 1 and text != unknown

    return inert
