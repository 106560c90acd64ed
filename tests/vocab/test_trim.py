"""Laws: a trim segments no line of its texts otherwise, keeps what the paper keeps and no more than it must, and says
what other text fares like."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suture.errors import SutureError, UsageError
from suture.vocab.needed import REASONS
from suture.vocab.rowplan import PAD, RowPlan
from suture.vocab.tokens import read
from suture.vocab.trim import Asked, plan

from ..support.vocabularies import added, bpe, unigram, whole, wordpiece, write
from .test_segmenting import KINDS, models

tokenizers = pytest.importorskip("tokenizers")


def text(folder: Path, lines: Iterable[str], name: str = "text.txt") -> Path:
    path = folder / name
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


def trimmed(folder: Path, files: Sequence[Path], rows: int | None = None, **more: Any) -> RowPlan:
    own = read(folder)
    asked = Asked({path.name: [path] for path in files}, **more)
    found = plan(own, own.size if rows is None else rows, asked)
    assert found.problem() is None
    return found


def before(folder: Path) -> Any:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def after(found: RowPlan) -> Any:
    written = dict(found.written)
    data = written.get("tokenizer.json") or Path(dict(found.copied)["tokenizer.json"]).read_bytes()
    return tokenizers.Tokenizer.from_str(data.decode())


def strings(tokenizer: Any, line: str) -> list[str]:
    return list(tokenizer.encode(line, add_special_tokens=False).tokens)


@st.composite
def cases(draw: st.DrawFn) -> Any:
    data = draw(models(draw(st.sampled_from(KINDS))))
    piece = st.sampled_from(["a", "b", "c", "d", "é", " ", "~", "<s>", "<|x|>"])
    lines = draw(st.lists(st.lists(piece, max_size=14).map("".join), min_size=1, max_size=25))
    return data, lines, draw(st.sampled_from(["exact", "closure"])), draw(st.sampled_from(["all", "used"]))


@given(case=cases())
@settings(max_examples=90, deadline=None)
def test_no_line_is_segmented_otherwise(case: Any) -> None:
    """All forms and ways: the same tokens, line by line; each under a row that is its old row."""
    data, lines, mode, characters = case
    with tempfile.TemporaryDirectory() as place:
        folder = write(Path(place) / "m", data)
        found = trimmed(folder, [text(Path(place), lines)], mode=mode, characters=characters)
        old, new = before(folder), after(found)
        table = np.random.default_rng(0).standard_normal((old.get_vocab_size(), 3))
        rows = table[found.table.row]
        for line in lines:
            one, other = old.encode(line), new.encode(line)
            assert other.tokens == one.tokens
            assert (rows[other.ids] == table[one.ids]).all()
        assert new.get_vocab() == {name: i for i, name in enumerate(found.names)}
        assert found.counts() == {"kept": len(found.names)}
        assert sum(found.figures["reasons"].values()) == len(found.names) == found.figures["kept"]
        assert found.figures["changed"] == 0


def made_of(model: Any, word: str) -> set[str]:
    """All tokens that BPE makes of a whole word, by its definition: merge the first pair of the lowest rank."""
    ranks = {tuple(pair): i for i, pair in enumerate(model["merges"])}
    parts = [c for c in word if c in model["vocab"]]
    seen = set(parts)
    while True:
        pairs = [(ranks[pair], i) for i, pair in enumerate(pairwise(parts)) if pair in ranks]
        if not pairs:
            return seen
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        seen.add(parts[i])


@given(
    pairs=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=25),
    words=st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=8),
)
@settings(max_examples=90, deadline=None)
def test_exact_keeps_what_whole_words_make_and_no_more(pairs: list[tuple[int, int]], words: list[str]) -> None:
    """Tokens are replayed alone; that must find what replaying each word of the text finds, and nothing else."""
    tokens, merges = list("abc"), []
    for i, j in pairs:
        pair = tokens[i % len(tokens)], tokens[j % len(tokens)]
        if pair not in merges and len(pair[0] + pair[1]) < 9:
            merges.append(pair)
            tokens.append(pair[0] + pair[1])
    data = whole("bytes", bpe(["<s>", *"abc"], merges), [])
    with tempfile.TemporaryDirectory() as place:
        folder = write(Path(place) / "m", data)
        found = trimmed(folder, [text(Path(place), words)])
        used = set().union(*(strings(before(folder), word) for word in words))
        # What is made and then merged on, of what ends in the text.
        made = set().union(*(made_of(data["model"], word) for word in words))
        assert set(found.names) == {*"abc"} | used | made
        wide = trimmed(folder, [text(Path(place), words)], mode="closure")
        closed = set(used)
        while more := {part for left, right in merges if left + right in closed for part in (left, right)} - closed:
            closed |= more
        assert set(wide.names) == {*"abc"} | closed
        assert set(found.names) <= set(wide.names)


def test_filtering_merges_alone_would_change_lines(tmp_path: Path) -> None:
    """The trap that existing tools fall into: of several derivations only one is made, and it needs its parts."""
    model = bpe([*"abcd"], [("b", "c"), ("a", "bc"), ("a", "b"), ("ab", "c"), ("abc", "d")])
    folder = write(tmp_path / "m", whole("bytes", model))
    found = trimmed(folder, [text(tmp_path, ["abcd"] * 30)])
    assert set(found.names) == {*"abcd", "bc", "abc", "abcd"}
    reasons = {name: found.reasons[found.why[i]] for i, name in enumerate(found.names)}
    assert reasons["bc"] == reasons["abc"] == "made on the way to a token that stays"
    assert reasons["abcd"] == "used by the texts"
    made = json.loads(dict(found.written)["tokenizer.json"])["model"]
    assert made["merges"] == [["b", "c"], ["a", "bc"], ["abc", "d"]]
    assert "ab" in trimmed(folder, [text(tmp_path, ["abcd"])], mode="closure").names


def test_words_that_are_looked_up_need_no_merges(tmp_path: Path) -> None:
    """With ignore_merges a whole word is a token without its parts; as a part of a word it is made of them."""
    model = bpe([*"abcd"], [("a", "b"), ("ab", "c"), ("c", "d")], ignore_merges=True)
    folder = write(tmp_path / "m", whole("bytes", model))
    assert set(trimmed(folder, [text(tmp_path, ["abc"])]).names) == {*"abcd", "abc"}
    assert set(trimmed(folder, [text(tmp_path, ["abc", "abcb"])]).names) == {*"abcd", "abc", "ab"}


def test_the_lowest_score_stays_as_unknown_characters_go_by_it(tmp_path: Path) -> None:
    """Unigram scores an unknown character 10 below its lowest piece: without that piece this line would change."""
    scores = {"<unk>": 0.0, "▁": -1.0, "a": -1.0, "b": -15.0, "ab": -1.0, "éa": -20.0, "zz": -60.0, "yy": -30.0}
    data = whole("Unigram", unigram(scores))
    folder = write(tmp_path / "m", data)
    found = trimmed(folder, [text(tmp_path, ["éab"])])
    assert strings(before(folder), "éab") == strings(after(found), "éab") == ["▁", "éa", "b"]
    assert set(found.names) == {"<unk>", "▁", "a", "b", "éa", "zz"}
    assert found.reasons[found.why[list(found.names).index("zz")]] == REASONS[-1]
    # The trap is one: without `zz` the library gives something else.
    del scores["zz"], scores["yy"]
    other = write(tmp_path / "other", whole("Unigram", unigram(scores)))
    assert strings(before(other), "éab") != ["▁", "éa", "b"]


def test_what_wordpiece_tries_in_vain_stays(tmp_path: Path) -> None:
    """`abcd` is unknown as `abc` is found first; without `abc` it would be `ab` and `##cd`."""
    data = whole("WordPiece", wordpiece(["[UNK]", *"ab", "##cd", "ab", "abc", "abx"]))
    folder = write(tmp_path / "m", data)
    found = trimmed(folder, [text(tmp_path, ["abcd ab a b", "~cd"])])
    assert strings(after(found), "abcd ab") == ["[UNK]", "ab"]
    assert set(found.names) == {"[UNK]", "a", "b", "ab", "abc"}
    assert found.figures["reasons"]["tried before a word is given up"] == 1


def test_words_that_are_tokens_as_they_are(tmp_path: Path) -> None:
    """WordLevel, whose numbers have holes: these close, and what texts lack becomes unknown."""
    vocab = {"[UNK]": 0, "one": 2, "two": 3, "three": 7, "z": 8}
    data = whole("WordPiece", {"type": "WordLevel", "unk_token": "[UNK]", "vocab": vocab})
    data["decoder"] = None
    folder = write(tmp_path / "m", data)
    found = trimmed(folder, [text(tmp_path, ["one three four", "one"])])
    assert list(found.names) == ["[UNK]", "one", "three", "z"]
    assert found.table.row.tolist() == [0, 2, 7, 8]
    assert strings(after(found), "three two one") == ["three", "[UNK]", "one"]


def xlmr(tmp: Path) -> tuple[Path, Path, Path]:
    """A Unigram tokenizer with XLM-R's numbers, and two languages of Zipf's law."""
    rng = np.random.default_rng(5)
    letters = "abcdefghij"
    words = list(dict.fromkeys("".join(rng.choice([*letters], rng.integers(2, 6))) for _ in range(400)))
    scores = {"<s>": 0.0, "<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, "▁": -3.0}
    scores |= {letter: -9.0 - i / 10 for i, letter in enumerate(letters)}
    scores |= {f"▁{word}": -6.0 - i / 100 for i, word in enumerate(words)} | {"<mask>": 0.0}
    data = whole("Unigram", unigram(scores, 3))
    data["added_tokens"] = [added(i, t) for i, t in enumerate(scores) if t.startswith("<")]
    folder = write(tmp / "m", data, {"mask": "<mask>", "bos": "<s>"})
    files = []
    for name, some in (("one", words[:250]), ("two", words[200:])):
        share = 1 / np.arange(1, len(some) + 1)
        lines = [" ".join(rng.choice(some, 8, p=share / share.sum())) for _ in range(300)]
        files.append(text(tmp, lines, name))
    return folder, files[0], files[1]


@pytest.mark.parametrize("share", [0.0, 1e-3, 5e-3])
def test_it_keeps_what_bistil_keeps(share: float, tmp_path: Path) -> None:
    """Tokens whose share is enough in either language, and special ones; beside them only what sets scores."""
    folder, *files = xlmr(tmp_path)
    old = before(folder)
    kept: set[str] = set()
    for file in files:
        counts = Counter(t for line in file.read_text().splitlines() for t in strings(old, line))
        total = sum(counts.values())
        kept |= {t for t, n in counts.items() if n / total >= share}
    special = {"<s>", "<pad>", "</s>", "<unk>", "<mask>"}
    found = trimmed(folder, files, min_share=share, characters="used")
    extra = {str(name) for name in found.names} - kept - special
    assert kept | special <= set(found.names)
    assert {found.reasons[found.why[list(found.names).index(name)]] for name in extra} <= {REASONS[-1]}
    assert list(found.names)[-1] == "<mask>"
    every = trimmed(folder, files, min_share=share)
    assert set(every.names) == set(found.names) | {*"abcdefghij", "▁"}


def test_lines_that_rare_tokens_leave_are_counted(tmp_path: Path) -> None:
    """With a share that drops tokens, as many lines change as comparing them one by one shows; the first is named."""
    folder, *files = xlmr(tmp_path)
    found = trimmed(folder, files, min_share=2e-3)
    old, new = before(folder), after(found)
    changed = {f.name: [s for s in f.read_text().splitlines() if strings(old, s) != strings(new, s)] for f in files}
    assert {name: t["changed"] for name, t in found.figures["texts"].items()} == {n: len(c) for n, c in changed.items()}
    first = files[0].read_text().splitlines().index(changed["one"][0]) + 1
    assert found.told[0].startswith(f"{sum(map(len, changed.values())):,} of 600 lines are segmented otherwise")
    assert f"{files[0]}:{first}" in found.told[0]
    assert found.figures["dropped_used"] > 0


@pytest.mark.parametrize("share", [0.0, 2e-3])
def test_lines_left_aside_tell_how_other_text_fares(share: float, tmp_path: Path) -> None:
    """What is told is what a trim by the other nine tenths does to every tenth line."""
    folder, *files = xlmr(tmp_path)
    found = trimmed(folder, files, min_share=share)
    (tmp_path / "seen").mkdir()
    lines = {file.name: file.read_text().splitlines() for file in files}
    seen = [text(tmp_path / "seen", [s for i, s in enumerate(own) if i % 10 != 9], n) for n, own in lines.items()]
    old, blind = before(folder), after(trimmed(folder, seen, min_share=share))
    for name, own in lines.items():
        aside = own[9::10]
        assert found.figures["texts"][name]["aside"] == len(aside) == 30
        wrong = sum(strings(old, line) != strings(blind, line) for line in aside)
        assert found.figures["texts"][name]["aside_changed"] == wrong > 0
    assert found.told[-1].endswith("were, by a trim that had not seen them")


def test_one_language_may_have_several_files(tmp_path: Path) -> None:
    """Shares are those of a language, however its text is cut."""
    folder, one, two = xlmr(tmp_path)
    lines = one.read_text().splitlines()
    parts = [text(tmp_path, lines[:137], "first"), text(tmp_path, lines[137:], "second")]
    own = read(folder)
    asked = Asked({"one": parts, "two": [two]}, 2e-3)
    cut, uncut = plan(own, own.size, asked), plan(own, own.size, Asked({"one": [one], "two": [two]}, 2e-3))
    assert cut.figures == uncut.figures
    assert cut.written == uncut.written


def test_rows_that_configs_name_stay_and_rows_are_padded(tmp_path: Path) -> None:
    """A row without a token that config.json names stays behind the tokens; listed ones to suppress may leave."""
    folder, one, _ = xlmr(tmp_path)
    size = read(folder).size
    config = {"pad_token_id": 1, "image_token_id": size + 2, "text_config": {"eos_token_id": [2, 300]}}
    generation = {"suppress_tokens": [301], "forced_decoder_ids": [[302, 303]]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    found = trimmed(folder, [one], rows=size + 8, pad_to=64)
    assert found.moved[size + 2] == len(found.names) - 1
    assert found.names[-1] is None
    names = read(folder).names
    assert {names[300], names[303]} <= set(found.names)
    assert not {names[301], names[302]} & set(found.names)
    assert found.rows % 64 == 0
    assert found.rows - len(found.names) < 64
    assert (found.table.source[len(found.names) :] == PAD).all()
    assert found.counts() == {"kept": len(found.names), "padding": found.rows - len(found.names)}
    assert found.undo is False


def test_what_is_no_text_is_refused_with_its_line(tmp_path: Path) -> None:
    """Before anything is written: bytes that are no UTF-8, nothing, no file."""
    folder, one, _ = xlmr(tmp_path)
    bad = tmp_path / "bad"
    bad.write_bytes(b"fine\n\xc3\xa9 too\nab\xff\n")
    with pytest.raises(SutureError, match=r"bad:3: is not UTF-8: byte 3 of the line is 0xff; convert it to UTF-8"):
        trimmed(folder, [one, bad])
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="empty: has no text"):
        trimmed(folder, [tmp_path / "empty"])
    with pytest.raises(UsageError, match="none: no such file of text"):
        trimmed(folder, [tmp_path / "none"])
    with pytest.raises(UsageError, match="text: expected at least one file"):
        trimmed(folder, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_share": 1.0}, "min_share: expected a share from 0 to below 1, found 1.0"),
        ({"mode": "both"}, "mode: expected exact or closure, found `both`"),
        ({"characters": "none"}, "characters: expected all or used, found `none`"),
        ({"pad_to": 0}, "pad_to: expected a number from 1 on, found 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Each with what is expected."""
    folder, one, _ = xlmr(tmp_path)
    with pytest.raises(UsageError, match=message):
        trimmed(folder, [one], **options)


def test_tokenizers_that_cannot_be_trimmed_are_refused(tmp_path: Path) -> None:
    """None, one with holes, one that draws random numbers, tokens beyond the rows."""
    line = text(tmp_path, ["ab"])
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match=r"none: has no tokenizer\.json, which a trim segments text with"):
        trimmed(tmp_path / "none", [line], rows=9)
    model = bpe([*"abcd"], [("a", "b")])
    with pytest.raises(SutureError, match="`ab` is token 4, but the tables have 4 rows"):
        trimmed(write(tmp_path / "m", whole("bytes", model)), [line], rows=4)
    noisy = write(tmp_path / "noisy", whole("bytes", {**model, "dropout": 0.1}))
    with pytest.raises(UsageError, match="leaves merges out at random"):
        trimmed(noisy, [line])
    data = whole("bytes", model, ["<s>"])
    data["added_tokens"][0]["id"] = 9
    with pytest.raises(SutureError, match="`<s>` has number 9 in the file, but 5 in the library, which"):
        trimmed(write(tmp_path / "holes", data), [line])


def test_the_plan_is_the_same_whatever_the_threads(tmp_path: Path) -> None:
    """One thread and four give the same bytes."""
    folder, one, two = xlmr(tmp_path)
    code = (
        "import sys, json, hashlib; from pathlib import Path\n"
        "from suture.vocab.tokens import read; from suture.vocab.trim import Asked, plan\n"
        "own = read(Path(sys.argv[1])); texts = {p: [Path(p)] for p in sys.argv[2:]}\n"
        "found = plan(own, own.size, Asked(texts, 2e-3))\n"
        "print(json.dumps([found.figures, found.table.row.tolist(), hashlib.sha256(found.written[0][1]).hexdigest()]))"
    )
    outputs = set()
    for threads in ("1", "4"):
        env = {**os.environ, "RAYON_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", code, folder, one, two], env=env, capture_output=True, check=True)
        outputs.add(done.stdout)
    assert len(outputs) == 1
