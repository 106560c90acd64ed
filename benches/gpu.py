"""Merges of models that a GPU holds: how much of its bandwidth is used, against mergekit's in-memory merge, and as the core's.

    python benches/gpu.py --out gpu.json                       # a Llama 3 8B's shape on the GPU: 64 GB of models
    python benches/gpu.py --device cpu --shape tiny            # does it all run?
    python benches/gpu.py --methods linear ties --no-peers     # a part

It needs torch, numpy, safetensors and an installed `suture`; for the peer `mergekit==0.1.5`. It reads what the card's tool
says of the card and sets nothing.

* The models are made on the device from a seed: base N(0, 0.02), three experts, each tensor of which moved by noise of its own
  standard deviation between 3e-4 and 1e-3, rounded to bf16. Where they do not fit there are fewer layers; the rows say so.
* A base and three experts of 8B fill a card of 80 GB, so results go in place: into the first expert. It is made anew between
  cases, but not between repetitions (`--restore` does so, outside of what is timed): from the second call on, the first expert
  is the result of the call before, whose changes are still of the size of a fine-tune, though in part zero after sparse methods.
  The largest magnitude is checked after every case.
* A time is that of one call: by the clock, around the call and the wait for the device, and between two CUDA events. The plan,
  made anew in every call, is in both; `overhead` is the same call on as many tensors of 8 elements.
* Useful: the bytes that cannot be avoided (every input read once, the output written once) at the speed of a large copy on the
  device in the same run (bytes read and bytes written), over the median time by the clock.
* Extra memory: what torch's allocator held at most during the calls beyond what it held before.
* The peer gets the same tensors of a model of fewer layers, without embedding and head, in bf16, under no_grad; both sides make
  new tensors. `equal` is the share of elements that are the same on both sides.
* Agreement: a few million elements merged by the core through files and by `suture.torch` on the device; in steps of bf16.
* The last part, `busy`, is one call of each case under torch's profiler: how long kernels ran, and how many.

No case is begun once `--seconds` are over, and none is repeated once it took a thirtieth of them; what was left out is said.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from common.gpu_agreement import Agreement, agreement
from common.gpu_models import MODELS, SHAPES, Dict, Difference, Family, Shape, fitting, of_few_elements
from common.gpu_timing import Bandwidth, Times, busy, card, copy_bandwidth, facts, free, measure
from common.places import HERE, say
from common.tables import number, show

import suture.torch

WEIGHTS = [0.5, 0.3, 0.2]
DENSITIES = [0.5, 0.3, 0.2]
#: What a search over weights would try, one after another.
TRIED = [[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5]]
SPARSE: dict[str, Any] = {"weight": WEIGHTS, "density": DENSITIES}
PARAMETERS: dict[str, dict[str, Any]] = {
    "linear": {"weight": WEIGHTS},
    "task_arithmetic": {"weight": WEIGHTS},
    "slerp": {"t": 0.4},
    "ties": SPARSE,
    "breadcrumbs": {**SPARSE, "density": [0.4] * 3, "gamma": 0.01},
    "sce": {"select_topk": 0.2},
    "dare_linear": SPARSE,
    "dare_ties": SPARSE,
}
EXTRA_MIB, SWAP_MS = 2048.0, 8.0
PEER_LAYERS = {"8b": 8, "1b": 8, "tiny": 2}
PEER_REPS = 5
#: One case may take this share of all the time.
SHARE_OF_A_CASE = 1 / 30


@dataclass(frozen=True)
class Case:
    """Something that is done to a family; `base` is the base, the first expert (of methods that go from one to the other), or none."""

    name: str
    method: str
    experts: int
    base: str | None = None
    #: The least share of the copy bandwidth that must be used, the most milliseconds, times faster than the peer.
    useful: float | None = None
    most_ms: float | None = None
    faster: float | None = None
    #: The function of `suture.torch` that it needs, and the model it writes into.
    needs: str = "merge_"
    into: str = "expert-1"
    random: bool = False

    def parameters(self) -> dict[str, Any]:
        told = PARAMETERS.get(self.method, {})
        return {name: value[: self.experts] if isinstance(value, list) else value for name, value in told.items()}


MERGES = (
    Case("linear of 2", "linear", 2, useful=0.8),
    Case("linear of 3", "linear", 3, useful=0.8, faster=2),
    Case("task_arithmetic", "task_arithmetic", 3, "base", useful=0.8, faster=2),
    Case("slerp", "slerp", 2, "expert-1", useful=0.45, faster=2),
    Case("model_stock", "model_stock", 3, "base"),
    Case("ties", "ties", 3, "base", useful=0.3, faster=10),
    Case("breadcrumbs", "breadcrumbs", 3, "base", useful=0.3, faster=10),
    Case("sce", "sce", 3, "base", useful=0.3, faster=10),
    Case("dare_linear", "dare_linear", 3, "base", useful=0.5, random=True),
    Case("dare_ties", "dare_ties", 3, "base", useful=0.5, faster=2, random=True),
)
SWAP = Case("swap of half", "swap", 2, most_ms=SWAP_MS, needs="swap_")
# It writes into the base, so it comes last.
SESSION = Case("session.apply_", "linear", 3, useful=0.8, needs="prepare", into="base")
OVERHEAD = Case("overhead", "linear", 3)
CASES = (*MERGES, SWAP, OVERHEAD, SESSION)
METHODS = sorted({case.method for case in CASES})


@dataclass(frozen=True)
class Call:
    """What is timed, and the bytes it cannot do without; None where they do not matter."""

    run: Callable[[], Any]
    bytes: int | None
    tensors: int
    elements: int


@dataclass
class Row:
    part: str
    case: str
    method: str
    side: str = "suture"
    layers: int | None = None
    tensors: int | None = None
    elements: int | None = None
    bytes: int | None = None
    first_ms: float | None = None
    wall_ms: list[float] = field(default_factory=list)
    events_ms: list[float] = field(default_factory=list)
    median_ms: float | None = None
    p20_ms: float | None = None
    p80_ms: float | None = None
    median_events_ms: float | None = None
    useful: float | None = None
    useful_by_events: float | None = None
    extra_mib: float | None = None
    largest: float | None = None
    times_faster: float | None = None
    equal: float | None = None
    most_steps: int | None = None
    targets: dict[str, float | None] = field(default_factory=dict)
    note: str = ""

    def take(self, call: Call, times: Times, gb_per_s: float) -> None:
        self.tensors, self.elements, self.bytes = call.tensors, call.elements, call.bytes
        self.first_ms, self.wall_ms, self.events_ms = times.first, times.wall, times.events
        self.median_ms, self.median_events_ms = times.median(), times.by_events()
        self.p20_ms, self.p80_ms = times.percentile(20), times.percentile(80)
        self.extra_mib = times.extra_mib
        if call.bytes is not None:
            least_ms = call.bytes / gb_per_s / 1e6
            self.useful = least_ms / self.median_ms
            self.useful_by_events = None if self.median_events_ms is None else least_ms / self.median_events_ms


def merge_into(case: Case, models: Sequence[Dict], base: Dict | None) -> Any:
    first, *others = models[: case.experts]
    origin = {None: None, "base": base, "expert-1": first}[case.base]
    # Of a method that goes from one model to another the first is the base, and the others are listed.
    return suture.torch.merge_(first, others, case.method, base=origin, parameters=case.parameters())


def swap_half(family: Family) -> Call:
    outer = max(family.shape.layers // 4, 1)
    swap = getattr(suture.torch, "swap_")  # noqa: B009
    into, donor = family.experts[:2]
    moved = 2 * outer * family.shape.elements_of_a_layer
    return Call(lambda: swap(into, donor, bottom=outer, top=outer), 2 * 2 * moved, 2 * outer * 9, moved)


def session(family: Family) -> Call:
    prepare = getattr(suture.torch, "prepare")  # noqa: B009
    held = prepare(family.experts, "linear", parameters=PARAMETERS["linear"])
    turn = iter(range(1 << 30))
    base = family["base"]
    return Call(
        lambda: held.apply_(TRIED[next(turn) % len(TRIED)], into=base), 4 * family.bytes, len(base), family.elements
    )


def call_of(case: Case, family: Family) -> Call:
    if case is SWAP:
        return swap_half(family)
    if case is SESSION:
        return session(family)
    if case is OVERHEAD:
        few = of_few_elements(family)
        return Call(lambda: merge_into(case, few, None), None, len(few[0]), sum(t.numel() for t in few[0].values()))
    models, base = family.experts, family["base"]
    read = case.experts + (case.base == "base")
    return Call(lambda: merge_into(case, models, base), (read + 1) * family.bytes, len(base), family.elements)


class Bench:
    """One run: what was found so far, kept after every case."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.reps: int = options.reps
        self.restore: bool = options.restore
        self.seconds: float = options.seconds
        self.begun = time.perf_counter()
        self.out: Path = options.out
        self.methods: list[str] | None = options.methods
        self.rows: list[Row] = []
        self.agreed: list[Agreement] = []
        self.busy: list[dict[str, Any]] = []
        self.left_out: list[str] = []
        self.document: dict[str, Any] = {"complete": False, "options": {k: str(v) for k, v in vars(options).items()}}
        self.document["facts"] = facts(self.device)
        self.bandwidth: list[Bandwidth] = []

    @property
    def gb_per_s(self) -> float:
        return self.bandwidth[0].gb_per_s

    @property
    def case_seconds(self) -> float:
        return self.seconds * SHARE_OF_A_CASE

    def spent(self) -> float:
        return time.perf_counter() - self.begun

    def over(self, what: str) -> bool:
        """Whether the time is over; what is left out for it is kept."""
        if self.spent() < self.seconds:
            return False
        self.left_out.append(f"{what}: the time is over")
        say(f"{what}: left out, the {self.seconds:.0f} s are over")
        return True

    def wanted(self, cases: Sequence[Case]) -> list[Case]:
        return [case for case in cases if self.methods is None or case.method in self.methods]

    def missing(self, case: Case) -> bool:
        """Whether suture.torch lacks what a case needs."""
        if hasattr(suture.torch, case.needs):
            return False
        self.left_out.append(f"{case.name}: suture.torch has no `{case.needs}` yet")
        say(self.left_out[-1])
        return True

    def save(self, complete: bool = False) -> None:
        self.document |= {
            "complete": complete,
            "seconds": self.spent(),
            "bandwidth": [asdict(b) for b in self.bandwidth],
            "rows": [asdict(row) for row in self.rows],
            "agreement": [asdict(a) for a in self.agreed],
            "busy": self.busy,
            "left_out": self.left_out,
        }
        part = self.out.with_suffix(".part")
        part.write_text(json.dumps(self.document, indent=1) + "\n")
        part.replace(self.out)

    def failed(self, what: str, error: Exception) -> str:
        """What went wrong, for a row; a device that is of no more use ends the run."""
        text = f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
        say(f"{what}: {text}\n{''.join(traceback.format_tb(error.__traceback__)[-3:])}")
        self.left_out.append(f"{what}: {text}")
        del error
        gc.collect()
        try:
            free(self.device)
            torch.zeros(1, device=self.device).add_(1).item()
        except Exception:
            self.save()
            show_all(self)
            raise SystemExit("the device does not answer any more; what was found is kept") from None
        return text

    def measured_bandwidth(self) -> None:
        self.bandwidth.append(copy_bandwidth(self.device))
        say(f"a copy on the device: {self.bandwidth[-1].gb_per_s:.0f} GB/s, read and written")
        self.save()

    def agreement(self) -> None:
        if self.over("agreement"):
            return
        for found in agreement(self.device, self.methods):
            self.agreed.append(found)
            if found.error:
                say(f"agreement of {found.method}: {found.error}")
        self.save()

    def merges(self, shape: Shape) -> None:
        fits = fitting(shape, self.device)
        begun = time.perf_counter()
        family = Family.make(fits, self.device)
        note = "" if fits == shape else f"{fits.layers} of {shape.layers} layers: more do not fit"
        made = f"{len(family['base'])} tensors, {family.elements / 1e9:.3f} G elements, {fits.layers} layers"
        say(f"{len(MODELS)} models of {made}, in {time.perf_counter() - begun:.1f} s")
        for case in self.wanted(CASES):
            if self.missing(case) or self.over(case.name):
                continue
            row = Row("merge", case.name, case.method, layers=fits.layers, note=note)
            row.targets = {"useful": case.useful, "most_ms": case.most_ms, "extra_mib": EXTRA_MIB}
            self.rows.append(row)
            try:
                self.timed(case, row, family)
            except Exception as e:
                row.note = "; ".join(filter(None, (note, self.failed(case.name, e))))
            if case is not OVERHEAD:
                for model in MODELS if case.into == "base" else (case.into,):
                    family.restore(model)
            self.save()
        self.document["card_after_merges"] = card(self.device)

    def timed(self, case: Case, row: Row, family: Family) -> None:
        call = call_of(case, family)
        if self.restore and case.into != "base" and case is not OVERHEAD:
            times = self.restored(case, call, family)
        else:
            times = measure(self.device, call.run, self.reps, self.case_seconds)
        row.take(call, times, self.gb_per_s)
        row.largest = family.largest(case.into)
        if not row.largest < 1.0:
            row.note = "; ".join(filter(None, (row.note, f"values are no longer a model's: up to {row.largest:g}")))
        share = "" if row.useful is None else f", {row.useful:.0%} useful"
        say(f"{case.name}: {row.median_ms:.2f} ms{share} (first call {row.first_ms:.0f} ms)")

    def restored(self, case: Case, call: Call, family: Family) -> Times:
        """The same, with the first expert made anew before every call."""
        begun = time.perf_counter()
        times = measure(self.device, call.run, 1, self.case_seconds)
        times.wall.clear()
        times.events.clear()
        while len(times.wall) < self.reps and (not times.wall or time.perf_counter() - begun < self.case_seconds):
            family.restore(case.into)
            # Each is a warm-up of `measure` and nothing else, so that none of them sees a result.
            one = measure(self.device, call.run, 0, 0.0)
            times.wall += [one.first]
            times.extra_mib = max(times.extra_mib or 0.0, one.extra_mib or 0.0) if one.extra_mib is not None else None
        return times

    def peers(self, shape: Shape, layers: int) -> None:
        """suture and the peer on the same tensors, fewer where the peer runs out of memory."""
        cases = [case for case in self.wanted(MERGES) if case.faster is not None]
        if not cases or self.over("the comparison with mergekit"):
            return
        try:
            mergekit = importlib.import_module("mergekit.merge_methods")
        except ImportError as e:
            self.left_out.append(f"the comparison with mergekit: {e}")
            say(self.left_out[-1])
            return
        family: Family | None = None
        for case in cases:
            while not self.over(f"{case.name} against mergekit"):
                if family is None or family.shape.layers != layers:
                    family = None
                    free(self.device)
                    small = replace(shape, layers=layers, vocabulary=None)
                    family = Family.make(fitting(small, self.device), self.device)
                    layers = family.shape.layers
                try:
                    self.compared(case, mergekit, family)
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
        self.document["card_after_peers"] = card(self.device)

    def compared(self, case: Case, mergekit: Any, family: Family) -> None:
        sides = {"suture": ours(case, family), "mergekit": theirs(case, mergekit, family)}
        rows = {}
        read = case.experts + (case.base == "base")
        for side, run in sides.items():
            call = Call(run, (read + 1) * family.bytes, len(family["base"]), family.elements)
            rows[side] = Row("peer", case.name, case.method, side, family.shape.layers)
            with torch.no_grad():
                times = measure(self.device, run, min(self.reps, PEER_REPS), self.case_seconds / 2)
            rows[side].take(call, times, self.gb_per_s)
            free(self.device)
        row, peer = rows["suture"], rows["mergekit"]
        assert row.median_ms is not None and peer.median_ms is not None
        row.times_faster = peer.median_ms / row.median_ms
        row.targets = {"times_faster": case.faster}
        if not case.random:
            with torch.no_grad():
                apart = Difference.between(*(run() for run in sides.values()))
            row.equal, row.most_steps = 1 - apart.unequal, apart.most_steps
        self.rows += [row, peer]
        say(
            f"{case.name}: {row.median_ms:.2f} ms, mergekit {peer.median_ms:.2f} ms, {row.times_faster:.1f} times faster"
        )

    def profiled(self, shape: Shape) -> None:
        """One call of every case under the profiler; of slow ones none, whose trace would be long."""
        medians = {row.case: row.median_ms for row in self.rows if row.part == "merge" and row.median_ms}
        cases = [case for case in self.wanted(CASES) if case is not OVERHEAD and 0 < medians.get(case.name, 0) < 3000]
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
            self.busy.append({"case": case.name, "median_ms": medians[case.name], **found})
            self.save()


def ours(case: Case, family: Family) -> Callable[[], Dict]:
    first, *others = family.experts[: case.experts]
    listed = others if case.base == "expert-1" else [first, *others]
    origin = {None: None, "base": family["base"], "expert-1": first}[case.base]
    return lambda: suture.torch.merge(listed, case.method, base=origin, parameters=case.parameters())


def theirs(case: Case, mergekit: Any, family: Family) -> Callable[[], Dict]:
    names = MODELS[1 : 1 + case.experts]
    models = {name: family[name] for name in ((case.base, *names) if case.base == "base" else names)}
    parameters = {
        name: dict(zip(names, value, strict=True)) if isinstance(value, list) else value
        for name, value in case.parameters().items()
    }
    return lambda: dict(mergekit.merge_state_dicts(models, case.method, parameters=parameters, base=case.base))


def judged(value: float | None, target: float | None, at_most: bool, percent: bool = False) -> str:
    scale, unit = (100.0, " %") if percent else (1.0, "")
    if value is None:
        return "-"
    told = f"{value * scale:.1f}{unit}"
    if target is None:
        return told
    met = value <= target if at_most else value >= target
    return f"{told} {'<=' if at_most else '>='} {target * scale:g} {'ok' if met else 'MISSED'}"


def show_agreement(agreed: Sequence[Agreement]) -> None:
    same = [a.method for a in agreed if a.equal]
    print(f"\nagreement with the core: {len(same)} of {len(agreed)} methods equal to the last bit")
    table = [["other", "elements", "unequal", "by more than a step", "most steps", "most"]]
    for a in agreed:
        if a.difference is None:
            print(f"  {a.method}: {a.error}")
        elif not a.equal:
            d = a.difference
            share = [f"{d.unequal:.2e}", f"{d.over_one_step:.2e}"]
            table.append([a.method, str(d.elements), *share, str(d.most_steps), f"{d.largest:.1e}"])
    if len(table) > 1:
        show(table)


def show_merges(rows: Sequence[Row]) -> None:
    if not rows:
        return
    print()
    table = [["case", "ms", "p20", "p80", "events", "first", "useful", "extra MiB", "note"]]
    for row in rows:
        ms = judged(row.median_ms, row.targets.get("most_ms"), at_most=True)
        times = [number(x) for x in (row.p20_ms, row.p80_ms, row.median_events_ms)]
        useful = judged(row.useful, row.targets.get("useful"), at_most=False, percent=True)
        extra = judged(row.extra_mib, row.targets.get("extra_mib"), at_most=True)
        table.append([row.case, ms, *times, number(row.first_ms, 0), useful, extra, row.note])
    show(table)


def show_peers(rows: Sequence[Row]) -> None:
    ours = [row for row in rows if row.side == "suture"]
    if not ours:
        return
    peers = {row.case: row for row in rows if row.side == "mergekit"}
    print(f"\nagainst mergekit, in memory, {ours[0].layers} layers without embeddings")
    table = [["case", "ms", "mergekit", "times faster", "useful", "mergekit", "extra MiB", "mergekit", "equal"]]
    for row in ours:
        peer = peers[row.case]
        faster = judged(row.times_faster, row.targets.get("times_faster"), at_most=False)
        shares = [judged(x.useful, None, at_most=False, percent=True) for x in (row, peer)]
        extra = [number(x.extra_mib, 0) for x in (row, peer)]
        equal = judged(row.equal, None, at_most=False, percent=True)
        table.append([row.case, number(row.median_ms), number(peer.median_ms), faster, *shares, *extra, equal])
    show(table)


def show_busy(found: Sequence[dict[str, Any]]) -> None:
    if not found:
        return
    print()
    table = [["busy", "ms", "kernels ran ms", "kernels", "the most"]]
    for each in found:
        most = ", ".join(f"{k['kernel'][:40]} {k['ms']:.1f} ms / {k['count']}" for k in each["most"][:2])
        table.append([each["case"], number(each["median_ms"]), number(each["busy_ms"]), str(each["kernels"]), most])
    show(table)


def show_all(bench: Bench) -> None:
    told = bench.document["facts"]
    print(
        f"\n{told['device']}, torch {told['torch']}, triton {told['versions']['triton']}, suture {told['versions']['suture']}"
    )
    speeds = ", ".join(f"{b.gb_per_s:.0f}" for b in bench.bandwidth)
    print(f"copy on the device, read and written: {speeds} GB/s")
    if bench.agreed:
        show_agreement(bench.agreed)
    show_busy(bench.busy)
    show_merges([row for row in bench.rows if row.part == "merge"])
    show_peers([row for row in bench.rows if row.part == "peer"])
    for line in bench.left_out:
        print(f"left out: {line}")
    print(f"{bench.spent():.0f} s; raw results: {bench.out}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shape", choices=tuple(SHAPES), help="of the models; 8b on a GPU, else tiny")
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    parser.add_argument("--reps", type=int, default=7)
    parser.add_argument(
        "--methods", nargs="+", metavar="METHOD", help=f"only these, of {', '.join(METHODS)} and all others"
    )
    parser.add_argument("--out", type=Path, help="where the raw results go; by default into runs/")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--peer-layers", type=int, help="layers of the models that the peer merges too")
    parser.add_argument("--agreement", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--profile", action=argparse.BooleanOptionalAction, default=True, help="one call of each, profiled"
    )
    parser.add_argument("--restore", action="store_true", help="make the first expert anew between repetitions")
    parser.add_argument("--seconds", type=float, default=400, help="begin no case after so many")
    options = parser.parse_args()
    options.shape = options.shape or ("8b" if options.device == "cuda" else "tiny")
    options.peer_layers = options.peer_layers or PEER_LAYERS[options.shape]
    options.out = options.out or HERE / "runs" / f"{datetime.now().strftime('%Y-%m-%d-%H%M%S')}-gpu.json"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    return options


def main() -> int:
    options = parsed()
    bench = Bench(options)
    shape = SHAPES[options.shape]
    if options.layers:
        shape = replace(shape, layers=min(options.layers, shape.layers))
    bench.measured_bandwidth()
    if options.agreement:
        bench.agreement()
    bench.merges(shape)
    # The models of one part go before those of the next are made.
    gc.collect()
    free(bench.device)
    if options.peers:
        bench.peers(shape, min(options.peer_layers, shape.layers))
    gc.collect()
    free(bench.device)
    bench.measured_bandwidth()
    if options.profile:
        bench.profiled(shape)
    bench.save(complete=True)
    show_all(bench)
    return 0


if __name__ == "__main__":
    sys.exit(main())
