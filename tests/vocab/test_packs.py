"""Laws of packs: what is materialised has the original's bytes, and a trunk is one trunk or none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from suture.cli.vocab.pack import pack as pack_verb
from suture.errors import SutureError, UsageError
from suture.surgery import vocab_pack

from ..support.checkpoints import read_checkpoint, write_checkpoint
from ..support.vocabularies import bpe, whole, write

KINDS = ["llama", "tied", "bert", "mbart"]


def model(place: Path, kind: str, rows: int, seed: int, *, trunk: int = 0) -> Path:
    """A model whose tables are of `seed`, and all else of `trunk`, of a family's tensors."""
    own, all_ = np.random.default_rng(seed), np.random.default_rng(trunk)
    layer = {f"model.layers.{i}.mlp.up_proj.weight": all_.normal(size=(6, 4)) for i in range(2)}
    known: dict[str, dict[str, tuple[int, ...]]] = {
        "llama": {"model.embed_tokens.weight": (rows, 4), "lm_head.weight": (rows, 4)},
        "tied": {"model.embed_tokens.weight": (rows, 4)},
        "bert": {"bert.embeddings.word_embeddings.weight": (rows, 4), "cls.predictions.bias": (rows,)},
        "mbart": {"model.shared.weight": (rows, 4), "final_logits_bias": (1, rows)},
    }
    tables = {name: own.normal(size=shape) for name, shape in known[kind].items()}
    rest = {
        "model.norm.weight": all_.normal(size=4),
        "bert.embeddings.position_embeddings.weight": all_.normal(size=(9, 4)),
    }
    tensors = {name: values.astype(np.float32) for name, values in {**layer, **rest, **tables}.items()}
    config = {"model_type": "llama", "vocab_size": rows, "num_hidden_layers": 2, "bos_token_id": rows - 1}
    write_checkpoint(place, tensors, config={**config, "tie_word_embeddings": kind != "llama"})
    tokens = [chr(97 + i) for i in range(rows - 1)]
    return write(
        place, whole("bytes", bpe(tokens, []), ["<s>"]), {"bos": "<s>"}, generation_config={"bos_token_id": rows - 1}
    )


def same(one: Path, other: Path) -> bool:
    return read_checkpoint(one) == read_checkpoint(other)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_materialised_is_the_original(tmp_path: Path, kind: str) -> None:
    """Tensors to the byte, config and tokenizer as they were; of more rows, and of as few as there are columns."""
    models = {f"m{n}": model(tmp_path / f"m{n}", kind, n, n) for n in (7, 9, 4)}
    for name, folder in models.items():
        told = vocab_pack.add(tmp_path / "hydra", folder, name=name)
    assert [(one["name"], one["rows"]) for one in told["packs"]] == [("m7", 7), ("m4", 4), ("m9", 9)]
    for name, folder in models.items():
        shutil.move(folder, tmp_path / "away")
        vocab_pack.materialise(tmp_path / "hydra", name, tmp_path / f"{name}-out")
        shutil.move(tmp_path / "away", folder)
        assert same(folder, tmp_path / f"{name}-out")
        for file in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
            assert json.loads((folder / file).read_text()) == json.loads((tmp_path / f"{name}-out" / file).read_text())
    stored = sum(f.stat().st_size for f in (tmp_path / "hydra" / "packs").rglob("*.safetensors"))
    assert stored < sum(f.stat().st_size for n in ("m9", "m4") for f in models[n].glob("*.safetensors"))


def test_packs_are_listed_and_removed(tmp_path: Path) -> None:
    """What is removed is gone, what the trunk came with stays, and nothing that is not the pack's is deleted."""
    hydra = tmp_path / "hydra"
    for n in (7, 9, 5):
        vocab_pack.add(hydra, model(tmp_path / f"m{n}", "llama", n, n), name=f"m{n}")
    assert [one["name"] for one in vocab_pack.remove(hydra, "m9")["packs"]] == ["m7", "m5"]
    assert not (hydra / "packs" / "m9").exists()
    with pytest.raises(UsageError, match="has no pack `m9`; it has m7, m5"):
        vocab_pack.materialise(hydra, "m9", tmp_path / "out")
    with pytest.raises(UsageError, match="`m7` is the vocabulary that the trunk came with; it stays"):
        vocab_pack.remove(hydra, "m7")
    (hydra / "packs" / "m5" / "notes.txt").write_text("mine")
    with pytest.raises(SutureError, match=r"holds `notes\.txt`, which is not the pack's"):
        vocab_pack.remove(hydra, "m5")
    vocab_pack.add(hydra, tmp_path / "m9", name="m9")
    assert len(vocab_pack.listed(hydra)["packs"]) == 3


def test_a_fine_tune_as_a_pack(tmp_path: Path) -> None:
    """Taken out against a model or a folder of packs, it is the same pack, and what it gives is the fine-tune."""
    base, tuned = model(tmp_path / "base", "bert", 7, 1), model(tmp_path / "tuned", "bert", 9, 2)
    told = vocab_pack.extract(base, tuned, tmp_path / "pack")
    assert told["rows"] == 9
    vocab_pack.add(tmp_path / "hydra", base, name="base")
    assert vocab_pack.extract(tmp_path / "hydra", tuned, tmp_path / "again") == told
    vocab_pack.add(tmp_path / "hydra", tmp_path / "pack", name="tuned")
    vocab_pack.materialise(tmp_path / "hydra", "tuned", tmp_path / "out")
    assert same(tuned, tmp_path / "out")
    with pytest.raises(SutureError, match="is there already"):
        vocab_pack.extract(base, tuned, tmp_path / "pack")


def test_another_trunk_is_refused(tmp_path: Path) -> None:
    """By the names of tensors that differ, before anything is written; so are tables of another make."""
    hydra, base = tmp_path / "hydra", model(tmp_path / "base", "llama", 7, 1)
    vocab_pack.add(hydra, base, name="base")
    other = model(tmp_path / "other", "llama", 7, 1, trunk=5)
    apart = r"is not on the trunk of .*: 4 tensors differ or are in one alone .*and 1 more"
    with pytest.raises(SutureError, match=apart):
        vocab_pack.add(hydra, other, name="other")
    with pytest.raises(SutureError, match=apart):
        vocab_pack.extract(base, other, tmp_path / "out")
    tied = model(tmp_path / "tied", "tied", 7, 2)
    with pytest.raises(SutureError, match=r"only one of both has `lm_head\.weight`"):
        vocab_pack.add(hydra, tied, name="tied")
    for name, sense in (
        ("base", "has a pack `base` already"),
        ("../x", "expected letters, digits"),
        ("", "expected letters"),
    ):
        with pytest.raises(UsageError, match=sense):
            vocab_pack.add(hydra, base, name=name)
    assert [one["name"] for one in vocab_pack.listed(hydra)["packs"]] == ["base"]
    assert not (tmp_path / "out").exists()
    vocab_pack.extract(other, model(tmp_path / "o2", "llama", 9, 1, trunk=5), tmp_path / "pack")
    with pytest.raises(SutureError, match="is a pack of another trunk"):
        vocab_pack.add(hydra, tmp_path / "pack", name="pack")


def test_folders_that_are_none(tmp_path: Path) -> None:
    """What is no folder of packs is not taken for one, and is not written into; damage is told."""
    base = model(tmp_path / "base", "llama", 7, 1)
    with pytest.raises(SutureError, match=r"it has no packs\.json"):
        vocab_pack.listed(base)
    with pytest.raises(SutureError, match=r"is no folder of packs, and holds `config\.json`|overlaps with the input"):
        vocab_pack.add(base, base, name="x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("x")
    with pytest.raises(SutureError, match="holds `notes`; choose another"):
        vocab_pack.add(tmp_path / "mine", base, name="x")
    hydra = tmp_path / "hydra"
    vocab_pack.add(hydra, base, name="base")
    vocab_pack.add(hydra, model(tmp_path / "more", "llama", 9, 2), name="more")
    shutil.copyfile(hydra / "trunk" / "model.safetensors", hydra / "packs" / "more" / "model.safetensors")
    with pytest.raises(SutureError, match=r"is damaged: model\.safetensors is not what pack\.json says"):
        vocab_pack.materialise(hydra, "more", tmp_path / "out")
    (hydra / "packs.json").write_text("{}")
    with pytest.raises(SutureError, match=r"packs\.json: is damaged"):
        vocab_pack.listed(hydra)


def test_a_killed_beginning_is_gone_on_with(tmp_path: Path) -> None:
    """A trunk without a record: of the same model it is taken, of another it is refused."""
    base = model(tmp_path / "base", "llama", 7, 1)
    vocab_pack.add(tmp_path / "hydra", base, name="base")
    (tmp_path / "hydra" / "packs.json").unlink()
    with pytest.raises(SutureError, match="is not on the trunk of"):
        vocab_pack.add(tmp_path / "hydra", model(tmp_path / "other", "llama", 7, 1, trunk=3), name="other")
    vocab_pack.add(tmp_path / "hydra", base, name="base")
    vocab_pack.materialise(tmp_path / "hydra", "base", tmp_path / "out")
    assert same(base, tmp_path / "out")


def test_the_command_line(tmp_path: Path) -> None:
    """All five, with JSON and for people."""
    run: Any = CliRunner().invoke
    base, more = model(tmp_path / "base", "llama", 7, 1), model(tmp_path / "more", "llama", 9, 2)
    hydra = str(tmp_path / "hydra")
    for args in (
        ["add", hydra, str(base), "--name", "base"],
        ["extract", hydra, str(more), str(tmp_path / "pack")],
        ["add", hydra, str(tmp_path / "pack"), "--name", "more"],
        ["materialise", hydra, "more", str(tmp_path / "out")],
        ["list", hydra],
        ["remove", hydra, "more"],
    ):
        done = run(pack_verb, args, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert same(more, tmp_path / "out")
    told = json.loads(run(pack_verb, ["list", hydra, "--json"], catch_exceptions=False).stdout)
    assert [one["name"] for one in told["packs"]] == ["base"]
