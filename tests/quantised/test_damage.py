"""Law 7: damage to the header of a quantised checkpoint, or to what config.json says of it, is an error or a correct
read, never a panic."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import suture

from ..property.test_mutations import damaged
from ..support.checkpoints import file_bytes, llama_config
from .worlds import FORMS, tensors_of

#: One form of each way to recognise and to decode.
SOME = ("fp8 ragged blocks", "fp8 channel", "mxfp8", "int8 zeros", "llm.int8", "mxfp4", "nvfp4", "gpt-oss", "gptq 3",
        "gptq act-order", "awq", "awq gemv", "int4 zeros", "int4 ordered", "nf4 nested")  # fmt: skip


@cache
def whole(name: str) -> tuple[bytes, dict[str, Any]]:
    """The one file of a model, and its config."""
    stored, _ = tensors_of(FORMS[name], 0)
    said = {"quantization_config": dict(FORMS[name].said)}
    return file_bytes(stored, {"format": "pt"}), llama_config(2, 16, 2, 2, 32, 8, False, "F32") | said


def read_all(content: bytes, config: bytes) -> bool:
    """Whether a model is read as the plain one, element by element; any exception but suture's own is a failure."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.safetensors").write_bytes(content)
        (Path(folder) / "config.json").write_bytes(config)
        try:
            opened = suture.Checkpoint.plain(folder)
            for name in opened.names:
                opened._core.read(name)
            suture.convert(folder, Path(folder) / "out", dry_run=True)
        except suture.SutureError:
            return False
        except BaseException as error:
            raise AssertionError(f"{type(error).__name__}: {error}") from error
        return True


@pytest.mark.parametrize("name", SOME)
def test_the_undamaged_model_is_read(name: str) -> None:
    """The properties below are not empty."""
    content, config = whole(name)
    assert read_all(content, json.dumps(config).encode())


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damaged_headers(data: st.DataObject) -> None:
    """Shapes, dtypes, names and places of codes, scales, zero points and orders that are anything."""
    content, config = whole(data.draw(st.sampled_from(SOME)))
    start, end = 8, 8 + int.from_bytes(content[:8], "little")
    head = data.draw(damaged(content[start:end], end - start))
    read_all(len(head).to_bytes(8, "little") + head + content[end:], json.dumps(config).encode())


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damaged_configs_and_contents(data: st.DataObject) -> None:
    """What config.json says of bits, groups, tiles and forms, and what small tensors say of others."""
    content, config = whole(data.draw(st.sampled_from(SOME)))
    config = dict(config)
    said = json.dumps(config.pop("quantization_config")).encode()
    said = data.draw(damaged(said, len(said))) if data.draw(st.booleans()) else said
    text = json.dumps(config).encode()[:-1] + b', "quantization_config": ' + said + b"}"
    end = 8 + int.from_bytes(content[:8], "little")
    body = bytearray(content[end:])
    for _ in range(data.draw(st.integers(0, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    read_all(content[:end] + bytes(body), text)
