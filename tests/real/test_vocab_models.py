"""Real models with other vocabularies: trimmed to the text of two languages, cloned; as transformers loads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import suture
from suture.vocab.kept import NAME, load

from ..vocab.test_trim_real import mistral

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LINES = {
    "en": [
        "The quick brown fox jumps over the lazy dog.",
        "Layers of one model are put into another, and nothing else moves.",
        "In 1997 the river rose by 3.5 metres within two days.",
    ],
    "de": [
        "Der schnelle braune Fuchs springt über den faulen Hund.",
        "Schichten eines Modells kommen in ein anderes, sonst bewegt sich nichts.",
        "Im Jahr 1997 stieg der Fluss in zwei Tagen um 3,5 Meter.",
    ],
}


def texts(folder: Path) -> dict[str, list[Path]]:
    """A file of text for each language."""
    found = {}
    for name, lines in LINES.items():
        path = folder / f"{name}.txt"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
        found[name] = [path]
    return found


def weights(folder: Path) -> int:
    """Bytes of a model's tensors."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_minilm_is_trimmed_to_two_languages(minilm: Path, tmp_path: Path) -> None:
    """The published WordPiece model gives the same vectors on the text, bit for bit, and is smaller by its rows."""
    report = suture.vocabulary.trim(minilm, tmp_path / "small", text=texts(tmp_path), characters="used")
    rows = report.beside["vocabulary"]["rows"]
    old, new = (transformers.AutoModel.from_pretrained(f).eval() for f in (minilm, tmp_path / "small"))
    cuts = [transformers.AutoTokenizer.from_pretrained(f) for f in (minilm, tmp_path / "small")]
    for line in [line for lines in LINES.values() for line in lines]:
        ids = [cut(line, return_tensors="pt") for cut in cuts]
        assert cuts[0].tokenize(line) == cuts[1].tokenize(line)
        with torch.inference_mode():
            one, other = old(**ids[0]).last_hidden_state, new(**ids[1]).last_hidden_state
        assert torch.equal(one, other)
    table = old.get_input_embeddings().weight
    assert rows == len(new.get_input_embeddings().weight) < len(table) / 10
    item = suture.open(minilm).info("embeddings.word_embeddings.weight").nbytes // len(table)
    assert abs(weights(minilm) - weights(tmp_path / "small") - (len(table) - rows) * item) < 4096


def test_a_clone_of_minilm_answers_the_same(minilm: Path, tmp_path: Path) -> None:
    """Text in clones, or in a mix of both, gives the same vectors, bit for bit."""
    suture.vocabulary.clone(minilm, tmp_path / "twice")
    model = transformers.AutoModel.from_pretrained(tmp_path / "twice").eval()
    cut = transformers.AutoTokenizer.from_pretrained(minilm)
    ids = cut(" ".join(LINES["en"]), return_tensors="pt")["input_ids"]
    rows = len(model.get_input_embeddings().weight) // 2
    mixed = torch.from_numpy(np.random.default_rng(0).integers(0, 2, tuple(ids.shape)) * rows)
    with torch.inference_mode():
        want, clones, mix = (model(input_ids=i).last_hidden_state for i in (ids, ids + rows, ids + mixed))
    assert torch.equal(want, clones)
    assert torch.equal(want, mix)


@pytest.mark.parametrize("mode", ["exact", "closure"])
def test_a_decoder_with_llamas_tokenizer(mode: str, tmp_path: Path) -> None:
    """A small Llama with the SentencePiece BPE of 32,000: the logits of the tokens that stay are the same bits."""
    config = transformers.LlamaConfig(
        vocab_size=32_000, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).eval().save_pretrained(tmp_path / "m")
    mistral(tmp_path / "m")
    report = suture.vocabulary.trim(
        tmp_path / "m", tmp_path / "small", text=texts(tmp_path), mode=mode, characters="used"
    )
    kept = torch.tensor(load(tmp_path / "small" / NAME).plan.table.row)
    old, new = (transformers.LlamaForCausalLM.from_pretrained(tmp_path / n).eval() for n in ("m", "small"))
    cuts = [transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / n) for n in ("m", "small")]
    for line in [line for lines in LINES.values() for line in lines]:
        ids = [cut(line, return_tensors="pt")["input_ids"] for cut in cuts]
        assert torch.equal(kept[ids[1]], ids[0])
        with torch.inference_mode():
            assert torch.equal(old(ids[0]).logits[..., kept], new(ids[1]).logits)
    assert new.config.vocab_size == report.beside["vocabulary"]["rows"] == len(kept) < 2000
