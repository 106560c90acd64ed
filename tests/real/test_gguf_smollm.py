"""SmolLM2-135M-Instruct, published in GGUF (Q4_1, Apache-2.0), through the whole street."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..reference.quantised import ggml
from ..support.checkpoints import read_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")

#: Seconds of a processor that a conversion takes at most, start of Python included; 0.6 were measured.
SECONDS = 2.0


@pytest.fixture(scope="module")
def plain(smollm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in f32."""
    out = tmp_path_factory.mktemp("smollm") / "f32"
    suture.convert(smollm, out, settings=suture.Settings(to="f32"))
    return out


def _processor() -> float:
    """Seconds of a processor that processes started here have taken: other work on the machine is not counted."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_it_is_converted_without_torch_in_two_seconds(smollm: Path, tmp_path: Path) -> None:
    """The command line writes all of it, imports no torch, and takes less than two seconds of a processor."""
    code = (
        "import sys; from suture.start import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'transformers', 'numpy'} & sys.modules.keys(), 'imported'\n"
    )
    took = []
    for i in range(2):
        began = _processor()
        command = [sys.executable, "-c", code, "convert", str(smollm), str(tmp_path / str(i)), "--quiet"]
        subprocess.run(command, check=True)
        took.append(_processor() - began)
    assert min(took) < SECONDS
    found = read_checkpoint(tmp_path / "0")
    assert len(found) == 272
    assert {raw.dtype for raw in found.values()} == {"BF16", "F32"}


def test_its_tensors_are_those_that_transformers_makes(
    smollm: Path, plain: Path, transformers: Any, torch: Any
) -> None:
    """Every tensor equals that of transformers' GGUF loading, in f32, to the bit."""
    pytest.importorskip("gguf")
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm.parent, gguf_file=smollm.name, dtype=torch.float32)
    want = {name: tensor.numpy() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    found = read_checkpoint(plain)
    assert found.keys() == want.keys()
    for name, raw in found.items():
        np.testing.assert_array_equal(raw.values(), want[name], err_msg=name)


def test_it_tells_the_capital_of_france(plain: Path, transformers: Any, torch: Any) -> None:
    """What was rebuilt of config, tokenizer and template loads and answers in its own template."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(plain)
    model = transformers.AutoModelForCausalLM.from_pretrained(plain)
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    given = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        out = model.generate(**given, max_new_tokens=16, do_sample=False)
    answer = tokenizer.decode(out[0][given["input_ids"].shape[1] :])
    assert "Paris" in answer
    assert answer.endswith("<|im_end|>")


def test_its_tokenizer_segments_as_transformers_does(smollm: Path, plain: Path, transformers: Any) -> None:
    """Text, digits, spaces, scripts and special tokens become the tokens that transformers' own conversion gives."""
    pytest.importorskip("gguf")
    theirs = transformers.AutoTokenizer.from_pretrained(smollm.parent, gguf_file=smollm.name)
    ours = transformers.AutoTokenizer.from_pretrained(plain)
    for text in (
        "Hello world, it's  two  spaces\n\n\ttab", "12345 and 3.14",
        "\u00fcn\u00efc\u00f6d\u00e9 \u6f22\u5b57 \U0001f642",
        "<|im_start|>user\nhi<|im_end|>", " the the", "",
    ):  # fmt: skip
        assert ours(text)["input_ids"] == theirs(text)["input_ids"], text
        assert ours.decode(ours(text)["input_ids"]) == text
    assert ours.eos_token == "<|im_end|>"


@pytest.fixture(scope="module")
def tuned(plain: Path, transformers: Any, torch: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter (LoRA) of the model's attention, tuned a few steps."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(plain)
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    steps = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.arange(100, 132)[None]
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        steps.step()
        steps.zero_grad()
    out = tmp_path_factory.mktemp("lora") / "adapter"
    model.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def folded(plain: Path, tuned: Path) -> dict[str, Any]:
    """What the model with the adapter in it is: f32, of products in f64."""
    model = {name: raw.values() for name, raw in read_checkpoint(plain).items()}
    adapter = {name: raw.values() for name, raw in read_checkpoint(tuned / "adapter_model.safetensors").items()}
    scale = json.loads((tuned / "adapter_config.json").read_text())["lora_alpha"] / 4
    out = dict(model)
    for name, a in adapter.items():
        if name.endswith("lora_A.weight"):
            own = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight") + ".weight"
            b = adapter[name.replace("lora_A", "lora_B")]
            out[own] = (model[own].astype(np.float64) + scale * (b.astype(np.float64) @ a)).astype(np.float32)
    return out


def agree(folder: Path, want: dict[str, Any]) -> None:
    """Equal but for the last bit of sums that are formed in another order."""
    found = read_checkpoint(folder)
    assert found.keys() == want.keys()
    for name, raw in found.items():
        np.testing.assert_allclose(raw.values(), want[name], rtol=3e-7, atol=1e-9, err_msg=name)


@pytest.mark.heavy
def test_an_adapter_on_it_is_folded_swapped_and_merged(
    smollm: Path, plain: Path, tuned: Path, folded: dict[str, Any], tmp_path: Path
) -> None:
    """`gguf+adapter` is the folded model: written, its layers in the model it was tuned from, and merged with it."""
    whole, how = f"{smollm}+{tuned}", suture.Settings(to="f32")
    base = {name: raw.values() for name, raw in read_checkpoint(plain).items()}
    suture.convert(whole, tmp_path / "folded", settings=how)
    agree(tmp_path / "folded", folded)
    suture.swap(smollm, whole, tmp_path / "swapped", layers="0-9", settings=how)
    lower = {f"model.layers.{i}." for i in range(10)}
    mixed = {n: folded[n] if any(n.startswith(p) for p in lower) else v for n, v in base.items()}
    agree(tmp_path / "swapped", mixed)
    models = [{"model": str(m), "parameters": {"weight": 0.5}} for m in (smollm, whole)]
    (tmp_path / "merge.yml").write_text(json.dumps({"merge_method": "linear", "models": models}))
    suture.merge(tmp_path / "merge.yml", tmp_path / "merged", settings=how)
    agree(
        tmp_path / "merged", {n: ((v.astype(np.float64) + folded[n]) / 2).astype(np.float32) for n, v in base.items()}
    )
    names = {p.name for p in (tmp_path / "merged").iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= names


@pytest.mark.parametrize("kind", [k for k in ggml.TYPES if k != "Q1_0"])
def test_the_oracle_is_gguf_py(kind: str) -> None:
    """The NumPy oracle of every type equals gguf's own decoder on random and extreme bytes; Q1_0 it does not decode."""
    gguf = pytest.importorskip("gguf")
    size = ggml.TYPES[kind].bytes
    for raw in (ggml.blocks(kind, 60, 5), np.random.default_rng(2).integers(0, 256, 60 * size, np.uint8).tobytes()):
        of = gguf.GGMLQuantizationType(ggml.TYPES[kind].number)
        with np.errstate(all="ignore"):
            want = gguf.quants.dequantize(np.frombuffer(raw, np.uint8).reshape(-1, size), of).reshape(-1)
        np.testing.assert_array_equal(ggml.decode(kind, raw), want)
