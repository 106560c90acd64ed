"""What a twin holds, in lines."""

from __future__ import annotations

from suture.render.units import plural, size
from suture.results.twin import TwinInfo


def lines(said: TwinInfo) -> list[str]:
    """The shared expert, the others, and what it comes to."""
    parameters = ", ".join(f"{name} {value}" for name, value in said["shared"]["parameters"].items())
    method = said["shared"]["method"] + (f" ({parameters})" if parameters else "")
    width = max(len("shared"), *(len(expert["name"]) for expert in said["experts"]))
    share = f"{100 * said['bytes'] / max(said['own_bytes'], 1):.1f} %"
    told = [
        f"twin of {plural(len(said['experts']), 'expert')} of {said['base']}: "
        f"{said['form']}, rank share {said['rank_share']}",
        f"  {'shared':<{width}}  {method}, {size(said['shared']['bytes'])}",
        *(f"  {e['name']:<{width}}  {size(e['bytes'])} of {size(e['own_bytes'])}" for e in said["experts"]),
        f"  {'all':<{width}}  {size(said['bytes'])}, {share} of the experts as they were",
    ]
    if said["excluded"]:
        told.append(f"  {plural(len(said['excluded']), 'tensor')} excluded: as the shared expert has them")
    if said["whole"]:
        told.append(f"  {plural(len(said['whole']), 'tensor')} (heads, biases) kept whole: each expert's own")
    return told
