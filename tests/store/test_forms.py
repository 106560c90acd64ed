"""Law: whatever is read from a folder is read alike from a store: adapters, twins, GGUF, quantised, vocabularies."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture.settings import Settings
from suture.surgery.vocab_add import add
from suture.surgery.vocab_trim import trim

from ..quantised.worlds import FORMS
from ..quantised.worlds import model as quantised
from ..support.adapters import write_adapter
from ..support.checkpoints import read_checkpoint
from ..support.gguf import llama as gguf
from ..support.vocab_models import model as vocab_model
from ..support.vocab_models import words_tokenizer
from .conftest import Models, forget
from .test_outputs import files_of, without_report

F32 = Settings(to="f32")


def linear(root: str, out: Path, *names: str, **more: Any) -> Any:
    models = [{"model": f"{root}/{name}", "parameters": {"weight": 0.5}} for name in names]
    return suture.merge({"merge_method": "linear", "models": models, **more}, out)


#: What is done with the models in a folder, or at a URL.
VERBS: dict[str, Callable[[str, Path, Path], Any]] = {
    "adapter": lambda r, out, _: suture.convert(f"{r}/base+{r}/lora", out),
    "delta": lambda r, out, _: suture.convert(f"{r}/base+{r}/delta", out),
    "twin": lambda r, out, _: suture.twin.materialise(f"{r}/twin", out, only="a"),
    "fp8": lambda r, out, _: linear(r, out, "fp8-0", "fp8-1", to="f32"),
    "nf4": lambda r, out, _: linear(r, out, "nf4-0", "nf4-1", to="f32"),
    "swap of fp8": lambda r, out, _: suture.swap(f"{r}/fp8-0", f"{r}/fp8-1", out, layers="0"),
    "gguf": lambda r, out, _: suture.convert(f"{r}/gguf", out, settings=F32),
    "gguf file": lambda r, out, _: suture.convert(f"{r}/gguf/model.gguf", out, settings=F32),
    "vocab add": lambda r, out, _: add(f"{r}/vocab", out, tokens=["moon"]),
    "vocab trim": lambda r, out, text: trim(f"{r}/vocab", out, text=[text]),
}


@pytest.fixture(scope="module")
def forms(_served: Models, tmp_path_factory: pytest.TempPathFactory) -> str:
    root = _served.root / "bucket" / "forms"
    at = _served.root / "bucket" / "models"
    for name in ("base", "a"):
        shutil.copytree(at / name, root / name)
    for i in (0, 1):
        quantised(root / f"fp8-{i}", FORMS["fp8 ragged blocks"], seed=i)
        quantised(root / f"nf4-{i}", FORMS["nf4 nested"], seed=i)
        write_adapter(root / ("lora", "lora2")[i], read_checkpoint(at / "base"), ["mlp.up_proj"], [0, 3], seed=i)
    gguf(root / "gguf" / "model.gguf")
    suture.delta.extract(at / "base", at / "a", root / "delta", form="sparse", density=0.2)
    suture.twin.make(at / "base", [at / "a", at / "b"], root / "twin", shared="task_arithmetic")
    words = words_tokenizer(["cat", "dog", "sun"])
    rows = np.random.default_rng(1).normal(size=(len(words["model"]["vocab"]), 16))
    vocab_model(root / "vocab", words, rows, head=rows + 1, layers=3)
    return str(root)


@pytest.mark.parametrize("verb", VERBS)
def test_a_store_is_a_folder(verb: str, forms: str, models: Models, tmp_path: Path) -> None:
    """The bytes are those of the same models in folders; no file of the output names a stand-in."""
    text = tmp_path / "text"
    text.write_text("cat dog cat")
    VERBS[verb](forms, tmp_path / "local", text)
    VERBS[verb]("s3://bucket/forms", tmp_path / "s3", text)
    found, wanted = (without_report(files_of(tmp_path / n)) for n in ("s3", "local"))
    if plan := found.pop("suture-vocabulary.json", b""):
        assert json.loads(plan)["models"] == ["s3://bucket/forms/vocab"]
        wanted.pop("suture-vocabulary.json")
    assert found == wanted
    assert "suture-store-" not in (tmp_path / "s3" / "suture.json").read_text()


def test_what_python_reads_does_not_wait_for_itself(forms: str, models: Models, tmp_path: Path) -> None:
    """Tensors that are read into NumPy (adapters merged, tables of tokens) are fetched by threads that need the GIL."""
    code = (
        "import sys; from suture.surgery.lora import merge_adapters\n"
        "root, out = sys.argv[1:]\n"
        "merge_adapters([f'{root}/lora', f'{root}/lora2'], out)"
    )
    for root, out in ((forms, "local"), ("s3://bucket/forms", "s3")):
        subprocess.run([sys.executable, "-c", code, root, str(tmp_path / out)], check=True, timeout=60)
    assert without_report(files_of(tmp_path / "s3")) == without_report(files_of(tmp_path / "local"))


def test_a_gguf_fetches_its_head_and_what_it_reads(forms: str, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head longer than the first range is fetched as far as it goes; of the tensors nothing, to look at them."""
    from suture.store import folders

    monkeypatch.setattr(folders, "_FIRST", 64)
    forget(monkeypatch)
    models.store.begin()
    found = suture.inspect("s3://bucket/forms/gguf")
    assert [t["name"] for t in found["tensors"]] == [t["name"] for t in suture.inspect(f"{forms}/gguf")["tensors"]]
    assert models.store.sent("model.gguf") <= Path(forms, "gguf", "model.gguf").stat().st_size
