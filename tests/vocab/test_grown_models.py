"""Models of transformers with clones, further tokens and other forms, written by the verbs and loaded again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from suture.cli.vocab.add import add as add_verb
from suture.cli.vocab.clone import clone as clone_verb
from suture.cli.vocab.transliterate import transliterate as transliterate_verb
from suture.surgery import vocab_plans
from suture.surgery.vocab_add import add
from suture.surgery.vocab_clone import clone
from suture.surgery.vocab_transliterate import transliterate

from ..support.tiny import FAMILIES, config_of, logits_of, model_of
from ..support.vocabularies import bpe, whole, write
from .test_transliterate import FORMS, PIECES, table
from .test_transliterate import model as xlmr_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

V = 97
CASES = [(family, tied) for family in FAMILIES for tied in (True, False)]


def stored(place: Path, family: str, tied: bool) -> tuple[Path, Any]:
    """A random model with a tokenizer of 90 tokens, in 97 rows."""
    model = model_of(config_of(family, V, tied))
    model.save_pretrained(place)
    tokens = [chr(0x4E00 + i) for i in range(88)]
    return write(place, whole("bytes", bpe(tokens, []), ["<s>", "</s>"]), {"bos": "<s>", "eos": "</s>"}), model


def loaded(model: Any, place: Path) -> Any:
    """A model as transformers loads it, nothing of which is missing or left."""
    made, told = type(model).from_pretrained(place, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert not told["mismatched_keys"]
    return made.eval()


def bytes_of(folder: Path, *leave: str) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name not in leave}


@pytest.mark.parametrize(("family", "tied"), CASES)
def test_clones(tmp_path: Path, family: str, tied: bool) -> None:
    """Bit for bit the same logits for clones and any mix, in both halves; and undone the model's bytes."""
    folder, model = stored(tmp_path / "m", family, tied)
    report = clone(folder, tmp_path / "out", shift=True)
    assert report.beside["vocabulary"]["counts"] == {"kept": 90, "copied": V, "padding": 7}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 2 * V
    twice = loaded(model, tmp_path / "out")
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, V, (2, 24)))
    other = torch.from_numpy(np.random.default_rng(1).integers(0, 2, (2, 24)))
    old = logits_of(model, ids)
    for text in (ids, ids + V, ids + V * other):
        new = logits_of(twice, text)
        assert torch.equal(new[..., :V], old)
        assert torch.equal(new[..., V:], old)
    rise = torch.logsumexp(new.double(), -1) - torch.logsumexp(old.double(), -1)
    assert float((rise - math.log(2)).abs().max()) < 1e-12
    vocab_plans.undo(tmp_path / "out", tmp_path / "back")
    again = loaded(model, tmp_path / "back")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        if (folder / name).is_file():
            assert json.loads((folder / name).read_text()) == json.loads((tmp_path / "back" / name).read_text())


@pytest.mark.parametrize(("family", "tied"), CASES)
def test_further_tokens(tmp_path: Path, family: str, tied: bool) -> None:
    """Old logits to the bit; with mean rows KL(old || new) = ln(1 + m e^mean / Z) <= ln(1 + m/n), by Jensen."""
    folder, model = stored(tmp_path / "m", family, tied)
    fill = ",".join(f"<{i}>" for i in range(7))
    add(folder, tmp_path / "full", tokens=fill, init="copy:<s>")
    base = loaded(model, tmp_path / "full")
    new_ones = ["<2gl>"] if tied else ["<2gl>", "<2eu>", "<2mt>"]
    report = add(tmp_path / "full", tmp_path / "out", tokens=new_ones)
    m = len(new_ones)
    assert report.beside["vocabulary"]["figures"]["tokens"] == {text: V + i for i, text in enumerate(new_ones)}
    more = loaded(model, tmp_path / "out")
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, V, (2, 24)))
    old, new = logits_of(base, ids), logits_of(more, ids)
    assert torch.equal(new[..., :V], old)
    p, q = torch.log_softmax(old.double(), -1), torch.log_softmax(new.double(), -1)[..., :V]
    kl = (p.exp() * (p - q)).sum(-1)
    assert 0 < float(kl.max()) <= math.log(1 + m / V) * (1 + 1e-6)
    mean = old.double().mean(-1, keepdim=True).expand_as(new[..., V:])
    torch.testing.assert_close(new[..., V:].double(), mean, rtol=1e-4, atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_tokens_to_ids("<2gl>") == V


def test_noise_is_drawn_from_the_seed(tmp_path: Path) -> None:
    """Clones differ by about the share asked for, alike for the same seed; own rows are as they were."""
    folder, _ = stored(tmp_path / "m", "llama", False)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        clone(folder, tmp_path / name, noise=0.1, seed=seed)
    name = "model.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / name).read_bytes() != (tmp_path / "c" / name).read_bytes()
    from suture.checkpoint import Checkpoint

    rows = Checkpoint(tmp_path / "a").numpy("model.embed_tokens.weight")
    own = Checkpoint(folder).numpy("model.embed_tokens.weight")
    np.testing.assert_array_equal(rows[:V], own)
    share = np.sqrt(((rows[V:] - own) ** 2).mean(axis=1) / (own**2).mean(axis=1))
    assert 0.09 < float(share.mean()) < 0.11


@pytest.mark.parametrize("tied", [True, False])
def test_other_forms(tmp_path: Path, tied: bool) -> None:
    """A model as XLM-R: `<mask>` moves with row and bias, old text has the logits it had, romanised text those of its
    sources."""
    folder = xlmr_tokenizer(tmp_path / "m")
    size = len(PIECES) + 2
    config = transformers.XLMRobertaConfig(
        vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=64, bos_token_id=None, pad_token_id=0, eos_token_id=None, tie_word_embeddings=tied,
        mask_token_id=size - 1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.XLMRobertaForMaskedLM(config).eval()
    with torch.no_grad():
        model.lm_head.bias.copy_(torch.randn(size))
    model.save_pretrained(folder)
    report = transliterate(folder, tmp_path / "out", map=table(tmp_path / "t"), mode="max")
    assert report.beside["vocabulary"]["figures"]["new"] == 3
    told = json.loads((tmp_path / "out" / "config.json").read_text())
    assert told["vocab_size"] == size + 3
    assert told["mask_token_id"] == size + 2
    made = loaded(model, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.mask_token_id == size + 2
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, size, (2, 24)))
    moved = torch.where(ids == size - 1, size + 2, ids)
    old, new = logits_of(model, ids), logits_of(made, moved)
    assert torch.equal(new[..., [*range(size - 1), size + 2]], old)
    names = tokenizer.convert_ids_to_tokens(range(size + 3))
    latin = [names.index(form) for form in ("▁da", "▁mir")]
    native = [names.index(piece) for piece in ("▁дa", "▁мир")]
    assert torch.equal(new[..., latin], new[..., native])
    line = "da mir da da mir mir da mir mir da " * 2
    own = line.replace("mir", "мир").replace("da", "дa")
    one, two = (torch.tensor([tokenizer(t.strip(), add_special_tokens=False)["input_ids"]]) for t in (line, own))
    assert not torch.equal(one, two)
    assert torch.equal(logits_of(made, one), logits_of(made, two))
    vocab_plans.undo(tmp_path / "out", tmp_path / "back")
    again = loaded(model, tmp_path / "back")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_the_command_line(tmp_path: Path) -> None:
    """Each verb by its command, with a kept plan; a dry run writes nothing."""
    folder, _ = stored(tmp_path / "m", "qwen2", True)
    run = CliRunner().invoke
    for verb, more, rows in (
        (clone_verb, ["--share", "0.5", "--seed", "3"], V + V // 2),
        (add_verb, ["--tokens", "<a>,<b>", "--init", "mix:0.5*<s>+0.5*</s>", "--normal"], V),
    ):
        out, plan = tmp_path / str(verb.name), tmp_path / f"{verb.name}.plan"
        args = [str(folder), str(out), *more, "--plan", str(plan), "--json"]
        dry = run(verb, [*args, "--dry-run"], catch_exceptions=False)
        assert dry.exit_code == 0
        assert not out.exists()
        assert not plan.exists()
        done = run(verb, args, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert json.loads((out / "config.json").read_text())["vocab_size"] == rows
        assert plan.read_bytes() == (out / "suture-vocabulary.json").read_bytes()
    other = xlmr_tokenizer(tmp_path / "x")
    size = len(PIECES) + 2
    model_of(config_of("llama", size, True)).save_pretrained(other)
    where = str(table(tmp_path / "t", FORMS))
    (tmp_path / "text").write_text("da mir\n", encoding="utf-8")
    more = ["--map", where, "--mode", "mean", "--scripts", "!Latin", "--text", str(tmp_path / "text"), "--json"]
    done = run(transliterate_verb, [str(other), str(tmp_path / "z"), *more], catch_exceptions=False)
    assert done.exit_code == 0
    assert "1 of 1 ASCII lines are now cut into other tokens" in json.loads(done.stdout)["warnings"]
