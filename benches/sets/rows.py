"""What a case of the speed set comes to: medians, ratios, targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.agreement import Agreement
from common.processes import Sample, fastest, medians, peaks
from common.tables import against, number

from sets.cases import Case, Plan

MEMORY_SHARE_TARGET = 0.1
MEMORY_TARGET_MIB = 320
MANY_BUDGET_MIB = 512
BOUND_TARGET = 2.0
OVERHEAD_TARGET = 1.5


@dataclass(frozen=True)
class Row:
    case: str
    floor_mode: str | None
    floor: float | None
    suture: float | None
    ratio: float | None
    ratio_target: float | None
    overhead: float | None
    overhead_target: float | None
    passes: float | None
    bound: float | None
    bound_ratio: float | None
    bound_target: float | None
    strict_bound: float | None
    strict_ratio: float | None
    mergekit: float | None
    speedup: float | None
    speedup_target: float | None
    suture_anon_mib: float | None
    mergekit_anon_mib: float | None
    anon_mib_target: float | None
    agreement: Agreement | None


def divided(value: float | None, by: float | None) -> float | None:
    return value / by if value is not None and by else None


def summarise(
    case: Case,
    samples: Sequence[Sample],
    plan: Plan | None,
    read: int,
    written: int,
    agreement: Agreement | None,
    cold: bool,
) -> Row:
    """Medians of whole-process wall time, highest of the memory peaks; the floor is its fastest mode.

    The floor reads `read` bytes once and writes `written` bytes. The bound is the bytes of the plan at the floor's
    bytes per second; the strict bound is the floor, and the bytes of further passes at the speed of the reads alone.
    """
    seconds, anonymous = medians(samples, case.name), peaks(samples, case.name)
    mode = fastest(seconds, "floor")
    floor, suture, peer = seconds.get(mode or ""), seconds.get("suture"), seconds.get("mergekit")
    reads = seconds.get(fastest(seconds, "reads") or "")
    bound = floor * (plan.read_bytes + plan.write_bytes) / (read + written) if floor and plan else None
    passes = plan.read_bytes / plan.input_bytes if plan else None
    strict = floor + reads * (passes - 1) if floor and reads and passes else None
    return Row(
        case=case.name,
        floor_mode=mode,
        floor=floor,
        suture=suture,
        ratio=divided(suture, floor),
        ratio_target=case.target(cold),
        overhead=suture - floor if suture and floor and case.small_tensors else None,
        overhead_target=OVERHEAD_TARGET if case.small_tensors else None,
        passes=passes,
        bound=bound,
        bound_ratio=divided(suture, bound),
        bound_target=BOUND_TARGET if case.merges and not case.small_tensors else None,
        strict_bound=strict,
        strict_ratio=divided(suture, strict),
        mergekit=peer,
        speedup=divided(peer, suture),
        speedup_target=case.speedup_target,
        suture_anon_mib=anonymous.get("suture"),
        mergekit_anon_mib=anonymous.get("mergekit"),
        anon_mib_target=MANY_BUDGET_MIB if case.small_tensors else None,
        agreement=agreement,
    )


def memory_cell(row: Row) -> str:
    """Of both sides; at most the target, or else a tenth of the peer's."""
    cells = f"{number(row.suture_anon_mib, 0)} / {number(row.mergekit_anon_mib, 0)}"
    share = MEMORY_SHARE_TARGET * row.mergekit_anon_mib if row.mergekit_anon_mib else None
    target = row.anon_mib_target or share
    if not row.suture_anon_mib or not target:
        return cells
    return f"{cells} {'ok' if row.suture_anon_mib <= target else 'MISSED'}"


def agreement_cell(found: Agreement | None) -> str:
    if found is None:
        return "-"
    odd = f", {len(found.only_one_side)} on one side only" if found.only_one_side else ""
    shapes = f", {len(found.shapes_differ)} of other shapes" if found.shapes_differ else ""
    return f"{100 * found.equal_share:.3f} % equal, max {found.max_abs_difference:.1e}{odd}{shapes}"


def speed_table(rows: Sequence[Row]) -> list[list[str]]:
    titles = [
        "case",
        "floor s",
        "mode",
        "suture s",
        "x floor",
        "s over floor",
        "passes",
        "x bound",
        "x strict",
        "mergekit s",
        "x faster",
        "anon MiB",
        "agreement",
    ]
    return [titles] + [
        [
            row.case,
            number(row.floor),
            (row.floor_mode or "-").removeprefix("floor "),
            number(row.suture),
            against(row.ratio, row.ratio_target, at_most=True),
            against(row.overhead, row.overhead_target, at_most=True),
            number(row.passes, 1),
            against(row.bound_ratio, row.bound_target, at_most=True),
            number(row.strict_ratio),
            number(row.mergekit),
            against(row.speedup, row.speedup_target, at_most=False),
            memory_cell(row),
            agreement_cell(row.agreement),
        ]
        for row in rows
    ]
