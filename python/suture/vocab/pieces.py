"""SentencePiece files whose pieces get other numbers."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

from suture.errors import SutureError, UsageError
from suture.vocab.moves import Moves, NewToken

# What a piece is, as the format numbers it.
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_TYPES = {"normal": _NORMAL, "special": _CONTROL, "added": _USER, "byte": _BYTE}
_SAMPLES = 4
#: What the trainer says of pieces that have a role, and which piece that is.
_ROLES = {"unk_id": "unk_piece", "bos_id": "bos_piece", "eos_id": "eos_piece", "pad_id": "pad_piece"}


def parsed(path: Path) -> Any:
    """A SentencePiece file as a ``ModelProto``.

    Raises:
        UsageError: if the extra ``vocab`` is not installed.
        SutureError: if it is none.
    """
    try:
        # Its module is made at run time, so that types know nothing of it.
        format_of: Any = import_module("sentencepiece.sentencepiece_model_pb2")
    except ImportError:
        raise UsageError(f"{path}: needs sentencepiece and protobuf: pip install sentencepiece protobuf") from None
    made = format_of.ModelProto()
    try:
        made.ParseFromString(path.read_bytes())
    except Exception as e:
        raise SutureError(f"{path}: cannot be read as a SentencePiece model: {e}", path) from None
    if not made.pieces:
        raise SutureError(f"{path}: expected a SentencePiece model, found one without pieces", path)
    return made


def renumbered(path: Path, moves: Moves) -> bytes | None:
    """A SentencePiece file after moves; None where it cannot number its pieces so.

    A model numbers the pieces by their place, from a first number on that is the model's (1 of XLM-R, 0 of Llama),
    but for a few that are placed by hand. The latter keep their place, and so does what the model does not know.

    Raises:
        UsageError: if the extra ``vocab`` is not installed.
        SutureError: if the file is none.
    """
    proto = parsed(path)
    ids = moves.own.ids
    numbers = [ids.get(piece.piece) for piece in proto.pieces]
    by_hand = (_UNKNOWN, _CONTROL)
    apart = [n - i for i, n in enumerate(numbers) if n is not None and proto.pieces[i].type not in by_hand]
    if not apart:
        return None
    first, often = Counter(apart).most_common(1)[0]
    if often < len(apart):
        return _filtered(proto, moves)
    stay: dict[int, Any] = {}
    for i, (piece, n) in enumerate(zip(proto.pieces, numbers, strict=True)):
        if n is None or n - i != first:
            at: int | None = i
        elif (at := moves.moved.get(n)) is not None:
            at -= first
        elif piece.type == _UNKNOWN:
            return None
        if at is not None:
            if at in stay or at < 0:
                return None
            stay[at] = piece
    made = moves.listed(stay, lambda token: _piece(token, proto), first)
    return None if made is None else _with(proto, made)


def _filtered(proto: Any, moves: Moves) -> bytes | None:
    """A file whose pieces the model numbers otherwise, by vocab.json (Marian), without those that leave."""
    if any(token.inside for token in moves.new.values()):
        return None
    return _with(proto, [piece for piece in proto.pieces if piece.type == _UNKNOWN or not moves.left(piece.piece)])


def _piece(token: NewToken, proto: Any) -> Any:
    return type(proto.pieces[0])(piece=token.text, score=token.score, type=_TYPES[token.kind])


def _with(proto: Any, pieces: list[Any]) -> bytes:
    """A file with other pieces."""
    made = type(proto)()
    made.CopyFrom(proto)
    del made.pieces[:]
    made.pieces.extend(pieces)
    trainer = made.trainer_spec
    if trainer.HasField("vocab_size"):
        trainer.vocab_size = len(pieces)
    places = {piece.piece: i for i, piece in enumerate(pieces)}
    for key, name in _ROLES.items():
        before = getattr(trainer, key)
        if 0 <= before < len(proto.pieces) and proto.pieces[before].piece == getattr(trainer, name):
            after = places.get(getattr(trainer, name), -1)
            if after != before:
                setattr(trainer, key, after)
    if _tests_itself(made):
        made.DiscardUnknownFields()
    return bytes(made.SerializeToString(deterministic=True))


def _tests_itself(proto: Any) -> bool:
    """Whether a file has samples that the library segments when it loads it, and expects the pieces of before.

    The field is in the format, but not in the package's description of it.
    """
    from google.protobuf.unknown_fields import UnknownFieldSet

    fields: Any = UnknownFieldSet(proto)
    return any(field.field_number == _SAMPLES for field in fields)


def apart(path: Path) -> set[str]:
    """The pieces of a SentencePiece file that are no parts of words: the unknown one, control ones, the user's.

    Raises:
        UsageError: if the extra ``vocab`` is not installed.
        SutureError: if the file is none.
    """
    return {piece.piece for piece in parsed(path).pieces if piece.type not in (_NORMAL, _UNUSED, _BYTE)}
