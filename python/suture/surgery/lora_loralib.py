"""Adapters that lie inside modules, as loralib and AdapterHub keep them: `lora_A` and `lora_B` beside the weight.

The file says neither alpha nor which parts of a fused matrix are adapted (`enable_lora`): shapes tell the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError
from suture.surgery.lora_forms import LORALIB, Adapter, Factor, Module, config_beside

#: What tables of tokens are called by their last name, or a part of it.
_TABLES = ("emb", "wte", "wpe", "shared")


@dataclass(frozen=True)
class Asked:
    """What the file does not say.

    Attributes:
        alpha: `lora_alpha`.
        enabled: of fused matrices, which parts are adapted (`enable_lora`).
        parts: what the parts are called as modules of their own; empty to leave them fused.
        shapes: the shapes of the model's weights by module, where one was given.
    """

    alpha: float | None = None
    enabled: tuple[bool, ...] = ()
    parts: tuple[str, ...] = ()
    shapes: Mapping[str, Sequence[int]] | None = None


def read_loralib(found: Checkpoint, form: str, group: str | None, asked: Asked) -> Adapter:
    """An adapter of loralib or AdapterHub, alone or in a model's state dict.

    Raises:
        UsageError: if something is not known that the file does not say.
        SutureError: if a factor has no partner, or shapes do not go together.
    """
    alpha = asked.alpha if asked.alpha is not None else _alpha(found, group) if form == "adapterhub" else None
    if alpha is None:
        what = "no config beside it says" if form == "adapterhub" else "loralib's files do not hold"
        raise UsageError(f"alpha: {what} lora_alpha; say what {found.path} was trained with", at="alpha")
    pairs: dict[str, dict[str, str]] = {}
    rest = []
    for name in found.names:
        match = LORALIB.fullmatch(name)
        if match is None:
            rest.append(name)
        elif match[2] == group:
            pairs.setdefault(match[1], {})[match[3]] = name
    shapes = dict(asked.shapes or {})
    shapes |= {m: found.info(f"{m}.weight").shape for m in pairs if f"{m}.weight" in found}
    whole = any(name.endswith(".weight") for name in rest)
    out = Adapter(found, form)
    for module, pair in pairs.items():
        if (gate := f"{module}.loras.{group}.gate") in found or f"{gate}.weight" in found:
            raise SutureError(
                f"{found.path}: tensor `{gate}`: a gate, which reads the input; not converted", found.path
            )
        if len(pair) < 2:
            name = next(iter(pair.values()))
            raise SutureError(
                f"{found.path}: tensor `{name}`: has no partner; the adapter is not whole", found.path, name
            )
        out.modules += _modules(out, module, pair, alpha, shapes.get(module), asked)
    # A file of the adapter alone has the biases that were trained, a model's has all.
    biases = [] if whole or form == "adapterhub" else [n for n in rest if n.endswith(".bias")]
    out.biases = {n.removesuffix(".bias"): n for n in biases}
    if left := [n for n in rest if n not in biases]:
        out.told.append(
            f"{found.path}: {len(left)} tensors besides the factors, such as `{left[0]}`, are the model's: left out, "
            "those too that were trained"
        )
    return out


def _modules(
    out: Adapter, name: str, pair: Mapping[str, str], alpha: float, weight: Sequence[int] | None, asked: Asked
) -> list[Module]:
    """The modules that two factors are of: one, or the parts of a fused matrix."""
    path, (a, b) = out.found.path, (out.found.info(pair[s]).shape for s in "AB")

    def wrong(problem: str) -> SutureError:
        return SutureError(f"{path}: tensor `{pair['B']}`: {problem}", path, pair["B"])

    if len(a) != 2 or len(b) != 2 or 0 in (*a, *b) or a[0] % b[1]:
        raise wrong(
            f"has shape {list(b)}, and `{pair['A']}` {list(a)}; the rows of that are no multiple of its columns"
        )
    if f"{name}.conv.weight" in out.found or (weight is not None and len(weight) != 2):
        raise wrong("is of a convolution, whose kernel loralib takes apart otherwise; fold it with loralib")
    rank, groups = b[1], a[0] // b[1]
    if groups == 1 and weight is None and _table(name):
        raise UsageError(f"model: whether `{name}` is a table of tokens its model tells: give it", at="model")
    if groups == 1 and (weight is None or {*weight} == {a[1], b[0]}):
        turned = weight is not None and tuple(weight) == (a[1], b[0]) != (b[0], a[1])
        table = turned and _table(name)
        out.transposed |= turned and not table
        return [Module(name, Factor(pair["A"]), Factor(pair["B"]), rank, alpha, "embedding" if table else "linear")]
    size, enabled = b[0] // groups, asked.enabled
    if weight is not None:
        outputs = weight[0] if weight[1] == a[1] else weight[1]
        if a[1] not in weight or b[0] % groups or outputs % size:
            raise wrong(f"has shape {list(b)}, and `{pair['A']}` {list(a)}; its weight {list(weight)}")
        out.transposed |= weight[1] != a[1]
        enabled = enabled or ((True,) * groups if outputs == size * groups else ())
        if enabled and len(enabled) * size != outputs:
            raise wrong(f"is of a matrix of {outputs // size} parts, and enable_lora has {len(enabled)}")
    if not enabled:
        message = f"which parts of `{name}` are adapted ({groups} are) its file does not say, such as 1,0,1"
        raise UsageError(f"enable_lora: {message}", at="enable_lora")
    if sum(enabled) != groups:
        raise wrong(f"holds {groups} products side by side, and enable_lora names {sum(enabled)}")
    place = iter(range(groups))
    fused = tuple(next(place) if on else None for on in enabled)
    if not asked.parts:
        wide = (rank * groups, alpha * groups)
        return [Module(name, Factor(pair["A"]), Factor(pair["B"]), *wide, "linear", fused)]
    if len(asked.parts) != len(enabled):
        raise wrong(f"is of a matrix of {len(enabled)} parts, and {len(asked.parts)} names were given for them")
    before = name.rpartition(".")[0]
    return [
        Module(
            f"{before}.{part}" if before else part,
            Factor(pair["A"], i * rank, rank),
            Factor(pair["B"], i * size, size),
            rank,
            alpha,
        )
        for part, i in zip(asked.parts, fused, strict=True)
        if i is not None
    ]


def _table(name: str) -> bool:
    return any(word in name.rpartition(".")[2].lower() for word in _TABLES)


def _alpha(found: Checkpoint, group: str | None) -> float | None:
    """What AdapterHub's config says of an adapter: beside an adapter its own, of a model under the adapter's name.

    Raises:
        SutureError: if its change is no sum.
    """
    own: Any = config_beside(found).get("config")
    if not isinstance(own, dict):
        known = config_beside(found, "config.json").get("adapters")
        known = known if isinstance(known, dict) else {}
        own = (known.get("adapters") or {}).get(group)
        own = (known.get("config_map") or {}).get(own, own) if isinstance(own, str) else own
    if not isinstance(own, dict):
        return None
    if own.get("composition_mode", "add") != "add" or own.get("use_gating"):
        message = f"adapter `{group}` scales or gates activations, and is no sum of products; not converted"
        raise SutureError(f"{found.path}: {message}", found.path)
    return float(own["alpha"]) if isinstance(own.get("alpha"), int | float) else None
