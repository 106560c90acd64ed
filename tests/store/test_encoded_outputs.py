"""Law: what is written quantised into a store is what is written into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import suture
from suture.settings import Settings

from ..quantised.encoded import model, weights
from ..quantised.test_encode_gguf import model as llama
from ..quantised.test_encode_gguf import weights as values
from .conftest import Bucket
from .test_outputs import files_of, without_report


@pytest.mark.parametrize("form", ["fp8", "mxfp4", "gguf:q8_0"])
@pytest.mark.parametrize("method", ["linear", "ties"])
def test_encoded_outputs_go_to_stores(form: str, method: str, bucket: Bucket, tmp_path: Path) -> None:
    """Codes and scales that lie in different shards, and the one file of GGUF, which `verify` reads too; the config
    and the report say the same."""
    for i in range(3):
        if form.startswith("gguf"):
            llama(tmp_path / f"m{i}", values(i))
        else:
            model(tmp_path / f"m{i}", weights(i, plain=True))
    models = [{"model": str(tmp_path / f"m{i}"), "parameters": {"weight": 0.5}} for i in (1, 2)]
    config: dict[str, Any] = {"merge_method": method, "models": models}
    config |= {"base_model": str(tmp_path / "m0")} if method == "ties" else {}
    how = Settings(to=form) if form.startswith("gguf") else Settings(to=form, shard_size="100kB")
    local = suture.merge(config, tmp_path / "out", settings=how)
    url = f"s3://bucket/out/{method}-{form.replace(':', '-')}"
    report = suture.merge(config, url, settings=how)
    made = bucket.objects(url.removeprefix("s3://bucket/"))
    assert without_report(made) == without_report(files_of(tmp_path / "out"))
    assert report.data["tensors"] == local.data["tensors"]
    found = suture.verify(url)
    assert not found["differing"]
    assert not found["files"]
