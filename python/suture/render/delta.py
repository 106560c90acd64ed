"""What a delta is, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from suture.render.layout import room
from suture.render.table import Column, laid, left_out, words
from suture.render.units import plural, size
from suture.results.delta import DeltaInfo


def lines(found: DeltaInfo, tensors: bool) -> Iterator[str]:
    """What to say of a delta; with `tensors` of every tensor that changes, too."""
    base, tuned, figures = found["base"], found["tuned"], found["figures"]
    exact = "exact: gives the tuned model's bytes, and takes them back" if found["exact"] else "lossy"
    yield f"{found['path']}: a delta of the form {found['form']}, {exact}"
    yield f"  from  {base['name']} ({size(base['bytes'])}, digest {base['digest']})"
    yield f"  to    {tuned['name']} ({size(tuned['bytes'])}, digest {tuned['digest']})"
    share = 100 * found["bytes"] / max(tuned["bytes"], 1)
    of = f"{found['bytes']:,} bytes, {share:.1f} % of the model's {tuned['bytes']:,}"
    yield f"  size  {of}, in {plural(len(found['files']), 'file')}"
    counted = Counter(entry["kept"] for entry in found["tensors"])
    yield "  kept  " + ", ".join(f"{n:,} {KEPT[kept]}" for kept, n in counted.items())
    if "energy" in figures:
        error = max(0.0, 1 - figures["energy"]) ** 0.5
        yield f"  error {error:.4f} of the change's norm ({100 * figures['energy']:.2f} % of its squares are kept)"
    elif "error" in figures:
        yield f"  error {figures['error']:.4f} of the change's norm"
    if not tensors:
        return
    changed = [entry for entry in found["tensors"] if entry["kept"] != "same"]

    def shown(key: str, form: str) -> list[str]:
        return [format(e["figures"][key], form) if key in e.get("figures", {}) else "" for e in changed]

    columns = [
        words("tensor", [entry["name"] for entry in changed]),
        words("kept", [KEPT[entry["kept"]] for entry in changed]),
        Column("changed", shown("changed", ",.0f"), 3),
        Column("norm", shown("norm", ".4g"), 2),
        Column("rank", shown("rank", ".0f"), 1),
        Column("error", shown("error", ".4f"), 1),
    ]
    rows, out = laid(columns, room())
    yield from (line for row in rows for line in row)
    yield from left_out(out, room(), "--json has all")


#: What is said of a tensor by how its change is kept.
KEPT = {
    "same": "unchanged",
    "left": "not kept",
    "xor": "as bits",
    "sparse": "element by element",
    "bits": "as signs",
    "lowrank": "as factors",
    "whole": "whole",
    "gone": "removed",
}
