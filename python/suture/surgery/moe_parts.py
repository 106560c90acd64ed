"""Experts taken out of a model, put in, dropped, kept, exchanged; and dense models of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError
from suture.reference import Model
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.surgery.assembly import Assembly, assemble, compiled, config_beside, opened
from suture.surgery.job import refuse_stores
from suture.surgery.ledger import Ledger
from suture.surgery.moe_layers import Layer, config_with, layers_of, numbers
from suture.surgery.moe_targets import DENSE, TARGETS
from suture.surgery.run import carry_out


def keep(
    model: Model,
    out: str | PathLike[str],
    *,
    experts: str | None = None,
    counts: str | PathLike[str] | None = None,
    top: int | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write a model with some of its experts, in their order, and the rows of its routers that are theirs.

    Args:
        model: the model.
        out: the output folder.
        experts: which, the same in all layers: ``0,2,5-7``.
        counts: instead, a JSON file of how often tokens went to each expert: a list, lists by layer, or what ``suture
            text influence --json`` printed; the `top` most used of each layer are kept.
        top: how many.
        settings: how to do the work.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if there are no such experts, or the counts are none of the model's.
        SutureError: if the model has no experts, or the output cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    found = opened(model)
    layers = layers_of(found)
    if (experts is None) == (counts is None) or (counts is None) != (top is None):
        raise UsageError("expected either experts, or counts (a file) and top (how many are kept)")
    if experts is not None:
        listed = numbers(experts, min(layer.count for layer in layers.values()))
        chosen = {i: sorted(listed) for i in layers}
    else:
        chosen = _most_used(Path(str(counts)), layers, top or 0)
    return _chosen("moe keep", model, found, layers, chosen, out, settings, dry_run, progress)


def drop(
    model: Model,
    out: str | PathLike[str],
    *,
    experts: str,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write a model without some of its experts; as :func:`keep` of all others.

    Raises:
        UsageError: if there are no such experts, or none would be left.
    """
    found = opened(model)
    layers = layers_of(found)
    count = min(layer.count for layer in layers.values())
    gone = numbers(experts, count)
    left = [e for e in range(count) if e not in gone]
    if not left:
        raise UsageError("experts: none would be left", at="experts")
    chosen = dict.fromkeys(layers, left)
    return _chosen("moe drop", model, found, layers, chosen, out, settings, dry_run, progress)


def swap(
    model: Model,
    donor: Model,
    out: str | PathLike[str],
    *,
    experts: str,
    router: bool = False,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write a model with experts of another in the places of its own.

    Args:
        model: the model.
        donor: a model of experts of the same shapes.
        out: the output folder.
        experts: which of its experts the donor's take the places of: ``0=2,1``, where ``1`` is the donor's 1 for its 1.
        router: whether the rows of the routers go with them.
        settings: how to do the work.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if there are no such experts.
        SutureError: if experts are of other shapes, or the output cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    found, other = opened(model), opened(donor)
    layers, theirs = layers_of(found), layers_of(other)
    if (missing := next((i for i in layers if i not in theirs), None)) is not None:
        raise SutureError(f"{other.path}: has no experts in layer {missing}", other.path)
    count, have = (min(layer.count for layer in own.values()) for own in (layers, theirs))
    pairs: dict[int, int] = {}
    for item in experts.split(","):
        own, equals, taken = item.partition("=")
        mine, its = numbers(own, count), numbers(taken if equals else own, have)
        if len(mine) != len(its) or not pairs.keys().isdisjoint(mine):
            raise UsageError(f"experts: expected each expert once, and one for each, found `{experts}`", at="experts")
        pairs |= zip(mine, its, strict=True)
    made = Assembly("moe swap", [model, donor])
    for i, layer in layers.items():
        source = theirs[i]
        one = [(1, source, pairs[e], router) if e in pairs else (0, layer, e, False) for e in range(layer.count)]
        _layer(made, [found, other], layer, one)
    _rest(made, found, layers)
    made.asked = {"experts": experts, "router": router}
    return assemble(made, out, settings=settings, dry_run=dry_run, progress=progress)


def split(
    model: Model,
    out: str | PathLike[str],
    *,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> list[Report]:
    """Write each expert to a file of its own, ``expert-0.safetensors`` and so on, with its rows of the routers.

    Tensors are called as in a model of this one expert; :func:`join` puts such files in again.

    Raises:
        SutureError: if the model has no experts, or a file cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    settings = settings or Settings()
    refuse_stores(out)
    settings.refuse_parts("several files are written, each as a whole")
    found = opened(model)
    layers = layers_of(found)
    ledger = Ledger(Path(out))
    jobs = []
    for expert in range(max(layer.count for layer in layers.values())):
        made = Assembly("moe split", [model])
        for layer in layers.values():
            if expert < layer.count:
                _layer(made, [found], layer, [(0, layer, expert, True)], apart=True)
        made.asked = {"expert": expert}
        target = Path(out) / f"expert-{expert}.safetensors"
        recipe, job, _ = compiled(made, target, settings)
        # What a call that did not end has made is this one's own.
        ours = settings.overwrite or ledger.owns(target.name, target, recipe, settings)
        job = replace(job, settings=replace(job.settings, overwrite=ours))
        if not dry_run:
            job.plan.check_target(str(target), ours)
        jobs.append((target, recipe, job))
    if dry_run:
        return [carry_out(job, target, True, progress) for target, _, job in jobs]
    for target, recipe, job in jobs:
        ledger.note(target.name, recipe, settings, job.plan.hash)
    reports = [carry_out(job, target, False, progress) for target, _, job in jobs]
    ledger.close()
    return reports


def join(
    model: Model,
    files: Sequence[Model],
    out: str | PathLike[str],
    *,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write a model of experts with experts of files, as :func:`split` writes them, behind its own.

    Raises:
        UsageError: if there are no files.
        SutureError: if a file has not one expert in each layer that has experts, or of other shapes.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    if not files:
        raise UsageError("expected one file of an expert or more")
    found = [opened(model), *(opened(f) for f in files)]
    layers = layers_of(found[0])
    theirs = [layers_of(f) for f in found[1:]]
    made = Assembly("moe join", [model, *files])
    for i, layer in layers.items():
        one = [(0, layer, e, True) for e in range(layer.count)]
        for number, (own, checkpoint) in enumerate(zip(theirs, found[1:], strict=True), 1):
            if (other := next(iter(own.keys() ^ layers.keys()), None)) is not None:
                where = found[0].path if other in own else checkpoint.path
                raise SutureError(f"{where}: has no experts in layer {other}", where)
            one += [(number, own[i], e, True) for e in range(own[i].count)]
        _layer(made, found, layer, one)
    _rest(made, found[0], layers)
    counts = {layer.count + sum(t[i].count for t in theirs) for i, layer in layers.items()}
    if len(counts) > 1:
        raise SutureError(
            f"{found[0].path}: layers would have other numbers of experts: {sorted(counts)}", found[0].path
        )
    experts = counts.pop()
    made.config = lambda c: config_with(c, experts)
    made.asked = {"experts": experts}
    return assemble(made, out, settings=settings, dry_run=dry_run, progress=progress)


def average(model: Model, out: str | PathLike[str], **more: Any) -> Report:
    """Write a dense model whose layers are the mean of a model's experts, formed in f64 and rounded once."""
    return _dense("moe average", model, out, None, **more)


def dense(model: Model, out: str | PathLike[str], *, expert: int, **more: Any) -> Report:
    """Write a dense model of one expert of a model."""
    return _dense("moe dense", model, out, expert, **more)


def _dense(
    title: str,
    model: Model,
    out: str | PathLike[str],
    expert: int | None,
    *,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """A dense model, of one expert or of the mean of all.

    Raises:
        SutureError: if there is no dense model of the kind, or its layers would be of other widths.
    """
    found = opened(model)
    layers = layers_of(found)
    config = config_beside(found)
    target = next((t for t in TARGETS if config is not None and t.kind == config.get("model_type")), None)
    if config is None or target is None:
        kinds = ", ".join(t.kind for t in TARGETS)
        what = "has no config.json" if config is None else f"is `{config.get('model_type')}`"
        raise SutureError(f"{found.path}: {what}; dense models are made of {kinds}", found.path)
    made = Assembly(title, [model])
    inner = 0
    for layer in layers.values():
        if expert is not None:
            numbers(str(expert), layer.count, "expert")
        for which, name in enumerate(DENSE):
            tensor = f"{layer.layer}mlp.{name}.weight"
            parts = [(0, *layer.parts[e][which]) for e in (range(layer.count) if expert is None else [expert])]
            if expert is None and len(parts[0]) > 2:
                message = "experts are stacked, of which no mean is taken; `suture moe split` takes them apart first"
                raise SutureError(f"{found.path}: tensor `{parts[0][1]}`: {message}", found.path)
            if expert is None:
                made.mean(tensor, parts)
            else:
                made.rows(tensor, parts) if len(parts[0]) > 2 else made.whole(tensor, *parts[0])
        first = layer.parts[0][0]
        inner = first[2] if len(first) > 2 else found.info(first[0]).shape[0]
    outside = [
        n
        for n in found.names
        if ".layers." in n and ".mlp." in n and not any(n.startswith(y.prefix) for y in layers.values())
    ]
    widths = {found.info(n).shape[0] for n in outside if n.endswith("gate_proj.weight")} | {inner}
    if len(widths) > 1:
        raise SutureError(
            f"{found.path}: its dense layers and its experts have other widths: {sorted(widths)}", found.path
        )
    shared = [n for n in found.names if ".shared_expert" in n]
    if shared:
        made.told.append(f"{len(shared)} tensors that all tokens go through are left out (first: `{shared[0]}`)")
    _rest(made, found, layers, without=shared)
    kinds_of = target.of
    made.config = lambda c: _dense_config(c, kinds_of[-1] if c.get("sliding_window") else kinds_of[0], inner)
    made.asked = {"expert": "mean" if expert is None else expert}
    return assemble(made, out, settings=settings, dry_run=dry_run, progress=progress)


def _dense_config(config: Mapping[str, Any], kind: str, inner: int) -> dict[str, Any]:
    words = ("expert", "router", "moe_", "topk", "mlp_only_layers", "decoder_sparse_step", "first_k_dense", "auto_map",
             "scoring", "seq_aux", "aux_loss")  # fmt: skip
    out = {k: v for k, v in config.items() if not any(word in k for word in words)}
    if kind == "qwen3":
        # Where it is not said, the two take another.
        out.setdefault("head_dim", out["hidden_size"] // out["num_attention_heads"])
    if out.get("sliding_window", 0) is None:
        del out["sliding_window"]
    architecture = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[kind] + "ForCausalLM"
    return out | {"model_type": kind, "architectures": [architecture], "intermediate_size": inner}


def _chosen(
    title: str, model: Model, found: Checkpoint, layers: Mapping[int, Layer], chosen: Mapping[int, list[int]],
    out: str | PathLike[str], settings: Settings | None, dry_run: bool, progress: Progress | None,
) -> Report:  # fmt: skip
    made = Assembly(title, [model])
    for i, layer in layers.items():
        _layer(made, [found], layer, [(0, layer, e, True) for e in chosen[i]])
    _rest(made, found, layers)
    count = len(next(iter(chosen.values())))
    taken = (config_beside(found) or {}).get("num_experts_per_tok")
    if isinstance(taken, int) and taken > count:
        made.told.append(f"a token went to {taken} experts, and goes to all {count} that are left")
    made.config = lambda c: config_with(c, count)
    made.asked = {"experts": {str(i): own for i, own in chosen.items()}}
    return assemble(made, out, settings=settings, dry_run=dry_run, progress=progress)


def _layer(
    made: Assembly,
    found: Sequence[Checkpoint],
    like: Layer,
    experts: Sequence[tuple[int, Layer, int, bool]],
    *,
    apart: bool = False,
) -> None:
    """Add a layer of experts: of each which model, layer and number, and whether its rows of the routers go with it.

    Raises:
        SutureError: if they are of other shapes, or a model has no such row.
    """
    for name in like.rows:
        if not apart and len(experts) == like.count and not any(moves for *_, moves in experts):
            made.whole(name, 0, name)
            continue
        parts = []
        for place, (model, layer, expert, moves) in enumerate(experts):
            own = layer.prefix + name.removeprefix(like.prefix) if moves else name
            source = model if moves else 0
            if own not in found[source]:
                raise SutureError(
                    f"{found[source].path}: tensor `{own}`: is missing, and a router is to have rows of it",
                    found[source].path,
                    own,
                )
            parts.append((source, own, expert if moves else place, 1))
        shape = [len(parts), *found[0].info(name).shape[1:]]
        if len(shape) == 1:
            raise SutureError(
                f"{found[0].path}: tensor `{name}`: a bias for each expert is not taken apart", found[0].path, name
            )
        made.rows(name, parts, shape=shape)
    shapes = {which: {_shape(found[m], layer.parts[e][which]) for m, layer, e, _ in experts} for which in range(3)}
    if (unlike := next((s for s in shapes.values() if len(s) > 1), None)) is not None:
        raise SutureError(
            f"{found[-1].path}: its experts are of other shapes than those of {found[0].path}: {sorted(unlike)}",
            found[-1].path,
        )
    if like.packed is not None and not apart:
        n = len(experts)
        gate_up, down = like.packed
        both = [(m, *layer.parts[e][which]) for m, layer, e, _ in experts for which in (0, 1)]
        (rows, columns), (width, inner) = next(iter(shapes[0])), next(iter(shapes[2]))
        made.rows(gate_up, both, shape=[n, 2 * rows, columns])
        made.rows(down, [(m, *layer.parts[e][2]) for m, layer, e, _ in experts], shape=[n, width, inner])
        return
    dtypes = {found[m].info(part[0]).dtype for m, layer, e, _ in experts for part in layer.parts[e]}
    if len(dtypes) > 1 and not any(n.startswith("experts are") for n in made.told):
        made.told.append(f"experts are of several dtypes ({', '.join(sorted(dtypes))}); --dtype makes one of them")
    for place, (model, layer, expert, _) in enumerate(experts):
        for which, word in enumerate(like.words):
            part = layer.parts[expert][which]
            name = f"{like.prefix}experts.{place}.{word}.weight"
            made.rows(name, [(model, *part)]) if len(part) > 1 else made.whole(name, model, part[0])


def _shape(model: Checkpoint, part: Any) -> tuple[int, ...]:
    shape = model.info(part[0]).shape
    return (part[2], shape[-1]) if len(part) > 1 else shape


def _rest(made: Assembly, found: Checkpoint, layers: Mapping[int, Layer], without: Sequence[str] = ()) -> None:
    """Add every other tensor of the first model."""
    gone = {name for layer in layers.values() for name in layer.tensors()} | set(without)
    for name in found.names:
        if name not in gone:
            made.whole(name, 0, name)


def _most_used(path: Path, layers: Mapping[int, Layer], top: int) -> dict[int, list[int]]:
    """The experts of each layer that most tokens went to, of two used alike the first.

    Raises:
        UsageError: if the file has other layers or experts.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise UsageError(f"counts: `{path}` cannot be read as JSON: {e}", at="counts") from None
    of = given if isinstance(given, dict) else dict.fromkeys((str(i) for i in layers), given)
    if isinstance(of.get("routing"), list):
        of = _routed(path, of["routing"])
    out = {}
    for i, layer in layers.items():
        own = of.get(str(i))
        sound = (
            isinstance(own, list)
            and len(own) == layer.count
            and all(isinstance(n, int | float) and n >= 0 for n in own)
        )
        if not sound:
            raise UsageError(
                f"counts: `{path}`: expected {layer.count} counts for layer {i}, found {own!r}", at="counts"
            )
        if not 1 <= top <= layer.count:
            raise UsageError(f"top: expected 1 to {layer.count}, found {top}", at="top")
        used = sorted((-count, expert) for expert, count in enumerate(own or []))
        out[i] = sorted(expert for _, expert in used[:top])
    return out


def _routed(path: Path, rows: list[Any]) -> dict[str, list[int]]:
    """The counts of ``suture text influence --json`` by layer, of all its languages together.

    Raises:
        UsageError: if it is no such JSON.
    """
    of: dict[str, list[int]] = {}
    try:
        for row in rows:
            sums = of.setdefault(str(int(row["layer"])), [0] * len(row["counts"]))
            of[str(int(row["layer"]))] = [a + int(b) for a, b in zip(sums, row["counts"], strict=True)]
    except (KeyError, TypeError, ValueError):
        message = f"counts: `{path}`: `routing` is not what `suture text influence --json` prints"
        raise UsageError(message, at="counts") from None
    return of
