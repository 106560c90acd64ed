"""Transplants of vocabularies: what is matched, each method against its oracle, what is left, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import suture.surgery.vocab_transplant
from suture.errors import SutureError, UsageError
from suture.surgery.vocab_models import model_at
from suture.surgery.vocab_transplant import transplant_plan
from suture.vocab.matching import KIND, matches_of
from suture.vocab.respell import speller
from suture.vocab.rowplan import CLASSES, MIX, RowPlan
from suture.vocab.tokens import read

from ..reference import transplant as oracle
from ..support.checkpoints import read_checkpoint, write_checkpoint
from ..support.pickles import ordered, saved, storage
from ..support.pickles import tensor as torch_tensor
from ..support.transplants import EMBED, HEAD, Matrix, carried_out, model, sound, tokenizer
from ..support.vocabularies import FORMS, added, whole, wordpiece, write

pytest.importorskip("tokenizers")

NAMES = list(CLASSES)
OLD = ["a", "b", "c", "d", "Ġ", "ab", "cd", "abc", "Ġa", "Ġab", "Ġcd"]
NEW = ["d", "c", "b", "a", "Ġ", "bc", "ab", "abcd", "Ġab", "Ġd", "Ġabc", "dd"]


def planned(base: Path, donor: Path, method: str, given: dict[str, Any] | None = None, **more: Any) -> RowPlan:
    plan = transplant_plan(base, donor, method, given or {}, **more)
    sound(plan)
    return plan


def rows_of(plan: RowPlan, tables: Mapping[str, Matrix]) -> dict[str, Matrix]:
    """The new tables."""
    made = {EMBED: carried_out(plan.table, [tables[EMBED]], len(plan.names))}
    if HEAD in tables:
        made[HEAD] = carried_out(plan.head or plan.table, [tables[HEAD]], len(plan.names))
    return made


@pytest.fixture
def pair(tmp_path: Path) -> Any:
    """A model and a donor, their tokens and tables."""
    own = model(tmp_path / "base", "bytes", OLD, seed=1)
    theirs = model(tmp_path / "donor", "bytes", NEW, seed=2)
    return tmp_path / "base", own, tmp_path / "donor", theirs


METHODS: dict[str, dict[str, Any]] = {
    "overlap": {}, "subwords": {}, "omp": {}, "clp": {}, "nearest": {"vectors": "v.txt"},
    "sparsemax": {"vectors": "v.txt"}, "alignment": {"table": "t.tsv"},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
def test_with_its_own_tokenizer_a_model_stays_as_it_is(form: str, method: str, tmp_path: Path) -> None:
    """The same tokenizer, and a table that maps each token to itself: all rows are copies, each of itself."""
    tokens = OLD if form == "bytes" else ["a", "b", "##b", "ab", "c"] if form == "WordPiece" else ["a", "b", "▁a", "ab"]
    ids, tables = model(tmp_path / "base", form, tokens)
    (tmp_path / "v.txt").write_text("".join(f"{t} {i} 1\n" for t, i in ids.items()), encoding="utf-8")
    (tmp_path / "t.tsv").write_text("".join(f"{t}\t{t}\t7\n" for t in ids), encoding="utf-8")
    given = {name: tmp_path / file for name, file in METHODS[method].items()}
    plan = planned(tmp_path / "base", tmp_path / "base", method, given)
    count = len(tables[EMBED])
    assert plan.table.source.tolist() == [0] * count
    assert plan.table.row.tolist() == list(range(count))
    assert set(plan.counts()) <= {"kept", "special"}
    assert plan.moved == {i: i for i in range(count)}
    assert plan.roles == {"bos": ids["<s>"], "eos": ids["</s>"], "pad": ids["</s>"]}
    assert plan.head is None or plan.head.row.tolist() == list(range(count))
    for name, made in rows_of(plan, tables).items():
        assert (made == tables[name]).all()
    assert dict(plan.copied)["tokenizer.json"] == str(tmp_path / "base" / "tokenizer.json")


def test_tokens_that_both_have_keep_their_rows(pair: Any) -> None:
    """By bytes and word start, special ones by role; all numbers follow; the rest is the mean of pieces."""
    base, (ids, tables), donor, (new, _) = pair
    plan = planned(base, donor, "subwords")
    made = rows_of(plan, tables)
    common = [t for t in new if t in ids]
    assert set(common) == {*"abcd", "Ġ", "ab", "Ġab", "abc", "Ġa", "<s>", "</s>"}
    for name, table in made.items():
        for token in common:
            assert (table[new[token]] == tables[name][ids[token]]).all()
        np.testing.assert_allclose(table[new["dd"]], tables[name][ids["d"]])
        np.testing.assert_allclose(table[new["bc"]], (tables[name][ids["b"]] + tables[name][ids["c"]]) / 2)
        # Merged in the order of its merges: `ab`, then `abc`, which leaves the space alone.
        pieces = [ids["Ġ"], ids["abc"]]
        np.testing.assert_allclose(table[new["Ġabc"]], tables[name][pieces].mean(axis=0))
    assert plan.moved == {ids[t]: new[t] for t in sorted(common, key=lambda t: ids[t])}
    # What ends text pads it, where nothing else does: some families cannot be without.
    assert plan.roles == {"bos": new["<s>"], "eos": new["</s>"], "pad": new["</s>"]}
    assert plan.counts()["special"] == 2
    assert {NAMES[plan.kind[new[t]]] for t in common} == {"kept", "special"}
    assert plan.reasons[plan.why[new["bc"]]] == "the mean of its 2 pieces in the model's tokenizer"


def test_overlap_gives_the_mean_to_the_rest(pair: Any) -> None:
    """All missing rows are the mean of those that are not."""
    base, (_, tables), donor, (new, _) = pair
    plan = planned(base, donor, "overlap")
    kept = np.flatnonzero(plan.table.source == 0)
    made = rows_of(plan, tables)[EMBED]
    mean = tables[EMBED][plan.table.row[kept]].mean(axis=0)
    for number in set(new.values()) - set(kept.tolist()):
        np.testing.assert_allclose(made[number], mean)
        assert NAMES[plan.kind[number]] == "fallback"


def missing_of(plan: RowPlan, new: Mapping[str, int]) -> list[str]:
    return [t for t, n in new.items() if NAMES[plan.kind[n]] == "approximated"]


def anchors_of(ids: Mapping[str, int], new: Mapping[str, int]) -> list[str]:
    return sorted((t for t in new if t in ids and t not in ("<s>", "</s>")), key=lambda t: new[t])


@pytest.mark.parametrize("tied", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("k", [3, 64])
def test_omp_solves_each_space_by_itself(tied: tuple[bool, bool], k: int, tmp_path: Path) -> None:
    """Embeddings in the donor's embeddings, a head of its own in the donor's head, or where it is tied in its table."""
    ids, tables = model(tmp_path / "base", "bytes", OLD, seed=1, tied=tied[0])
    new, theirs = model(tmp_path / "donor", "bytes", NEW, seed=2, width=6, tied=tied[1])
    plan = planned(tmp_path / "base", tmp_path / "donor", "omp", {"k": k})
    assert (plan.head is None) == tied[0]
    made, common = rows_of(plan, tables), anchors_of(ids, new)
    missing = missing_of(plan, new)
    assert missing
    for name, table in made.items():
        space = theirs.get(name, theirs[EMBED])
        atoms = space[[new[t] for t in common]]
        for token in missing:
            chosen, weights = oracle.omp(space[new[token]], atoms, k)
            expected = weights @ tables[name][[ids[common[c]] for c in chosen]]
            np.testing.assert_allclose(table[new[token]], expected, rtol=1e-9, atol=1e-9)
    assert plan.figures["table_residual_max"] <= 1
    assert plan.figures["table_residual_worst"][0]["residual"] == plan.figures["table_residual_max"]
    assert plan.figures["table_l1_max"] > 0
    assert ("head_residual_max" in plan.figures) == (not tied[0])


def test_omp_follows_a_linear_map(tmp_path: Path) -> None:
    """If the model's rows of common tokens are the donor's times M, new rows are the donor's times M, to 1e-10."""
    rng = np.random.default_rng(3)
    new, theirs = model(tmp_path / "donor", "bytes", NEW, seed=2, width=6)
    ids = tokenizer(tmp_path / "base", "bytes", OLD)
    maps = {name: rng.normal(size=(6, 16)) for name in (EMBED, HEAD)}
    tables = {name: rng.normal(size=(len(ids), 16)) for name in maps}
    for token in set(ids) & set(new):
        for name in maps:
            tables[name][ids[token]] = theirs[name][new[token]] @ maps[name]
    model(tmp_path / "base", "bytes", OLD, tables=tables)
    plan = planned(tmp_path / "base", tmp_path / "donor", "omp")
    made = rows_of(plan, tables)
    for name, table in made.items():
        for token in missing_of(plan, new):
            np.testing.assert_allclose(table[new[token]], theirs[name][new[token]] @ maps[name], rtol=1e-10, atol=1e-10)
    assert plan.figures["table_residual_max"] < 1e-10


def test_rows_of_zeros_in_the_donor_get_the_fallback(tmp_path: Path) -> None:
    """They say nothing; a sum of nothing would be a row of zeros."""
    _, tables = model(tmp_path / "base", "bytes", OLD, seed=1)
    new = tokenizer(tmp_path / "donor", "bytes", NEW)
    theirs = np.random.default_rng(0).normal(size=(len(new), 16))
    theirs[new["bc"]] = 0
    model(tmp_path / "donor", "bytes", NEW, tables={EMBED: theirs})
    plan = planned(tmp_path / "base", tmp_path / "donor", "omp")
    assert NAMES[plan.kind[new["bc"]]] == "fallback"
    assert np.abs(rows_of(plan, tables)[EMBED]).sum(axis=1).min() > 0


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("top_k", [None, 2])
def test_clp_is_the_papers(reference: bool, top_k: int | None, pair: Any, tmp_path: Path) -> None:
    """Cosines with all common tokens in the helper, over their sum; negative ones are 0 unless the code is followed."""
    if reference and top_k:
        with pytest.raises(UsageError, match="leaves nothing out"):
            planned(pair[0], pair[2], "clp", {"reference": True, "top_k": 2})
        return
    base, (ids, tables), donor, (new, _) = pair
    _, small = model(tmp_path / "helper", "bytes", NEW, seed=5, width=4)
    given: dict[str, Any] = {"helper": tmp_path / "helper", "reference": reference}
    plan = planned(base, donor, "clp", given | ({} if top_k is None else {"top_k": top_k}))
    common = anchors_of(ids, new)
    overlap = small[EMBED][[new[t] for t in common]]
    missing = missing_of(plan, new)
    assert {"bc", "abcd", "Ġd", "Ġabc", "dd"} >= set(missing) >= {"bc", "dd"}
    assert plan.head is None
    for name, table in rows_of(plan, tables).items():
        rows = tables[name][[ids[t] for t in common]]
        for token in missing:
            target = small[EMBED][new[token]]
            expected = oracle.clp(target, overlap, rows, clip=not reference, top_k=top_k)
            np.testing.assert_allclose(table[new[token]], expected, rtol=1e-6, atol=1e-6)
    weights = plan.table.weight
    assert (weights.min() < 0) == reference
    sums = np.add.reduceat(weights, plan.table.starts[:-1])
    np.testing.assert_allclose(sums, 1, rtol=1e-12)


def test_clp_with_the_model_as_helper_leaves_common_rows(pair: Any) -> None:
    """They are copied as bytes; nothing is computed of them."""
    base, (ids, tables), donor, (new, _) = pair
    plan = planned(base, donor, "clp", {"helper": donor})
    made = rows_of(plan, tables)
    for token in set(ids) & set(new):
        assert (made[EMBED][new[token]] == tables[EMBED][ids[token]]).all()
        assert plan.table.source[new[token]] == 0


def test_clp_refuses_what_would_not_fit(monkeypatch: pytest.MonkeyPatch, pair: Any) -> None:
    """Before anything is computed, with the number that would fit."""
    monkeypatch.setattr("suture.vocab.clp.MOST", 20)
    with pytest.raises(UsageError, match=r"tokens, each a mix of 9 rows, are more than 20 entries.*--top-k 4"):
        planned(pair[0], pair[2], "clp")
    planned(pair[0], pair[2], "clp", {"top_k": 4})


def vectors(path: Path, ids: Mapping[str, int], width: int, seed: int, leave: tuple[str, ...] = ()) -> Matrix:
    values = np.random.default_rng(seed).normal(size=(len(ids), width)).astype(np.float32)
    lines = [f"{len(ids)} {width}"]
    for token, number in ids.items():
        if token not in leave:
            lines.append(f"{token} " + " ".join(f"{v:.9g}" for v in values[number]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return values.astype(np.float64)


@pytest.mark.parametrize("reference", [False, True])
def test_nearest_is_wechsel(reference: bool, pair: Any, tmp_path: Path) -> None:
    """The softmax over the k nearest of all old tokens; common tokens too where published code is followed."""
    base, (ids, tables), donor, (new, _) = pair
    own = vectors(tmp_path / "old.txt", ids, 5, 7)
    theirs = vectors(tmp_path / "new.txt", new, 5, 8, leave=("dd",))
    given = {"vectors": tmp_path / "new.txt", "source_vectors": tmp_path / "old.txt", "k": 3, "reference": reference}
    plan = planned(base, donor, "nearest", given)
    old = [t for t in ids if t not in ("<s>", "</s>")]
    numbers = [ids[t] for t in old]
    made = rows_of(plan, tables)
    wanted = [t for t in new if t not in ("<s>", "</s>", "dd") and (reference or t not in ids)]
    assert set(missing_of(plan, new)) == set(wanted)
    for token in wanted:
        for name, table in made.items():
            expected = oracle.wechsel(theirs[new[token]], own[numbers], tables[name][numbers], 3, 0.1)
            np.testing.assert_allclose(table[new[token]], expected, rtol=1e-5, atol=1e-6)
    assert plan.figures["with_vectors"] == len(wanted)
    assert NAMES[plan.kind[new["dd"]]] == "copied"


def test_sparsemax_is_focus(pair: Any, tmp_path: Path) -> None:
    """The sparsemax of cosines with common tokens that have vectors; a token without one gets the fallback."""
    base, (ids, tables), donor, (new, _) = pair
    theirs = vectors(tmp_path / "v.txt", new, 5, 8, leave=("bc", "Ġab"))
    plan = planned(base, donor, "sparsemax", {"vectors": tmp_path / "v.txt"})
    common = [t for t in anchors_of(ids, new) if t != "Ġab"]
    made = rows_of(plan, tables)
    for token in missing_of(plan, new):
        for name, table in made.items():
            rows = tables[name][[ids[t] for t in common]]
            expected = oracle.focus(theirs[new[token]], theirs[[new[t] for t in common]], rows)
            np.testing.assert_allclose(table[new[token]], expected, rtol=1e-5, atol=1e-6)
    assert NAMES[plan.kind[new["bc"]]] == "fallback"


def test_a_hand_table_gives_the_hand_computed_rows(pair: Any, tmp_path: Path) -> None:
    """Three lines: a single pair, two tokens against one, two against three; and one count for what both have."""
    base, (ids, tables), donor, (new, _) = pair
    (tmp_path / "t.tsv").write_text("cd\tdd\t30\na b\tbc\t40\nĠab c\tĠd d c\t24\n", encoding="utf-8")
    plan = planned(base, donor, "alignment", {"table": tmp_path / "t.tsv", "smooth": False})
    made = rows_of(plan, tables)[EMBED]
    e = {t: tables[EMBED][n] for t, n in ids.items()}
    np.testing.assert_array_equal(made[new["dd"]], e["cd"])
    np.testing.assert_allclose(made[new["bc"]], (e["a"] + e["b"]) / 2)
    # 12 over six pairs: 2 each; 12 over six steps: 2 each, Ġd Ġd d | d c c beside Ġab Ġab Ġab | c c c.
    np.testing.assert_allclose(made[new["Ġd"]], (6 * e["Ġab"] + 2 * e["c"]) / 8)
    np.testing.assert_allclose(made[new["d"]], (4 * e["Ġab"] + 4 * e["c"] + 1 * e["d"]) / 9)
    np.testing.assert_allclose(made[new["c"]], (2 * e["Ġab"] + 6 * e["c"] + 1 * e["c"]) / 9)
    assert (made[new["a"]] == e["a"]).all()
    assert (made[new["<s>"]] == e["<s>"]).all()
    assert NAMES[plan.kind[new["dd"]]] == "copied"
    assert NAMES[plan.kind[new["d"]]] == "approximated"
    assert plan.figures["pairs"] == 3
    assert plan.figures["from_table"] == 5


@pytest.mark.parametrize("form", FORMS)
def test_tokens_match_across_forms(form: str, tmp_path: Path) -> None:
    """Byte characters, marks, `##` and `<0xNN>` are ways to write the same; ids are those of the form."""
    spelt = {
        "bytes": ["a", "b", "Ġ", "Ġa", "ab", "Ã", "©", "Ã©"],
        "pieces": ["<0xC3>", "<0xA9>", "a", "b", "▁", "▁a", "ab", "é"],
        "Unigram": ["<0xC3>", "<0xA9>", "a", "b", "▁", "▁a", "ab", "é"],
        "WordPiece": ["##a", "a", "##ab", "##é", "##b"],
    }
    for other in FORMS:
        own, theirs = tmp_path / form, tmp_path / other
        ids = tokenizer_of_texts(own, form, spelt[form])
        other_ids = tokenizer_of_texts(theirs, other, spelt[other])
        found = matches_of(read(theirs), read(own))

        def at(kind: str, known: Mapping[str, int], *texts: str) -> int | None:
            return next((known[t] for t in texts if t in known), None)

        written = {
            "ab": ("ab", "##ab"), "é": ("Ã©", "é", "##é"), " a": ("Ġa", "▁a"), "byte": ("Ã", "<0xC3>"),
            "<s>": ("<s>",),
        }  # fmt: skip
        for meaning, texts in written.items():
            if "WordPiece" in (form, other) and meaning in (" a", "byte"):
                continue
            new_at, old_at = (
                at(kind, known, *(t for t in texts if form != "bytes" or t in known))
                for kind, known in ((other, other_ids), (form, ids))
            )
            assert new_at is not None
            assert found.old[new_at] == old_at, (form, other, meaning)
            if form != other:
                kind = {"byte": "byte", "<s>": "special"}.get(meaning, "exact")
                assert NAMES[found.kind[new_at]] in (kind, "kept")


def tokenizer_of_texts(folder: Path, form: str, texts: list[str]) -> dict[str, int]:
    from ..support.vocabularies import bpe, unigram

    made = {
        "Unigram": lambda: unigram({"<unk>": 0.0, **{t: -1.0 - i for i, t in enumerate(texts)}}),
        "WordPiece": lambda: wordpiece(["[UNK]", *texts]),
    }.get(form, lambda: bpe(texts, [], byte_fallback=form == "pieces"))()
    write(folder, whole(form, made, ["<s>"]), {"bos": "<s>"})
    return read(folder).ids  # type: ignore[return-value]


def test_roles_come_before_text(tmp_path: Path) -> None:
    """A `</s>` that ends text there and is something else here; cls stands for bos; one token of two roles ends."""
    tokenizer(tmp_path / "old", "bytes", OLD, ["[CLS]", "[SEP]", "<end>"], {"cls": "[CLS]", "eos": "<end>"})
    tokenizer(tmp_path / "new", "bytes", NEW, ["<end>", "<go>", "[SEP]"], {"bos": "<go>", "eos": "[SEP]"})
    old, new = read(tmp_path / "old"), read(tmp_path / "new")
    found = matches_of(new, old)
    assert found.old[new.ids["<go>"]] == old.ids["[CLS]"]
    assert found.old[new.ids["[SEP]"]] == old.ids["<end>"]
    tokenizer(tmp_path / "both", "bytes", NEW, ["<|end|>"], {"bos": "<|end|>", "eos": "<|end|>", "pad": "<|end|>"})
    tokenizer(tmp_path / "all", "bytes", OLD, ["<s>", "</s>", "<pad>"], {"bos": "<s>", "eos": "</s>", "pad": "<pad>"})
    both, every = read(tmp_path / "both"), read(tmp_path / "all")
    assert matches_of(both, every).old[both.ids["<|end|>"]] == every.ids["</s>"]
    # The other way round all three are that one.
    found = matches_of(every, both)
    assert [found.old[every.ids[t]] for t in ("<s>", "</s>", "<pad>")] == [both.ids["<|end|>"]] * 3
    assert len(found.moved()) == len({*found.old[found.matched].tolist()})


def test_config_says_roles_that_the_tokenizer_does_not(tmp_path: Path) -> None:
    """A model without special_tokens_map.json has its ends in config.json alone."""
    ids = tokenizer(tmp_path / "old", "bytes", OLD, ["<x>", "<y>"], {})
    (tmp_path / "old" / "config.json").write_text(json.dumps({"eos_token_id": [ids["<y>"], 3], "bos_token_id": None}))
    tokenizer(tmp_path / "new", "bytes", NEW, ["</s>"], {"eos": "</s>"})
    new = read(tmp_path / "new")
    assert matches_of(new, read(tmp_path / "old")).old[new.ids["</s>"]] == ids["<y>"]


def test_fuzzy_matches_are_asked_for(tmp_path: Path) -> None:
    """Case and word start; what begins a word in both is nearer; a token that moves is the same one only."""
    tokenizer(tmp_path / "old", "bytes", ["A", "Ġa", "Ġ", "a", "b", "Ġab", "Ġ", "É"][:6])
    tokenizer(tmp_path / "new", "bytes", ["A", "Ġ", "ĠA", "a", "b", "B", "aB"])
    old, new = read(tmp_path / "old"), read(tmp_path / "new")
    plain, fuzzy = matches_of(new, old), matches_of(new, old, fuzzy=True)
    assert plain.old[new.ids["ĠA"]] == -1
    assert fuzzy.old[new.ids["ĠA"]] == old.ids["Ġa"]
    assert fuzzy.old[new.ids["B"]] == old.ids["b"]
    assert fuzzy.old[new.ids["aB"]] == old.ids["Ġab"]
    assert NAMES[fuzzy.kind[new.ids["aB"]]] == "fuzzy"
    assert fuzzy.moved() == plain.moved()


def test_added_tokens_that_are_text_match_text(tmp_path: Path) -> None:
    """One vocabulary finds a token before it segments, the other has it as a plain one."""
    data = whole("bytes", {**json.loads(json.dumps(whole("bytes", _letters())["model"]))}, ["<s>"], plain=["ab", " c"])
    write(tmp_path / "new", data, {"bos": "<s>"})
    tokenizer(tmp_path / "old", "bytes", [*OLD, "Ġc"])
    new, old = read(tmp_path / "new"), read(tmp_path / "old")
    found = matches_of(new, old)
    assert found.old[new.ids["ab"]] == old.ids["ab"]
    assert found.old[new.ids[" c"]] == old.ids["Ġc"]
    back = matches_of(old, new)
    assert back.old[old.ids["Ġc"]] == new.ids[" c"]


def _letters() -> Any:
    from ..support.vocabularies import bpe

    return bpe(["a", "b", "c", "Ġ"], [])


def test_gains_are_told_and_limited(tmp_path: Path) -> None:
    """A donor row that is short there and made long here: its gain is told, capped, or the row given up."""
    rng = np.random.default_rng(1)
    ids = tokenizer(tmp_path / "base", "bytes", OLD)
    new = tokenizer(tmp_path / "donor", "bytes", NEW)
    own, theirs = rng.normal(size=(len(ids), 16)), rng.normal(size=(len(new), 16))
    # Two common tokens that cancel out in the donor and add up in the model.
    first, second = "a", "b"
    theirs[new[second]] = -theirs[new[first]] + 1e-2 * rng.normal(size=16)
    theirs[new["dd"]] = theirs[new[first]] + theirs[new[second]]
    _, tables = model(tmp_path / "base", "bytes", OLD, tables={EMBED: own, HEAD: own})
    model(tmp_path / "donor", "bytes", NEW, tables={EMBED: theirs, HEAD: theirs})
    loose = planned(tmp_path / "base", tmp_path / "donor", "omp")
    loudest = loose.figures["table_gain_loudest"]
    anchors = anchors_of(ids, new)
    ratio = [np.linalg.norm(own[ids[t]]) / np.linalg.norm(theirs[new[t]]) for t in anchors]
    np.testing.assert_allclose(loose.figures["table_gain_scale"], np.median(ratio))
    row = rows_of(loose, tables)[EMBED][new["dd"]]
    gain = np.linalg.norm(row) / np.linalg.norm(theirs[new["dd"]]) / np.median(ratio)
    gains = {entry["token"]: entry["gain"] for entry in loudest}
    np.testing.assert_allclose(gains["dd"], gain)
    assert gain > 10
    assert any("--max-gain" in line and f"`{loudest[0]['token']}`" in line for line in loose.told)
    capped = planned(tmp_path / "base", tmp_path / "donor", "omp", max_gain=2.0)
    np.testing.assert_allclose(rows_of(capped, tables)[EMBED][new["dd"]], row * 2 / gain)
    assert capped.figures["table_gain_over"] >= 1
    assert capped.figures["table_gain_max"] <= 2
    given_up = planned(tmp_path / "base", tmp_path / "donor", "omp", max_gain=2.0, over_gain="reject")
    np.testing.assert_allclose(rows_of(given_up, tables)[EMBED][new["dd"]], own[ids["d"]])
    assert not any("--max-gain" in line for line in [*capped.told, *given_up.told])


def test_what_is_stored_narrow_is_read_as_it_is(tmp_path: Path) -> None:
    """bf16 and f16 rows, widened; padded rows of either model are nobody's; names without tokens are padding."""
    for dtype in ("BF16", "F16", "F32"):
        ids, _ = model(tmp_path / dtype, "bytes", OLD, dtype=dtype, extra_rows=5)
        stored = read_checkpoint(tmp_path / dtype)[EMBED].values()
        found = model_at(tmp_path / dtype)
        assert found.embed is not None
        assert found.head is not None
        assert found.embed.count == len(ids) + 5
        order = np.array([3, 0, 7, 3])
        np.testing.assert_array_equal(found.embed.read(order), stored[order])
        new, _ = model(tmp_path / f"donor-{dtype}", "bytes", NEW, dtype=dtype, extra_rows=3)
        plan = planned(tmp_path / dtype, tmp_path / f"donor-{dtype}", "omp", multiple=8)
        assert len(plan.names) == len(new)
        assert plan.rows == -(-len(new) // 8) * 8
        assert plan.counts().get("padding", 0) == plan.rows - len(new)
        assert plan.table.index.max() < len(ids)


def test_pytorch_files_are_read_too(tmp_path: Path) -> None:
    """Where a table does not lie in safetensors it is read by the core."""
    _, tables = model(tmp_path / "base", "bytes", OLD)
    (path,) = (tmp_path / "base").glob("*.safetensors")
    path.unlink()
    stored = {name: (storage(str(i), "F64", v.tobytes()), v.shape) for i, (name, v) in enumerate(tables.items())}
    value = ordered({name: torch_tensor(of, "F64", shape) for name, (of, shape) in stored.items()})
    (tmp_path / "base" / "pytorch_model.bin").write_bytes(saved(value))
    found = model_at(tmp_path / "base")
    assert found.embed is not None
    order = np.array([2, 1])
    np.testing.assert_array_equal(found.embed.read(order), tables[EMBED][order])


def test_bytes_that_are_no_text_are_pieces_too(tmp_path: Path) -> None:
    """A token cut within a character: the space, what is text, and single bytes, where the vocabulary has them."""
    tokenizer_of_texts(tmp_path / "old", "pieces", ["<0xC3>", "<0xA9>", "a", "b", "▁", "▁a", "ab", "é"])
    old = read(tmp_path / "old")
    pieces = speller(old)

    def spelt(starts: bool, content: bytes) -> list[str]:
        return [old.names[n] for n in pieces(starts, content)]

    assert spelt(True, b"\xc3") == ["▁", "<0xC3>"]
    assert spelt(False, b"a\xc3") == ["a", "<0xC3>"]
    assert spelt(False, b"\xa9a") == ["<0xA9>", "a"]
    assert spelt(False, "é".encode()) == ["é"]
    assert spelt(False, b"\xff") == []
    assert speller(old, whole_only=True)(False, b"ab\xff") == []
    words = read(write(tmp_path / "words", whole("WordPiece", wordpiece(["[UNK]", "a", "ab", "##b", "##ba"]))))
    found = speller(words)
    assert [words.names[n] for n in found(True, b"abba")] == ["ab", "##ba"]
    assert [words.names[n] for n in found(False, b"bba")] == ["##b", "##ba"]
    assert found(True, b"abc") == []


def test_holes_in_the_donors_numbers_are_padding(tmp_path: Path) -> None:
    """A number without a token gets no name, and the mean."""
    model(tmp_path / "base", "bytes", OLD)
    data = whole("bytes", _letters())
    data["added_tokens"] = [added(9, "<s>")]
    write(tmp_path / "donor", data, {"bos": "<s>"})
    plan = planned(tmp_path / "base", tmp_path / "donor", "subwords")
    assert plan.names[4:9] == [None] * 5
    assert [NAMES[k] for k in plan.kind[4:9]] == ["padding"] * 5
    assert plan.names[9] == "<s>"


def refused(pattern: str, kind: type[SutureError], *arguments: Any, **more: Any) -> None:
    with pytest.raises(kind, match=pattern):
        planned(*arguments, **more)


def test_what_does_not_go_together_is_refused(pair: Any, tmp_path: Path) -> None:
    """By name, before anything is written."""
    base, _, donor, _ = pair
    bare = tmp_path / "bare"
    tokenizer(bare, "bytes", NEW)
    refused("omp compares rows of a donor, and .*bare is a tokenizer alone", UsageError, base, bare, "omp")
    refused("clp needs a model with the new tokenizer", UsageError, base, bare, "clp")
    refused("max_gain: .* gains need a donor's rows", UsageError, base, bare, "subwords", max_gain=2.0)
    refused("helper: .* has another tokenizer than", UsageError, base, bare, "clp", {"helper": base})
    refused("needs --vectors", UsageError, base, donor, "nearest")
    refused("needs --table", UsageError, base, donor, "alignment")
    refused("k: belongs to method omp or nearest, not to clp", UsageError, base, donor, "clp", {"k": 3})
    refused("expected overlap.*did you mean `omp`", UsageError, base, donor, "ompp")
    refused("k: expected a number of at least 1", UsageError, base, donor, "omp", {"k": 0})
    refused("temperature: expected a number above 0", UsageError, base, donor, "nearest", {"temperature": 0.0})
    refused("tolerance: expected a share", UsageError, base, donor, "omp", {"tolerance": 2.0})
    refused("fallback: expected subwords or mean", UsageError, base, donor, "omp", fallback="zero")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused("empty: has no tokenizer", UsageError, base, empty, "subwords")
    (empty / "tokenizer.model").write_bytes(b"\x0a")
    refused("has no tokenizer.json.*load its tokenizer with transformers", UsageError, base, empty, "subwords")


def test_vocabularies_without_a_common_token_are_refused(tmp_path: Path) -> None:
    """Where a method lives of common tokens; others say what share there is."""
    model(tmp_path / "base", "bytes", ["a", "b", "ab"])
    model(tmp_path / "donor", "bytes", ["x", "y", "xy"])
    for method in ("omp", "clp"):
        refused("have no token in common.*take subwords", UsageError, tmp_path / "base", tmp_path / "donor", method)
    plan = planned(tmp_path / "base", tmp_path / "donor", "subwords")
    assert any("(0.0 %); most rows are guesses" in line for line in plan.told)
    assert plan.counts() == {"special": 2, "fallback": 3}


@pytest.mark.parametrize("which", ["base", "donor"])
def test_tables_with_fewer_rows_than_tokens_are_refused(which: str, pair: Any, tmp_path: Path) -> None:
    """A tokenizer of another model, or one that was extended without the model."""
    base, (ids, tables), donor, (new, theirs) = pair
    folder, count, shapes = (base, len(ids), tables) if which == "base" else (donor, len(new), theirs)
    cut = {name: table[: count - 2] for name, table in shapes.items()}
    write_checkpoint(folder, cut, config=json.loads((folder / "config.json").read_text()))
    refused(f"{which}: its table of tokens has {count - 2} rows, its tokenizer numbers tokens up to {count - 1}",
            SutureError, base, donor, "omp")  # fmt: skip


def test_rows_that_are_no_numbers_are_refused(pair: Any) -> None:
    """By the tensor and the row."""
    base, _, donor, (new, theirs) = pair
    theirs[EMBED][new["bc"], 1] = np.nan
    write_checkpoint(donor, theirs, config=json.loads((donor / "config.json").read_text()))
    refused(rf"tensor `{EMBED}`: row {new['bc']} has NaN", SutureError, base, donor, "omp")


BAD_TABLES: dict[str, tuple[str | bytes, str]] = {
    "unknown token": ("zz\tdd\t3\n", r"t\.tsv:1: .*base has no token `zz`"),
    "unknown new token": ("a\tb c zz\t3\n", r"t\.tsv:1: .*donor has no token `zz`"),
    "one column": ("a\n", r"t\.tsv:1: expected 2 to 4 columns"),
    "no count": ("a\tb\tmany\n", r"t\.tsv:1: expected a count in the last column, found `many`"),
    "negative": ("a\tb\t-1\n", "expected a count"),
    "nan": ("a\tb\tnan\n", "expected a count"),
    "nothing": ("", "has no line that counts"),
    "rare": ("a\tb\t0.5\n", "has no line that counts; 1 count less than 1"),
    "no text": (b"a\tb\t1\n\xff\tb\t1\n", r"t\.tsv: line 2 is not UTF-8"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_tables_that_are_none_are_refused(case: str, pair: Any, tmp_path: Path) -> None:
    """By line, and what is wrong there."""
    content, pattern = BAD_TABLES[case]
    (tmp_path / "t.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(pattern, SutureError, *pair[::2], "alignment", {"table": tmp_path / "t.tsv"})
    refused("no such file", UsageError, *pair[::2], "alignment", {"table": tmp_path / "none.tsv"})


BAD_VECTORS = {
    "ragged": ("a 1 2\nb 1\n", r"v\.txt:2: expected 2 numbers, found 1"),
    "words": ("a 1 x\n", r"v\.txt:1: expected a token and numbers"),
    "twice": ("a 1 2\na 1 3\n", r"v\.txt:2: `a` a second time"),
    "nan": ("a 1 nan\n", r"row 0 has NaN"),
    "nothing": ("", "expected a matrix"),
    "others": ("zz 1 2\n", "has no vector of any token of"),
}


@pytest.mark.parametrize("case", BAD_VECTORS)
def test_vectors_that_are_none_are_refused(case: str, pair: Any, tmp_path: Path) -> None:
    """By line, and what is wrong there."""
    content, pattern = BAD_VECTORS[case]
    (tmp_path / "v.txt").write_text(content, encoding="utf-8")
    for method in ("nearest", "sparsemax"):
        refused(pattern, SutureError, *pair[::2], method, {"vectors": tmp_path / "v.txt"})


def test_vectors_in_three_forms_are_the_same(pair: Any, tmp_path: Path) -> None:
    """Text, a matrix with its tokens beside it, safetensors with tokens, or by number."""
    base, _, donor, (new, _) = pair
    values = vectors(tmp_path / "v.txt", new, 5, 8).astype(np.float32)
    names = [t for t, _ in sorted(new.items(), key=lambda pair: pair[1])]
    np.save(tmp_path / "m.npy", values)
    (tmp_path / "m.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    write_checkpoint(tmp_path / "s", {"vectors": values})
    (single,) = (tmp_path / "s").glob("*.safetensors")
    plans = [
        planned(base, donor, "sparsemax", {"vectors": path})
        for path in (tmp_path / "v.txt", tmp_path / "m.npy", single)
    ]
    for plan in plans[1:]:
        assert (plan.table.index == plans[0].table.index).all()
        np.testing.assert_allclose(plan.table.weight, plans[0].table.weight, rtol=1e-6)
    assert (plans[0].table.source == MIX).any()
    (tmp_path / "m.txt").unlink()
    refused("expected its tokens, one a line, in m.txt", SutureError, base, donor, "sparsemax",
            {"vectors": tmp_path / "m.npy"})  # fmt: skip


def test_numbers_that_are_cut_otherwise_are_told(tmp_path: Path) -> None:
    """Arithmetic suffers from it, as the authors of OMP found."""
    model(tmp_path / "base", "bytes", ["1", "2", "a"])
    model(tmp_path / "donor", "bytes", ["1", "2", "12", "121", "a"])
    plan = planned(tmp_path / "base", tmp_path / "donor", "omp")
    assert any("up to 1 digits in" in line and "3 in" in line for line in plan.told)
    assert KIND["kept"] == NAMES.index("kept")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_the_verb_writes_what_the_plan_says(method: str, tied: bool, tmp_path: Path) -> None:
    """Copied rows as bytes, mixed ones rounded once; all other tensors as they were; the donor's files and numbers."""
    ids, tables = model(tmp_path / "base", "bytes", OLD, seed=1, tied=tied, dtype="F32")
    new, _ = model(tmp_path / "donor", "bytes", NEW, seed=2, width=6, dtype="F32")
    vectors(tmp_path / "v.txt", {**new, **ids, **new}, 5, 8)
    (tmp_path / "t.tsv").write_text("cd\tdd\t30\na b\tbc\t40\n", encoding="utf-8")
    given: dict[str, Any] = {name: tmp_path / file for name, file in METHODS[method].items()}
    out = tmp_path / "out"
    report = suture.surgery.vocab_transplant.vocab_transplant(
        tmp_path / "base", tmp_path / "donor", out, method=method, keep=tmp_path / "plan.json", **given
    )
    plan = planned(tmp_path / "base", tmp_path / "donor", method, given)
    before, after = read_checkpoint(tmp_path / "base"), read_checkpoint(out)
    assert before.keys() == after.keys()
    stored = {name: before[name].values().astype(np.float64) for name in tables}
    made = rows_of(plan, stored)
    for name, raw in after.items():
        if name in made:
            np.testing.assert_allclose(raw.values(), made[name], rtol=1e-6, atol=1e-6)
            copied = (plan.head if name == HEAD and plan.head else plan.table).source == 0
            assert (raw.values()[copied] == made[name][copied]).all()
        else:
            assert raw == before[name]
    config = json.loads((out / "config.json").read_text())
    assert config["vocab_size"] == plan.rows == len(new)
    assert (config["bos_token_id"], config["eos_token_id"]) == (new["<s>"], new["</s>"])
    assert read(out).ids == new
    assert (out / "tokenizer.json").read_bytes() == (tmp_path / "donor" / "tokenizer.json").read_bytes()
    counts = report.beside["vocabulary"]["counts"]
    assert sum(counts.values()) == plan.rows
    assert (tmp_path / "plan.json").is_file()


def test_the_command_says_what_it_makes(pair: Any, tmp_path: Path) -> None:
    """Options by the names of the API, errors of one line."""
    from suture.cli.vocab.transplant import transplant

    base, _, donor, _ = pair
    run = CliRunner().invoke
    done = run(transplant, [str(base), "--from", str(donor), str(tmp_path / "out"), "--method", "omp", "--k", "4"])
    assert done.exit_code == 0, done.output
    assert "approximated" in done.output
    assert "table residual median" in done.output
    asked = [str(base), "--from", str(donor), str(tmp_path / "dry"), "--method", "clp", "--top-k", "2", "--dry-run"]
    assert run(transplant, asked).exit_code == 0
    assert not (tmp_path / "dry").exists()
    wrong = run(transplant, [*asked, "--k", "3"])
    assert isinstance(wrong.exception, UsageError)
