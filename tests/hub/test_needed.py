"""Law: of a repository's files just those are needed that the core then reads, and what goes beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import suture
from suture.errors import SutureError
from suture.hub.needed import TOKENIZER, Kind, needed
from suture.hub.weights import UnfitError, weights
from suture.sidecars.tokenizer import TOKENIZER_FILES

from ..support.checkpoints import write_file

#: Names that make sets, single files, strays and variants of each other.
STEMS = ["model", "model.fp16", "w", "w.ema", "adapter_model", "consolidated", "optimizer", "training_x", ".hidden"]
PARTS = ["", "-1-of-2", "-2-of-2", "-00001-of-00001", "-0-of-2", "-of-2", "-1-of-x"]
FILES = st.sets(st.sampled_from([f"{s}{p}.safetensors" for s in STEMS for p in PARTS]), min_size=1, max_size=5)
CONFIGS = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
BESIDE = [
    "README.md", ".gitattributes", "modeling_x.py", "onnx/model.onnx", "original/consolidated.00.pth", "model.gguf",
    "tf_model.h5", "flax_model.msgpack", "optimizer.pt", "training_args.bin", "unet/model.safetensors", "rng_state.pth",
]  # fmt: skip


def index(*files: str) -> bytes:
    return json.dumps({"weight_map": {f"t{i}": file for i, file in enumerate(files)}}).encode()


def chosen(names: list[str], kind: Kind = "model", **indexes: bytes) -> list[str]:
    found = needed(names, kind, lambda name: indexes[name.partition(".")[0]])
    assert not found.missing
    return found.files


@settings(max_examples=200, deadline=None)
@given(files=FILES)
def test_what_is_chosen_is_what_the_core_reads(tmp_path_factory: pytest.TempPathFactory, files: set[str]) -> None:
    """The oracle is the core, given all of the files."""
    folder = tmp_path_factory.mktemp("all")
    for i, name in enumerate(sorted(files)):
        write_file(folder / name, {f"t{i}": np.ones(1, np.float32)})
    try:
        read = {Path(str(f["path"])).name for f in suture.open(folder).describe()["files"]}
    except SutureError:
        read = None
    try:
        found, missing = weights(files, lambda name: None)
    except UnfitError:
        found, missing = [], ["?"]
    assert (None if missing else set(found)) == read


@pytest.mark.parametrize(
    "files",
    [
        ["model.safetensors"],
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ["pytorch_model.bin"],
        ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
        ["diffusion.safetensors"],
    ],
)
def test_just_the_weights_and_what_goes_beside_them(files: list[str]) -> None:
    assert chosen([*BESIDE, *files, *CONFIGS]) == [*CONFIGS[:2], *sorted(CONFIGS[2:], key=TOKENIZER.index), *files]


def test_safetensors_and_pickles_are_never_both_taken() -> None:
    pickles = ["pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin", "pytorch_model.bin.index.json"]
    assert chosen(["model.safetensors", "pytorch_model.bin"]) == ["model.safetensors"]
    assert chosen(["a.safetensors", *pickles]) == ["a.safetensors"]
    assert chosen(pickles, pytorch_model=index(*pickles[:2])) == [pickles[2], *pickles[:2]]


def test_an_index_decides() -> None:
    names = ["model.safetensors.index.json", "a.safetensors", "b.safetensors", "model-1-of-1.safetensors"]
    assert chosen(names, model=index("b.safetensors", "a.safetensors", "b.safetensors")) == names[:3]
    # As loaders and the core do: the single file, unless the index lists it.
    with_single = [*names, "model.safetensors"]
    assert chosen(with_single, model=index("a.safetensors")) == ["model.safetensors"]
    files = ["a.safetensors", "model.safetensors"]
    assert chosen(with_single, model=index(*files)) == [names[0], *files]
    variant = ["model.fp16.safetensors.index.json", "model.fp16-1-of-1.safetensors", "model-1-of-1.safetensors"]
    assert chosen(variant) == ["model-1-of-1.safetensors"]


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"{}", b'{"weight_map": 1}', b'{"weight_map": {}}', b'{"weight_map": {"a": 1}}', b"\xff",
        b"[" * 10**6, b'{"weight_map": {"a": {}}}',
        index("../a"), index("/etc/passwd"), index(".."), index("a/b.safetensors"),
        index("a\0"), index(""),
    ],
)  # fmt: skip
def test_an_index_that_lies_is_refused(text: bytes) -> None:
    with pytest.raises(UnfitError, match=r"model.safetensors.index.json"):
        chosen(["model.safetensors.index.json", "a.safetensors"], model=text)


def test_what_is_missing_is_named() -> None:
    names = ["model.safetensors.index.json", "a.safetensors"]
    assert needed(names, "model", lambda _: index("a.safetensors", "b.safetensors")).missing == ["b.safetensors"]
    assert needed(["w-002-of-003.safetensors"], "model", lambda _: None).missing == [
        "w-001-of-003.safetensors",
        "w-003-of-003.safetensors",
    ]
    with pytest.raises(UnfitError, match="set of 999999999"):
        chosen(["w-1-of-999999999.safetensors"])


def test_adapters_and_tokenizers_alone() -> None:
    adapter = ["adapter_config.json", "adapter_model.safetensors"]
    everything = [*BESIDE, *CONFIGS, *adapter, "adapter_model.bin", "model.safetensors"]
    assert chosen(everything, "adapter") == adapter
    assert chosen([adapter[0], "adapter_model.bin"], "adapter") == [adapter[0], "adapter_model.bin"]
    templates = ["additional_chat_templates/tool.jinja"]
    assert set(chosen([*everything, *templates], "tokenizer")) == {*CONFIGS[2:], *templates}
    # A repository that holds an adapter and nothing else is a checkpoint, as a folder is.
    assert set(chosen(adapter)) == set(adapter)
    assert set(chosen([adapter[0], "adapter_model.bin"])) == {adapter[0], "adapter_model.bin"}
    for names, kind, words in (
        (adapter[1:], "adapter", "no adapter_config.json"),
        (adapter[:1], "adapter", "no adapter_model"),
        (["tokenizer_config.json"], "tokenizer", "holds no tokenizer"),
    ):
        with pytest.raises(UnfitError, match=words):
            chosen(names, kind)  # type: ignore[arg-type]


def test_what_is_there_instead_of_weights_is_said() -> None:
    for names, words in (
        (["a.gguf", "b.gguf", "onnx/c.onnx"], r"but GGUF \(2 files\), ONNX \(1 file\)"),
        (["unet/a.safetensors"], r"safetensors in folders of their own \(1 file\)"),
        (["model.bin"], "`.bin` of another kind"),
        (["README.md"], "only `README.md`"),
        ([], "nor anything else"),
    ):
        with pytest.raises(UnfitError, match=words):
            chosen(names)


def test_the_files_of_a_tokenizer_are_those_that_outputs_get() -> None:
    """Two lists, since names of models are found before anything is known of side files."""
    assert sorted(TOKENIZER) == sorted(TOKENIZER_FILES)
