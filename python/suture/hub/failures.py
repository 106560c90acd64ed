"""What can go wrong between here and the hub, in one line that says what to do."""

from __future__ import annotations

import errno
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

from suture.errors import SutureError

#: The HTTP libraries below the hub's, by its version; what they raise has nothing else in common.
_HTTP = {"requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2", "http"}
#: What they raise where an answer ends too early or takes too long.
_CUT = {
    "RemoteProtocolError", "ReadError", "ReadTimeout", "ChunkedEncodingError", "IncompleteRead", "ProtocolError",
}  # fmt: skip
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_LOG_IN = "(`hf auth login`, or HF_TOKEN)"


def endpoint() -> str:
    """The address of the hub: a mirror where HF_ENDPOINT names one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


@contextmanager
def in_our_words(name: str, revision: str) -> Iterator[None]:
    """Make an error of ours of whatever the hub's library raises.

    Raises:
        SutureError: in place of it.
    """
    try:
        yield
    except SutureError:
        raise
    except Exception as e:
        # No narrower: the library passes on what three HTTP libraries, a server and a disk come up with.
        raise SutureError(f"{name}: {_told(e, name, revision)}") from None


def _told(error: Exception, name: str, revision: str) -> str:
    chain = list(_causes(error))
    for e in chain:
        words = _of_the_disk(e) or _of_the_hub(e, name, revision) or _of_the_status(e)
        if words:
            return words
    for e in chain:
        kind = type(e)
        if kind.__name__ in _CUT or str(e).startswith("Consistency check failed"):
            return f"the answer was cut off ({kind.__name__}); run the same command again"
        if kind.__module__.partition(".")[0] in _HTTP or isinstance(e, ConnectionError):
            return f"cannot reach {endpoint()} ({kind.__name__}); is there a network? HF_ENDPOINT names a mirror"
    first = (str(error).strip().splitlines() or [""])[0]
    return f"cannot be downloaded from {endpoint()} ({type(error).__name__}: {first})"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it came of."""
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        yield found
        seen.append(found)
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _of_the_disk(e: BaseException) -> str | None:
    if (isinstance(e, OSError) and e.errno in _NO_ROOM) or "os error 28" in str(e):
        return "no room left on the disk of the hub's cache; make room, or set HF_HUB_CACHE to a folder on another disk"
    if isinstance(e, OSError) and e.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and e.filename:
        return f"the hub's cache cannot be written ({e.strerror}: {os.fsdecode(e.filename)}); set HF_HUB_CACHE"
    return None


def _of_the_hub(e: BaseException, name: str, revision: str) -> str | None:
    """What the library has a name of its own for; the hub does not tell private from missing."""
    errors = importlib.import_module("huggingface_hub.errors")
    if isinstance(e, errors.GatedRepoError):
        return f"is gated: accept its terms at {endpoint()}/{name}, and log in with that account {_LOG_IN}"
    if isinstance(e, errors.RevisionNotFoundError):
        return f"has no revision `{revision}`; expected a branch, a tag or a commit of {endpoint()}/{name}"
    if isinstance(e, errors.RepositoryNotFoundError):
        return f"there is no such model on {endpoint()}, or it is private; check the name, or log in {_LOG_IN}"
    if isinstance(e, errors.OfflineModeIsEnabled):
        return "is not all in the hub's cache, and huggingface_hub was told to stay offline"
    return None


def _of_the_status(e: BaseException) -> str | None:
    response = getattr(e, "response", None)
    status = getattr(response, "status_code", None)
    if not isinstance(status, int):
        return None
    if status in (401, 403):
        return f"{endpoint()} refuses access (HTTP {status}); log in with an account that may {_LOG_IN}"
    if status == 404:
        return f"{endpoint()} does not have it (HTTP 404); check the name and the revision"
    if status == 429:
        wait = getattr(response, "headers", {}).get("Retry-After")
        when = f"in {wait} seconds" if str(wait).isdigit() else "later"
        return f"{endpoint()} takes no more requests (HTTP 429); try again {when}, or log in {_LOG_IN}"
    if status >= 500:
        return f"{endpoint()} fails (HTTP {status}); try again later"
    return f"{endpoint()} refuses the request (HTTP {status})"
