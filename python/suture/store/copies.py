"""Shards that a store puts together by itself, of ranges of its own objects; what lies between them is sent.

An upload has parts of 5 MiB to 5 GiB, but for the last. A range that is long enough is a part that the store copies;
headers and short ranges are fetched and sent, with as much of the next range as makes a part of them.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from itertools import pairwise
from typing import Any

from suture.errors import SutureError
from suture.store import credentials
from suture.store.objects import REPLACED, Object
from suture.store.places import place
from suture.store.target import META, Target
from suture.store.together import aside, side_by_side

#: Bytes of a part of an upload at least, and parts at most, as S3 has it; bytes that are copied at once.
LEAST, MOST_PARTS = 5 << 20, 10_000
PIECE = 512 << 20
#: Parts in flight that are sent: these lie in memory.
_SENT = 8

#: Bytes that are at hand, or an object with the first byte and the end of a range.
Piece = bytes | tuple[Object, int, int]


class RefusedError(Exception):
    """The store does not copy; says why."""


def can_copy(of: Object | None, target: Target) -> bool:
    """Whether a store could copy of an object: it is its own, in a state that it can be held to."""
    if os.environ.get("SUTURE_STORE_COPIES", "").lower() in ("no", "0", "false"):
        return False
    ours = of is not None and of.url.startswith("s3://") and of.pinned and not of.etag.startswith("W/")
    return ours and target.place.scheme == "s3"


def parts_of(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """The parts of an upload that make up these pieces: one long range each, or what is sent together."""
    parts: list[list[Piece]] = []
    loose: list[Piece] = []
    size = 0
    for piece in _joined(pieces):
        if isinstance(piece, bytes):
            loose.append(piece)
            size += len(piece)
            continue
        of, at, stop = piece
        if 0 < size < LEAST:
            end = min(at + LEAST - size, stop)
            end = stop if stop - end < LEAST else end
            loose.append((of, at, end))
            size, at = size + end - at, end
        if size >= LEAST:
            parts.append(loose)
            loose, size = [], 0
        if stop - at >= LEAST:
            n = -(-(stop - at) // PIECE)
            cuts = [at + (stop - at) * i // n for i in range(n + 1)]
            parts += [[(of, a, b)] for a, b in pairwise(cuts)]
        elif stop > at:
            loose.append((of, at, stop))
            size += stop - at
    return [*parts, loose] if loose else parts


def copied(parts: Sequence[Sequence[Piece]]) -> int:
    """How many bytes of an upload the store copies."""
    return sum(_length(part[0]) for part in parts if is_copy(part))


def is_copy(part: Sequence[Piece]) -> bool:
    """Whether the store copies a part."""
    return len(part) == 1 and not isinstance(part[0], bytes) and _length(part[0]) >= LEAST


def _length(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece[2] - piece[1]


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """The same with ranges that follow one another as one."""
    found: list[Piece] = []
    for piece in pieces:
        last = found[-1] if found else b""
        if not _length(piece):
            continue
        if isinstance(piece, bytes) or isinstance(last, bytes) or (last[0], last[2]) != (piece[0], piece[1]):
            found.append(piece)
        else:
            found[-1] = (last[0], last[1], piece[2])
    return found


def put(target: Target, name: str, parts: Sequence[Sequence[Piece]], plan: str, done: Callable[[int], None]) -> int:
    """Have the store put an object together.

    Args:
        target: where.
        name: of the object.
        parts: of :func:`parts_of`.
        plan: what the object says of itself.
        done: called with the bytes of each part that is there, by any thread.

    Returns:
        the bytes that were fetched for what is sent.

    Raises:
        RefusedError: if it does not; nothing is left of it.
        SutureError: if an object has changed, or cannot be read.
    """
    client, where = _client(), {"Bucket": target.place.root, "Key": target.key(name)}
    errors = importlib.import_module("botocore.exceptions")
    room, fetched = threading.Semaphore(_SENT), 0
    asked: list[str] = []

    def send(numbered: tuple[int, Sequence[Piece]]) -> dict[str, Any]:
        nonlocal fetched
        number, part = numbered
        more = {**where, "UploadId": asked[0], "PartNumber": number}
        if is_copy(part) and not isinstance(part[0], bytes):
            of, start, stop = part[0]
            source = {"Bucket": place(of.url).root, "Key": of.path}
            more |= {"CopySource": source, "CopySourceRange": f"bytes={start}-{stop - 1}", "CopySourceIfMatch": of.etag}
            try:
                tag = client.upload_part_copy(**more)["CopyPartResult"]["ETag"]
            except errors.ClientError as e:
                if _code(e) in ("PreconditionFailed", "412"):
                    raise SutureError(f"{of.url}: {REPLACED}", of.url) from None
                raise
        else:
            with room:
                own = [piece if isinstance(piece, bytes) else _fetched(*piece) for piece in part]
                fetched += sum(_length(piece) for piece in part if not isinstance(piece, bytes))
                tag = client.upload_part(**more, Body=b"".join(own))["ETag"]
        done(sum(map(_length, part)))
        return {"ETag": tag, "PartNumber": number}

    try:
        made = aside(lambda: client.create_multipart_upload(**where, Metadata={META: plan}))
        asked.append(made["UploadId"])
        tags = side_by_side(send, list(enumerate(parts, 1)))
        # Some stores do not hold a copy against the state that it is asked for.
        objects = {piece[0].url: piece[0] for part in parts for piece in part if isinstance(piece, tuple)}
        side_by_side(Object.check, list(objects.values()))
        aside(lambda: client.complete_multipart_upload(**where, UploadId=asked[0], MultipartUpload={"Parts": tags}))
    except BaseException as e:
        if asked:
            with suppress(Exception):
                client.abort_multipart_upload(**where, UploadId=asked[0])
        if isinstance(e, errors.ClientError | errors.BotoCoreError | KeyError):
            raise RefusedError(_code(e)) from None
        raise
    return fetched


def _fetched(of: Object, start: int, stop: int) -> bytes:
    try:
        return of.fetch(start, stop)
    except SutureError as e:
        raise SutureError(f"{of.url}: {e}", of.url) from None


def _code(e: Any) -> str:
    """What a store's library says, in a word or a line."""
    said = getattr(e, "response", {}).get("Error", {}).get("Code")
    return str(said or f"{type(e).__name__}: {e}".splitlines()[0])


@cache
def _client() -> Any:
    """boto3's client, with the credentials and the endpoint that obstore has.

    Raises:
        RefusedError: if boto3 is not there, or finds no credentials.
    """
    try:
        boto3, config = importlib.import_module("boto3"), importlib.import_module("botocore.config").Config
    except ModuleNotFoundError:
        raise RefusedError("boto3 is not installed: pip install boto3") from None
    said, _ = credentials.of_s3()
    style = "path" if "endpoint" in said else "auto"
    how = {"s3": {"addressing_style": style}, "retries": {"max_attempts": 6, "mode": "standard"},
           "max_pool_connections": 16, "user_agent_extra": "suture"}  # fmt: skip
    if said.get("skip_signature") or os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("true", "1", "yes", "on"):
        how["signature_version"] = importlib.import_module("botocore").UNSIGNED
    try:
        # Sums that not every store knows, and of what it copies has to give.
        made = config(**how, request_checksum_calculation="when_required", response_checksum_validation="when_required")
    except TypeError:
        made = config(**how)
    names = {"endpoint": "endpoint_url", "region": "region_name", "access_key_id": "aws_access_key_id",
             "secret_access_key": "aws_secret_access_key", "session_token": "aws_session_token"}  # fmt: skip
    try:
        return boto3.client("s3", config=made, **{names[key]: said[key] for key in names if key in said})
    except Exception as e:
        raise RefusedError(_code(e)) from None
