"""Law: what goes wrong with a store is one line that names the URL and says what to do; nothing is half made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import suture
from suture.errors import SutureError, UsageError

from ..support.stores import Trouble
from .conftest import Models, at_store, forget

HEADERS = 1


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries again soon."""
    from suture.store import objects

    monkeypatch.setattr(objects, "_PAUSE", 0.01)


def test_no_such_bucket_and_no_such_folder(models: Models) -> None:
    with pytest.raises(SutureError, match=r"s3://other/x: there is no such bucket .* AWS_REGION"):
        suture.inspect("s3://other/x")
    with pytest.raises(SutureError, match="s3://bucket/x: there is nothing under this name"):
        suture.inspect("s3://bucket/x")


def test_no_permission(models: Models) -> None:
    models.store.begin(Trouble(denied=True))
    with pytest.raises(SutureError, match=r"s3://bucket/models/a: no permission to read .*AWS_ACCESS_KEY_ID"):
        suture.inspect(models.s3("a"))
    with pytest.raises(SutureError, match="no permission to read"):
        suture.inspect(models.web("a"))


def test_nobody_s_requests(models: Models, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Without credentials a store is asked as nobody, which is told."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert suture.inspect(models.s3("a"))["tensors"]
    assert "asked as nobody" in caplog.text


def test_an_endpoint_without_encryption(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this machine's own, or by the user's word."""
    at_store(monkeypatch, "http://store.example")
    with pytest.raises(SutureError, match="AWS_ALLOW_HTTP=true"):
        suture.inspect(models.s3("a"))


def test_an_endpoint_that_is_no_url(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Obstore would panic."""
    at_store(monkeypatch, "127.0.0.1:9000")
    with pytest.raises(SutureError, match=r"AWS_ENDPOINT_URL: expected http://HOST .* found `127.0.0.1:9000`"):
        suture.inspect(models.s3("a"))
    forget(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    with pytest.raises(SutureError, match="AWS_ENDPOINT_URL: is set to nothing"):
        suture.inspect(models.s3("a"))


def test_a_panic_of_the_library(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no `Exception`, and is told in one line all the same."""
    from suture.store import listing

    class PanicException(BaseException):
        pass

    class Panics:
        def list(self, *args: object, **more: object) -> None:
            raise PanicException("called unwrap()")

    monkeypatch.setattr(listing, "library", Panics)
    with pytest.raises(SutureError, match=r"s3://bucket/models/a: .*its library failed: called unwrap"):
        suture.inspect(models.s3("a"))


def test_what_ends_the_command_unforeseen_has_failed() -> None:
    """A fault of ours, while another thread waits for the store: exit code 1 and the traceback, never 0 in silence."""
    code = (
        "import threading, time\n"
        "from suture.store import folders\n"
        "def fault(*a, **k):\n"
        "    threading.Thread(target=time.sleep, args=(30,), name='suture-store', daemon=True).start()\n"
        "    raise BaseException('unforeseen')\n"
        "import suture.cli as cli\n"
        "cli._main = fault\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=25)
    assert done.returncode == 1
    assert "unforeseen" in done.stderr


def test_a_role_that_cannot_be_had() -> None:
    """No keys are set and the machine's own address refuses: said so, and not of the bucket."""
    from suture.store.failures import words

    error = RuntimeError(
        "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 1ms - Server returned "
        "non-2xx status code: 403 Forbidden: no"
    )
    assert words(error, "s3").startswith("no credentials are set, and this machine has no role")


def test_a_profile(models: Models, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keys, region and endpoint of a profile; one that is not there is named."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = k\naws_secret_access_key = s\n")
    (tmp_path / "config").write_text(f"[profile lab]\nregion = eu-west-1\nendpoint_url = {models.store.url}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert suture.inspect(models.s3("a"))["tensors"]
    forget(monkeypatch)
    monkeypatch.setenv("AWS_PROFILE", "other")
    with pytest.raises(SutureError, match="AWS_PROFILE: no profile `other`"):
        suture.inspect(models.s3("a"))


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("s3://", "expected scheme"),
        ("https://user@host/x", "a query, a fragment or a password"),
        ("https://host/x?sig=1", "a query, a fragment or a password"),
        ("s3://bucket/a/../../b", "leads upwards"),
        ("hf://only", "expected hf://org/name"),
    ],
)
def test_what_is_no_url(url: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        suture.inspect(url)


def test_an_object_that_is_replaced(models: Models, tmp_path: Path) -> None:
    """Between header and data: an error that names it, and no output."""
    name = "bucket/models/b/model-00002-of-00002.safetensors"
    models.store.begin(Trouble(replaced={name: HEADERS}))
    with pytest.raises(SutureError, match=f"s3://{name}: was replaced while it was read"):
        suture.merge(models.config("s3", "ties"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ranges_that_are_not_honoured(models: Models) -> None:
    models.store.begin(Trouble(share={"whole": 1.0}, most=10**6))
    with pytest.raises(SutureError, match="does not send ranges"):
        suture.inspect(models.s3("a"))


def test_bodies_that_stay_short(models: Models) -> None:
    models.store.begin(Trouble(share={"short": 1.0}, most=10**6))
    with pytest.raises(SutureError, match="tried 6 times"):
        suture.inspect(models.s3("a"))


def test_a_shard_that_is_not_there(models: Models, tmp_path: Path) -> None:
    """By its index, before anything is read of the others."""
    folder = models.root / "bucket" / "models" / "torn"
    folder.mkdir()
    source = models.root / "bucket" / "models" / "a"
    for name in ("model.safetensors.index.json", "config.json", "model-00001-of-00002.safetensors"):
        (folder / name).write_bytes((source / name).read_bytes())
    try:
        with pytest.raises(SutureError, match=r"`model-00002-of-00002\.safetensors` should be there and is not"):
            suture.inspect(models.s3("torn"))
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def _command(models: Models, tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "suture", *words], env={**os.environ, "TMPDIR": str(tmp_path)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        # Shells have what they start behind them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def test_messages_and_the_end(models: Models, tmp_path: Path) -> None:
    """URLs are shown, never the stand-ins; of these nothing is left."""
    run = _command(models, tmp_path, "inspect", models.s3("a"))
    told = run.communicate()[0]
    assert run.returncode == 0
    assert told.startswith(f"{models.s3('a')}: ")
    run = _command(models, tmp_path, "inspect", models.s3("a"), "--json")
    told += run.communicate()[0]
    assert "suture-store" not in told
    assert not list(tmp_path.iterdir())


def test_interrupted(models: Models, tmp_path: Path) -> None:
    """Ctrl-C while answers stand still: at once, with 130, and nothing is left."""
    models.store.begin(Trouble(share={"stall": 1.0}, stall=20, most=10**6))
    run = _command(models, tmp_path, "convert", models.s3("a"), str(tmp_path / "out"))
    time.sleep(2)
    run.send_signal(signal.SIGINT)
    began = time.monotonic()
    told = run.communicate()[0]
    assert run.returncode == 130, told
    assert time.monotonic() - began < 5
    assert "interrupted" in told
    assert not list(tmp_path.glob("suture-store*"))


def test_what_was_killed_is_swept(models: Models, tmp_path: Path) -> None:
    """Stand-ins of a process that was killed go with the next one; others', and of one that lives, stay."""
    from suture.temporary import YOUNG

    models.store.begin(Trouble(share={"stall": 1.0}, stall=20, most=10**6))
    killed, lives = (_command(models, tmp_path, "convert", models.s3("a"), str(tmp_path / f"out{i}")) for i in (0, 1))
    mine = tmp_path / "suture-store-of-mine"
    mine.mkdir()
    until = time.monotonic() + 30
    while len(list(tmp_path.glob("suture-store-*"))) < 3 and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(0.5)
    killed.kill()
    killed.communicate()
    for folder in tmp_path.glob("suture-store-*"):
        os.utime(folder, (0, time.time() - 2 * YOUNG))
    models.store.begin()
    looks = _command(models, tmp_path, "inspect", models.s3("b"))
    assert (looks.communicate(), looks.returncode)[1] == 0
    assert len(list(tmp_path.glob("suture-store-*"))) == 2
    assert mine.exists()
    lives.send_signal(signal.SIGINT)
    lives.communicate()
    assert list(tmp_path.glob("suture-store-*")) == [mine]


@pytest.mark.parametrize("words", [["--help"], ["inspect", "LOCAL"], ["merge", "--help"]])
def test_what_is_local_pays_nothing(models: Models, words: list[str]) -> None:
    """Neither obstore nor boto3 nor the store's modules are imported for what lies in folders."""
    words = [models.local("a") if w == "LOCAL" else w for w in words]
    code = (
        "import sys; sys.argv[1:] = sys.argv[1:]\n"
        "from suture.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = [m for m in sys.modules if m.startswith(('obstore', 'boto3', 'suture.store'))]\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_kind_of_error(models: Models, tmp_path: Path) -> None:
    """A store that does not give a model has failed, whichever verb asks, and no config is wrong; its line is told."""
    config = tmp_path / "c.yaml"
    config.write_text("merge_method: linear\nmodels:\n- model: s3://other/x\n")
    for call in (lambda: suture.inspect("s3://other/x"), lambda: suture.merge(config, tmp_path / "out")):
        with pytest.raises(SutureError, match="s3://other/x: there is no such bucket") as caught:
            call()
        assert not isinstance(caught.value, UsageError)
    assert f"{config}:3: models[0].model: " in str(caught.value)
