"""The report of an output that was made in parts: the outline of the whole, filled in by what each part found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from suture.errors import SutureError
from suture.results.parts import Manifest

#: Numbers that the parts' are added up to.
_COUNTED = ("tensors_resumed", "bytes_shared", "files_mapped", "files_direct", "files_pread")
#: The method that tells how ill-conditioned what it inverted was, and from where on it is worth a word, as in the core.
_UNFILTERED, _CONDITION = "wudi", 1e8


def of_parts(
    outline: dict[str, Any],
    job: Mapping[str, Any],
    made: Sequence[Manifest],
    told: Sequence[str],
    cluster: Mapping[str, Any] | None = None,
) -> str:
    """The report as JSON text, of the tensors that these parts have made; of all parts the whole.

    Args:
        outline: the report without digests, as the core leaves it with the job.
        job: the job.
        made: the parts.
        told: further warnings.
        cluster: which node has made which part, if a cluster did.

    Raises:
        SutureError: if a part tells of a tensor that another has, or that there is none of; or all, and one is missing.
    """
    names = list(outline["tensors"])
    lines: dict[int, dict[str, Any]] = {}
    for one in made:
        for line in one["tensors"]:
            at = line["tensor"]
            if at in lines or not 0 <= at < len(names) or line["digest"] == "":
                raise SutureError(f"part {one['part']}: tells of tensor {at}, which is not its own; make it again")
            lines[at] = line
    if len(made) == job["parts"] and len(lines) < len(names):
        missing = next(name for at, name in enumerate(names) if at not in lines)
        raise SutureError(f"no part has made `{missing}`; remove the folder of the parts, and begin anew")
    tensors: dict[str, Any] = {}
    for at in sorted(lines):
        tensors[names[at]] = _filled(outline["tensors"][names[at]], lines[at], outline["backend"])
    outline["tensors"] = tensors
    scales: dict[str, dict[str, float]] = outline["scales"]
    for one in made:
        for layer, own in one["scales"].items():
            scales[layer] = {**own, **scales.get(layer, {})}
    outline["scales"] = {layer: dict(sorted(own.items())) for layer, own in scales.items()}
    more = dict.fromkeys(w for one in made for w in one["warnings"])
    outline["warnings"] = [*outline["warnings"], *more, *told, *_ill_conditioned(tensors)]
    rates = [rate for one in made for rate in one["run"]["cold_reads"]]
    counted = {key: sum(one["run"][key] for one in made) for key in _COUNTED}
    where = [
        {
            "part": one["part"],
            "host": one["host"],
            "seconds": round(one["seconds"], 3),
            "shards": [shard["file"] for shard in one["shards"]],
        }
        for one in made
    ]
    outline["run"] = {**counted, "cold_reads": rates, "parts": where}
    if cluster is not None:
        outline["cluster"] = {key: cluster[key] for key in ("ray", "nodes", "made")}
    fetched = [one["run"]["fetched"] for one in made if "fetched" in one["run"]]
    if fetched:
        outline["run"]["fetched"] = {key: sum(one[key] for one in fetched) for key in ("bytes", "requests", "again")}
    copied = [one["run"]["copied"] for one in made if "copied" in one["run"]]
    if copied:
        outline["run"]["copied"] = {key: sum(one[key] for one in copied) for key in ("bytes", "requests")}
    return json.dumps(outline, indent=2, ensure_ascii=False) + "\n"


def _filled(tensor: dict[str, Any], line: Mapping[str, Any], first: str) -> dict[str, Any]:
    """A tensor of a report: in the outline the number of each input stands where its digest goes."""
    digests = line["inputs"]
    inputs = [[model, name, digests[int(number)]] for model, name, number in tensor["from"]]
    filled = {**tensor, "digest": line["digest"], "from": inputs}
    if line.get("found"):
        filled["found"] = line["found"]
    computed = tensor["action"] not in ("copy", "move")
    by = line.get("backend", "cpu")
    return {**filled, "backend": by} if computed and by != first else filled


def _ill_conditioned(tensors: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The caution of the core about what was nearly singular."""
    worst: dict[str, float] = {}
    for name, tensor in tensors.items():
        found = tensor.get("found", {}) if tensor["action"] == _UNFILTERED else {}
        own = [v for key, v in found.items() if (key == "condition" or key.endswith(".condition")) and v is not None]
        if own and max(own) > _CONDITION:
            worst[name] = max(own)
    if not worst:
        return []
    # Of equal ones the last, as the core has it.
    name = max(reversed(worst), key=worst.__getitem__)
    exponent = f"{worst[name]:.1e}".replace("e+0", "e").replace("e+", "e")
    count = "1 tensor is" if len(worst) == 1 else f"{len(worst)} tensors are"
    return [
        f"{_UNFILTERED}: {count} ill-conditioned (worst: `{name}`, condition {exponent}): directions that the changes "
        "hardly have decide much of the result; compare it by `suture diff`, or take `swudi`, which filters them"
    ]
