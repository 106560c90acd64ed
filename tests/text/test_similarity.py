"""Law: similarity by layer is the papers' formulas on transformers' own states; identities and baselines hold."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture.text.corpus import parallel
from suture.text.model import Running, open_model
from suture.text.states import nearness, pooled

from ..support.texts import SENTENCES, laid, tiny
from ..support.vocab_models import problems

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def states_of(folder: Path, line: str) -> Any:
    """The hidden states of one sentence alone, by transformers: [layers + 1, length, width]."""
    model = transformers.AutoModel.from_pretrained(str(folder), dtype=torch.float32).eval()
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    with torch.no_grad():
        out = model(input_ids=torch.tensor([tokenizer(line)["input_ids"]]), output_hidden_states=True)
    return torch.stack([s[0] for s in out.hidden_states]).double().numpy()


def pooled_by_hand(states: Any, pool: str) -> Any:
    weights = {"mean": np.ones(states.shape[1]), "weighted": np.arange(1, states.shape[1] + 1)}
    if pool == "last":
        return states[:, -1]
    return (states * (weights[pool] / weights[pool].sum())[None, :, None]).sum(1)


def cosine(a: Any, b: Any) -> float:
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


@pytest.mark.parametrize(("kind", "pool"), [("llama", "last"), ("gpt2", "weighted"), ("bert", "mean"), ("t5", "mean")])
def test_figures_are_the_formulas_on_the_states_of_transformers(tmp_path: Path, kind: str, pool: str) -> None:
    """Cosine, distance, MEXA, retrieval and what wrong pairs have, each by a loop over pairs, for every layer."""
    model = tiny(tmp_path / "m", kind=kind)
    found = suture.text.similarity(model, parallel_text=laid(tmp_path / "texts"), pool=pool)
    assert not problems("text_similarity", found)
    n, layers = len(SENTENCES["en"]), 4
    by = {
        language: np.stack([pooled_by_hand(states_of(model, line), pool) for line in lines], axis=1)
        for language, lines in SENTENCES.items()
    }
    rows = {(r["language"], r["layer"]): r for r in found["layers"]}
    assert set(rows) == {(language, i) for language in ("sw", "ru") for i in range(layers)}
    for (language, layer), row in rows.items():
        a, b = by["en"][layer], by[language][layer]
        all_ = np.array([[cosine(u, v) for v in b] for u in a])
        wrong = ~np.eye(n, dtype=bool)
        far = np.array([[np.linalg.norm(u - v) for v in b] for u in a])
        middle = np.concatenate([a, b]).mean(0)
        mexa = sum(all(all_[i, i] > max(all_[i, j], all_[j, i]) + 1e-9 for j in range(n) if j != i) for i in range(n))
        # Sentences that end in one letter have one last token at the embedding: who ties shares the place.
        first = [
            (own[i] >= own.max() - 1e-9) / (own >= own.max() - 1e-9).sum()
            for both in (all_, all_.T)
            for i, own in enumerate(both)
        ]
        assert row["cosine"] == pytest.approx(np.diag(all_).mean(), abs=2e-4)
        assert row["baseline"] == pytest.approx(all_[wrong].mean(), abs=2e-4)
        assert row["above"] == pytest.approx(row["cosine"] - row["baseline"])
        centred = np.mean([cosine(u - middle, v - middle) for u, v in zip(a, b, strict=True)])
        assert row["centred"] == pytest.approx(centred, abs=1e-3)
        assert row["euclidean"] == pytest.approx(np.diag(far).mean(), rel=1e-3)
        assert row["euclidean_baseline"] == pytest.approx(far[wrong].mean(), rel=1e-3)
        assert row["mexa"] == pytest.approx(mexa / n)
        assert row["retrieval"] == pytest.approx(np.mean(first))
        assert (row["mexa_chance"], row["retrieval_chance"]) == (1 / (2 * n - 1), 1 / n)


def test_a_text_with_itself_is_the_same_at_every_layer(tmp_path: Path) -> None:
    """Cosine 1, distance 0, and each sentence finds itself: MEXA 1."""
    text = laid(tmp_path / "texts", {"en": SENTENCES["en"], "copy": SENTENCES["en"]})
    for row in suture.text.similarity(tiny(tmp_path / "m"), parallel_text=text)["layers"]:
        assert row["cosine"] == pytest.approx(1, abs=1e-6)
        assert row["euclidean"] == pytest.approx(0, abs=1e-5)
        assert (row["mexa"], row["retrieval"]) == (1, 1)


def test_a_cloned_vocabulary_is_the_same_at_every_layer(tmp_path: Path) -> None:
    """Tokens with a second row of the same numbers: a text of clones has the text's states, to the bit."""
    from safetensors.numpy import load_file, save_file

    from ..support.texts import edited

    folder = tiny(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = np.concatenate([tensors[name]] * 2)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = open_model(edited(folder, vocab_size=516), Running())
    ids = model.ids(SENTENCES["sw"])
    clones = [[n + 258 for n in one] for one in ids]
    states = pooled(model, [*ids, *clones], ["weighted"])["weighted"]
    n = len(ids)
    for layer in states:
        assert nearness(layer[:n], layer[n:])["cosine"] == pytest.approx(1, abs=1e-6)


def test_shuffled_pairs_are_at_the_baseline() -> None:
    """Random states: pairs are what wrong pairs are, MEXA and retrieval what chance has, over 200 draws."""
    rng = np.random.default_rng(0)
    n, found = 12, []
    for _ in range(200):
        a, b = rng.normal(size=(n, 16)) + 1, rng.normal(size=(n, 16)) + 1
        found.append(nearness(a, b))
    mean = {key: float(np.mean([one[key] for one in found])) for key in found[0]}  # type: ignore[literal-required]
    assert mean["cosine"] == pytest.approx(mean["baseline"], abs=0.02)
    assert mean["baseline"] > 0.3
    assert mean["centred"] == pytest.approx(mean["centred_baseline"], abs=0.02)
    assert mean["mexa"] == pytest.approx(mean["mexa_chance"], abs=0.015)
    assert mean["retrieval"] == pytest.approx(mean["retrieval_chance"], abs=0.015)


def test_a_streamed_model_gives_the_same_figures(tmp_path: Path) -> None:
    """Of a decoder, an encoder and an encoder of two, all batches a layer at a time."""
    text = laid(tmp_path / "texts")
    for kind in ("llama", "bert", "t5"):
        model = tiny(tmp_path / kind, kind=kind)
        whole = suture.text.similarity(model, parallel_text=text, running=Running(tokens=64))
        parts = suture.text.similarity(model, parallel_text=text, running=Running(tokens=64, memory=1))
        assert parts["models"][0]["streamed"]
        assert whole["layers"] == parts["layers"]


def test_languages_are_ranked_by_last_tokens(tmp_path: Path) -> None:
    """The mean over layers behind the embedding of the mean cosine of last tokens; a copy of the pivot is first."""
    model = tiny(tmp_path / "m")
    text = laid(tmp_path / "texts", {**SENTENCES, "copy": SENTENCES["en"]})
    found = suture.text.rank(model, parallel_text=text)
    assert not problems("text_rank", found)
    assert found["languages"][0]["language"] == "copy"
    assert found["languages"][0]["score"] == pytest.approx(1, abs=1e-6)
    last = {
        language: [states_of(model, line)[1:, -1] for line in SENTENCES[language]] for language in ("en", "sw", "ru")
    }
    for row in found["languages"][1:]:
        own = last[row["language"]]
        by_layer = [np.mean([cosine(a[i], b[i]) for a, b in zip(last["en"], own, strict=True)]) for i in range(3)]
        assert row["by_layer"] == pytest.approx(by_layer, abs=1e-5)
        assert row["score"] == pytest.approx(np.mean(by_layer), abs=1e-5)
    some = suture.text.rank(model, parallel_text=text, layers="2")
    assert some["layers"] == [2]
    assert [r["score"] for r in sorted(some["languages"], key=lambda r: r["language"])] == [
        r["by_layer"][1] for r in sorted(found["languages"], key=lambda r: r["language"])
    ]


def test_parallel_texts_are_checked(tmp_path: Path) -> None:
    """Unequal files are refused with their lengths; a sentence that is empty somewhere is left out everywhere."""
    folder = laid(tmp_path / "t", {"en": ["a", "", "c", "d"], "sw": ["x", "y", "z", "w"]})
    found = parallel(folder)
    assert (found.lines, found.left_out) == ({"en": ["a", "c", "d"], "sw": ["x", "z", "w"]}, 1)
    table = tmp_path / "t.tsv"
    table.write_text("en\tsw\na\tx\n\nb\ty\n\n")
    found = parallel(table)
    assert (found.lines, found.left_out) == ({"en": ["a", "b"], "sw": ["x", "y"]}, 2)
    (folder / "sw.txt").write_text("x\n")
    model = tiny(tmp_path / "m")

    def refused(words: str, **more: Any) -> None:
        with pytest.raises(suture.SutureError, match=words):
            suture.text.similarity(model, **{"parallel_text": table, **more})

    refused("has 1 lines, and `en` has 4", parallel_text=folder)
    refused("no language `de`", pivot="de")
    refused("pool: expected one of", pool="max")
    refused("has one language", parallel_text=folder / "en.txt")
    table.write_text("en\tsw\na\n")
    refused("line 2: expected 2 columns")
    with pytest.raises(suture.UsageError, match="no layer 9"):
        suture.text.rank(model, parallel_text=laid(tmp_path / "ok"), layers="9")


def test_text_longer_than_the_context_is_cut_and_told(tmp_path: Path) -> None:
    """And a warning names the language."""
    text = laid(tmp_path / "texts")
    found = suture.text.similarity(tiny(tmp_path / "m"), parallel_text=text, running=Running(context=16))
    assert all(one["cut"] > 0 for one in found["languages"])
    assert any("cut off there" in w for w in found["warnings"])


def test_what_is_ascii_has_no_script_gap(tmp_path: Path) -> None:
    """Gap 0 at every layer; another script has one, by the cosine with its romanisation from a file."""
    model, table = tiny(tmp_path / "m"), tmp_path / "latin.tsv"
    latin = ["koshka sidela na kovre", "ves' den' shyol dozhd'", "my edim hleb", "ona chitaet dlinnuyu knigu v sadu",
             "dve pticy poyut", "otkrojte dver' pozhalujsta", "gde moya shlyapa", "on rabotaet noch'yu"]  # fmt: skip
    table.write_text("".join(f"{a}\t{b}\n" for a, b in zip(SENTENCES["ru"], latin, strict=True)), encoding="utf-8")
    text = laid(tmp_path / "texts", {"sw": SENTENCES["sw"], "ru": SENTENCES["ru"]})
    found = suture.text.script_gap(model, text=text, romanise=table)
    assert not problems("text_script_gap", found)
    by = {(r["language"], r["layer"]): r for r in found["layers"]}
    assert all(row["gap"] == 0 and row["unchanged"] == 1 for (language, _), row in by.items() if language == "sw")
    a, b = (
        np.stack([pooled_by_hand(states_of(model, line), "mean") for line in lines], 1)
        for lines in (SENTENCES["ru"], latin)
    )
    for layer in range(4):
        wanted = 1 - np.mean([cosine(u, v) for u, v in zip(a[layer], b[layer], strict=True)])
        assert by["ru", layer]["gap"] == pytest.approx(wanted, abs=1e-4)
    table.write_text("кошка\tkoshka\n", encoding="utf-8")
    with pytest.raises(suture.SutureError, match="has no romanisation of"):
        suture.text.script_gap(model, text=text, romanise=table)


def test_uroman_romanises(tmp_path: Path) -> None:
    """The default: by the package, where it is there."""
    pytest.importorskip("uroman")
    text = laid(tmp_path / "texts", {"ru": SENTENCES["ru"]})
    found = suture.text.script_gap(tiny(tmp_path / "m"), text=text)
    assert found["romanised_by"] == "uroman"
    assert all(row["unchanged"] == 0 for row in found["layers"])
    # The embedding of other bytes is elsewhere; deeper, the states of random layers may be anywhere.
    assert found["layers"][0]["gap"] > 0.01
