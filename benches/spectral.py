"""Merges of whole matrices against the same formulas in torch (LAPACK), with as many threads.

    python benches/spectral.py

It needs torch. One matrix a case and three experts, bf16. Both are whole processes: they read the models, merge, and
write; of torch what the arithmetic alone took is kept as well, since its start takes seconds. Outputs are compared.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from common.facts import Results, facts
from common.options import options
from common.places import warm
from common.processes import Command, Sample, Workplace, medians, peaks, side_by_side
from common.tables import against, number, show
from numpy.typing import NDArray

SHAPES = {"4096 x 4096": (4096, 4096), "4096 x 11008": (4096, 11008)}
METHODS = ("iso_c", "tsvm")
EXPERTS = 3
THREADS = 2
FASTER, OF_MEMORY = 1.5, 1 / 3

#: The peer: formulas of the papers by torch.linalg.svd, in float32, as their authors' codes have it.
PEER = """
import json, sys, time
import torch
from safetensors.torch import load_file, save_file

method, out, base, *experts = sys.argv[1:]
torch.set_num_threads({threads})
name = "model.layers.0.mlp.weight"
start = load_file(base + "/model.safetensors")[name].float()
deltas = [load_file(path + "/model.safetensors")[name].float() - start for path in experts]
began = time.perf_counter()
if method == "iso_c":
    u, s, v = torch.linalg.svd(sum(deltas), full_matrices=False)
    merged = s.mean() * (u @ v)
else:
    k = min(start.shape) // len(deltas)
    lefts, sizes, rights = [], [], []
    for delta in deltas:
        u, s, v = torch.linalg.svd(delta, full_matrices=False)
        lefts.append(u[:, :k].clone())
        sizes.append(s[:k].clone())
        rights.append(v[:k].clone())
        del u, s, v
    p, _, q = torch.linalg.svd(torch.cat(lefts, 1), full_matrices=False)
    left = p @ q
    p, _, q = torch.linalg.svd(torch.cat(rights, 0), full_matrices=False)
    merged = (left * torch.cat(sizes)) @ (p @ q)
took = time.perf_counter() - began
save_file({{name: (start + merged).to(torch.bfloat16)}}, out)
open(out + ".json", "w").write(json.dumps(took))
"""
NAME = "model.layers.0.mlp.weight"


@dataclass(frozen=True)
class Row:
    """A case: seconds of both, of torch's arithmetic alone, and the most anonymous memory."""

    case: str
    suture: float
    torch: float
    torch_arithmetic: float
    faster: float
    faster_than_arithmetic: float
    suture_mib: float
    torch_mib: float
    difference: float


def write(folder: Path, values: NDArray[np.float32]) -> Path:
    """A model of one matrix, bf16, rounded to nearest even."""
    bits = values.view(np.uint32)
    data = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()
    header = json.dumps({NAME: {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [0, len(data)]}}).encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    return folder


def models(place: Path, shape: tuple[int, int]) -> list[Path]:
    """A base and experts whose changes decay as fine-tunes' do."""
    rng = np.random.default_rng(7)
    base = np.float32(0.02) * rng.standard_normal(shape, np.float32)
    made = [write(place / "base", base)]
    decay = (1 + np.arange(shape[0], dtype=np.float32)) ** np.float32(-0.3)
    for i in range(EXPERTS):
        noise = rng.standard_normal(shape, np.float32) * decay[rng.permutation(shape[0])][:, None]
        made.append(write(place / f"expert-{i}", (base + np.float32(0.002) * noise).astype(np.float32)))
    return made


def values(path: Path) -> NDArray[np.float32]:
    """The elements of a model of one matrix."""
    content = np.memmap(path, np.uint8, "r")
    size = int.from_bytes(content[:8].tobytes(), "little")
    return (np.array(content[8 + size :]).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def main() -> int:
    """Runs it."""
    parser = options(__doc__, reps=3)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    args = parser.parse_args()
    place = Workplace(args.work.resolve())
    document = facts(place, args.suture, None) | {"options": {"reps": args.reps, "threads": THREADS}}
    results = Results.start(args.results, "spectral", document)
    folder = place.folder("spectral")
    peer = folder / "peer.py"
    peer.write_text(PEER.format(threads=THREADS))
    samples: list[Sample] = []
    found: list[Row] = []
    for title, shape in SHAPES.items():
        inputs = models(folder / title.replace(" ", ""), shape)
        for method in args.methods:
            case = f"{method}, {title}"
            config, out = folder / f"{method}.json", place.folder("out") / "spectral"
            listed = [{"model": str(m)} for m in inputs[1:]]
            config.write_text(json.dumps({"merge_method": method, "base_model": str(inputs[0]), "models": listed}))
            theirs = folder / f"{method}.safetensors"
            commands = {
                "suture": Command(
                    [args.suture, "merge", str(config), str(out), "--threads", str(THREADS), "--quiet"], out
                ),
                "torch": Command([sys.executable, str(peer), method, str(theirs), *map(str, inputs)]),
            }
            samples += side_by_side(place, case, commands, args.reps, partial(warm, inputs), ("suture",), 1)
            seconds, memory = medians(samples, case), peaks(samples, case)
            alone = float(Path(f"{theirs}.json").read_text())
            a, b, base = (values(p) for p in (out / "model.safetensors", theirs, inputs[0] / "model.safetensors"))
            off = float(np.linalg.norm(a - b) / np.linalg.norm(b - base))
            ours, peers = seconds["suture"], seconds["torch"]
            found.append(
                Row(case, ours, peers, alone, peers / ours, alone / ours, memory["suture"], memory["torch"], off)
            )
            results.save(found, samples)
    results.save(found, samples, complete=True)
    head = [
        "case",
        "suture s",
        "torch s",
        "its arithmetic s",
        "times faster",
        "than arithmetic",
        "MiB",
        "torch MiB",
        "of it",
        "differ by",
    ]
    show([head, *([
        r.case, number(r.suture), number(r.torch), number(r.torch_arithmetic), against(r.faster, FASTER, at_most=False),
        number(r.faster_than_arithmetic), number(r.suture_mib, 0), number(r.torch_mib, 0),
        against(r.suture_mib / r.torch_mib, OF_MEMORY, at_most=True), f"{r.difference:.1e}",
    ] for r in found)])  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
