"""Law: whatever goes wrong on the way to a model is one line, which says what to do."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from suture import hub as names
from suture.errors import SutureError

from ..support.hub_server import Failure, Hub

NAME = "org/name"
MODEL = {"config.json": b"{}", "model.safetensors": b"w"}
LOG_IN = r"\(`hf auth login`, or HF_TOKEN\)"
#: What fails, with which answer, and what is then said.
FAILURES = [
    ("GET /api", Failure(404, {"X-Error-Code": "RepoNotFound"}), rf"no such model .* or it is private; .* {LOG_IN}"),
    ("GET /api", Failure(401, {"X-Error-Code": "RepoNotFound"}), rf"no such model .* or it is private; .* {LOG_IN}"),
    ("GET /api", Failure(404, {"X-Error-Code": "RevisionNotFound"}), "has no revision `main`"),
    ("GET /api", Failure(404), r"does not have it \(HTTP 404\); check the name"),
    ("GET /api", Failure(403, {"X-Error-Code": "GatedRepo"}), "is gated: accept its terms at .*/org/name, and log in"),
    ("HEAD", Failure(401, {"X-Error-Code": "GatedRepo"}), f"is gated: accept its terms .* {LOG_IN}"),
    ("HEAD", Failure(403, {"X-Error-Code": "GatedRepo"}), f"is gated: accept its terms .* {LOG_IN}"),
    ("GET /api", Failure(401), rf"refuses access \(HTTP 401\); log in .* {LOG_IN}"),
    ("HEAD", Failure(403), rf"refuses access \(HTTP 403\); log in .* {LOG_IN}"),
    ("GET /api", Failure(429, {"Retry-After": "60"}), r"no more requests \(HTTP 429\); try again in 60 seconds"),
    ("HEAD", Failure(429), r"no more requests \(HTTP 429\); try again later"),
    ("GET /api", Failure(500), r"fails \(HTTP 500\); try again later"),
    ("HEAD", Failure(503), r"fails \(HTTP 503\); try again later"),
    ("GET /org", Failure(502), r"fails \(HTTP 502\); try again later"),
    ("GET /api", Failure(418), r"refuses the request \(HTTP 418\)"),
    ("HEAD", Failure(404, {"X-Error-Code": "EntryNotFound"}), r"does not have it \(HTTP 404\)"),
    ("GET /api", Failure(0), "cut off|cannot reach"),
    ("HEAD", Failure(0), "cut off|cannot reach"),
    ("GET /org", Failure(0), "cut off|cannot reach"),
    ("GET /org", Failure(after=0), r"was cut off \(\w+\); run the same command again"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "failure", "words"), FAILURES)
def test_what_the_hub_answers(hub: Hub, text: str, failure: Failure, words: str) -> None:
    hub.add(NAME, MODEL)
    hub.failures[text] = failure
    with pytest.raises(SutureError, match=words) as error:
        names.find(NAME)
    said = str(error.value)
    assert re.match(r"org/name: [^\n]+$", said)
    assert error.value.__suppress_context__
    # What failed leaves nothing that the next run would take for the model.
    hub.failures.clear()
    found = names.find(NAME)
    assert {p.name: p.read_bytes() for p in found.iterdir()} == MODEL


def test_no_such_name_and_no_such_revision(hub: Hub) -> None:
    hub.add(NAME, MODEL)
    with pytest.raises(SutureError, match="org/other: there is no such model"):
        names.find("org/other")
    with pytest.raises(SutureError, match="org/name: has no revision `v2`"):
        names.find(NAME, revision="v2")


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SutureError, match=r"org/name: cannot reach http://127.0.0.1:9 \(\w+\); is there a network\?"):
        names.find(NAME)


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_nobody_is_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    hub.add(NAME, MODEL)
    monkeypatch.setenv(variable, "1")
    with pytest.raises(SutureError, match=r"not in the hub's cache .* forbids the network; .*: hf download org/name$"):
        names.find(NAME)
    with pytest.raises(SutureError, match=r"hf download org/name --revision v1$"):
        names.find(NAME, revision="v1")
    assert not hub.asked


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no room left on the disk of the hub's cache"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no room left"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "no room left"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), r"cannot be written \(Permission denied: /x\)"),
        (OSError("Consistency check failed: file should be of size 2\nmore"), "was cut off"),
        (KeyError("etag"), r"cannot be downloaded from http://\S+ \(KeyError: 'etag'\)"),
        (ValueError("first\nsecond"), r"\(ValueError: first\)$"),
    ],
)
def test_what_fails_on_this_machine(hub: Hub, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    def fail(*arguments: object, **options: object) -> str:
        raise error

    hub.add(NAME, MODEL)
    monkeypatch.setattr("huggingface_hub.HfApi.hf_hub_download", fail)
    with pytest.raises(SutureError, match=words) as found:
        names.find(NAME)
    assert "\n" not in str(found.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write anywhere")
def test_a_cache_that_cannot_be_written(hub: Hub, cache: Path) -> None:
    hub.add(NAME, MODEL)
    cache.mkdir()
    cache.chmod(0o500)
    with pytest.raises(SutureError, match="cannot be written"):
        names.find(NAME)


def test_a_disk_that_fills_up(hub: Hub, tmp_path: Path) -> None:
    """Stood in for by a limit on what a file may hold: one line is said, and the next run finds nothing half."""
    hub.add(NAME, {**MODEL, "model.safetensors": b"w" * 300_000})
    code = (
        "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from suture import hub\nfrom suture.errors import SutureError\n"
        "import huggingface_hub.file_download, huggingface_hub.hf_api\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n    hub.find('org/name')\nexcept SutureError as e:\n    print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert re.fullmatch(r"org/name: [^\n]*File too large[^\n]*\n", done.stdout), done
    assert done.stderr == ""
    assert (names.find(NAME) / "model.safetensors").stat().st_size == 300_000


def test_a_missing_extra_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    words = r"needs the extra `hub` \(no module huggingface_hub\): pip install huggingface_hub$"
    with pytest.raises(SutureError, match=rf"org/name: its revision `main` is not in the hub's cache .*{words}"):
        names.find(NAME)
    # By name, as pyproject.toml has it: it works wherever suture itself came from.
    extras = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    listed = next(line for line in extras.splitlines() if line.startswith("hub = "))
    assert re.findall(r'"([\w-]+)>=', listed) == ["huggingface_hub"]
