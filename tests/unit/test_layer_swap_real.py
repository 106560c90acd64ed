"""Laws of the study of layer swapping on a published model, as far as they need neither torch nor the model."""

# Letters of Turkish are meant.
# ruff: noqa: RUF001

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ..support.arrows import ROOT

BENCHES = ROOT / "benches"
UNITS = {
    "en": "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen",
    "tr": "sıfır bir iki üç dört beş altı yedi sekiz dokuz on",
    "id": "nol satu dua tiga empat lima enam tujuh delapan sembilan sepuluh sebelas",
}
TENS = {"en": "twenty thirty forty fifty sixty", "tr": "on yirmi otuz kırk elli altmış"}


def num2words(n: int, lang: str) -> str:
    """Stands for the package, which the tests do without; Turkish is joined as there."""
    units = UNITS[lang].split()
    if n < len(units):
        return units[n]
    if lang == "id":
        return (
            f"{units[n - 10]} belas" if n < 20 else f"{units[n // 10]} puluh" + (f" {units[n % 10]}" if n % 10 else "")
        )
    tens = TENS[lang].split()[n // 10 - (2 if lang == "en" else 1)]
    return tens + (("-" if lang == "en" else "") + units[n % 10] if n % 10 else "")


class Parts:
    """The study's modules."""

    def __init__(self) -> None:
        for name in ("choose", "data", "languages", "merges", "messages", "report", "setups", "stats", "train"):
            setattr(self, name, importlib.import_module(f"layer_swap_real.{name}"))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def forget(self) -> None:
        """What was spelled by another num2words."""
        for kept in (self.languages._num2words, self.languages.spell, self.data.problems):
            kept.cache_clear()


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Parts]:
    monkeypatch.syspath_prepend(str(BENCHES))
    monkeypatch.setitem(sys.modules, "num2words", SimpleNamespace(num2words=num2words))
    found = Parts()
    found.forget()
    yield found
    found.forget()


def test_no_problem_of_a_test_is_in_a_training(parts: Parts) -> None:
    """Law: validation, test and training share no numbers and no set of words, in any language, kind or order."""
    for task in parts.data.TASKS:
        keys = {
            part: [p.key for p in parts.data.problems(task, "en", part, count)]
            for part, count in (("train", 2400), ("validation", 60), ("test", 200))
        }
        assert [len(own) for own in keys.values()] == [2400, 60, 200]
        assert not set(keys["train"]) & set(keys["test"])
        assert not set(keys["train"]) & set(keys["validation"])
        assert not set(keys["validation"]) & set(keys["test"])
        for language in parts.languages.TARGETS:
            assert [p.key for p in parts.data.problems(task, language, "test", 200)] == keys["test"]
    # The same by what is asked: numbers in digits, whatever stands around them.
    said = {
        part: {
            tuple(sorted(re.findall(r"\d+", p.prompt)))
            for p in parts.data.problems("arithmetic", "en", part, 400, True)
        }
        for part in parts.data.PARTS
    }
    assert not said["train"] & said["test"]
    assert not said["validation"] & said["test"]


def test_a_language_expert_sees_no_task(parts: Parts) -> None:
    """Law: text of a language has no question of a task, no answer of one, and nothing that a test tells."""
    for code in parts.languages.TARGETS:
        own = parts.languages.LANGUAGES[code]
        texts = [text for prompt, text in parts.data.language_texts(code, 2000, [("A page", "X")]) if not prompt]
        assert len(texts) == 2000
        assert len(set(texts)) > 500
        whole = "\n".join(texts)
        assert "?" not in whole
        assert own.ask[0] + ":" not in whole
        assert own.ask[1] + ":" not in whole
        assert not any(way.split("{")[0] in whole for way in own.odd)
        assert not any(s.said(own, False)[0] in texts for s in parts.data.stories("test", 200))


def solved(prompt: str) -> int:
    """The answer to an English problem in digits, from its words alone."""
    a, b, *c = (int(n) for n in re.findall(r"\d+", prompt))
    if "buys" in prompt:
        return a + b - c[0]
    if "In each box" in prompt:
        return a * b
    if "are left" in prompt or "than" in prompt:
        return a - b
    assert "have now" in prompt or "in all" in prompt
    return a + b


def test_answers_are_right(parts: Parts) -> None:
    """Law: an answer is what the problem's text has; checked by reading the text. Every kind comes as often."""
    kinds: Counter[str] = Counter()
    for part in parts.data.PARTS:
        for problem in parts.data.problems("arithmetic", "en", part, 300, True):
            assert solved(problem.prompt) == int(problem.answer) > 0, problem
        kinds.update(story.kind for story in parts.data.stories(part, 300))
    assert set(kinds.values()) == {150}
    for code, own in parts.languages.LANGUAGES.items():
        where = {word: category for category in parts.languages.CATEGORIES for word in own.words_of(category)}
        assert len(where) == sum(len(own.words_of(category)) for category in parts.languages.CATEGORIES)
        for problem in parts.data.problems("odd", code, "test", 200):
            listed = re.split(r"[?.]\n", problem.prompt.split(": ", 2)[2])[0].split(", ")
            counted = Counter(where[word] for word in listed)
            assert sorted(counted.values()) == [1, 3], problem
            assert counted[where[problem.answer]] == 1, problem


def test_templates_are_well_formed(parts: Parts) -> None:
    """Law: nothing is left to fill in, sentences begin with a capital, numbers in words have no digits."""
    for code, own in parts.languages.LANGUAGES.items():
        assert len(own.names) == len(parts.languages.ENGLISH.names)
        assert len(own.things) == len(parts.languages.ENGLISH.things)
        assert own.arithmetic.keys() == parts.languages.KINDS.keys()
        assert {c: len(w) for c, w in own.words.items()} == dict.fromkeys(("animal", "colour", "food", "body"), 8)
        for task in parts.data.TASKS:
            for problem in parts.data.problems(task, code, "test", 200):
                text = problem.prompt
                assert text.endswith(f"\n{own.ask[1]}:")
                assert not re.search(r"[{}]|  |\d", text), text
                # A list of words is all that may follow a colon in small letters.
                for sentence in re.findall(r"(?:^|[.?:]\s)(\w+)", text.split(", ")[0] if task == "odd" else text):
                    assert task == "odd" or sentence[0].isupper(), text
    assert parts.languages.TURKISH.capital("inek") == "İnek"
    assert parts.languages.spell("tr", 21) == "yirmi bir"
    assert parts.languages.spell("id", 21) == "dua puluh satu"


def test_messages_are_plain_ones_and_kept_apart(parts: Parts, tmp_path: Path) -> None:
    """Law: of a catalogue come plain, translated messages, each once; those kept for the test are not trained on."""
    blocks = [
        'msgid ""\nmsgstr ""\n"Language: tr\\n"',
        'msgid "a page is here"\nmsgstr "bir "\n"\\"sayfa\\""',
        '#, fuzzy\nmsgid "three words here"\nmsgstr "x"',
        'msgid "one %s is here"\nmsgstr "y"',
        'msgid "one is here"\nmsgid_plural "more are here"\nmsgstr[0] "z"',
        'msgid "not yet translated"\nmsgstr ""',
    ]
    assert parts.messages.catalogue("\n\n".join(blocks)) == [("a page is here", 'bir "sayfa"')]
    many = "\n\n".join(f'msgid "message of number {i}"\nmsgstr "ileti {i}"' for i in range(100))
    with zipfile.ZipFile(tmp_path / "some.whl", "w") as wheel:
        for app in ("conf", "contrib/admin"):
            wheel.writestr(f"django/{app}/locale/tr/LC_MESSAGES/django.po", many)
        wheel.writestr("django/conf/locale/id/LC_MESSAGES/django.po", 'msgid "of an other"\nmsgstr "lain"')
    train, kept = parts.messages.read(tmp_path / "some.whl", "tr")
    assert len(train) + len(kept) == 100
    assert not set(train) & set(kept)
    assert 5 < len(kept) < 35


def test_texts_are_drawn_alike_whatever_was_stopped(parts: Parts) -> None:
    """Law: a step's texts and rate are of the seed and the step alone; each text comes once before any comes again."""
    order = [i for step in range(10) for i in parts.train.drawn(3, 20, step, 6)]
    assert sorted(order[:20]) == sorted(order[20:40]) == list(range(20))
    assert order[:20] != order[20:40]
    assert parts.train.drawn(4, 20, 0, 6) != order[:6]
    recipe = parts.setups.Recipe(texts=20, steps=100, rate=1.0)
    rates = [parts.train.schedule(step, recipe) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(1.0)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] < 0.01


def test_intervals(parts: Parts) -> None:
    """Law: Wilson's and Student's intervals are those of the books."""
    assert parts.stats.wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert parts.stats.wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert parts.stats.wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    # sd 0.25, three seeds: 4.303 x 0.25 / sqrt(3).
    assert parts.stats.mean_of([0.25, 0.5, 0.75]) == pytest.approx((0.5, 0.6211), abs=1e-4)


def document(parts: Parts) -> dict[str, Any]:
    """Results of two seeds in which one swap is best in validation, and another in the test."""
    setup = replace(parts.setups.smoke(parts.setups.Setup()), languages=("tr", "id"))
    records = []
    for seed in (0, 1):
        for part in ("validation", "test"):
            for name, family in parts.merges.names(setup).items():
                right = "0001"
                if name == ("swap_b0_t2_from" if part == "validation" else "swap_b5_t2_from"):
                    right = "1111"
                elif name == "swap_b0_t2_from":
                    right = "0111" if seed else "0011"
                sets = {key: {"right": right, "loss": 1.5} for key in ("task", "digits", "english")}
                records.append({"seed": seed, "task": "arithmetic", "language": "tr", "part": part, "name": name,
                                "family": family, "sets": sets, "bits_per_byte": 2.0})  # fmt: skip
    training = {"expert": "tr", "kind": "language", "seed": 0, "steps": 2, "losses": [3.0, 1.0], "seconds": 4.0,
                "tokens": 30.0, "resumed": 0}  # fmt: skip
    told = json.loads(json.dumps(asdict(setup)))
    return {"schema": 1, "setup": told, "sessions": [], "trainings": [training], "records": records}


def test_tables_show_what_validation_chose(parts: Parts) -> None:
    """Law: the swap that is reported is the one validation chose, on the test's problems, beside the same reset."""
    said = parts.report.tables(document(parts))
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in said.splitlines() if line.startswith("| ")}
    # 0.5 and 0.75: half the difference is 0.125, and Student's interval 12.706 x 0.17678 / sqrt(2) = 1.588.
    assert rows["swap, chosen (swap_b0_t2_from)"].split(" | ")[1] == "0.62 ± 1.59"
    assert "+0.38 ± 1.59" in rows["swap, chosen (swap_b0_t2_from)"]
    assert rows["control: reset of the chosen swap's layers (reset_b0_t2_from)"].split(" | ")[1] == "0.25 ± 0.00"
    assert rows["task expert"].split(" | ")[6] == "-"
    assert rows["tr"].split(" | ")[3] == "3.00, 1.00"
    assert {"base", "average", "swap --auto with --evidence", "TIES, density 0.5"} <= rows.keys()
    assert "arithmetic, id: no seed is whole yet" in said


def test_a_seed_that_is_not_whole_is_not_shown(parts: Parts) -> None:
    """Law: a table is of seeds of which every model was tested; one seed alone has Wilson's interval."""
    results = document(parts)
    last = results["records"].pop()
    said = parts.report.tables(results)
    assert last["family"] == "reversed"
    assert "seeds 0, 1" in said, "the last is no row of the table, so nothing lacks"
    results["records"] = [r for r in results["records"] if (r["seed"], r["name"]) != (1, "auto_text")]
    said = parts.report.tables(results)
    assert "seeds 0," in said
    assert "| base | 0.25 (0.05 to 0.70) |" in said


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The script, run with these words, without num2words."""
    command = [sys.executable, str(BENCHES / "layer_swap_real" / "run.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_script_reports_and_refuses_other_settings(parts: Parts, tmp_path: Path) -> None:
    """Law: `--report` runs nothing; results of other settings are never added to."""
    path = tmp_path / "results.json"
    results = document(parts)
    results["setup"] = json.loads(json.dumps(asdict(parts.setups.Setup())))
    results["records"] = []
    path.write_text(json.dumps(results))
    done = run("--report", "--results", path)
    assert not done.returncode, done.stderr
    assert "| tr | 0 | 2 | 3.00, 1.00 |" in done.stdout
    done = run("--report", "--results", path, "--tune", "lora")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {path}: holds results of other settings")


def test_what_is_not_installed_is_named(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: without num2words the error says what to install; a run says so of all before it begins."""
    study = importlib.import_module("layer_swap_real.study")
    with pytest.raises(parts.languages.MissingError, match=r"not installed: no_such_one, nor_this; pip install"):
        study.need(["json", "no_such_one", "nor_this"])
    study.need(["json"])
    parts.forget()
    monkeypatch.setitem(sys.modules, "num2words", None)
    with pytest.raises(parts.languages.MissingError, match=r"num2words is not installed.*requirements\.txt"):
        parts.languages.spell("tr", 3)
