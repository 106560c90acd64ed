"""A merge of models as torch.save writes them against the same merge of safetensors; what opening many tensors takes.

    python benches/pickles.py

It needs torch, which writes the models: each tensor in a storage of its own, and once more every matrix transposed, so
that it has to be put together. All forms are merged to the same bytes, which is checked.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common.agreement import compare
from common.facts import Results, facts
from common.options import options
from common.places import cold, warm, weight_files
from common.processes import Command, Sample, Workplace, medians, peaks, side_by_side
from common.tables import against, number, show
from family import SIZES, TUNES, Family, make

TARGET = 1.1
MODELS = ("base", TUNES[0])
MANY = 50_000
FORMS = ("safetensors", "torch", "transposed")


@dataclass(frozen=True)
class Row:
    case: str
    form: str
    seconds: float
    ratio: float | None
    target: float | None
    anon_mib: float
    agrees: bool | None


def stored(folder: Path) -> Iterator[tuple[str, str, list[int], Any]]:
    """Name, dtype, shape and bytes of every tensor of a safetensors folder."""
    for path in weight_files([folder]):
        content = np.memmap(path, np.uint8, "r")
        size = int.from_bytes(content[:8].tobytes(), "little")
        header: dict[str, Any] = json.loads(content[8 : 8 + size].tobytes())
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = (8 + size + n for n in entry["data_offsets"])
            yield name, entry["dtype"], entry["shape"], content[begin:end]


def save(source: Path, target: Path, transposed: bool) -> Path:
    """The model at `source` by torch.save."""
    import torch

    if target.is_dir():
        return target
    made = target.with_suffix(".part")
    made.mkdir(parents=True, exist_ok=True)
    dtypes = {"BF16": torch.bfloat16, "F32": torch.float32}
    state = {}
    for name, dtype, shape, data in stored(source):
        tensor = torch.from_numpy(np.array(data)).view(dtypes[dtype]).reshape(shape)
        state[name] = tensor.t().contiguous().t() if transposed and tensor.dim() == 2 else tensor
    torch.save(state, made / "pytorch_model.bin")
    (made / "config.json").write_bytes((source / "config.json").read_bytes())
    made.rename(target)
    return target


def many(place: Path) -> dict[str, Path]:
    """A file of many small tensors in both forms."""
    import torch

    folders = {form: place / form for form in FORMS[:2]}
    names = [f"model.layers.{i // 500}.mlp.experts.{i % 500}.weight" for i in range(MANY)]
    entries = {
        n: {"dtype": "BF16", "shape": [4, 4], "data_offsets": [32 * i, 32 * i + 32]} for i, n in enumerate(names)
    }
    header = json.dumps(entries).encode()
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    content = len(header).to_bytes(8, "little") + header + bytes(32 * MANY)
    (folders["safetensors"] / "model.safetensors").write_bytes(content)
    file = folders["torch"] / "pytorch_model.bin"
    if not file.exists():
        torch.save({name: torch.zeros(4, 4, dtype=torch.bfloat16) for name in names}, file)
    return folders


def rows(case: str, samples: list[Sample], target: float | None, outputs: dict[str, Path]) -> list[Row]:
    """A row for each form, against safetensors in the same repetition."""
    mine = [s for s in samples if s.case == case]
    seconds, memory = medians(samples, case), peaks(samples, case)
    found = []
    for form in (f for f in FORMS if f in seconds):
        pairs = [
            (s.seconds, o.seconds) for s in mine for o in mine if (s.tool, o.tool, s.rep) == (form, FORMS[0], o.rep)
        ]
        ratio = None if form == FORMS[0] else statistics.median(a / b for a, b in pairs)
        agrees = None if form == FORMS[0] or not outputs else same(outputs[form], outputs[FORMS[0]])
        found.append(Row(case, form, seconds[form], ratio, target if form == FORMS[1] else None, memory[form], agrees))
    return found


def same(one: Path, two: Path) -> bool:
    found = compare(one, two)
    return found.equal_share == 1 and not found.only_one_side and not found.shapes_differ


def main() -> int:
    parser = options(__doc__, reps=7)
    parser.add_argument("--cold", action="store_true", help="inputs out of the page cache before every run")
    args = parser.parse_args()
    place = Workplace(args.work.resolve())
    family = {
        f.name: f
        for f in make(place.folder("family-of-one-file") / args.size, Family(SIZES[args.size], TUNES[:1], shards=1))
    }
    folder = place.folder(f"torch-{args.size}")
    document = facts(place, args.suture, None) | {"options": {"size": args.size, "reps": args.reps, "cold": args.cold}}
    results = Results.start(args.results, "pickles" + ("-cold" if args.cold else ""), document)
    commands, inputs, outputs = {}, {}, {}
    for form in FORMS:
        saved = partial(save, transposed=form == FORMS[2])
        models = [family[m] if form == FORMS[0] else saved(family[m], folder / f"{form}-{m}") for m in MODELS]
        config = folder / f"{form}.json"
        listed = [{"model": str(m), "parameters": {"weight": 0.5}} for m in models]
        config.write_text(json.dumps({"merge_method": "linear", "models": listed, "dtype": "bfloat16"}))
        outputs[form] = place.folder("out") / f"pickles-{form}"
        commands[form] = Command([args.suture, "merge", str(config), str(outputs[form]), "--quiet"], outputs[form])
        inputs[form] = models
    read = [m for models in inputs.values() for m in models]
    prepare = partial(cold if args.cold else warm, read)
    samples = list(side_by_side(place, "linear", commands, args.reps, prepare, FORMS, 1))
    found = rows("linear", samples, TARGET, outputs)
    results.save(found, samples)
    folders = many(folder / "many")
    opened = {form: Command([args.suture, "inspect", str(path), "--quiet"]) for form, path in folders.items()}
    samples += side_by_side(place, f"open {MANY:,}", opened, args.reps, partial(warm, list(folders.values())), (), 1)
    found += rows(f"open {MANY:,}", samples, None, {})
    results.save(found, samples, complete=True)
    head = ["case", "form", "seconds", "ratio", "same bytes", "MiB"]
    cells = [
        [r.case, r.form, number(r.seconds), against(r.ratio, r.target, at_most=True),
         "-" if r.agrees is None else str(r.agrees), number(r.anon_mib, 0)]
        for r in found
    ]  # fmt: skip
    show([head, *cells])
    missed = [r for r in found if r.agrees is False or (r.target and r.ratio and r.ratio > r.target)]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
