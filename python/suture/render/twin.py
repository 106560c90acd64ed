"""What a twin holds, in lines."""

from __future__ import annotations

from suture.render.units import plural
from suture.results.twin import TwinInfo, compressed


def lines(said: TwinInfo) -> list[str]:
    """The shared expert, the others, and what it comes to."""
    parameters = ", ".join(f"{name} {value}" for name, value in said["shared"]["parameters"].items())
    method = said["shared"]["method"] + (f" ({parameters})" if parameters else "")
    width = max(len("shared"), *(len(expert["name"]) for expert in said["experts"]))
    share = f"{100 * said['bytes'] / max(said['own_bytes'], 1):.1f} %"
    told = [
        f"twin of {plural(len(said['experts']), 'expert')} of {said['base']}: {compressed(said)}",
        f"  {'shared':<{width}}  {method}, {said['shared']['bytes']:,} bytes",
        *(f"  {e['name']:<{width}}  {e['bytes']:,} bytes of {e['own_bytes']:,}" for e in said["experts"]),
        f"  {'all':<{width}}  {said['bytes']:,} bytes, {share} of the experts as they were",
    ]
    if said["excluded"]:
        told.append(f"  {plural(len(said['excluded']), 'tensor')} excluded: as the shared expert has them")
    if said["whole"]:
        told.append(f"  {plural(len(said['whole']), 'tensor')} (heads, biases) kept whole: each expert's own")
    return told
