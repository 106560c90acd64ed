"""Models of different vocabularies, merges of them, and the rows that mergekit 0.1.5 gave them.

``python -m tests.support.peer_rows MERGEKIT_YAML`` runs mergekit's command on every case and writes the rows of its
outputs, by token, into tests/goldens/vocab. The models are made of a seed, so that only what came out is kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checkpoints import encode, llama_config, llama_shapes, read_checkpoint, write_checkpoint
from .vocabularies import bpe, unigram, whole, write

GOLDENS = Path(__file__).parent.parent / "goldens" / "vocab"
TABLES = ("model.embed_tokens.weight", "lm_head.weight")
WEIGHTS = {"a": 0.25, "b": 0.5, "c": 0.25}
HIDDEN = 8
Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A merge: of which models, with which `tokenizer`, the base if any.

    Attributes:
        models: letters of models.
        tokenizer: as in a config, with ``{a}`` for the path of a model.
        base: the letter of the base.
        kind: which family of vocabularies.
        tied: whether the models have no output table.
        more: rows that tables have more than their vocabulary has tokens.
    """

    models: str
    tokenizer: Json
    base: str = ""
    kind: str = "bytes"
    tied: bool = False
    more: Mapping[str, int] = field(default_factory=dict)


_PAD: Json = {"pad_to_multiple_of": 32}
_TOKEN: Json = {"kind": "model_token", "model": "{b}"}
CASES = {
    "union_of_two": Case("ab", {"source": "union"}),
    "union_of_three": Case("abc", {"source": "union"}),
    "union_of_three_with_base": Case("abc", {"source": "union"}, base="b"),
    "base": Case("abc", {"source": "base"}, base="c"),
    "model": Case("ab", {"source": "{b}"}),
    "model_with_base": Case("abc", {"source": "{b}"}, base="a"),
    "union_padded_tables": Case("abc", {"source": "union"}, more={"a": 5, "b": 0, "c": 3}),
    "base_padded_tables": Case("ab", {"source": "base"}, base="b", more={"a": 0, "b": 7}),
    "pad_union": Case("ab", {"source": "union", **_PAD}),
    "pad_base_padded_tables": Case("abc", {"source": "base", **_PAD}, base="a", more={"a": 3}),
    "tied": Case("abc", {"source": "union"}, tied=True),
    "zero": Case("abc", {"source": "union", "tokens": {"<a>": {"source": {"kind": "zero"}}}}),
    "forced_zero": Case("ab", {"source": "union", "tokens": {"th": {"source": {"kind": "zero"}, "force": True}}}),
    "from_a_model": Case("abc", {"source": "union", "tokens": {"ing": {"source": "{c}"}}}, base="b"),
    "forced_from_a_model": Case("abc", {"source": "union", "tokens": {"th": {"source": "{b}", "force": True}}}),
    "other_token": Case("abc", {"source": "union", "tokens": {"<a>": {"source": {**_TOKEN, "token": "</s>"}}}}),
    "other_number": Case(
        "ab", {"source": "base", "tokens": {"th": {"source": {**_TOKEN, "token_id": 3}, "force": True}}}, base="a"
    ),
    "new_token": Case("ab", {"source": "union", "tokens": {"<new>": {"source": {**_TOKEN, "token": "</s>"}}}}),
    "new_token_without_source": Case("ab", {"source": "union", "tokens": {"<new>": {"source": {"kind": "zero"}}}}),
    "pieces": Case("abc", {"source": "union"}, kind="pieces"),
    "unigram_base": Case("ab", {"source": "base"}, kind="Unigram", base="b"),
    "unigram_union": Case("ab", {"source": "union"}, kind="Unigram", base="a"),
}
_WORDS = {
    "a": ("th the", ["<s>", "</s>", "<a>"]),
    "b": ("in th ing", ["</s>", "<s>", "<|x|>"]),
    "c": ("ing th on", ["<s>", "</s>", "<|x|>", "<c>"]),
}


def tokenizer(letter: str, kind: str) -> Json:
    """The tokenizer of a model: the same characters, turned in one, with words and ends of its own."""
    characters = [chr(c) for c in range(0x30, 0x7B) if chr(c).isalnum()]
    characters = characters[::-1] if letter == "b" else characters
    words, ends = _WORDS[letter][0].split(), _WORDS[letter][1]
    if kind == "Unigram":
        pieces = ["<unk>", "▁", *characters, *words]
        return whole(kind, unigram({piece: -float(i) for i, piece in enumerate(pieces)}), ends)
    merges = [(left, right) for left, right in (("t", "h"), ("th", "e"), ("i", "n"), ("in", "g"), ("o", "n"))]
    start = "Ġ" if kind == "bytes" else "▁"
    own = [
        (left, right) for left, right in merges if left + right in words or (left + right == "in" and "ing" in words)
    ]
    return whole(kind, bpe([start, *characters], own), ends)


def make_models(case: Case, place: Path) -> dict[str, Path]:
    """The models of a case, by their letters."""
    made = {}
    for i, letter in enumerate(case.models):
        rng = np.random.default_rng(i + 1)
        data = tokenizer(letter, case.kind)
        rows = len(data["model"]["vocab"]) + len(data["added_tokens"]) + case.more.get(letter, 0)
        shapes = llama_shapes(1, HIDDEN, 2, 2, HIDDEN, rows, case.tied)
        # Of so few bits that sums are exact.
        tensors = {name: encode(rng.integers(-96, 97, shape) / 64, "F32") for name, shape in shapes.items()}
        config = llama_config(1, HIDDEN, 2, 2, HIDDEN, rows, case.tied, "F32")
        made[letter] = write_checkpoint(place / letter, tensors, config=config)
        write(made[letter], data, {"bos": "<s>", "eos": "</s>"})
    return made


def config_of(case: Case, models: Mapping[str, Path]) -> Json:
    """The merge config of a case."""
    listed = [{"model": str(models[m]), "parameters": {"weight": WEIGHTS[m]}} for m in case.models]
    text = json.dumps(case.tokenizer)
    for letter, folder in models.items():
        text = text.replace(f"{{{letter}}}", str(folder))
    made = {"merge_method": "linear", "models": listed, "dtype": "float32", "tokenizer": json.loads(text)}
    return made | ({"base_model": str(models[case.base])} if case.base else {}) | {"parameters": {"normalize": False}}


def values(tensor: Any) -> NDArray[Any]:
    return np.frombuffer(tensor.data, dtype="<f4").reshape(tensor.shape)


def rows_of(case: Case, command: str) -> Json:
    """The rows that mergekit gives a case, by token; None with what it said if it gave none."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        models = make_models(case, place)
        (place / "c.yml").write_text(json.dumps(config_of(case, models)))
        # It takes the tokenizer from a set of models, whose order is random.
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        ran = subprocess.run(
            [command, str(place / "c.yml"), str(place / "out"), "--no-write-model-card"],
            capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip
        if ran.returncode:
            return {"error": ran.stderr.strip().splitlines()[-1].replace(str(place), "")[:200]}
        data = json.loads((place / "out" / "tokenizer.json").read_text())
        vocab = data["model"]["vocab"]
        ids = dict(vocab) if isinstance(vocab, dict) else {pair[0]: i for i, pair in enumerate(vocab)}
        ids |= {token["content"]: token["id"] for token in data["added_tokens"]}
        found: Json = {"rows": 0, "tables": {}}
        tensors = read_checkpoint(place / "out")
        for table in TABLES:
            if table in tensors:
                got = values(tensors[table])
                padding = sorted(set(range(len(got))) - set(ids.values()))
                found["rows"] = len(got)
                rounded = {token: [round(float(x), 8) for x in got[number]] for token, number in sorted(ids.items())}
                found["tables"][table] = rounded
                found.setdefault("padding", {})[table] = [[round(float(x), 8) for x in got[n]] for n in padding]
        return found


def main() -> None:
    GOLDENS.mkdir(exist_ok=True)
    for name, case in CASES.items():
        found = rows_of(case, sys.argv[1])
        lines = json.dumps(found, ensure_ascii=False).replace("], ", "],\n")
        (GOLDENS / f"{name}.json").write_text(f"{lines}\n", encoding="utf-8")
        print(name, found.get("error") or found["rows"])


if __name__ == "__main__":
    main()
