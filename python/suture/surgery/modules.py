"""Language modules: what a model keeps beside its trunk for each language, or group of languages."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError, near
from suture.reference import Model
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.sidecars.files import read_config
from suture.surgery.assembly import Assembly, assemble, opened
from suture.surgery.lora_forms import read_alma
from suture.surgery.lora_written import as_peft
from suture.surgery.several import assemble_all
from suture.surgery.trunk import hashed


@dataclass(frozen=True)
class Kind:
    """A way to keep modules.

    Attributes:
        name: what it is called.
        pattern: a tensor's name: what stands before the module's name, the name, and what stands behind it.
        numbered: whether modules are called by their place, so that they follow one another.
    """

    name: str
    pattern: re.Pattern[str]
    numbered: bool = False


#: X-MOD (arXiv 2205.06266); bottlenecks, invertible adapters and heads of AdapterHub and MAD-X; X-ALMA (2410.03115).
KINDS = (
    Kind("x-mod", re.compile(r"(.*\.adapter_modules\.)([^.]+)(\..*)")),
    Kind("adapterhub", re.compile(r"((?:.*\.)?(?:adapters|invertible_adapters|heads)\.)([^.]+)(\..*)")),
    Kind("x-alma", re.compile(r"(.*_lora_[AB]\.)(\d+)(\.weight)"), numbered=True),
)


@dataclass(frozen=True)
class Modules:
    """The modules of a model.

    Attributes:
        kind: how they are kept.
        tensors: by module, the name of each tensor and what stands before and behind the module's name.
        default: the language that is taken where none is named, if the config says so.
    """

    kind: Kind
    tensors: Mapping[str, Sequence[tuple[str, str, str]]]
    default: str | None


def found_in(model: Checkpoint) -> Modules:
    """The modules of a model, in the order that its config has them, else by name.

    Raises:
        SutureError: if it has none that are known.
    """
    config = _config(model)
    for kind in KINDS:
        tensors: dict[str, list[tuple[str, str, str]]] = {}
        for name in model.names:
            if match := kind.pattern.fullmatch(name):
                tensors.setdefault(match[2], []).append((name, match[1], match[3]))
        if tensors:
            listed = [n for n in config.get("languages") or [] if n in tensors]
            rest = sorted(
                (n for n in tensors if n not in listed), key=lambda n: (int(n), "") if n.isdecimal() else (0, n)
            )
            default = config.get("default_language")
            return Modules(kind, {n: tensors[n] for n in [*listed, *rest]}, default if kind.name == "x-mod" else None)
    names = ", ".join(kind.name for kind in KINDS)
    raise SutureError(f"{model.path}: has no language modules that are known ({names})", model.path)


def listed(model: Model) -> list[dict[str, Any]]:
    """The modules of a model: name, kind, tensors, elements, and whether it is the default.

    Raises:
        SutureError: if it has none that are known.
    """
    found = opened(model)
    modules = found_in(found)
    sizes = {name: [found.info(t).nbytes for t, *_ in own] for name, own in modules.tensors.items()}
    return [
        {"name": n, "kind": modules.kind.name, "tensors": len(s), "bytes": sum(s), "default": n == modules.default}
        for n, s in sizes.items()
    ]


def keep(model: Model, out: str | PathLike[str], languages: Sequence[str], **more: Any) -> Report:
    """Write a model with some of its language modules, in the order given; all else stays, bit for bit.

    Raises:
        UsageError: if there is no such module, or none is named.
        SutureError: if the model has no modules, or the output cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    modules = found_in(opened(model))
    wanted = _known(languages, modules)
    if not wanted:
        raise UsageError("languages: name the modules that stay; to have none left, drop all", at="languages")
    return _written("modules keep", model, out, modules, [(n, 0, n, modules) for n in wanted], more)


def drop(model: Model, out: str | PathLike[str], languages: Sequence[str], **more: Any) -> Report:
    """Write a model without some of its language modules; of AdapterHub and X-ALMA without all is the plain model.

    Raises:
        UsageError: if there is no such module, or X-MOD would have none left.
        SutureError: if the model has no modules, or the output cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    modules = found_in(opened(model))
    gone = set(_known(languages, modules))
    left = [n for n in modules.tensors if n not in gone]
    if not left and modules.kind.name == "x-mod":
        raise UsageError("languages: none would be left, and X-MOD computes with one", at="languages")
    return _written("modules drop", model, out, modules, [(n, 0, n, modules) for n in left], more)


def clone(model: Model, out: str | PathLike[str], source: str, name: str, **more: Any) -> Report:
    """Write a model with one more language module, which begins as another.

    Raises:
        UsageError: if there is no such module, or one is called so already.
        SutureError: if the model has no modules, or the output cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    modules = found_in(opened(model))
    (taken,) = _known([source], modules)
    name = _new(name, modules)
    own = [(n, 0, n, modules) for n in modules.tensors]
    return _written("modules clone", model, out, modules, [*own, (name, 0, taken, modules)], more)


def graft(
    model: Model,
    donor: Model,
    out: str | PathLike[str],
    languages: Sequence[str],
    *,
    ignore_trunk: bool = False,
    **more: Any,
) -> Report:
    """Write a model with language modules of another that has the same trunk.

    Args:
        model: the model.
        donor: the model whose modules are taken; those of a name that the model has take the places of its own.
        out: the output folder.
        languages: which.
        ignore_trunk: go on where the trunks differ, and tell.
        more: `settings`, `dry_run` and `progress`, as everywhere.

    Raises:
        UsageError: if there is no such module.
        SutureError: if the trunks differ: modules mean something on their own trunk alone.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    found, other = opened(model), opened(donor)
    modules, theirs = found_in(found), found_in(other)
    if modules.kind != theirs.kind:
        raise SutureError(
            f"{other.path}: its modules are {theirs.kind.name}, and {modules.kind.name} in {found.path}", other.path
        )
    wanted = _known(languages, theirs)
    told = _same_trunk(found, other, modules, theirs, ignore_trunk)
    chosen = {n: (n, 0, n, modules) for n in modules.tensors}
    for name in wanted:
        own = _new(str(len(chosen)), modules, name) if modules.kind.numbered else name
        chosen[own] = (own, 1, name, theirs)
    return _written("modules graft", model, out, modules, list(chosen.values()), more, donor=donor, told=told)


def default(model: Model, out: str | PathLike[str], language: str, **more: Any) -> Report:
    """Write a model of X-MOD with another default language.

    Raises:
        UsageError: if there is no such module.
        SutureError: if the model is none of X-MOD, or the output cannot be written.
    """
    found = opened(model)
    modules = found_in(found)
    if modules.kind.name != "x-mod":
        raise SutureError(f"{found.path}: is {modules.kind.name}, which has no default language", found.path)
    (name,) = _known([language], modules)
    return _written(
        "modules default", model, out, modules, [(n, 0, n, modules) for n in modules.tensors], more, chosen=name
    )


def split(model: Model, out: str | PathLike[str], languages: Sequence[str] = (), **more: Any) -> list[Report]:
    """Write groups of X-ALMA as adapters that PEFT loads, each into a folder of `out`; what they add is 2 B A.

    With :func:`drop` of all groups, which leaves the plain model, and :func:`suture.fold` a group is folded.

    Raises:
        UsageError: if there is no such group.
        SutureError: if the model is none of X-ALMA, or an output cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    found = opened(model)
    modules = found_in(found)
    if modules.kind.name != "x-alma":
        raise SutureError(f"{found.path}: is {modules.kind.name}; adapters are made of X-ALMA's groups", found.path)
    made = {}
    for group in _known(languages or list(modules.tensors), modules):
        name = f"group-{group}"
        made[name] = as_peft(read_alma(found, group), model, "modules split")
        made[name].asked = {"group": group}
    return list(assemble_all(made, out, **more).parts.values())


#: A module of the output: what it is called, the model it is of, its name there, and that model's modules.
_Chosen = tuple[str, int, str, Modules]


def _written(
    title: str,
    model: Model,
    out: str | PathLike[str],
    modules: Modules,
    wanted: Sequence[_Chosen],
    more: Mapping[str, Any],
    *,
    donor: Model | None = None,
    told: Sequence[str] = (),
    chosen: str | None = None,
) -> Report:
    """The trunk and some modules; those that go by their place get the one they have in the output."""
    settings: Settings | None = more.get("settings")
    progress: Progress | None = more.get("progress")
    found = opened(model)
    models: list[Model] = [model] if donor is None else [model, donor]
    made = Assembly(title, models, told=list(told))
    every = {t for own in modules.tensors.values() for t, *_ in own}
    for name in found.names:
        if name not in every:
            made.whole(name, 0, name)
    names = []
    for place, (name, source, own, whose) in enumerate(wanted):
        name = str(place) if modules.kind.numbered else name
        names.append(name)
        for tensor, before, behind in whose.tensors[own]:
            made.whole(before + name + behind, source, tensor)
    # Names as they now are, and what they were called: a copy is made as its source was.
    begun = {name: (source, own) for name, (_, source, own, _) in zip(names, wanted, strict=True)}
    theirs = {} if donor is None else _config(opened(donor))
    made.config = lambda c: _configured([c, theirs], modules, begun, chosen)
    made.asked = {"modules": names}
    return assemble(made, out, settings=settings, dry_run=bool(more.get("dry_run")), progress=progress)


def _configured(
    configs: Sequence[Mapping[str, Any]], modules: Modules, begun: Mapping[str, tuple[int, str]], chosen: str | None
) -> dict[str, Any]:
    """The model's config for modules that were called something in the config of the model or the donor."""
    out, names = dict(configs[0]), list(begun)
    # AdapterHub's: {"adapters": {name: id of a config}, "config_map": {id: config}}.
    held = [c["adapters"] if isinstance(c.get("adapters"), dict) else {} for c in configs]
    own, maps = ([c[key] if isinstance(c.get(key), dict) else {} for c in held] for key in ("adapters", "config_map"))
    if modules.kind.name == "x-mod":
        out["languages"] = list(names)
        default = chosen or out.get("default_language")
        out["default_language"] = default if default in names else names[0]
    elif isinstance(held[0].get("adapters"), dict):
        kept = {name: own[source][had] for name, (source, had) in begun.items() if had in own[source]}
        brought = {of: config for of, config in maps[1].items() if of in kept.values()}
        out["adapters"] = held[0] | {"adapters": kept} | ({"config_map": brought | maps[0]} if brought else {})
    return out


def _known(languages: Sequence[str], modules: Modules) -> list[str]:
    for name in languages:
        if name not in modules.tensors:
            have = ", ".join(list(modules.tensors)[:12])
            raise UsageError(
                f"languages: there is no module `{name}`{near(name, modules.tensors) or f'; there are {have}'}",
                at="languages",
            )
    if len(set(languages)) < len(languages):
        raise UsageError("languages: a module is named twice", at="languages")
    return list(languages)


def _new(name: str, modules: Modules, asked: str = "") -> str:
    """A name for a module that is not there yet."""
    if modules.kind.numbered:
        return name if name.isdecimal() else asked or str(len(modules.tensors))
    if name in modules.tensors:
        raise UsageError(f"languages: there is a module `{name}` already", at="languages")
    if not name or "." in name:
        raise UsageError(f"languages: `{name}` is no name of a module; a dot would end it", at="languages")
    return name


def _same_trunk(one: Checkpoint, two: Checkpoint, own: Modules, theirs: Modules, ignore: bool) -> list[str]:
    """Compare what two models have besides modules.

    Raises:
        SutureError: if it differs, and that is not to be passed over.
    """
    mine, other = ({t for m in modules.tensors.values() for t, *_ in m} for modules in (own, theirs))
    trunk, its = ([n for n in c.names if n not in gone] for c, gone in ((one, mine), (two, other)))
    lacking = sorted(set(trunk) ^ set(its))
    first = (
        next((n for n in trunk if n in two and hashed(one, n) != hashed(two, n)), None) if not lacking else lacking[0]
    )
    if first is None:
        return []
    unlike = f"its trunk is not that of {one.path} (first: tensor `{first}`)"
    problem = f"{two.path}: {unlike}; modules mean something on their own alone"
    if ignore:
        return [problem]
    raise SutureError(f"{problem}; --ignore-trunk goes on", two.path, first)


def _config(model: Checkpoint) -> dict[str, Any]:
    return (read_config(model.folder) if model.folder.is_dir() else None) or {}


def as_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """A list of modules as JSON."""
    return json.dumps({"schema": 1, "modules": list(rows)}, indent=2)
