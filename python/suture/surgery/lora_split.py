"""An adapter in several: by ranges of layers, by modules, or by the adapters that a file holds side by side."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

from suture.errors import SutureError, UsageError, near
from suture.reference import Model
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.sidecars.files import as_bytes
from suture.surgery.assembly import Assembly
from suture.surgery.layers import ranges
from suture.surgery.lora_convert import AdapterFacts, located, read, refuse_idle
from suture.surgery.lora_forms import PEFT, PREFIX, Adapter, form_of, groups_of
from suture.surgery.lora_written import as_peft
from suture.surgery.several import assemble_all

#: The piece of what no other takes.
REST = "rest"
#: What PEFT takes for "no module".
_NONE = "dummy-target-modules"


def split_adapter(
    adapter: Model,
    out: str | PathLike[str],
    *,
    by: str,
    layers: str | None = None,
    stack: str | None = None,
    modules: Mapping[str, str] | None = None,
    languages: Sequence[str] = (),
    given: AdapterFacts | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write an adapter as several, each into a folder of `out` and one that PEFT loads; every tensor is in one of them.

    Folded one after the other, pieces of modules or layers give what folding the whole gives, bit for bit.

    Args:
        adapter: the adapter: of PEFT; by language also one that holds several under names, of PEFT, AdapterHub, X-ALMA.
        out: the output folder.
        by: ``layer``, ``module`` or ``language``.
        layers: by layer, the layers of each piece, such as ``0-7,8-15``; None for each layer by itself. What lies in
            no layer is the piece ``rest``.
        stack: the stack that layers are numbered in, where the model has several.
        modules: by module, a regular expression for each piece, of which the first that fits a module's name takes it,
            and ``rest`` what none takes; None for a piece for each last part of a name, such as ``q_proj``.
        languages: by language, which; all if empty.
        given: what the file does not say; see :class:`AdapterFacts`.
        settings: how to do the work.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Returns:
        A report whose `parts` are those of the pieces, by their names.

    Raises:
        UsageError: if a piece would be empty, a layer of the adapter is in none, or options do not go together.
        SutureError: if the adapter is not sound, or an output cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    if by not in ("layer", "module", "language"):
        raise UsageError(f"by: expected layer, module or language, found `{by}`", at="by")
    asked = {"layers": ("layer", layers), "stack": ("layer", stack), "modules": ("module", modules)}
    for name, (own, value) in (asked | {"languages": ("language", languages)}).items():
        if value and own != by:
            raise UsageError(f"{name}: goes with by {own}, not {by}", at=name)
    place, found = located(adapter)
    given = given or AdapterFacts()
    made: dict[str, Assembly] = {}
    if by == "language":
        for name in _groups(found, languages):
            one = read(found, given, name)
            refuse_idle(one, given)
            made[name] = as_peft(one, place, "lora split")
            made[name].asked = {"by": by, "piece": name}
    else:
        whole = read(found, given, None)
        if whole.form != "peft":
            message = f"is of {whole.form}; convert it first (suture lora convert --to peft)"
            raise SutureError(f"{found.path}: {message}", found.path)
        refuse_idle(whole, given)
        piece_of, wanted = _by_layer(whole, layers, stack) if by == "layer" else _by_module(whole, modules)
        made = _pieces(whole, place, piece_of, wanted)
        for name, piece in made.items():
            piece.asked = {"by": by, "piece": name}
    return assemble_all(made, out, settings=settings, dry_run=dry_run, progress=progress)


def _groups(found: Any, languages: Sequence[str]) -> list[str]:
    """The adapters that a file holds, or those of them that are wanted."""
    names = groups_of(found, form_of(found))
    if not names:
        message = "holds one adapter, and no name beside it; by language those are split that hold several"
        raise SutureError(f"{found.path}: {message}", found.path)
    for name in languages:
        if name not in names:
            have = near(name, names) or f"; there are {', '.join(names[:12])}"
            raise UsageError(f"languages: {found.path} holds no adapter `{name}`{have}", at="languages")
    if len(set(languages)) < len(languages):
        raise UsageError("languages: one is named twice", at="languages")
    return list(languages) or names


def unit(name: str, saved: Sequence[str]) -> str:
    """The module that a tensor of PEFT's belongs to, of what was trained as a whole the whole of it."""
    name = name.removeprefix(PREFIX)
    if (match := PEFT.fullmatch(name)) is not None:
        name = match[1]
        while name.endswith(".base_layer"):
            name = name.removesuffix(".base_layer")
        return name
    module = name.rpartition(".")[0].removesuffix(".base_layer") or name
    words = module.split(".")
    stems = [".".join(words[: i + 1]) for i in range(len(words))]
    return next((s for s in stems if any(f".{s}".endswith(f".{w}") for w in saved)), module)


#: What piece a tensor goes to, by its name and its module; None for the rest.
_PieceOf = Callable[[str, str], str | None]


def _by_layer(whole: Adapter, layers: str | None, stack: str | None) -> tuple[_PieceOf, list[str]]:
    """Pieces by layers, which are numbered as in the adapter's stack."""
    found = whole.found
    stacks = [s for s in found.describe()["stacks"] if (s["name"] == stack if stack is not None else s["main"])]
    if len(stacks) != 1:
        names = ", ".join(s["name"] for s in found.describe()["stacks"])
        message = f"stack: {found.path}: which stack are layers numbered in? It has {names or 'none'}"
        raise UsageError(message, at="stack")
    number = re.compile(re.escape(stacks[0]["prefix"]) + r"(\d+)\.")
    own = {n: int(m[1]) for n in whole.named.values() if (m := number.match(n)) is not None}
    have = sorted(set(own.values()))
    spans = [(i, i + 1) for i in have] if layers is None else ranges(layers, None, "layers")
    pieces: dict[str, range] = {}
    for first, end in spans:
        for name, other in pieces.items():
            if first < other.stop and other.start < end:
                raise UsageError(f"layers: `{name}` and {first} to {end - 1} share layers", at="layers")
        pieces[f"layer-{first}" if end == first + 1 else f"layers-{first}-{end - 1}"] = range(first, end)
    homes = {i: name for i in have for name, own_layers in pieces.items() if i in own_layers}
    if lacking := [i for i in have if i not in homes]:
        raise UsageError(f"layers: {lacking[0]} is in no piece of `{layers}`; nothing is dropped", at="layers")
    return (lambda name, _: homes[own[name]] if name in own else None), list(pieces)


def _by_module(whole: Adapter, modules: Mapping[str, str] | None) -> tuple[_PieceOf, list[str]]:
    """Pieces by modules: by patterns, or by the last part of a name."""
    if modules is None:
        return (lambda _, module: module.rpartition(".")[2]), []
    patterns = {}
    for name, text in modules.items():
        try:
            patterns[name] = re.compile(text)
        except re.error as e:
            raise UsageError(f"modules: `{text}` is no regular expression: {e}", at="modules") from None
    if REST in patterns:
        raise UsageError(f"modules: `{REST}` is what no pattern takes; call it otherwise", at="modules")
    return (lambda _, module: next((n for n, p in patterns.items() if p.search(module)), None)), list(patterns)


def _pieces(whole: Adapter, place: str, piece_of: _PieceOf, wanted: Sequence[str]) -> dict[str, Assembly]:
    """The pieces: tensors of one module stay together, and each has a config that is true of it."""
    saved = _words(whole.config, "modules_to_save")
    units = {new: unit(new, saved) for new in whole.named}
    homes: dict[str, str] = {}
    tensors: dict[str, dict[str, str]] = {name: {} for name in wanted}
    for new, name in whole.named.items():
        home = homes.setdefault(units[new], piece_of(name, units[new]) or REST)
        tensors.setdefault(home, {})[new] = name
    if empty := [name for name, own in tensors.items() if not own]:
        raise UsageError(f"`{empty[0]}`: nothing of {whole.found.path} goes into this piece", at="pieces")
    made: dict[str, Assembly] = {}
    for piece, own in tensors.items():
        made[piece] = Assembly("lora split", [place], told=list(whole.told) if not made else [], alone=True)
        for new, name in own.items():
            made[piece].whole(new, 0, name)
        within = {units[new] for new in own}
        made[piece].beside.append(("adapter_config.json", as_bytes(_config(whole, own, units, within, saved))))
    return made


def _config(
    whole: Adapter, own: Mapping[str, str], units: Mapping[str, str], within: set[str], saved: Sequence[str]
) -> dict[str, Any]:
    """The config of a piece: its modules by their whole names, and the patterns that fit one of them."""
    config = dict(whole.config)
    parameters = _words(config, "target_parameters")
    held = [f"{u}.{p.rpartition('.')[2]}" for p in parameters for u in sorted(within) if _ends(u, p.rpartition(".")[0])]
    holders = {p.rpartition(".")[0] for p in held}
    adapted = {units[new] for new in own if PEFT.fullmatch(new)} - holders
    config["target_modules"] = sorted(adapted) or ([] if held else _NONE)
    if parameters:
        config["target_parameters"] = held or None
    # A tensor that stands alone under a name that was trained whole; a factor's module may end so too.
    trained = {units[n] for n in own if not PEFT.fullmatch(n) and any(_ends(units[n], w) for w in saved)}
    if "modules_to_save" in config:
        config["modules_to_save"] = sorted(trained) or None
    for key in ("layers_to_transform", "layers_pattern", "exclude_modules"):
        if key in config:
            config[key] = None
    keys = adapted | set(held) | holders
    for key in ("rank_pattern", "alpha_pattern"):
        if config.get(key):
            config[key] = {p: value for p, value in config[key].items() if any(_fits(p, k) for k in keys)}
    biased = [n for n in own if n.endswith(".bias") and not PEFT.fullmatch(n) and units[n] not in trained]
    if config.get("bias") in ("all", "lora_only") and not biased:
        config["bias"] = "none"
    return config


def _words(config: Mapping[str, Any], key: str) -> list[str]:
    found = config.get(key)
    return (
        [found]
        if isinstance(found, str)
        else [w for w in found if isinstance(w, str)]
        if isinstance(found, list)
        else []
    )


def _ends(module: str, word: str) -> bool:
    return f".{module}".endswith(f".{word}")


def _fits(pattern: str, module: str) -> bool:
    """Whether a pattern of PEFT's is of a module; of one that is not read here nobody knows."""
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error:
        return True
