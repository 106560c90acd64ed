"""How a plan divides, as text."""

from __future__ import annotations

from collections.abc import Iterator

from suture.render.layout import room
from suture.render.table import Column, laid, words
from suture.render.units import duration, plural, size
from suture.results.parts import Division, Estimate, Outlook


def planned(found: Outlook) -> Iterator[str]:
    """What a merge reads and writes, by shard or by part, and the commands of the parts."""
    yield f"{found['title']}: {plural(found['tensors'], 'tensor')}"
    for shard in found["shards"] if "parts" not in found else ():
        yield f"  {shard['shards'][0]}: {_told(shard)}"
    parts = found.get("parts", [])
    for i, part in enumerate(parts, 1):
        if names := part["shards"]:
            yield f"  part {i}: {names[0] if len(names) == 1 else f'{names[0]} to {names[-1]}'}: {_told(part)}"
    if idle := [i for i, part in enumerate(parts, 1) if not part["shards"]]:
        which = f"part {idle[0]}" if len(idle) == 1 else f"{len(idle)} of the parts ({idle[0]} to {idle[-1]})"
        shards = plural(len(found["shards"]), "shard")
        yield f"  {which}: nothing to do, for the output has {shards}: give a smaller --shard-size, or fewer parts"
    yield f"read at most {size(found['read_bytes'])}, write {size(found['write_bytes'])}"
    if "commands" in found:
        if found["rounds"]:
            yield "what its method counts lies in several parts: scan first, in rounds as `suture settle` asks for them"
        yield "commands, on any machines that share the folders (those of parts in any order):"
        yield from (f"  {command}" for command in found["commands"])
    if "estimate" in found:
        yield from _estimated(found["estimate"])


def _estimated(found: Estimate) -> Iterator[str]:
    """What it takes on so many machines, as a table, and by which rates."""
    rows = found["machines"]
    columns = [
        Column("machines", [str(row["machines"]) for row in rows]),
        Column("parts", [str(row["parts"]) for row in rows], 1),
        Column("reads", [size(row["read_bytes"]) for row in rows], 3),
        Column("writes", [size(row["write_bytes"]) for row in rows], 3),
        Column("takes", [duration(row["seconds"]) for row in rows]),
        words("waits for", [row["bound"] for row in rows], rank=2),
    ]
    yield "on so many machines (reads and writes of the one that takes longest):"
    for row in laid(columns, room())[0]:
        yield from (f"  {line}" for line in row)
    yield "by rates of a machine:"
    for name, value in found["rates"].items():
        if value is not None:
            figure = f"{value:.3g} s" if name in _SECONDS else f"{size(value)}/s"
            yield f"  {name}: {figure}, {'measured here' if name in found['measured'] else 'given'}"


_SECONDS = ("start", "headers", "finish")


def _told(part: Division) -> str:
    read, write = size(part["read_bytes"]), size(part["write_bytes"])
    return f"{plural(part['tensors'], 'tensor')}, read {read} of {plural(len(part['inputs']), 'file')}, write {write}"
