"""Merges of models of different vocabularies, in every form, as wholes: the rows, the numbers in configs, the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture.recipe.vocabulary import tokenizer_of
from suture.vocab.align import plan
from suture.vocab.tokens import read

from ..reference.rows import applied
from ..support import catalogue
from ..support.catalogue import DEFAULTS, configure, differing
from ..support.checkpoints import (
    TOLERANCE,
    encode,
    llama_config,
    llama_family,
    llama_shapes,
    read_checkpoint,
    write_checkpoint,
)
from ..support.peer_rows import CASES, GOLDENS, Case, config_of, make_models, values

Config = dict[str, Any]
FORMS = ("models", "slices", "modules", "documents", "outputs")


def formed(config: Config, form: str) -> Config:
    """The same merge in another form."""
    models = config["models"]
    rest = {k: v for k, v in config.items() if k != "models"}
    if form == "slices":
        return {**rest, "slices": [{"sources": [{**m, "layer_range": [0, 1]} for m in models]}]}
    if form == "modules":
        return {**rest, "modules": {"default": {"models": models}}}
    if form == "outputs":
        return {**config, "outputs": {"one": {}}}
    return config


def run(config: Config, form: str, place: Path) -> Path:
    """Where the output of a merge is."""
    out = place / f"out-{form}"
    if form == "documents":
        # The first model comes of another document: as it is.
        first = {"name": "made", "merge_method": "passthrough", "models": [{"model": config["models"][0]["model"]}]}
        models = [{**config["models"][0], "model": "made"}, *config["models"][1:]]
        base = {"base_model": "made"} if config.get("base_model") == config["models"][0]["model"] else {}
        path = place / "c.yml"
        path.write_text(f"{json.dumps(first)}\n---\n{json.dumps({**config, 'models': models, **base})}\n")
        suture.merge(path, out)
        return out
    suture.merge(formed(config, form), out)
    return out / "one" if form == "outputs" else out


def padding_rows(out: Path, table: str, named: set[int]) -> list[Any]:
    rows = suture.open(out)[table]
    return [rows[i] for i in range(len(rows)) if i not in named]


def sorted_rows(rows: list[Any]) -> Any:
    """Rows in the order of their first number."""
    made = np.array(rows, dtype=np.float64)
    return made[np.argsort(np.round(made[:, 0], 5), kind="stable")]


def check(case: Case, expected: Config, out: Path) -> None:
    """Every token's row is the peer's, and config.json says how many there are."""
    opened = suture.open(out)
    config = json.loads((out / "config.json").read_text())
    assert config["vocab_size"] == expected["rows"]
    tokens = read(out).names
    for table, by_token in expected["tables"].items():
        rows = opened[table]
        assert len(rows) == expected["rows"]
        for at, token in tokens.items():
            np.testing.assert_allclose(rows[at], by_token[token], atol=TOLERANCE, rtol=TOLERANCE, err_msg=token)
        # Words without a place in the tokenizer, and padding: the same rows, wherever they are.
        left = padding_rows(out, table, set(tokens))
        hidden = [row for token, row in by_token.items() if token not in tokens.values()]
        want = [*hidden, *expected["padding"][table]]
        assert len(left) == len(want)
        if want:
            np.testing.assert_allclose(sorted_rows(left), sorted_rows(want), atol=TOLERANCE, rtol=TOLERANCE)
    assert ("lm_head.weight" in opened) is not case.tied


@pytest.mark.parametrize("name", CASES)
def test_a_merge_has_the_rows_of_mergekit(name: str, tmp_path: Path) -> None:
    """Token by token, within 2e-6, from the config to the file; the tokenizer beside it has the same tokens."""
    case = CASES[name]
    expected = json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))
    models = make_models(case, tmp_path)
    check(case, expected, run(config_of(case, models), "models", tmp_path))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["union_of_three_with_base", "pad_union", "tied"])
def test_the_form_of_a_config_does_not_matter(name: str, form: str, tmp_path: Path) -> None:
    """`slices`, `modules`, several documents and outputs give the rows that `models` gives."""
    case = CASES[name]
    expected = json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))
    models = make_models(case, tmp_path)
    check(case, expected, run(config_of(case, models), form, tmp_path))


@pytest.mark.parametrize("io", ["mmap", "pread", "direct"])
def test_threads_chunks_and_io_do_not_matter(io: str, tmp_path: Path) -> None:
    """Nor does it matter that a plan went through JSON and another process."""
    case = CASES["union_of_three"]
    models = make_models(case, tmp_path)
    config = config_of(case, models)
    digests = set()
    ways: list[Config] = [{"threads": 1}, {"threads": 3, "chunk": "4KiB"}, {"memory": "100MiB"}]
    for i, how in enumerate(ways):
        report = suture.merge(config, tmp_path / f"{i}", settings=suture.Settings(io=io, **how))
        digests.add(tuple(t.digest for t in report.tensors))
    assert len(digests) == 1


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    """A base and three experts of other vocabularies; and the same with tables that NumPy aligned, so called."""
    place = tmp_path_factory.mktemp("models")
    case = CASES["union_of_three"]
    models = make_models(case, place / "own")
    models["d"] = place / "own" / "d"
    models["d"].mkdir()
    for file in models["b"].iterdir():
        (models["d"] / file.name).write_bytes(file.read_bytes())
    stored = {m: read_checkpoint(folder) for m, folder in models.items()}
    stored["d"] = {n: encode(values(t) * np.float32(0.75), "F32") for n, t in stored["d"].items()}
    config = json.loads((models["d"] / "config.json").read_text())
    write_checkpoint(models["d"], stored["d"], config=config)
    folders = list(models.values())
    tokenizer = tokenizer_of({"tokenizer": {"source": "union"}})
    assert tokenizer is not None
    # The base lends the config, and its tokens come first.
    rows = [len(values(stored[m]["lm_head.weight"])) for m in models]
    found = plan(tokenizer, [*folders[1:], folders[0]], folders[0], folders[0], [*rows[1:], rows[0]])
    aligned = []
    for m, segments in zip([*list(models)[1:], "a"], found.segments, strict=True):
        tensors = dict(stored[m])
        for table in ("model.embed_tokens.weight", "lm_head.weight"):
            given = [values(stored[o][table]).astype(np.float64) for o in [*list(models)[1:], "a"]]
            tensors[table] = encode(applied(segments, given).astype(np.float32), "F32")
        aligned.append(write_checkpoint(place / "aligned" / m, tensors, config=config))
    return folders, [aligned[-1], *aligned[:-1]]


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_every_method_takes_models_of_other_vocabularies(
    case: catalogue.Case, both: tuple[list[Path], list[Path]], tmp_path: Path
) -> None:
    """A merge with a union is, bit for bit, the merge of models whose tables were aligned before."""
    own, aligned = both
    config = {**configure(case, own), "base_model": str(own[0]), "tokenizer_source": "union"}
    suture.merge(config, tmp_path / "out")
    suture.merge({**configure(case, aligned), "base_model": str(aligned[0])}, tmp_path / "want")
    found, want = (read_checkpoint(tmp_path / n) for n in ("out", "want"))
    if case.name == "passthrough" or case.experts < 3:
        # Fewer models have fewer tokens: these are other unions.
        assert found.keys() == want.keys()
        return
    assert differing(found, want) == []


@pytest.mark.parametrize("how", ["base", "crop", "pad"])
def test_tables_of_other_lengths_are_cut_or_padded_when_asked(how: str, tmp_path: Path) -> None:
    """By numbers alone: as many rows as the base, the shortest or the longest; else an error says what they are."""
    one, two = (
        llama_family(tmp_path / n, layers=1, n=1, hidden=8, heads=2, kv_heads=1, ff=8, vocab=v)[0]
        for n, v in (("one", 12), ("two", 10))
    )
    listed = [{"model": str(m), "parameters": {"weight": 0.5}} for m in (one, two)]
    config = {"merge_method": "linear", "models": listed, "base_model": str(one)}
    with pytest.raises(suture.SutureError, match=r"2 rows more than .*tokenizer_source: union.*--vocab"):
        suture.merge(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = suture.merge(config, tmp_path / "out", settings=suture.Settings(vocab=how))
    rows = {"base": 12, "crop": 10, "pad": 12}[how]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == rows
    assert any("2 rows more" in w for w in report.warnings)
    name = "model.embed_tokens.weight"
    a, b = (suture.open(m)[name].astype(np.float64) for m in (one, two))
    lacking = {"base": a[10:], "crop": a[:0], "pad": np.broadcast_to(b.mean(axis=0), (2, 8))}[how]
    want = 0.5 * a[:rows] + 0.5 * np.concatenate([b, lacking])
    np.testing.assert_allclose(suture.open(tmp_path / "out")[name], want, rtol=1e-2, atol=1e-4)


def _tiny(folder: Path, tokens: str, *, tied: bool, seed: int) -> Path:
    """A model with a word for each letter."""
    rng = np.random.default_rng(seed)
    shapes = llama_shapes(1, 8, 2, 1, 8, len(tokens), tied)
    tensors = {name: encode(rng.normal(size=shape).astype(np.float32), "F32") for name, shape in shapes.items()}
    made = write_checkpoint(folder, tensors, config=llama_config(1, 8, 2, 1, 8, len(tokens), tied, "F32"))
    vocab = {letter: i for i, letter in enumerate(tokens)}
    (made / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": vocab, "merges": []}}))
    return made


def test_a_head_that_is_tied_takes_rows_of_heads(tmp_path: Path) -> None:
    """A model that ties lends its table as its head; of a token that it lacks it gets the head's row of who has it."""
    a, b = _tiny(tmp_path / "a", "abcd", tied=False, seed=1), _tiny(tmp_path / "b", "abcdZ", tied=False, seed=2)
    c = _tiny(tmp_path / "c", "abcd", tied=True, seed=3)
    listed = [{"model": str(m), "parameters": {"weight": w}} for m, w in ((a, 0.5), (b, 0.25), (c, 0.25))]
    suture.merge({"merge_method": "linear", "models": listed, "tokenizer_source": "union"}, tmp_path / "out")
    out, heads = suture.open(tmp_path / "out"), [suture.open(m)["lm_head.weight"] for m in (a, b)]
    table = suture.open(c)["model.embed_tokens.weight"]
    want = 0.5 * heads[0] + 0.25 * heads[1][:4] + 0.25 * table
    np.testing.assert_allclose(out["lm_head.weight"], [*want, heads[1][4]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["linear", "passthrough"])
def test_tied_models_under_a_config_that_does_not_tie(method: str, tmp_path: Path) -> None:
    """Their table is written as the head too: no loader would make one of it; and it is told."""
    lender = _tiny(tmp_path / "lender", "abcd", tied=False, seed=1)
    models = [_tiny(tmp_path / f"m{i}", "abcd", tied=True, seed=i + 2) for i in range(2 if method == "linear" else 1)]
    listed = [{"model": str(m), "parameters": {"weight": 0.5} if method == "linear" else {}} for m in models]
    config = {"merge_method": method, "base_model": str(lender), "models": listed}
    report = suture.merge(config, tmp_path / "out")
    out = suture.open(tmp_path / "out")
    np.testing.assert_array_equal(out["lm_head.weight"], out["model.embed_tokens.weight"])
    assert any("written as `lm_head.weight` too" in w for w in report.warnings)
