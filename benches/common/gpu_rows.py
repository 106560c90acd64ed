"""What was found about models that a device holds, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from common.gpu_agreement import Agreement
from common.gpu_cases import Call
from common.gpu_timing import Bandwidth, Times
from common.tables import number, show


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

    def add(self, note: str) -> None:
        self.note = "; ".join(filter(None, (self.note, note)))

    def take(self, call: Call, times: Times, gb_per_s: float) -> None:
        self.tensors, self.elements, self.bytes = call.tensors, call.elements, call.bytes
        self.first_ms, self.wall_ms, self.events_ms = times.first, times.wall, times.events
        self.median_ms, self.median_events_ms = times.median(), times.by_events()
        self.p20_ms, self.p80_ms = times.percentile(20), times.percentile(80)
        self.extra_mib = times.extra_mib
        if times.alone:
            self.add("the first call alone")
        if call.bytes is not None:
            least_ms = call.bytes / gb_per_s / 1e6
            self.useful = least_ms / self.median_ms
            self.useful_by_events = None if self.median_events_ms is None else least_ms / self.median_events_ms


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
    if not agreed:
        return
    same = [a.method for a in agreed if a.equal]
    print(f"\nagreement with the core: {len(same)} of {len(agreed)} equal to the last bit")
    table = [["unlike", "elements", "unequal", "by more than a step", "most steps", "most"]]
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


@dataclass
class Found:
    """All that a run found."""

    facts: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    agreement: list[Agreement] = field(default_factory=list)
    busy: list[dict[str, Any]] = field(default_factory=list)
    bandwidth: list[Bandwidth] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def show(self) -> None:
        versions = ", ".join(f"{name} {self.facts['versions'][name]}" for name in ("torch", "triton", "suture"))
        speeds = ", ".join(f"{b.gb_per_s:.0f}" for b in self.bandwidth)
        print(f"\n{self.facts['device']}, {versions}\ncopy on the device, read and written: {speeds} GB/s")
        show_agreement(self.agreement)
        show_busy(self.busy)
        show_merges([row for row in self.rows if row.part == "merge"])
        show_peers([row for row in self.rows if row.part == "peer"])
        for line in self.left_out:
            print(f"left out: {line}")
