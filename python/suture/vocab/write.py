"""The files of an output's tokenizer: a model's, with further tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suture.sidecars.files import as_bytes, read_config
from suture.sidecars.tokenizer import TOKENIZER_FILES
from suture.vocab.align import Aligned
from suture.vocab.entries import ADDED, CONFIG, Added
from suture.vocab.extend import extended, with_tokens
from suture.vocab.ids import changes
from suture.vocab.tokens import Vocabulary

#: Hold tokens in a form that only other libraries write.
_CLOSED = frozenset(name for name in TOKENIZER_FILES if name.endswith((".model", ".spm"))) | {"tekken.json"}


@dataclass(frozen=True)
class Files:
    """The files of an output's tokenizer.

    Attributes:
        written: files to write, with their bytes.
        copied: files to copy, with their source.
        ids: for config.json and generation_config.json what changes in them, see `suture.vocab.ids`.
        told: what the user should know.
    """

    written: list[tuple[str, bytes]]
    copied: list[tuple[str, str]]
    ids: dict[str, dict[str, Any]] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)


def files(aligned: Aligned, config: Path) -> Files:
    """The tokenizer files of an output.

    Text is segmented as by the tokenizer of `aligned.lead`, whose tokens keep their numbers, but for the tokens that
    others have added: each of these is found in text as its model finds it.

    Args:
        aligned: the vocabulary of the output.
        config: the model that lends its config.

    Raises:
        SutureError: if a file is not sound, or the format cannot number its tokens as the output does.
    """
    lead = aligned.vocabularies[aligned.lead]
    present = [name for name in TOKENIZER_FILES if (lead.folder / name).is_file()]
    if aligned.same:
        return Files([], [(name, str(lead.folder / name)) for name in present])
    ids, told = changes(aligned, config)
    # They stand behind the lead's, in their order.
    places = {text: aligned.tokens - len(aligned.sources) + i for i, text in enumerate(aligned.sources)}
    new = {places[text]: entry for text, entry in aligned.added.items()}
    normal = {text: at for text, at in places.items() if text not in aligned.added and text not in aligned.hidden}
    written = _written(lead, normal, new) if normal or new else []
    left = {name for name in present if name in _CLOSED and (normal or (new and name == "tekken.json"))}
    if left:
        told.append(f"{lead.folder}: {', '.join(sorted(left))} cannot hold further tokens and is left out")
    done = left | {name for name, _ in written}
    copied = [(name, str(lead.folder / name)) for name in present if name not in done]
    return Files(written, copied, ids, told)


def _written(lead: Vocabulary, normal: dict[str, int], new: dict[int, Added]) -> list[tuple[str, bytes]]:
    """The files that hold tokens, with further ones."""
    folder = lead.folder
    written: list[tuple[str, bytes]] = []
    entries = {**lead.added, **new}
    if lead.whole is not None:
        written.append(("tokenizer.json", compact(extended(lead, normal, new))))
    own = read_config(folder, "vocab.json")
    if own is not None and normal:
        path = folder / "vocab.json"
        written.append(("vocab.json", compact(with_tokens(own, normal, entries, "BPE", path))))
    settings = read_config(folder, CONFIG)
    if settings is not None and new and (lead.whole is None or "added_tokens_decoder" in settings):
        listed = settings.get("added_tokens_decoder") or {}
        listed = {**{str(at): token.entry() for at, token in entries.items()}, **listed}
        in_order = dict(sorted(listed.items(), key=lambda pair: int(pair[0])))
        written.append((CONFIG, as_bytes({**settings, "added_tokens_decoder": in_order})))
    own = read_config(folder, ADDED)
    if new and (own is not None or lead.whole is None):
        written.append((ADDED, as_bytes({**(own or {}), **{token.text: at for at, token in new.items()}})))
    return written


def compact(data: Any) -> bytes:
    """A JSON file's bytes, without the line for each merge that would double it."""
    try:
        return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        # JSON can name half a character, UTF-8 cannot.
        return json.dumps(data, separators=(",", ":")).encode()
