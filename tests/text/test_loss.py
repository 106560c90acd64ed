"""Law: bits per byte are transformers' loss, whatever the batch, the window, the form of the weights or the memory."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture.text.model import Running

from ..support.texts import SENTENCES, laid, tiny
from ..support.vocab_models import problems

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def oracle(folder: Path, line: str) -> float:
    """The bits of a line by transformers alone, one line at a time, with the token that begins texts in front."""
    model = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    ids = torch.tensor([[256, *tokenizer(line, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        nats: float = float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
    return nats / math.log(2)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3", "mixtral"])
def test_bits_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    """To 1e-4, for every line padded in a batch; and the schema holds."""
    model = tiny(tmp_path / "m", kind=kind)
    found = suture.text.loss(model, text=laid(tmp_path / "texts"))
    assert not problems("text_loss", found)
    for row in found["losses"]:
        lines = SENTENCES[row["language"]]
        wanted = sum(oracle(model, line) for line in lines)
        size = sum(len(line.encode()) for line in lines)
        assert row["bits"] == pytest.approx(wanted, rel=1e-4)
        assert row["bits_per_byte"] == pytest.approx(wanted / size, rel=1e-4)
        assert (row["tokens"], row["unknown"], row["uncovered"]) == (size, 0, 0)
    assert found["child"] == []
    assert found["mean"] == pytest.approx(np.mean([row["bits_per_byte"] for row in found["losses"]]))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_a_streamed_model_gives_the_same_figures(tmp_path: Path, kind: str) -> None:
    """To the bit: layers of several kinds too, with less memory than a layer has."""
    model, text = tiny(tmp_path / "m", kind=kind, layers=6), laid(tmp_path / "texts")
    whole = suture.text.loss(model, text=text)
    parts = suture.text.loss(model, text=text, running=Running(memory=1000))
    assert (whole["models"][0]["streamed"], parts["models"][0]["streamed"]) == (False, True)
    assert whole["losses"] == parts["losses"]


def test_only_a_layer_is_in_memory(tmp_path: Path) -> None:
    """While a layer of a streamed model runs, no other has weights; and when all is done none has."""
    from suture.text import forward
    from suture.text.model import open_model

    model = open_model(tiny(tmp_path / "m", layers=5), Running(memory=1, tokens=40), head=True)
    held: list[int] = []

    def seen(_: int, __: Any, ___: Any, ____: forward.Batch) -> None:
        held.append(sum(next(layer.parameters()).device.type != "meta" for layer in model.layers))

    forward.run(model, model.ids(SENTENCES["en"]), seen=seen)
    assert set(held) == {1}
    assert all(p.device.type == "meta" for layer in model.layers for p in layer.parameters())


def test_windows_predict_every_token_once(tmp_path: Path) -> None:
    """A line longer than the context: each token from a window that has half a context before it."""
    folder = tiny(tmp_path / "m")
    line = " ".join(SENTENCES["en"])[:150]
    (tmp_path / "t.txt").write_text(line)
    found = suture.text.loss(folder, text=tmp_path / "t.txt", running=Running(context=32))["losses"][0]
    model = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    ids, wanted, at = [256, *line.encode()], 0.0, 1
    ids = [256, *transformers.AutoTokenizer.from_pretrained(str(folder))(line, add_special_tokens=False)["input_ids"]]
    begin = 0
    while at < len(ids):
        window = torch.tensor([ids[begin : begin + 32]])
        with torch.no_grad():
            share = torch.log_softmax(model(input_ids=window).logits[0].double(), -1)
        for i in range(at - begin, window.shape[1]):
            wanted -= float(share[i - 1, window[0, i]]) / math.log(2)
        at = begin + window.shape[1]
        begin = at - 16
    assert found["windows"] > 1
    assert found["bits"] == pytest.approx(wanted, rel=1e-5)


def test_without_a_first_token_the_second_is_the_first_predicted(tmp_path: Path) -> None:
    """A vocabulary with no token that begins or ends texts: its first token's bytes do not count, and are told."""
    model = tiny(tmp_path / "m", bos=False)
    row = suture.text.loss(model, text=laid(tmp_path / "t", {"en": SENTENCES["en"]}))["losses"][0]
    size = sum(len(line) for line in SENTENCES["en"])
    assert (row["uncovered"], row["tokens"]) == (8, size - 8)
    assert row["bits_per_byte"] == pytest.approx(row["bits"] / (size - 8))


def test_a_child_is_compared_with_the_best(tmp_path: Path) -> None:
    """A model beside itself differs by nothing; the difference is that of the figures, inside its interval."""
    one, two = tiny(tmp_path / "one"), tiny(tmp_path / "two", seed=1)
    text = laid(tmp_path / "texts")
    same = suture.text.loss(one, one, text=text)
    assert all((c["difference"], c["low"], c["high"]) == (0, 0, 0) for c in same["child"])
    found = suture.text.loss(one, two, one, text=text)
    by = {(r["model"], r["language"]): r["bits_per_byte"] for r in found["losses"]}
    for c in found["child"]:
        best = min(by[str(one), c["language"]], by[str(two), c["language"]])
        assert c["difference"] == pytest.approx(by[str(one), c["language"]] - best, abs=1e-9)
        assert c["low"] <= c["difference"] <= c["high"]


def test_the_baseline_is_the_entropy_of_the_bytes(tmp_path: Path) -> None:
    """Of four bytes equally often 2 bits; empty lines are left out and told."""
    (tmp_path / "t.txt").write_text("abcd\n\n  \ndcba\n")
    told = suture.text.loss(tiny(tmp_path / "m"), text={"x": tmp_path / "t.txt"})["texts"][0]
    assert (told["language"], told["lines"], told["empty"], told["bytes"]) == ("x", 2, 2, 8)
    assert told["byte_entropy"] == pytest.approx(2)


def test_models_are_read_as_anywhere(tmp_path: Path) -> None:
    """Pickled weights and weights in 16 bits are those that the core reads."""
    model = tiny(tmp_path / "m", dtype="bfloat16")
    text = laid(tmp_path / "texts")
    wanted = suture.text.loss(model, text=text)["losses"]
    old = shutil.copytree(model, tmp_path / "old")
    (old / "model.safetensors").unlink()
    plain = transformers.AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.bfloat16)
    torch.save(plain.state_dict(), old / "pytorch_model.bin")
    found = suture.text.loss(old, text=text)["losses"]
    assert [r["bits"] for r in found] == [r["bits"] for r in wanted]


def test_bad_input_is_told(tmp_path: Path) -> None:
    """What is wrong is one line that names the file: nothing to run, no tokenizer, an encoder, NaN."""
    model, text = tiny(tmp_path / "m"), laid(tmp_path / "texts")

    def refused(words: str, *models: Path, **more: Any) -> None:
        with pytest.raises(suture.SutureError, match=words):
            suture.text.loss(*models, **{"text": text, **more})

    refused("expected a model")
    refused("no such file", model, text=tmp_path / "no.txt")
    (tmp_path / "empty.txt").write_text("\n \n")
    refused("has no text", model, text=tmp_path / "empty.txt")
    refused("called `en` too", model, text=[text / "en.txt", text])
    refused("is an encoder", tiny(tmp_path / "bert", kind="bert"))
    refused("is an encoder-decoder", tiny(tmp_path / "t5", kind="t5"))
    refused("dtype: expected one of", model, running=Running(dtype="int3"))
    for device in ("nonsense", "meta"):
        refused("device: torch has no", model, running=Running(device=device))
    bare = shutil.copytree(model, tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    refused("has no tokenizer", bare)
    (bare / "config.json").unlink()
    refused("has no config.json", bare)
    broken = shutil.copytree(model, tmp_path / "nan")
    from safetensors.numpy import load_file, save_file

    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"] = np.full_like(tensors["model.norm.weight"], np.nan)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    refused("no number", broken)
    lacking = shutil.copytree(model, tmp_path / "lacking")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, lacking / "model.safetensors", metadata={"format": "pt"})
    refused("up_proj.weight` is missing", lacking)
