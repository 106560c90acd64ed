"""Merges of models that a GPU holds: the share of its bandwidth that is used, mergekit's times, and the core's results.

    python benches/gpu.py --out gpu.json                       # a Llama 3 8B's shape on the GPU: 64 GB of models
    python benches/gpu.py --device cpu --shape tiny            # does it all run?
    python benches/gpu.py --methods linear ties --no-peers     # a part

It needs torch, numpy, safetensors and an installed `suture`; for the peer `mergekit==0.1.5`. It reads what the card's
tool says of the card and sets nothing.

* The models are made on the device from a seed: base N(0, 0.02), three experts, each tensor of which moved by noise of
  its own standard deviation between 3e-4 and 1e-3, rounded to bf16. Where they do not fit there are fewer layers, and
  the rows say so.
* A base and three experts of 8B fill a card of 80 GB, so results go in place, into the first expert. It is made anew
  between cases, but not between repetitions (`--restore` does so, outside of what is timed): from the second call on it
  is the result of the call before, whose changes are still of a fine-tune's size, though in part zero after sparse
  methods. The largest magnitude is looked at after every case.
* A time is that of one call: by the clock, around the call and the wait for the device, and between two CUDA events.
  What the call does on the host is in both. `overhead` is the same call on as many tensors of 8 elements; `overhead,
  new` where no call like it was made before, so that every tensor is looked at closely and tables are made.
* Useful: the bytes that cannot be avoided (every input read once, the output written once) at the speed of a large copy
  on the device in the same run (bytes read and bytes written), over the median time by the clock.
* Extra memory: what torch's allocator held at most during a call beyond what it held before.
* Agreement: a few million elements merged by the core through files and by `suture.torch` on the device; in steps of
  bf16.
* The peer gets the same tensors, of a model of fewer layers without embedding and head, in bf16, under no_grad; here
  both sides make new tensors. `equal` is the share of elements that are the same on both sides.
* Busy: one call of each case under torch's profiler, how long kernels ran and how many.

No case is begun once `--seconds` are over, and none is repeated once it took a thirtieth of them; what was left out is
said.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from common.gpu_agreement import agreement
from common.gpu_cases import CASES, FEW, MERGES, METHODS, Call, Case, call_of, ours, theirs
from common.gpu_models import MODELS, SHAPES, Difference, Family, Shape, fitting
from common.gpu_rows import Found, Row
from common.gpu_timing import busy, card, copy_bandwidth, facts, free, measure
from common.places import HERE, say

import suture.torch

EXTRA_MIB = 2048.0
PEER_LAYERS = {"8b": 8, "1b": 8, "tiny": 2}
PEER_REPS = 5
#: Of all the time, what one case may take before it is repeated no more.
SHARE_OF_A_CASE = 1 / 30
#: Slower calls are not profiled: their traces are long.
PROFILED_MS = 3000.0


class Bench:
    """One run; what was found is kept after every case."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.options = options
        self.seconds: float = options.seconds
        self.case_seconds = self.seconds * SHARE_OF_A_CASE
        self.begun = time.perf_counter()
        self.found = Found(facts(self.device))

    def spent(self) -> float:
        return time.perf_counter() - self.begun

    def leave_out(self, what: str) -> None:
        self.found.left_out.append(what)
        say(f"left out: {what}")

    def over(self, what: str) -> bool:
        """Whether the time is over, so that something is left out."""
        if self.spent() < self.seconds:
            return False
        self.leave_out(f"{what}: the {self.seconds:.0f} s are over")
        return True

    def wanted(self, cases: Sequence[Case]) -> list[Case]:
        methods = self.options.methods
        return [case for case in cases if methods is None or case.method in methods]

    def save(self, complete: bool = False) -> None:
        document = {
            "complete": complete,
            "seconds": self.spent(),
            "options": {name: str(value) for name, value in vars(self.options).items()},
            **asdict(self.found),
        }
        out: Path = self.options.out
        part = out.with_suffix(".part")
        part.write_text(json.dumps(document, indent=1) + "\n")
        part.replace(out)

    def show(self) -> None:
        self.found.show()
        print(f"{self.spent():.0f} s; raw results: {self.options.out}")

    def failed(self, what: str, error: Exception) -> str:
        """What went wrong, in a line; a device that is of no more use ends the run."""
        reason = next(iter(str(error).splitlines()), "")
        text = f"failed: {type(error).__name__}: {reason}"[:300]
        say("".join(traceback.format_tb(error.__traceback__)[-3:]))
        self.leave_out(f"{what}: {text}")
        self.ask_device()
        return text

    def ask_device(self) -> None:
        try:
            torch.zeros(1, device=self.device).add_(1).item()
        except Exception:
            self.save()
            self.show()
            raise SystemExit("the device does not answer any more; what was found is kept") from None

    def measure_bandwidth(self) -> None:
        self.found.bandwidth.append(copy_bandwidth(self.device))
        free(self.device)
        say(f"a copy on the device: {self.found.bandwidth[-1].gb_per_s:.0f} GB/s, read and written")
        self.save()

    def agree(self) -> None:
        if self.over("agreement"):
            return
        for found in agreement(self.device, self.options.methods):
            self.found.agreement.append(found)
            self.save()
            if found.error:
                say(f"agreement of {found.method}: {found.error}")
                self.ask_device()

    def merge(self, shape: Shape) -> None:
        fits = fitting(shape, self.device)
        begun = time.perf_counter()
        family = Family.make(fits, self.device)
        made = f"{len(family['base'])} tensors, {family.elements / 1e9:.3f} G elements, {fits.layers} layers"
        say(f"{len(MODELS)} models of {made}, in {time.perf_counter() - begun:.1f} s")
        for case in self.wanted(CASES):
            if not hasattr(suture.torch, case.needs):
                self.leave_out(f"{case.name}: suture.torch has no `{case.needs}` yet")
                continue
            if self.over(case.name):
                continue
            row = Row("merge", case.name, case.method, layers=fits.layers)
            row.targets = {"useful": case.useful, "most_ms": case.most_ms, "extra_mib": EXTRA_MIB}
            if fits != shape:
                row.add(f"{fits.layers} of {shape.layers} layers, as more do not fit")
            self.found.rows.append(row)
            try:
                self.time(case, row, family)
            except Exception as e:
                row.add(self.failed(case.name, e))
            if case not in FEW:
                # The experts are made from the base.
                for model in MODELS if case.into == "base" else (case.into,):
                    family.restore(model)
            self.save()
        self.found.facts["card_after_merges"] = card(self.device)

    def time(self, case: Case, row: Row, family: Family) -> None:
        call = call_of(case, family)

        def before() -> None:
            if self.options.restore and case.into != "base" and case not in FEW:
                family.restore(case.into)

        row.take(call, measure(self.device, call.run, self.options.reps, self.case_seconds, before), self.gb_per_s)
        row.largest = family.largest(case.into)
        if not row.largest < 1.0:
            row.add(f"values are no longer a model's: up to {row.largest:g}")
        share = "" if row.useful is None else f", {row.useful:.0%} useful"
        say(f"{case.name}: {row.median_ms:.2f} ms{share} (first call {row.first_ms:.0f} ms)")

    @property
    def gb_per_s(self) -> float:
        return self.found.bandwidth[0].gb_per_s

    def compare(self, shape: Shape, layers: int) -> None:
        """suture and the peer on the same tensors, fewer where the peer runs out of memory."""
        cases = [case for case in self.wanted(MERGES) if case.faster is not None]
        if not cases or self.over("the comparison with mergekit"):
            return
        try:
            mergekit = importlib.import_module("mergekit.merge_methods")
        except ImportError as e:
            self.leave_out(f"the comparison with mergekit: {e}")
            return
        family: Family | None = None
        for case in cases:
            while not self.over(f"{case.name} against mergekit"):
                if family is None or family.shape.layers != layers:
                    family = None
                    free(self.device)
                    family = Family.make(replace(shape, layers=layers, vocabulary=None), self.device)
                try:
                    with torch.no_grad():
                        self.found.rows += self.sides(case, mergekit, family)
                except torch.OutOfMemoryError as e:
                    if layers > 1:
                        say(f"{case.name}: out of memory with {layers} layers, halving them")
                        layers //= 2
                        continue
                    self.failed(f"{case.name} against mergekit", e)
                except Exception as e:
                    self.failed(f"{case.name} against mergekit", e)
                break
            self.save()
        self.found.facts["card_after_peers"] = card(self.device)

    def sides(self, case: Case, mergekit: Any, family: Family) -> list[Row]:
        sides = {"suture": ours(case, family), "mergekit": theirs(case, mergekit, family)}
        read = case.experts + (case.base == "base")
        row, peer = (Row("peer", case.name, case.method, side, family.shape.layers) for side in sides)
        reps = min(self.options.reps, PEER_REPS)
        for one, run in zip((row, peer), sides.values(), strict=True):
            call = Call(run, (read + 1) * family.bytes, len(family["base"]), family.elements)
            one.take(call, measure(self.device, run, reps, self.case_seconds / 2), self.gb_per_s)
            free(self.device)
        row.times_faster = (peer.median_ms or 0.0) / (row.median_ms or 1.0)
        row.targets = {"times_faster": case.faster}
        if not case.random:
            apart = Difference.between(*(run() for run in sides.values()))
            row.equal, row.most_steps = 1 - apart.unequal, apart.most_steps
        say(f"{case.name}: {row.median_ms:.2f} ms, mergekit {peer.median_ms:.2f} ms, {row.times_faster:.1f} times")
        return [row, peer]

    def profile(self, shape: Shape) -> None:
        """One call of every case under the profiler."""
        medians = {row.case: row.median_ms or 0.0 for row in self.found.rows if row.part == "merge"}
        cases = [c for c in self.wanted(CASES) if c not in FEW and 0 < medians.get(c.name, 0) < PROFILED_MS]
        if not cases or self.device.type != "cuda" or self.over("busy"):
            return
        family = Family.make(fitting(shape, self.device), self.device)
        for case in cases:
            if self.over(f"busy of {case.name}"):
                continue
            try:
                found = busy(call_of(case, family).run, self.device)
            except Exception as e:
                self.failed(f"busy of {case.name}", e)
                continue
            self.found.busy.append({"case": case.name, "median_ms": medians[case.name], **found})
            self.save()

    def let_go(self) -> None:
        """The models of one part go before those of the next are made."""
        gc.collect()
        free(self.device)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shape", choices=tuple(SHAPES), help="of the models; 8b on a GPU, else tiny")
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    parser.add_argument("--reps", type=int, default=7)
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help=f"timed are {', '.join(METHODS)}")
    parser.add_argument("--out", type=Path, metavar="FILE", help="raw results; a file in runs/ if not given")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="mergekit too")
    parser.add_argument("--peer-layers", type=int, help="of the models that the peer merges too")
    parser.add_argument("--agreement", action=argparse.BooleanOptionalAction, default=True, help="with the core")
    parser.add_argument("--profile", action=argparse.BooleanOptionalAction, default=True, help="one call of each")
    parser.add_argument("--restore", action="store_true", help="make the first expert anew between repetitions")
    parser.add_argument("--seconds", type=float, help="begin no case after so many; 400 on a GPU, else 90")
    options = parser.parse_args()
    gpu = options.device == "cuda"
    options.shape = options.shape or ("8b" if gpu else "tiny")
    options.seconds = options.seconds or (400.0 if gpu else 90.0)
    options.peer_layers = options.peer_layers or PEER_LAYERS[options.shape]
    options.out = options.out or HERE / "runs" / f"{datetime.now().strftime('%Y-%m-%d-%H%M%S')}-gpu.json"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    return options


def main() -> int:
    options = parsed()
    if options.device == "cpu":
        # With more, each small step waits for all threads, on a busy machine a hundred times as long.
        torch.set_num_threads(1)
    bench = Bench(options)
    shape: Shape = SHAPES[options.shape]
    shape = replace(shape, layers=min(options.layers or shape.layers, shape.layers))
    bench.measure_bandwidth()
    bench.merge(shape)
    bench.let_go()
    if options.agreement:
        bench.agree()
    if options.peers:
        bench.compare(shape, min(options.peer_layers, shape.layers))
    bench.let_go()
    bench.measure_bandwidth()
    if options.profile:
        bench.profile(shape)
    bench.save(complete=True)
    bench.show()
    return 0


if __name__ == "__main__":
    sys.exit(main())
