"""Law: influence is the formula on transformers' states, and an identity layer has none; merges take statistics."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture.text.model import Running

from ..support.checkpoints import read_checkpoint
from ..support.texts import SENTENCES, laid, tiny
from ..support.vocab_models import problems

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def without(folder: Path, layer: int) -> Path:
    """The same model, of which a layer adds nothing to the states."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    for name in (f"model.layers.{layer}.self_attn.o_proj.weight", f"model.layers.{layer}.mlp.down_proj.weight"):
        tensors[name] = np.zeros_like(tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_an_identity_layer_has_no_influence(tmp_path: Path) -> None:
    """And is the first to drop; the others have 1 less the mean cosine, by transformers' states of each line alone."""
    model = without(tiny(tmp_path / "m", layers=4), 2)
    found = suture.text.influence(model, text=laid(tmp_path / "t"))
    assert not problems("text_influence", found)
    assert found["order"][0] == 2
    by = {(r["language"], r["layer"]): r for r in found["layers"]}
    assert all(by[language, 2]["influence"] == pytest.approx(0, abs=1e-12) for language in SENTENCES)
    assert all((by[language, 2]["baseline"] or 0) > 0.01 for language in SENTENCES)
    plain = transformers.AutoModel.from_pretrained(str(model), dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(model))
    turned: dict[int, list[float]] = {0: [], 1: []}
    for line in SENTENCES["sw"]:
        with torch.no_grad():
            states = plain(torch.tensor([tokenizer(line)["input_ids"]]), output_hidden_states=True).hidden_states
        for layer, own in turned.items():
            own += torch.cosine_similarity(states[layer][0].double(), states[layer + 1][0].double(), dim=-1).tolist()
    for layer, own in turned.items():
        assert by["sw", layer]["influence"] == pytest.approx(1 - np.mean(own), abs=1e-5)
        assert by["sw", layer]["tokens"] == len(own)
    streamed = suture.text.influence(model, text=tmp_path / "t", running=Running(memory=1))
    assert streamed["layers"] == found["layers"]


def test_routing_counts_the_experts_of_real_tokens(tmp_path: Path) -> None:
    """The two largest logits of each token of each line, padding left out, by transformers' own router logits."""
    model = tiny(tmp_path / "m", kind="mixtral")
    found = suture.text.influence(model, text=laid(tmp_path / "t", {"en": SENTENCES["en"]}))
    plain = transformers.AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(model))
    wanted = np.zeros((3, 4), dtype=int)
    for line in SENTENCES["en"]:
        with torch.no_grad():
            out = plain(torch.tensor([tokenizer(line)["input_ids"]]), output_router_logits=True)
        for layer, logits in enumerate(out.router_logits):
            for token in logits.topk(2, dim=-1).indices.tolist():
                for expert in token:
                    wanted[layer, expert] += 1
    assert [row["counts"] for row in found["routing"]] == wanted.tolist()
    assert all(row["even"] == 0.25 and row["entropy"] <= row["even_entropy"] == 2 for row in found["routing"])


def inputs_of(model: Path) -> dict[str, Any]:
    """The inputs of every linear layer on the English lines, [tokens, n], by transformers, a line at a time."""
    plain = transformers.AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(model))
    found: dict[str, list[Any]] = {}
    for name, module in plain.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda _, args, name=name: found.setdefault(f"{name}.weight", []).append(args[0][0].detach().numpy())
            )
    for line in SENTENCES["en"]:
        plain(torch.tensor([tokenizer(line)["input_ids"]]))
    return {name: np.concatenate(parts).astype(np.float64) for name, parts in found.items()}


def test_statistics_are_the_formulas(tmp_path: Path) -> None:
    """X^T X over tokens, |w| |x|, and squared gradients by autograd, a line at a time; streamed too."""
    model, text = tiny(tmp_path / "m"), laid(tmp_path / "t", {"en": SENTENCES["en"]})
    files: dict[str, Any] = {kind: tmp_path / f"{kind}.safetensors" for kind in ("gram", "fisher", "importance")}
    found = suture.text.statistics(model, text=text, **files)
    assert not problems("text_statistics", found)
    load = importlib.import_module("safetensors.numpy").load_file
    gram, fisher, importance = (load(files[kind]) for kind in files)
    inputs, weights = inputs_of(model), load(model / "model.safetensors")
    assert set(gram) == set(importance) == set(inputs)
    for name, x in inputs.items():
        assert gram[name] == pytest.approx(x.T @ x / len(x), rel=1e-4, abs=1e-5)
        assert importance[name] == pytest.approx(abs(weights[name]) * np.sqrt((x**2).sum(0)), rel=1e-4, abs=1e-6)
    plain = transformers.AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(model))
    sums = {name: torch.zeros_like(p) for name, p in plain.named_parameters()}
    for line in SENTENCES["en"]:
        ids = torch.tensor([tokenizer(line)["input_ids"]])
        plain.zero_grad()
        plain(ids, labels=ids).loss.backward()
        for name, p in plain.named_parameters():
            sums[name] += p.grad**2 / len(SENTENCES["en"])
    assert set(fisher) == set(sums)
    for name, total in sums.items():
        assert fisher[name] == pytest.approx(total.numpy(), rel=1e-3, abs=1e-7)
    again = tmp_path / "again.safetensors"
    suture.text.statistics(model, text=text, gram=again, running=Running(memory=1))
    assert all(np.array_equal(load(again)[name], gram[name]) for name in gram)


def test_merges_take_them(tmp_path: Path) -> None:
    """regmean by Gram matrices and fisher by squared gradients, of two experts."""
    one, two, text = tiny(tmp_path / "a"), tiny(tmp_path / "b", seed=1), laid(tmp_path / "t")
    for name, model in (("a", one), ("b", two)):
        suture.text.statistics(
            model, text=text, gram=tmp_path / f"g-{name}.safetensors", fisher=tmp_path / f"f-{name}.safetensors"
        )
    for method, parameter, file in (("regmean", "gram", "g"), ("fisher", "fisher", "f")):
        config = tmp_path / f"{method}.yml"
        config.write_text(
            f"merge_method: {method}\nmodels:\n"
            f"  - model: a\n    parameters: {{{parameter}: {file}-a.safetensors}}\n"
            f"  - model: b\n    parameters: {{{parameter}: {file}-b.safetensors}}\n"
        )
        suture.merge(config, tmp_path / f"out-{method}")
        assert len(read_checkpoint(tmp_path / f"out-{method}")) == len(read_checkpoint(one))


def test_what_cannot_be_counted_is_refused(tmp_path: Path) -> None:
    """Nothing to write, a file that is there, both sources, gradients of a streamed model."""
    model, text = tiny(tmp_path / "m"), laid(tmp_path / "t")
    there = tmp_path / "there.safetensors"
    there.write_bytes(b"")

    def refused(words: str, **more: Any) -> None:
        with pytest.raises(suture.SutureError, match=words):
            suture.text.statistics(model, **{"text": text, **more})

    refused("expected something to write")
    refused("is there already", gram=there)
    refused("ends in .safetensors", gram=tmp_path / "g")
    refused("one of them alone", random=3, gram=tmp_path / "g.safetensors")
    refused("gradients need all of them", fisher=tmp_path / "f.safetensors", running=Running(memory=1))
    assert there.read_bytes() == b""
    made = suture.text.statistics(model, random=4, fisher=there, overwrite=True)
    assert (made["lines"], made["tokens"]) == (4, 512)


def test_matrices_without_statistics_are_told(tmp_path: Path) -> None:
    """GPT-2 has matrices of a kind of its own: what is not in the file is said."""
    model, gram = tiny(tmp_path / "m"), tmp_path / "g.safetensors"
    sizes = {"vocab_size": 258, "n_embd": 32, "n_layer": 2, "n_head": 4, "tie_word_embeddings": False}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).save_pretrained(str(model))
    found = suture.text.statistics(model, text=laid(tmp_path / "t"), gram=gram)
    assert ["8 matrices are of no linear layers" in w for w in found["warnings"]] == [True]
    assert list(importlib.import_module("safetensors.numpy").load_file(gram)) == ["lm_head.weight"]
