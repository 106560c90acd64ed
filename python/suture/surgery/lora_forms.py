"""Adapters in the forms that trainers and loaders keep them in, recognised by the names of their tensors.

LoRA: arXiv 2106.09685. PEFT keeps factors by module beside a config; loralib and AdapterHub inside the modules;
sd-scripts by names without dots, an alpha with each; X-ALMA (arXiv 2410.03115) by group, of scale 2.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suture import _core
from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError, near
from suture.sidecars.files import as_bytes, read_config
from suture.surgery.room import temporary_folder

#: What PEFT puts in front of every name.
PREFIX = "base_model.model."
#: A tensor of PEFT's by what it is; in older files and in models the adapter's name stands behind that.
PEFT = re.compile(
    r"(.*)\.(lora_(?:A|B|embedding_A|embedding_B|magnitude_vector))(?:\.(?!weight$|bias$)([^.]+))?(\.weight|\.bias)?"
)
_SAVED = re.compile(r"(.*)\.modules_to_save\.([^.]+)\.(.+)")
#: A factor inside its module; AdapterHub puts the name of the adapter in between.
LORALIB = re.compile(r"(.+?)(?:\.loras\.([^.]+))?\.lora_([AB])")
ALMA = re.compile(r"(.*\.[a-z]+)_lora_([AB])\.(\d+)\.weight")
_SD = re.compile(r"(.+)\.(lora_down\.weight|lora_up\.weight|alpha)")
#: What sd-scripts and others of its form put in front, a part of a pipeline each.
SD_PREFIX = re.compile(r"(lora_(?:prior_unet|prior_te|unet|transformer|te\d?))_.+")

#: The forms that are read, each by a name that no other has.
FORMS = ("peft", "loralib", "adapterhub", "sd-scripts", "x-alma")


@dataclass(frozen=True)
class Factor:
    """One of the two factors: a tensor, or `count` of its rows from `first` on, where several modules share it.

    Attributes:
        tensor: its name in the file.
        first: the first row.
        count: how many rows; None for all.
    """

    tensor: str
    first: int = 0
    count: int | None = None


@dataclass(frozen=True)
class Module:
    """A module of an adapter: its change is alpha / rank B A.

    Attributes:
        name: its name in the model, with dots; in an sd-scripts file that no model's names were given for, as there.
        a: rank by inputs, of a convolution rank by [in, h, w], of a table of tokens rank by tokens.
        b: outputs by rank, of a table of tokens width by rank.
        rank: the rank.
        alpha: what the product is multiplied by, times the rank.
        kind: ``linear``, ``convolution``, ``embedding``, or ``experts``, which are several products.
        fused: of a module of several parts whose products are apart: for each part the place of its product, or None.
    """

    name: str
    a: Factor
    b: Factor
    rank: int
    alpha: float
    kind: str = "linear"
    fused: tuple[int | None, ...] = ()


@dataclass
class Adapter:
    """An adapter as it was read.

    Attributes:
        found: its tensors.
        form: one of :data:`FORMS`.
        modules: what is a product of two factors.
        named: of PEFT's, every tensor by the name that PEFT gives it.
        config: of PEFT's, its config.
        biases: biases that were trained, by module.
        transposed: whether weights are kept as [in, out].
        told: what the user should know.
    """

    found: Checkpoint
    form: str
    modules: list[Module] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    biases: dict[str, str] = field(default_factory=dict)
    transposed: bool = False
    told: list[str] = field(default_factory=list)


def form_of(found: Checkpoint) -> str:
    """The form of an adapter.

    Raises:
        SutureError: if it is none that is known.
    """
    for name in found.names:
        if name.endswith((".lora_down.weight", ".lora_up.weight")):
            return "sd-scripts"
        if ALMA.fullmatch(name):
            return "x-alma"
        if (match := LORALIB.fullmatch(name)) is not None:
            return "adapterhub" if match[2] else "loralib"
        if PEFT.fullmatch(name):
            return "peft"
    if config_beside(found).get("peft_type") is not None:
        # Of modules that were trained whole, and no other.
        return "peft"
    message = f"holds no factors whose names are known ({', '.join(FORMS)}), and is no adapter"
    raise SutureError(f"{found.path}: {message}", found.path)


def groups_of(found: Checkpoint, form: str) -> list[str]:
    """The names of the adapters that a file holds side by side; none where it holds one without a name."""
    pattern, at = {"peft": (PEFT, 3), "adapterhub": (LORALIB, 2), "x-alma": (ALMA, 3)}.get(form, (None, 0))
    if pattern is None:
        return []
    names = {m[at] for n in found.names if (m := pattern.fullmatch(n)) is not None and m[at]}
    if form == "peft":
        names |= {m[2] for n in found.names if (m := _SAVED.fullmatch(n)) is not None}
    return sorted(names, key=lambda n: (int(n), "") if n.isdecimal() else (0, n))


def chosen(found: Checkpoint, form: str, group: str | None) -> str | None:
    """The adapter of several that is meant.

    Raises:
        UsageError: if there is none of that name, or several and none was named.
    """
    names = groups_of(found, form)
    if group is not None:
        if group not in names:
            have = near(group, names) or (f"; there are {', '.join(names[:12])}" if names else "; it holds one")
            raise UsageError(f"group: {found.path} holds no adapter `{group}`{have}", at="group")
        return group
    if len(names) > 1:
        message = f"group: {found.path} holds {len(names)} adapters ({', '.join(names[:12])}); say which, or split it"
        raise UsageError(message, at="group")
    return names[0] if names else None


def config_beside(found: Checkpoint, name: str = "adapter_config.json") -> dict[str, Any]:
    """A config beside an adapter; empty if there is none."""
    folder = found.folder if found.folder.is_dir() else found.folder.parent
    return read_config(folder, name) or {}


def read_peft(found: Checkpoint, group: str | None) -> Adapter:
    """An adapter as PEFT writes it, or one of several that a file holds under their names.

    Raises:
        SutureError: if it has no config, or one by which its change is no sum of products.
    """
    many = len(groups_of(found, "peft")) > 1
    config = config_beside(found, f"{group}/adapter_config.json") if many else {}
    config = config or config_beside(found)
    out = Adapter(found, "peft", config=config)
    passed = []
    # What PEFT saved under two names is the same.
    for name in sorted(found.names, key=lambda n: ".modules_to_save." in n):
        match, saved = PEFT.fullmatch(name), _SAVED.fullmatch(name)
        own = match[3] if match else saved[2] if saved else None
        if ".original_module." in name or (many and own != group):
            passed += [name] if own is None else []
            continue
        new = name.replace(".modules_to_save.", ".")
        if match:
            ending = "" if match[2] == "lora_magnitude_vector" else match[4] or ""
            new = f"{match[1]}.{match[2]}{ending}"
        elif saved:
            new = f"{saved[1]}.{saved[3]}"
        new = new if new.startswith(PREFIX) else PREFIX + new
        if out.named.setdefault(new, name) != name and match:
            message = f"is what `{out.named[new]}` is too, under another adapter's name; give them files of their own"
            raise SutureError(f"{found.path}: tensor `{name}`: {message}", found.path, name)
    if many and passed:
        out.told.append(f"{found.path}: {len(passed)} tensors of no adapter, such as `{passed[0]}`, are left out")
    values = [config.get("lora_alpha", 8), *(config.get("alpha_pattern") or {}).values()]
    for module in _listed(out):
        sides = [module[side] for side in "ab" if module[side] is not None]
        if len(sides) == 1:
            message = "has no partner; the adapter is not whole"
            raise SutureError(f"{found.path}: tensor `{out.named[sides[0]]}`: {message}", found.path, sides[0])
        if not sides:
            continue
        a, b = (out.named[module[side]] for side in "ab")
        shape, rank = found.info(a).shape, module["rank"]
        kind = "convolution" if len(shape) > 2 else "linear"
        if module["embedding"]:
            kind = "embedding"
        elif module["key"] != module["module"] or module["depth"]:
            kind = "experts"
        elif shape[:1] != (rank,):
            message = f"has shape {list(shape)}, expected {rank} ranks, as its config says"
            raise SutureError(f"{found.path}: tensor `{a}`: {message}", found.path, a)
        alpha = alpha_of(module["scale"], rank, values)
        out.modules.append(Module(module["module"], Factor(a), Factor(b), rank, alpha, kind))
    out.transposed = config.get("fan_in_fan_out") is True
    return out


def _listed(adapter: Adapter) -> list[dict[str, Any]]:
    """The modules of an adapter of PEFT, as the core reads them: names are those that PEFT gives."""
    with temporary_folder() as temporary:
        found = adapter.found
        # The headers alone: the core then reads one of several by itself, and names as they will be.
        folder, at, header = Path(temporary) / "adapter", 0, {}
        for new, name in adapter.named.items():
            info = found.info(name)
            header[new] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": [at, at + info.nbytes]}
            at += info.nbytes
        text = json.dumps(header).encode()
        folder.mkdir()
        if adapter.config:
            (folder / "adapter_config.json").write_bytes(as_bytes(adapter.config))
        with (folder / "adapter_model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + at)
        try:
            listed: list[dict[str, Any]] = json.loads(_core.adapter_json(str(folder)))
        except SutureError as e:
            raise SutureError(str(e).replace(str(folder), str(found.path)), found.path, e.tensor) from None
    return listed


def alpha_of(scale: float, rank: int, values: Any = ()) -> float:
    """The alpha of which alpha / rank is exactly `scale`: one of `values` if one is, else the nearest."""
    near_by = [float(round(scale * rank)), scale * rank, *(math.nextafter(scale * rank, to) for to in (0.0, math.inf))]
    return next((float(v) for v in [*values, *near_by] if float(v) / rank == scale), scale * rank)


def read_alma(found: Checkpoint, group: str | None) -> Adapter:
    """A group of X-ALMA, whose change is 2 B A.

    Raises:
        SutureError: if a factor has no partner.
    """
    pairs: dict[str, dict[str, str]] = {}
    for name in found.names:
        if (match := ALMA.fullmatch(name)) is not None and match[3] == group:
            pairs.setdefault(f"{match[1]}_proj", {})[match[2]] = name
    out = Adapter(found, "x-alma")
    for module, pair in pairs.items():
        rank = _rank(found, pair, module, "AB")
        out.modules.append(Module(module, Factor(pair["A"]), Factor(pair["B"]), rank, 2.0 * rank))
    return out


def read_sd(found: Checkpoint, prefix: str | None, names: Mapping[str, tuple[str, Sequence[int]]] | None) -> Adapter:
    """A file of sd-scripts: the modules of one model, that of `prefix`.

    Args:
        found: the file.
        prefix: which part of the pipeline, such as ``lora_unet``, if there are several.
        names: names and weights' shapes of the model's modules by their names without dots; None leaves names be.

    Raises:
        UsageError: if several parts are there, and none is named.
        SutureError: if it holds what is no pair of factors, or a module that the model has not.
    """
    pairs: dict[str, dict[str, str]] = {}
    for name in found.names:
        match = _SD.fullmatch(name)
        if match is None:
            message = (
                "is no `lora_down`, `lora_up` or `alpha` of a LoRA as sd-scripts writes it (LoHa, LoKr, DoRA, ...)"
            )
            raise SutureError(f"{found.path}: tensor `{name}`: {message}; it is not converted", found.path, name)
        pairs.setdefault(match[1], {})[match[2].split(".")[0]] = name
    heads = {(m[1] if (m := SD_PREFIX.fullmatch(module)) else None): module for module in pairs}
    if prefix is None:
        if None in heads or len(heads) > 1:
            have = ", ".join(str(h) for h in heads if h) or f"none that is known, in `{heads[None]}`"
            message = f"prefix: {found.path}: a file of parts of a pipeline ({have}); say which part is meant"
            raise UsageError(f"{message}, such as lora_unet: an adapter is of one model", at="prefix")
        prefix = next(str(head) for head in heads)
    out = Adapter(found, "sd-scripts")
    left = [m for m in pairs if not m.startswith(f"{prefix}_")]
    for module in [m for m in pairs if m.startswith(f"{prefix}_")]:
        pair, own = pairs[module], module.removeprefix(f"{prefix}_")
        rank = _rank(found, pair, module, ("lora_down", "lora_up"))
        a, b = (found.info(pair[side]).shape for side in ("lora_down", "lora_up"))
        alpha = float(rank)
        if (at := pair.get("alpha")) is not None:
            if found.info(at).dtype not in ("F64", "F32", "F16", "BF16") or math.prod(found.info(at).shape) != 1:
                raise SutureError(f"{found.path}: tensor `{at}`: expected one float", found.path, at)
            # To sd-scripts 0 is as if there were none.
            alpha = float(found.numpy(at).reshape(-1)[0]) or alpha
            if not math.isfinite(alpha):
                raise SutureError(f"{found.path}: tensor `{at}`: is {alpha}; mend the adapter", found.path, at)
        if names is not None:
            if own not in names:
                message = f"module `{module}`: the model has none of that name{near(own, names)}"
                raise SutureError(f"{found.path}: {message}; give the model that it is of", found.path)
            own, shape = names[own]
            if tuple(shape) != (made := (b[0], *a[1:])):
                message = f"is of a weight of shape {list(made)}, and the model's `{own}` has {list(shape)}"
                raise SutureError(f"{found.path}: tensor `{pair['lora_up']}`: {message}", found.path, pair["lora_up"])
        kind = "convolution" if len(a) > 2 else "linear"
        out.modules.append(Module(own, Factor(pair["lora_down"]), Factor(pair["lora_up"]), rank, alpha, kind))
    out.modules.sort(key=lambda m: m.name)
    if not out.modules:
        have = ", ".join(sorted(str(h) for h in heads if h))
        raise UsageError(f"prefix: {found.path} has no module of `{prefix}`; there are {have}", at="prefix")
    if left:
        out.told.append(
            f"{found.path}: {len(left)} modules of other parts than {prefix}, such as `{left[0]}`, left out"
        )
    return out


def _rank(found: Checkpoint, pair: Mapping[str, str], module: str, sides: Any) -> int:
    """The rank of two factors.

    Raises:
        SutureError: if one is missing, or they do not go together.
    """
    for side in sides:
        if side not in pair:
            name = next(iter(pair.values()))
            message = f"`{module}` has no `{side}`; the adapter is not whole"
            raise SutureError(f"{found.path}: tensor `{name}`: {message}", found.path, name)
    a, b = (found.info(pair[side]).shape for side in sides)
    if len(a) < 2 or len(b) < 2 or a[0] != b[1]:
        message = f"has shape {list(b)}, and `{pair[sides[0]]}` {list(a)}; expected as many columns as that has rows"
        raise SutureError(f"{found.path}: tensor `{pair[sides[1]]}`: {message}", found.path, pair[sides[1]])
    return int(a[0])
