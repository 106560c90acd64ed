"""Law: what no honest figure can be made of is refused or told: vocabularies, weights and files that do not fit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import pytest

import suture
from suture.text.model import Running, open_model

from ..support.texts import SENTENCES, laid, tiny
from ..support.vocab_models import bytes_tokenizer
from ..support.vocabularies import write
from .test_loss import oracle

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def rewritten(folder: Path, edit: Any) -> Path:
    """The model with other tensors."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def letters(folder: Path) -> Path:
    """A tokenizer of five letters, which leaves out all others without a word."""
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate("abcde")}, []))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return folder


def test_what_a_vocabulary_leaves_out_is_told(tmp_path: Path) -> None:
    """Characters without a token have no bits: they are counted, and a text of nothing else is refused."""
    model = letters(tiny(tmp_path / "m"))
    text = laid(tmp_path / "t", {"xx": ["abc zo", "bad"], "en": ["abc", "bad"]})
    found = suture.text.loss(model, text=text)
    assert {r["language"]: r["unknown"] for r in found["losses"]} == {"en": 0, "xx": 2}
    assert ["cannot write 2" in w for w in found["warnings"]] == [True]
    near = suture.text.similarity(model, parallel_text=text)
    assert {r["language"]: r["unknown"] for r in near["languages"]} == {"en": 0, "xx": 2}
    nothing = laid(tmp_path / "n", {"xx": ["zoo", "yy"]})
    with pytest.raises(suture.SutureError, match="predicts nothing of"):
        suture.text.loss(model, text=nothing)
    with pytest.raises(suture.SutureError, match="no token for the text"):
        suture.text.statistics(model, text=nothing, gram=tmp_path / "g.safetensors")


def test_a_tokenizer_that_fails_is_told(tmp_path: Path) -> None:
    """By one line: it has no token for what is unknown, or the token that begins texts has no row."""
    from tokenizers import Tokenizer, models

    model, text = tiny(tmp_path / "m"), laid(tmp_path / "t")
    more = shutil.copytree(model, tmp_path / "more")
    write(more, bytes_tokenizer([], ["<a>", "<b>", "<s>", "</s>"]), {"bos": "<s>", "eos": "</s>"})
    with pytest.raises(suture.SutureError, match="gives token 258, and the embedding has 258 rows"):
        suture.text.loss(more, text=text)
    Tokenizer(models.WordLevel({"the": 0}, unk_token="[UNK]")).save(str(model / "tokenizer.json"))
    with pytest.raises(suture.SutureError, match="its tokenizer cannot read a text"):
        suture.text.loss(model, text=text)


def test_each_model_has_its_own_bytes(tmp_path: Path) -> None:
    """Of a child that predicts first tokens and a parent that does not, the difference is that of bits per byte."""
    parent, child = tiny(tmp_path / "p", bos=False), tiny(tmp_path / "c")
    found = suture.text.loss(parent, child, text=laid(tmp_path / "t"))
    by = {(r["model"], r["language"]): r["bits_per_byte"] for r in found["losses"]}
    for row in found["child"]:
        wanted = by[str(child), row["language"]] - by[str(parent), row["language"]]
        assert row["difference"] == pytest.approx(wanted, abs=1e-12)
        assert row["low"] <= row["difference"] <= row["high"]


def test_bytes_of_a_first_token(tmp_path: Path) -> None:
    """Part of a character counts as the bytes it is; lines of one token alone leave nothing to predict."""
    model = tiny(tmp_path / "m", bos=False)
    (row,) = suture.text.loss(model, text=laid(tmp_path / "ru", {"ru": SENTENCES["ru"]}))["losses"]
    assert row["uncovered"] == len(SENTENCES["ru"])
    with pytest.raises(suture.SutureError, match="predicts nothing of"):
        suture.text.loss(model, text=laid(tmp_path / "one", {"x": ["a", "b"]}))


def test_weights_that_are_nan_are_told(tmp_path: Path) -> None:
    """By influence and by statistics, of which no file is written."""
    model, text = tiny(tmp_path / "m"), laid(tmp_path / "t")
    rewritten(model, lambda tensors: tensors["model.layers.1.mlp.up_proj.weight"].fill_(float("nan")))
    with pytest.raises(suture.SutureError, match="a state of layer 1 is no number"):
        suture.text.influence(model, text=text)
    for kind in ("gram", "fisher", "importance"):
        out = tmp_path / f"{kind}.safetensors"
        with pytest.raises(suture.SutureError, match=f"{kind} of `.*` is no number"):
            suture.text.statistics(model, text=text, **cast("dict[str, Any]", {kind: out}))
        assert not out.exists()


def test_a_head_that_differs_is_no_tied_one(tmp_path: Path) -> None:
    """Config says tied, and two tensors are stored that differ: as transformers reads it, streamed too."""
    model = tiny(tmp_path / "m", tie_word_embeddings=True)
    made = torch.randn(258, 32, generator=torch.Generator().manual_seed(1))
    rewritten(model, lambda tensors: tensors.update({"lm_head.weight": made}))
    (text := tmp_path / "t.txt").write_text("the cat sat\n")
    for memory in (None, 1):
        found = suture.text.loss(model, text=text, running=Running(memory=memory))["losses"][0]["bits"]
        assert found == pytest.approx(oracle(model, "the cat sat"), rel=1e-4)


def test_another_file_of_a_folder_is_not_mistaken(tmp_path: Path) -> None:
    """Where only transformers can read the names, it would read the folder: a single file is refused."""
    model = tiny(tmp_path / "m", kind="mixtral")
    shutil.copy(model / "model.safetensors", model / "other.safetensors")
    (text := tmp_path / "t.txt").write_text("the cat sat\n")
    suture.text.loss(model, text=text)
    with pytest.raises(suture.SutureError, match="read by names"):
        suture.text.loss(model / "other.safetensors", text=text)


def test_a_dtype_that_is_not_run_is_told(tmp_path: Path) -> None:
    """Bytes of 8 bits with no scale, and whole numbers of 16, are no weights."""
    model = rewritten(tiny(tmp_path / "m"), lambda t: t.update({"model.norm.weight": torch.ones(32).to(torch.int16)}))
    with pytest.raises(suture.SutureError, match=r"`model\.norm\.weight` is stored as I16, which is not run"):
        suture.text.loss(model, text=laid(tmp_path / "t"))


def test_a_layer_for_all_counts_as_often_as_it_runs(tmp_path: Path) -> None:
    """ALBERT has the weights of one; a ranking averages all."""
    model = tiny(tmp_path / "m", kind="bert")
    sizes = {"vocab_size": 258, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
             "num_attention_heads": 4, "embedding_size": 16}  # fmt: skip
    transformers.AlbertModel(transformers.AlbertConfig(**sizes)).save_pretrained(str(model))
    assert len(open_model(model, Running()).layers) == 3
    assert suture.text.rank(model, parallel_text=laid(tmp_path / "t"))["layers"] == [1, 2, 3]


def test_files_that_would_be_lost_are_refused(tmp_path: Path) -> None:
    """Statistics never replace the model or each other, and folders that are not there are told before a run."""
    model, text = tiny(tmp_path / "m"), laid(tmp_path / "t")
    before, one = (model / "model.safetensors").read_bytes(), tmp_path / "s.safetensors"

    def refused(**more: Any) -> None:
        with pytest.raises(suture.SutureError, match=r"expected a file of its own|its folder is not there"):
            suture.text.statistics(model, text=text, overwrite=True, **more)

    refused(gram=model / "model.safetensors")
    refused(gram=one, fisher=tmp_path / "m" / ".." / "s.safetensors")
    refused(gram=tmp_path / "no" / "s.safetensors")
    assert (model / "model.safetensors").read_bytes() == before
    assert not one.exists()


@pytest.mark.parametrize("layers", ["9" * 5000, "1-" + "9" * 12])
def test_numbers_beyond_all_layers_are_refused(tmp_path: Path, layers: str) -> None:
    """At once; and a layer that is named twice counts once."""
    model, text = tiny(tmp_path / "m"), laid(tmp_path / "t")
    with pytest.raises(suture.UsageError, match="expected numbers and ranges"):
        suture.text.rank(model, parallel_text=text, layers=layers)
    assert suture.text.rank(model, parallel_text=text, layers="1 - 2,2")["layers"] == [1, 2]


def test_a_streamed_model_takes_any_number_of_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch is a thread: no more wait together than are allowed, with the same figures."""
    monkeypatch.setattr("suture.text.forward.THREADS", 3)
    model, text = tiny(tmp_path / "m"), laid(tmp_path / "t")
    whole = suture.text.loss(model, text=text, running=Running(tokens=1))
    parts = suture.text.loss(model, text=text, running=Running(tokens=1, memory=1))
    assert whole["losses"] == parts["losses"]
