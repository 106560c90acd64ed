"""Adapters converted between the forms of PEFT, loralib, sd-scripts and X-ALMA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError, near
from suture.reference import Model, plain
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.sidecars.adapter import adapter_path
from suture.surgery.assembly import Assembly, assemble, opened
from suture.surgery.lora_forms import FORMS, Adapter, chosen, form_of, read_alma, read_peft, read_sd
from suture.surgery.lora_loralib import Asked, read_loralib
from suture.surgery.lora_written import as_alma, as_loralib, as_peft, as_sd
from suture.surgery.run import is_file

#: The forms that are written.
TO = ("peft", "loralib", "sd-scripts", "x-alma")


@dataclass(frozen=True)
class AdapterFacts:
    """What a user says of an adapter, where its file does not.

    Attributes:
        source: the form, one of :data:`FORMS`; None recognises it.
        model: the model that it is of, whose tensors' names, and shapes, tell what the adapter's do not.
        prefix: of sd-scripts, which part of a pipeline, such as ``lora_unet``.
        alpha: `lora_alpha`, where no config says it (loralib).
        enable_lora: of fused matrices, such as loralib's MergedLinear, which parts are adapted.
        parts: what these parts are called as modules of their own; empty leaves them fused.
    """

    source: str | None = None
    model: Model | None = None
    prefix: str | None = None
    alpha: float | None = None
    enable_lora: Sequence[bool] = ()
    parts: Sequence[str] = ()


def convert_adapter(
    adapter: Model,
    out: str | PathLike[str],
    *,
    to: str,
    given: AdapterFacts | None = None,
    group: str | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write an adapter in another form: the same factors, bit for bit, and exactly the same scales.

    What the form has no place for is refused by name.

    Args:
        adapter: the adapter, of PEFT, loralib, AdapterHub, sd-scripts or X-ALMA, in safetensors or by ``torch.save``.
        out: with ``peft`` a folder; else a file that ends in ``.safetensors``, or with ``x-alma`` and a model a folder:
            the model with one group more.
        to: ``peft``, ``loralib``, ``sd-scripts`` or ``x-alma``.
        given: what the file does not say.
        group: which of several adapters that the file holds.
        settings: how to do the work.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if something is asked for that does not go together, or not said that must be.
        SutureError: if the adapter is not sound, cannot be said in that form, or the output cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    settings, given = settings or Settings(), given or AdapterFacts()
    if to not in TO:
        raise UsageError(f"to: expected {', '.join(TO)}; found `{to}`{near(to, TO)}", at="to")
    folder = to == "peft" or (to == "x-alma" and given.model is not None)
    if folder == is_file(out) and not (folder and Path(out).is_dir()):
        wanted = "a folder" if folder else "a file whose name ends in .safetensors"
        raise UsageError(f"{to} is written as {wanted}; found `{fspath(out)}`", at="out")
    place, found = located(adapter)
    own = read(found, given, group)
    if own.form == to and to != "peft":
        raise UsageError(f"to: {found.path} is {to} already; suture convert copies it", at="to")
    refuse_idle(own, given, to)
    made = _written(own, place, to, given, settings.dtype)
    made.asked = {"from": own.form, "to": to} | ({} if group is None else {"group": group})
    return assemble(made, out, settings=settings, dry_run=dry_run, progress=progress)


def located(adapter: Model) -> tuple[str, Checkpoint]:
    """Where an adapter lies, in a folder that may hold a model too, and the adapter."""
    path = adapter_path(Path(plain(adapter)))
    return str(path), Checkpoint(path)


def read(found: Checkpoint, given: AdapterFacts, group: str | None) -> Adapter:
    """Read an adapter in the form that it has.

    Raises:
        UsageError: if something is not said that its file does not say.
        SutureError: if it is no adapter, or not sound.
    """
    if given.source not in (None, *FORMS):
        raise UsageError(f"from: expected {', '.join(FORMS)}; found `{given.source}`", at="from")
    form = given.source or form_of(found)
    group = chosen(found, form, group)
    if form == "peft":
        own = read_peft(found, group)
    elif form == "x-alma":
        own = read_alma(found, group)
    elif form == "sd-scripts":
        own = read_sd(found, given.prefix, _modules(given.model))
    else:
        model = None if given.model is None else opened(given.model)
        ending = ".weight"
        names = [] if model is None else [n for n in model.names if n.endswith(ending)]
        shapes = None if model is None else {n.removesuffix(ending): model.info(n).shape for n in names}
        asked = Asked(given.alpha, tuple(given.enable_lora), tuple(given.parts), shapes)
        own = read_loralib(found, form, group, asked)
    if not own.modules and not own.named:
        raise SutureError(f"{found.path}: holds no factors of {form}", found.path)
    return own


def refuse_idle(own: Adapter, given: AdapterFacts, to: str = "peft") -> None:
    """Check that nothing is said that decides nothing.

    Raises:
        UsageError: if something is, with its name.
    """
    inside, sd = own.form in ("loralib", "adapterhub"), "sd-scripts"
    used = dict.fromkeys(("alpha", "enable_lora", "parts"), inside)
    used |= {"prefix": sd in (own.form, to), "model": inside or own.form == sd or to == "x-alma"}
    for name, counts in used.items():
        if not counts and getattr(given, name) not in (None, [], ()):
            raise UsageError(f"{name}: decides nothing of {own.form} written as {to}; leave it out", at=name)


def _modules(model: Model | None) -> dict[str, tuple[str, Sequence[int]]] | None:
    """Names and weights' shapes of a model's modules, by their names without dots.

    Raises:
        SutureError: if two are one without dots.
    """
    if model is None:
        return None
    found = opened(model)
    names: dict[str, tuple[str, Sequence[int]]] = {}
    for name in found.names:
        module = name.removesuffix(".weight")
        bare = module.replace(".", "_")
        if module != name and names.setdefault(bare, (module, found.info(name).shape))[0] != module:
            message = f"`{module}` and `{names[bare][0]}` are one name without dots; none is guessed"
            raise SutureError(f"{found.path}: {message}", found.path, name)
    return names


def _written(own: Adapter, place: Model, to: str, given: AdapterFacts, dtype: str | None) -> Assembly:
    """The adapter in the form that is asked for."""
    title = "lora convert"
    if to == "sd-scripts":
        return as_sd(own, place, title, given.prefix, dtype)
    if own.form == "sd-scripts" and given.model is None:
        message = f"model: {own.found.path} names modules without dots; give the model, whose names have them"
        raise UsageError(message, at="model")
    if to == "loralib":
        return as_loralib(own, place, title)
    if to == "x-alma":
        return as_alma(own, place, title, None if given.model is None else (given.model, opened(given.model)))
    return as_peft(own, place, title)
