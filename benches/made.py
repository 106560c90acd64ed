"""What tensors cost that are stored nowhere: adapters against folded models, a union against equal vocabularies.

    python benches/made.py

Two models with an adapter of rank 16 on every linear layer; two vocabularies of 32,000 tokens of which 1,000 differ,
and once more with all ids in another order. Then what it takes to open 1,000 shards and 50,000 tensors, and `--help`.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common.agreement import Agreement, compare
from common.facts import Results, facts
from common.options import options
from common.places import warm
from common.processes import Command, Sample, Workplace, medians, peaks, side_by_side
from common.tables import against, number, show
from family import SIZES, TUNES, Family, Tensor, header, make, tensors
from verbs import EXPERTS, SHARDS
from verbs import write as write_shards

RANK, OTHER_TOKENS = 16, 1000
ADAPTERS, UNION, OPEN, HELP = 1.5, 1.3, 1.0, 0.1


@dataclass(frozen=True)
class Row:
    """The ratios are to the first form of the case; where there is one form the target is of the seconds."""

    case: str
    form: str
    seconds: float
    cpu_seconds: float
    ratio: float
    cpu_ratio: float
    target: float | None
    anon_mib: float
    agreement: Agreement | None


def adapter(folder: Path, linear: Sequence[Tensor], seed: int) -> Path:
    """An adapter of rank 16 in bf16 on these layers."""
    random = np.random.default_rng(seed)
    items: list[Tensor] = []
    for name, (rows, columns) in linear:
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        items += [(f"{stem}.lora_A.weight", (RANK, columns)), (f"{stem}.lora_B.weight", (rows, RANK))]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "adapter_model.safetensors", "wb") as file:
        file.write(header(items, "BF16")[0])
        for _, dims in items:
            values = random.standard_normal(dims, np.float32) * np.float32(0.02)
            file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": "all-linear"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def spoken(model: Path, folder: Path, tokens: Sequence[str]) -> Path:
    """The same weights with a tokenizer of these tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in model.iterdir():
        (folder / file.name).unlink(missing_ok=True)
        (folder / file.name).symlink_to(file)
    vocab = {token: i for i, token in enumerate(tokens)}
    parts: dict[str, Any] = dict.fromkeys(
        ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    )
    words = {"type": "WordLevel", "vocab": vocab, "unk_token": tokens[0]}
    tokenizer = {"version": "1.0", **parts, "added_tokens": [], "model": words}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


def rows(case: str, samples: Sequence[Sample], outputs: dict[str, Path], target: float | None) -> list[Row]:
    """A row for each form, against the first one in the same repetition."""
    mine = [s for s in samples if s.case == case]
    seconds, memory, found = medians(samples, case), peaks(samples, case), []
    forms = list(dict.fromkeys(s.tool for s in mine))
    for form in forms:
        pairs = [(s, o) for s in mine for o in mine if (s.tool, o.tool, s.rep) == (form, forms[0], o.rep)]
        found.append(
            Row(
                case,
                form,
                seconds[form],
                statistics.median(s.cpu_seconds for s, _ in pairs),
                statistics.median(s.seconds / o.seconds for s, o in pairs),
                statistics.median(s.cpu_seconds / o.cpu_seconds for s, o in pairs),
                target if form != forms[0] or len(forms) == 1 else None,
                memory[form],
                compare(outputs[form], outputs[forms[0]]) if form != forms[0] and form in outputs else None,
            )
        )
    return found


def shown(row: Row, single: bool) -> list[str]:
    found = row.agreement
    return [
        row.case, row.form,
        against(row.seconds, row.target, at_most=True) if single else number(row.seconds),
        number(row.ratio) if single else against(row.ratio, row.target, at_most=True),
        number(row.cpu_seconds), number(row.cpu_ratio),
        number(100 * found.equal_share if found else None, 3),
        number(100 * found.beyond_ulp_share if found else None, 3),
        f"{found.max_abs_difference:.1e}" if found else "-", number(row.anon_mib, 0),
    ]  # fmt: skip


def merge(place: Workplace, suture: str, name: str, models: Sequence[str], **more: Any) -> Command:
    """A merge of these models, each with weight 0.5."""
    config, out = place.folder("configs") / f"made-{name}.json", place.folder("out") / f"made-{name}"
    listed = [{"model": m, "parameters": {"weight": 0.5}} for m in models]
    config.write_text(json.dumps({"models": listed, "dtype": "bfloat16", **more}))
    return Command([suture, "merge", str(config), str(out), "--quiet"], out)


def main() -> int:
    parser = options(__doc__, reps=5)
    args = parser.parse_args()
    place = Workplace(args.work.resolve())
    family = Family(SIZES[args.size], TUNES, shards=1)
    base, one, two, _ = make(place.folder("family-of-four") / args.size, family)
    folder = place.folder(f"made-{args.size}")
    linear = [t for t in tensors(family.shape) if t[0].endswith("_proj.weight")]
    document = facts(place, args.suture, None) | {"options": {"size": args.size, "reps": args.reps}}
    results = Results.start(args.results, "made", document)

    adapters = [adapter(folder / f"adapter-{m.name}", linear, seed) for seed, m in enumerate((one, two))]
    folded = [place.folder("out") / f"made-folded-{m.name}" for m in (one, two)]
    fold = {f: [args.suture, "lora", "fold", str(m), str(a), str(f), "--quiet", "--overwrite"]
            for m, a, f in zip((one, two), adapters, folded, strict=True)}  # fmt: skip
    for out, line in fold.items():
        place.run("suture", "fold before", 0, Command(line, out))
    tokens = [f"token{i}" for i in range(family.shape.vocab)]
    others = min(OTHER_TOKENS, len(tokens) // 2)
    mixed = [*tokens[:-others], *(f"other{i}" for i in range(others))]
    order = np.random.default_rng(0).permutation(len(mixed))
    first = spoken(one, folder / "tokens", tokens)
    second = spoken(two, folder / "other-tokens", mixed)
    permuted = spoken(two, folder / "permuted-tokens", [mixed[i] for i in order])

    on_top = [f"{m}+{a}" for m, a in zip((one, two), adapters, strict=True)]
    made = partial(merge, place, args.suture)
    converted, written = place.folder("out") / "made-converted", place.folder("out") / "made-fold"
    single = [args.suture, "lora", "fold", str(one), str(adapters[0]), str(written), "--quiet"]
    equal = {"merge_method": "linear"}
    union = {"merge_method": "linear", "tokenizer_source": "union"}
    ties = {"merge_method": "ties", "base_model": str(base), "parameters": {"density": 0.5}}
    whole = [args.suture, "convert", str(one), str(converted), "--quiet"]
    cases: dict[str, tuple[dict[str, Command], float | None]] = {
        "linear": (
            {"folded": made("linear-folded", [str(f) for f in folded], **equal),
             "adapters": made("linear-adapters", on_top, **equal)}, ADAPTERS),
        "ties": (
            {"folded": made("ties-folded", [str(f) for f in folded], **ties),
             "adapters": made("ties-adapters", on_top, **ties)}, ADAPTERS),
        "fold": (
            {"convert": Command(whole, converted),
             "fold": Command(single, written)}, None),
        "vocabularies": (
            {"equal": made("equal", [str(one), str(two)], **equal),
             "union": made("union", [str(first), str(second)], **union),
             "permuted": made("permuted", [str(first), str(permuted)], **union)}, UNION),
    }  # fmt: skip
    samples: list[Sample] = []
    found: list[Row] = []
    read = [base, one, two, *adapters, *folded]
    for case, (commands, target) in cases.items():
        samples += side_by_side(place, case, commands, args.reps, partial(warm, read), list(commands), 1)
        outputs = {form: c.out for form, c in commands.items() if c.out and case != "fold"}
        found += rows(case, samples, outputs, target)
        results.save(found, samples)

    files = {shards: folder / f"{shards}-shards" for shards in (SHARDS, 1)}
    for shards, target_folder in files.items():
        if not target_folder.is_dir():
            write_shards(target_folder, 100, EXPERTS, shards, 0)
    small = {
        f"open {SHARDS:,} shards": ([args.suture, "inspect", str(files[SHARDS]), "--quiet"], OPEN),
        "open 50,000 tensors": ([args.suture, "inspect", str(files[1]), "--quiet"], OPEN),
        "--help": ([args.suture, "--help"], HELP),
    }
    for case, (line, target) in small.items():
        samples += side_by_side(place, case, {"suture": Command(line)}, args.reps, lambda: None, (), 1)
        found += rows(case, samples, {}, target)
    results.save(found, samples, complete=True)
    head = ["case", "form", "seconds", "ratio", "CPU s", "ratio", "% same", "% beyond a step", "largest", "MiB"]
    show([head, *(shown(r, r.case in small) for r in found)])
    missed = [r for r in found if r.target and (r.seconds if r.case in small else r.ratio) > r.target]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
