"""`suture vocab graft`: rows tuned on one checkpoint go into its sibling, and nothing else does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

import suture
from suture.cli.vocab.graft import graft as command
from suture.surgery.vocab_graft import graft, planned
from suture.surgery.vocab_plans import apply, undo
from suture.vocab.rowplan import CLASSES

from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint, write_json
from ..support.vocab_models import HEAD, TABLE, words_tokenizer
from ..support.vocabularies import Json, write

TOKENS = ["cat", "dog", "##s", "un"]
GERMAN = ["katze", "hund", "cat", "##e", "##n", "##s"]
UP = "model.layers.0.mlp.up_proj.weight"
WIDTH = 8


def bert(tokens: Sequence[str]) -> Json:
    """A WordPiece with special tokens as BERT has them, the last one behind the others."""
    made = words_tokenizer(tokens)
    vocab = made["model"]["vocab"]
    for text in ("[CLS]", "[SEP]"):
        vocab[text] = len(vocab)
    made["added_tokens"] = [
        {"id": vocab[t], "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True} for t in ("[UNK]", "[CLS]", "[SEP]")
    ]  # fmt: skip
    return made


def trunk(seed: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    made = {}
    for i in range(2):
        made[f"model.layers.{i}.mlp.up_proj.weight"] = rng.normal(size=(4, WIDTH))
        made[f"model.layers.{i}.self_attn.q_proj.weight"] = rng.normal(size=(WIDTH, WIDTH))
    return {**made, "model.norm.weight": rng.normal(size=WIDTH)}


def rows(n: int, seed: int, *shape: int) -> NDArray[Any]:
    return np.random.default_rng(seed).normal(size=(n, *shape))


def make(
    folder: Path,
    tokens: Sequence[str],
    weights: Mapping[str, NDArray[Any]],
    seed: int,
    *,
    padding: int = 2,
    tied: bool = False,
    dtype: str = "BF16",
    more: Mapping[str, NDArray[Any]] | None = None,
) -> Path:
    tokenizer = bert(tokens)
    vocab = tokenizer["model"]["vocab"]
    n = len(vocab) + padding
    stored = {TABLE: rows(n, seed, WIDTH), **({} if tied else {HEAD: rows(n, seed + 1, WIDTH)}), **weights}
    config = {"model_type": "llama", "num_hidden_layers": 2, "vocab_size": n, "hidden_size": WIDTH,
              "tie_word_embeddings": tied, "bos_token_id": vocab["[CLS]"], "eos_token_id": [vocab["[SEP]"]],
              "pad_token_id": vocab["cat"]}  # fmt: skip
    write_checkpoint(folder, {k: encode(v, dtype) for k, v in {**stored, **(more or {})}.items()}, config=config)
    write_json(folder / "generation_config.json", {"eos_token_id": [vocab["[SEP]"], vocab["cat"]]})
    return write(folder, tokenizer, {"cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]"})


@pytest.fixture
def family(tmp_path: Path) -> dict[str, Path]:
    """A base, its fine-tune on a task, and two with other rows on the base's trunk: of its tokens, and of others."""
    return {
        "base": make(tmp_path / "base", TOKENS, trunk(0), 0),
        "task": make(tmp_path / "task", TOKENS, trunk(1), 0),
        "tuned": make(tmp_path / "tuned", TOKENS, trunk(0), 20),
        "german": make(tmp_path / "german", GERMAN, trunk(0), 30, padding=3),
    }


def parts(folder: Path) -> tuple[dict[str, Raw], dict[str, Raw]]:
    """The tensors with rows of tokens, and the others."""
    found = read_checkpoint(folder)
    own = {n: r for n, r in found.items() if n in (TABLE, HEAD, "lm_head.bias", "final_logits_bias")}
    return own, {n: r for n, r in found.items() if n not in own}


@pytest.mark.parametrize("which", ["tuned", "german"])
def test_rows_are_one_models_and_the_trunk_the_others(which: str, family: dict[str, Path], tmp_path: Path) -> None:
    """Embeddings and heads bit for bit from one, all else from the other; the report counts all rows."""
    report = graft(family["task"], family[which], tmp_path / "out", base=family["base"])
    got_rows, got_trunk = parts(tmp_path / "out")
    assert got_rows == parts(family[which])[0]
    assert got_trunk == parts(family["task"])[1]
    told = report.beside["vocabulary"]
    n = len((got_rows[TABLE]).values())
    assert told["counts"] == {"donor": n - (2 if which == "tuned" else 3), "padding": 2 if which == "tuned" else 3}
    assert told["figures"]["trunk"]["tensors"] == 5
    assert told["figures"]["same"] == (which == "tuned")


def test_the_tokenizer_and_numbers_go_with_the_rows(family: dict[str, Path], tmp_path: Path) -> None:
    """Of another vocabulary its files, and the numbers of config.json and generation_config.json with their tokens; of
    the same the model's own."""
    (family["task"] / "chat_template.jinja").write_text("{{ messages }}")
    graft(family["task"], family["german"], tmp_path / "out", base=family["base"])
    files = ("tokenizer.json", "tokenizer_config.json")
    assert all((tmp_path / "out" / f).read_bytes() == (family["german"] / f).read_bytes() for f in files)
    vocab = bert(GERMAN)["model"]["vocab"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["vocab_size"] == len(vocab) + 3
    assert config["bos_token_id"] == vocab["[CLS]"]
    assert config["eos_token_id"] == [vocab["[SEP]"]]
    assert config["pad_token_id"] == vocab["cat"]
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [vocab["[SEP]"], vocab["cat"]]
    graft(family["task"], family["tuned"], tmp_path / "same", base=family["base"])
    for name in (*files, "chat_template.jinja", "config.json", "generation_config.json"):
        left, right = ((f / name).read_text() for f in (tmp_path / "same", family["task"]))
        assert left == right or json.loads(left) == json.loads(right), name


def test_the_tokenizer_is_the_others_if_it_cuts_otherwise(family: dict[str, Path], tmp_path: Path) -> None:
    """The same tokens and numbers, but lower case first: rows go with the tokenizer they were tuned by."""
    data = json.loads((family["tuned"] / "tokenizer.json").read_text())
    data["normalizer"] = {"type": "Lowercase"}
    (family["tuned"] / "tokenizer.json").write_text(json.dumps(data))
    report = graft(family["task"], family["tuned"], tmp_path / "out", base=family["base"])
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (family["tuned"] / "tokenizer.json").read_bytes()
    assert report.beside["vocabulary"]["figures"]["same"] is False


def test_numbers_of_tokens_that_are_gone_go_by_role(family: dict[str, Path], tmp_path: Path) -> None:
    """A padding token that the other vocabulary has not becomes the one its config names."""
    write_json(family["task"] / "config.json",
               {**json.loads((family["task"] / "config.json").read_text()), "pad_token_id": 2})  # fmt: skip
    plan = planned(family["task"], family["german"], base=family["base"])
    vocab = bert(GERMAN)["model"]["vocab"]
    assert plan.roles["pad"] == vocab["cat"]
    assert plan.moved == {0: 0, 1: vocab["cat"], 3: vocab["##s"], 5: vocab["[CLS]"], 6: vocab["[SEP]"]}
    graft(family["task"], family["german"], tmp_path / "out", base=family["base"])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pad_token_id"] == vocab["cat"]


def test_the_plan(family: dict[str, Path]) -> None:
    """Every row is the donor's row of its number; names are its tokens; nothing is mixed."""
    plan = planned(family["task"], family["german"], base=family["base"])
    vocab = bert(GERMAN)["model"]["vocab"]
    assert plan.rows == len(vocab) + 3
    assert list(plan.names) == sorted(vocab, key=lambda t: vocab[t])
    assert plan.table.source.tolist() == [1] * plan.rows
    assert plan.table.row.tolist() == list(range(plan.rows))
    assert [list(CLASSES)[k] for k in plan.kind] == ["donor"] * len(vocab) + ["padding"] * 3
    assert (plan.head, plan.undo, plan.problem()) == (None, False, None)
    # E' = P E, in NumPy.
    stored = np.asarray(suture.open(family["german"])[TABLE])
    product = np.eye(len(stored))[plan.table.row] @ stored
    np.testing.assert_array_equal(product, stored)


def test_trunks_are_checked(family: dict[str, Path], tmp_path: Path) -> None:
    """Against the base, or the model itself; which tensors differ is said; nothing is written; it can be ignored."""
    task, tuned, out = family["task"], family["tuned"], tmp_path / "out"
    said = r"tuned: 5 of 5 tensors of the trunk differ from .*task: `model\.layers\.0\.mlp\.up_proj\.weight`.*--base"
    with pytest.raises(suture.SutureError, match=said):
        graft(task, tuned, out)
    other = dict(trunk(0))
    other[UP] = other[UP] + 1
    moved = make(tmp_path / "moved", TOKENS, other, 20)
    with pytest.raises(suture.SutureError, match="1 of 5 tensors of the trunk differ") as error:
        graft(task, moved, out, base=family["base"])
    assert error.value.tensor == UP
    assert "--base" not in str(error.value)
    assert "--trunk ignore" in str(error.value)
    assert not out.exists()
    report = graft(task, moved, out, trunk="ignore")
    assert report.beside["vocabulary"]["figures"]["trunk"] is None
    assert parts(out) == (parts(moved)[0], parts(task)[1])


def test_what_a_trunk_is(family: dict[str, Path], tmp_path: Path) -> None:
    """The same bytes in another dtype are another tensor; a tensor in a layer that the base lacks is one too, one
    outside of the layers could not be checked and is told."""
    norm = "model.norm.weight"
    for folder, dtype in ((family["base"], "BF16"), (family["tuned"], "F16")):
        stored = {**read_checkpoint(folder), norm: encode(np.zeros(WIDTH), dtype)}
        write_checkpoint(folder, stored, config=json.loads((folder / "config.json").read_text()))
    with pytest.raises(suture.SutureError, match=r"1 of 5 tensors of the trunk differ from .*: `model\.norm\.weight`"):
        planned(family["task"], family["tuned"], base=family["base"])
    more = {**trunk(0), "model.layers.1.self_attn.k_norm.weight": np.ones(4), "model.extra.weight": np.ones(3)}
    grown = make(tmp_path / "grown", TOKENS, more, 20)
    base = make(tmp_path / "first", TOKENS, trunk(0), 0)
    with pytest.raises(suture.SutureError, match=r"1 of 6 tensors .*`model\.layers\.1\.self_attn\.k_norm\.weight`"):
        planned(family["task"], grown, base=base)
    del more["model.layers.1.self_attn.k_norm.weight"]
    plan = planned(family["task"], make(tmp_path / "other", TOKENS, more, 20), base=base)
    assert any("`model.extra.weight` outside the layers is not in" in told for told in plan.told)


def test_one_bit_is_seen_in_any_block(family: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However tensors are cut; and the hash of a trunk is the same for any cut and any threads."""
    found = []
    for block, threads in ((2**22, 1), (7, 3)):
        monkeypatch.setattr("suture.analysis.stored._BLOCK", block)
        made = planned(family["task"], family["tuned"], base=family["base"], settings=suture.Settings(threads=threads))
        found.append(made.figures["trunk"])
    assert found[0] == found[1]
    assert found[0]["bytes"] == sum(len(r.data) for r in parts(family["base"])[1].values())
    path = family["tuned"] / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(suture.SutureError, match="1 of 5 tensors"):
        planned(family["task"], family["tuned"], base=family["base"])


def test_a_dry_run_writes_nothing(family: dict[str, Path], tmp_path: Path) -> None:
    """It has the plan, and all checks are made."""
    report = graft(family["task"], family["german"], tmp_path / "out", base=family["base"], dry_run=True)
    assert report.dry
    assert not (tmp_path / "out").exists()
    assert any("the tokenizer is that of" in w for w in report.warnings)


def test_tied_and_not(family: dict[str, Path], tmp_path: Path) -> None:
    """A head gets the rows of a table that is also the head; but a head of its own is none for a model that ties."""
    tied = make(tmp_path / "tied", TOKENS, trunk(0), 40, tied=True)
    report = graft(family["task"], tied, tmp_path / "a", base=family["base"])
    got = parts(tmp_path / "a")[0]
    assert got[TABLE] == got[HEAD] == read_checkpoint(tied)[TABLE]
    assert any("has no head of its own" in w for w in report.warnings)
    into = make(tmp_path / "into", TOKENS, trunk(5), 50, tied=True)
    with pytest.raises(
        suture.SutureError, match=r"tuned: has a head of its own \(`lm_head\.weight`\), and .*into ties"
    ):
        graft(into, family["tuned"], tmp_path / "b", base=family["base"])
    graft(into, tied, tmp_path / "c", base=family["base"])
    assert parts(tmp_path / "c")[0] == {TABLE: read_checkpoint(tied)[TABLE]}


def test_biases_come_too(family: dict[str, Path], tmp_path: Path) -> None:
    """Those of heads, and BART's of one row; a model that has none for them is refused."""
    biases = {"lm_head.bias": rows(9, 70), "final_logits_bias": rows(9, 71)[None]}
    into = make(tmp_path / "into", TOKENS, trunk(1), 0, more=biases)
    german = make(tmp_path / "other", GERMAN, trunk(0), 30, padding=3,
                  more={"lm_head.bias": rows(12, 72), "final_logits_bias": rows(12, 73)[None]})  # fmt: skip
    graft(into, german, tmp_path / "out", base=family["base"])
    assert parts(tmp_path / "out")[0] == parts(german)[0]
    with pytest.raises(suture.SutureError, match=r"has nothing for `(final_logits_|lm_head.)bias`"):
        graft(into, family["german"], tmp_path / "no", base=family["base"])


def test_a_head_that_the_model_has_not_is_left_out(family: dict[str, Path], tmp_path: Path) -> None:
    """A classifier has no head over tokens: it gets the embeddings alone, and what was left out is told."""
    weights = {**trunk(1), "score.weight": rows(3, 80, WIDTH)}
    into = make(tmp_path / "into", TOKENS, weights, 0)
    config = json.loads((into / "config.json").read_text())
    stored = {n: r for n, r in read_checkpoint(into).items() if n != HEAD}
    write_checkpoint(into, stored, config={**config, "architectures": ["LlamaForSequenceClassification"]})
    report = graft(into, family["german"], tmp_path / "out", base=family["base"])
    german = read_checkpoint(family["german"])
    assert read_checkpoint(tmp_path / "out") == {**stored, TABLE: german[TABLE]}
    assert any("`lm_head.weight` has no place in" in w for w in report.warnings)


def test_mistakes(family: dict[str, Path], tmp_path: Path) -> None:
    """Models of other shapes, without a tokenizer, with tokens beyond their rows; options that do not go together."""
    task, out = family["task"], tmp_path / "out"
    with pytest.raises(suture.UsageError, match="trunk: expected check or ignore, found `skip`"):
        graft(task, family["tuned"], out, trunk="skip")
    with pytest.raises(suture.UsageError, match="base: is what the trunk is checked against"):
        graft(task, family["tuned"], out, trunk="ignore", base=family["base"])
    wide = dict(trunk(0))
    wide[UP] = np.ones((5, WIDTH))
    shaped = make(tmp_path / "shaped", TOKENS, wide, 20)
    with pytest.raises(suture.SutureError, match=r"up_proj.weight` has shape \[5, 8\], in .*task \[4, 8\]"):
        graft(task, shaped, out, trunk="ignore")
    short = make(tmp_path / "short", TOKENS, trunk(0), 20, padding=-1)
    with pytest.raises(suture.SutureError, match=r"`\[SEP\]` is token 6, but there are 6 rows"):
        graft(task, short, out, trunk="ignore")
    bare = make(tmp_path / "bare", TOKENS, trunk(0), 20)
    (bare / "tokenizer.json").unlink()
    with pytest.raises(suture.UsageError, match="bare: has no tokenizer"):
        graft(task, bare, out, trunk="ignore")
    narrow = write_checkpoint(
        tmp_path / "narrow", {TABLE: encode(np.ones((9, 4)), "BF16")}, config={"tie_word_embeddings": True}
    )
    write(narrow, bert(TOKENS))
    with pytest.raises(suture.SutureError, match=r"has rows of 4, those of .*task are 8 wide"):
        graft(task, narrow, out, trunk="ignore")
    assert not out.exists()


def test_a_kept_plan_is_good_for_siblings(family: dict[str, Path], tmp_path: Path) -> None:
    """The same rows on another trunk of the same tokens; not the reverse, as the model's own rows are gone."""
    graft(family["task"], family["german"], tmp_path / "out", base=family["base"], keep=tmp_path / "plan.json")
    other = make(tmp_path / "other", TOKENS, trunk(9), 90)
    apply(tmp_path / "plan.json", other, tmp_path / "again")
    assert parts(tmp_path / "again") == (parts(family["german"])[0], parts(other)[1])
    with pytest.raises(suture.SutureError, match="it cannot be undone"):
        undo(tmp_path / "out", tmp_path / "back")


def test_the_verb(family: dict[str, Path], tmp_path: Path) -> None:
    """The options of the command are those of the function; a kept plan is a file."""
    call = [str(family["task"]), str(tmp_path / "out"), "--from", str(family["german"]), "--base", str(family["base"])]
    done = CliRunner().invoke(command, [*call, "--plan", str(tmp_path / "plan.json"), "--json"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "plan.json").is_file()
    assert parts(tmp_path / "out") == (parts(family["german"])[0], parts(family["task"])[1])
    done = CliRunner().invoke(command, [*call, "--overwrite"])
    assert done.exit_code == 0, done.output
    assert "12: 9 donor, 3 padding" in done.output
    assert f"new rows of {TABLE}" in done.output
