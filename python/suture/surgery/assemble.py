"""Parts of several checkpoints, under new prefixes, as one checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture.analysis.mask import FILE, Known, Parameter, asked_stages, masked_by
from suture.analysis.mask import as_bytes as mask_bytes
from suture.checkpoint import Checkpoint
from suture.errors import UsageError, near
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.sidecars.carried import Beside
from suture.sidecars.files import INNER, as_bytes, read_config
from suture.sidecars.gguf import folder_of
from suture.sidecars.tokenizer import TOKENIZER_FILES
from suture.surgery.assemble_config import DTYPES, Composition, Part, composition
from suture.surgery.assembly import Assembly, opened
from suture.surgery.assembly import assemble as make
from suture.surgery.run import is_file

#: What is cast; all else keeps its dtype.
_FLOATS = {code: name for name, code in DTYPES.items()}
#: How configs call the width of what goes through a model.
_WIDTHS = ("d_model", "hidden_size", "n_embd", "dim")


def assemble(
    config: Mapping[str, Any] | str | PathLike[str],
    out: str | PathLike[str],
    *,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write a checkpoint of parts of several, each under its prefix: encoders, language models, projections.

    What is asked no dtype of and has no adapters is passed as bytes. `docs/modules.md` has the grammar of configs.

    Args:
        config: a YAML file, or what one holds.
        out: the output folder, or a `.safetensors` file.
        settings: how to do the work.
        dry_run: look at headers, states of regressions and the output's place, and write nothing.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if the config is wrong, with its line: two parts that write one name, a prefix that no tensor has,
            parts of several dtypes where none is asked for, a projection whose sizes do not fit.
        SutureError: if an input is not sound, or the output cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    settings, asked = settings or Settings(), composition(config)
    if settings.dtype is not None:
        asked = replace(asked, dtype=settings.dtype)
    try:
        if settings.one_file:
            raise UsageError(f"to: `{settings.to}` is of architectures that GGUF knows; write safetensors", at="to")
        if is_file(out):
            for key in ("config", "tokenizer", "freeze"):
                if getattr(asked, key) is not None:
                    message = f"goes beside the tensors; give a folder instead of `{fspath(out)}`"
                    raise UsageError(f"{key}: {message}", at=key)
        return _Assembler(asked, settings, dry_run).run(out, progress)
    except UsageError as e:
        # What the core says of a setting has no line.
        raise (asked.source.locate(e) if (e.at or "").split(".")[0] in asked.source.recipe else e) from None


class _Assembler:
    """Makes an assembly of a config.

    Attributes:
        models: the checkpoint of each part that has one.
        names: of each of these, the names in the output and in the model.
    """

    def __init__(self, asked: Composition, settings: Settings, dry_run: bool) -> None:
        self.asked, self.settings, self.dry_run = asked, settings, dry_run
        self.models: dict[str, Checkpoint] = {p.name: opened(p.model) for p in asked.parts if p.model is not None}
        self.names = {p.name: self._taken(p) for p in asked.parts if p.model is not None}
        self.dtypes = self._dtypes()
        self.parameters: dict[str, list[Parameter]] = {}

    def run(self, out: str | PathLike[str], progress: Progress | None) -> Report:
        parts = {p.name: p for p in self.asked.parts}
        # The first is what the core asks about heads and tables that are one: of parts none answers for the whole.
        order = sorted(self.models, key=lambda n: (None, True, False).index(self.models[n]._core.tied))
        made = Assembly("assemble", [m for n in order if (m := parts[n].model) is not None])
        made.asked = {"config": self.asked.source.recipe}
        seen: dict[str, str] = {}
        for part in self.asked.parts:
            self._add(made, part, order, seen)
        if not made.models:
            # Of projections alone: what is computed is the only model.
            raise UsageError("parts: expected a part that has a `model`", at="parts")
        made.apart = self._beside
        if self.asked.freeze is not None:
            made.beside.append((FILE, self._mask(fspath(out))))
        if self.asked.config is None and not is_file(out):
            made.told.append("no `config` is given: the output has no config.json, which most loaders need")
        return make(made, out, settings=self.settings, dry_run=self.dry_run, progress=progress)

    def _taken(self, part: Part) -> list[tuple[str, str]]:
        """The tensors of a part: what each is called in the output, and in its model."""
        model = self.models[part.name]
        taken = model.names if part.take is None else _chosen(model, part.take, f"{part.at}.take", model.names)
        gone = set(_chosen(model, part.drop, f"{part.at}.drop", taken))
        left = [name for name in taken if name not in gone]
        if not left:
            raise UsageError(f"{part.at}.drop: leaves nothing of what is taken", at=f"{part.at}.drop")
        idle = next((k for k in part.rename if k and not any(n.startswith(k) for n in left)), None)
        if idle is not None:
            message = f"no tensor that is taken begins with `{idle}`{near(idle, _beginnings(left))}"
            raise UsageError(f"{part.at}.rename: {message}", at=f"{part.at}.rename")
        longest = sorted(part.rename, key=len, reverse=True)

        def renamed(name: str) -> str:
            key = next((k for k in longest if name.startswith(k)), "")
            return part.prefix + part.rename.get(key, "") + name[len(key) :]

        found: dict[str, str] = {}
        for own in left:
            name = renamed(own)
            if name in ("", "__metadata__") or (name != own and not name.isprintable()):
                raise UsageError(
                    f"{part.at}.rename: `{own}` would be {name!r}, which is no name", at=f"{part.at}.rename"
                )
            # An encoder's table stands under the names of all who share it in files of torch's.
            if name in found and not _same(model, found[name], own):
                message = f"`{found[name]}` and `{own}` would both be `{name}`, and differ; `drop` one"
                raise UsageError(f"{part.at}.rename: {message}", at=f"{part.at}.rename")
            found.setdefault(name, own)
        return list(found.items())

    def _dtypes(self) -> dict[str, str | None]:
        """The dtype of the floats of each part's output; None if it has none.

        Raises:
            UsageError: if parts have several, and one does not say its own.
        """
        found: dict[str, str | None] = {}
        for part in self.asked.parts:
            sizes: Counter[str] = Counter()
            for _, name in self.names.get(part.name, []):
                info = self.models[part.name].info(name)
                if info.dtype in _FLOATS:
                    sizes[_FLOATS[info.dtype]] += info.nbytes
            own = sizes.most_common(1)[0][0] if sizes else None
            found[part.name] = self.asked.dtype or part.dtype or own
        kinds = {d for d in found.values() if d is not None}
        unsaid = [p for p in self.asked.parts if p.dtype is None and p.model is not None and found[p.name] is not None]
        if len(kinds) > 1 and unsaid:
            listed = ", ".join(f"`{name}` {dtype}" for name, dtype in found.items() if dtype is not None)
            message = f"parts are of several dtypes ({listed}); give `dtype` for all, or each of these its own"
            raise UsageError(message, at=unsaid[0].at)
        return found

    def _add(self, made: Assembly, part: Part, order: Sequence[str], seen: dict[str, str]) -> None:
        """Add a part's tensors, and say what became of it."""
        if part.linear is not None:
            rows, said = self._projection(made, part)
        else:
            model, want = self.models[part.name], self.asked.dtype or part.dtype
            cast = 0
            for name, own in self.names[part.name]:
                dtype = model.info(own).dtype
                more = {"dtype": want} if want is not None and dtype in _FLOATS and _FLOATS[dtype] != want else {}
                cast += bool(more)
                made.whole(name, order.index(part.name), own, **more)
            rows = [name for name, _ in self.names[part.name]]
            left = len(model) - len(rows)
            said = f"{len(rows):,} tensors of {model.path}" + (f", {left:,} left out" if left else "")
            said += f", {cast:,} cast to {want}" if cast else ""
        made.notes.append((part.name, f"{part.prefix or '(no prefix)'}: {said}"))
        for name in rows:
            if (other := seen.setdefault(name, part.name)) != part.name:
                message = f"parts `{other}` and `{part.name}` write `{name}`; give one another `prefix`, or `drop` it"
                raise UsageError(f"{part.at}: {message}", at=part.at)

    def _projection(self, made: Assembly, part: Part) -> tuple[list[str], str]:
        """Make a projection and add it."""
        # It takes NumPy, which most assemblies need not.
        from suture.surgery.assemble_linear import projection

        if part.linear is None:
            return [], ""
        ends = part.linear.ends
        widths = tuple(None if end is None else self._width(end) for end in ends)
        seed, memory = self.settings.seed, self.settings.memory_bytes
        try:
            found = projection(part.linear, part.name, (widths[0], widths[1]), seed, memory)
        except MemoryError:
            raise UsageError(f"{part.at}.linear: takes more memory than there is", at=part.at) from None
        near_by = next((d for e in (*ends[::-1], *self.models) if e is not None and (d := self.dtypes.get(e))), None)
        dtype = self.dtypes[part.name] or near_by or "float32"
        shapes = {f"{part.prefix}weight": found.weight}
        if found.bias is not None:
            shapes[f"{part.prefix}bias"] = found.bias
        for name, values in shapes.items():
            made.given(name, values, dtype)
            self.parameters.setdefault(part.name, []).append(
                Parameter(name, values.size, "-", tuple(name.lower().split(".")), table=False, buffer=False)
            )
        wide, out = found.weight.shape[::-1]
        if found.untrained:
            made.told.append(f"`{part.name}` is {found.said}: it means nothing before it is trained")
        return list(shapes), f"{wide:,} to {out:,}, {dtype}, {found.said}"

    def _width(self, name: str) -> int | None:
        """How wide what goes through a part is, by its config, else by its table of tokens."""
        if name not in self.models:
            return None
        config = self._config_of(name) or {}
        for section in (config, *(config[k] for k in INNER if isinstance(config.get(k), dict))):
            if (said := next((section[k] for k in _WIDTHS if isinstance(section.get(k), int)), None)) is not None:
                return int(said)
        from suture.analysis.stored import tables

        found = next((t for t in tables(self.models[name]) if t.role == "embedding"), None)
        return None if found is None else found.width

    def _folder(self, name: str) -> Path:
        """Where the small files of a part lie."""
        return folder_of(self.models[name].folder)

    def _config_of(self, name: str) -> dict[str, Any] | None:
        folder = self._folder(name)
        return read_config(folder) if folder.is_dir() else None

    def _beside(self, _: Sequence[Path], change: Mapping[str, Any]) -> Beside:
        """What goes beside the weights: the config that is asked for, and a part's tokenizer."""
        told: list[str] = []
        written: list[tuple[str, bytes]] = []
        config = self._config(self.asked.config, "config", told, change)
        if config is not None:
            if change.get("encoded"):
                from suture.sidecars.quantized import quantisation

                config["quantization_config"] = quantisation(change["encoded"])
            written.append(("config.json", as_bytes(config)))
        copied = []
        if self.asked.tokenizer is not None:
            folder = self._folder(self.asked.tokenizer)
            files = [name for name in TOKENIZER_FILES if folder.is_dir() and (folder / name).is_file()]
            if not files:
                message = f"`{self.asked.tokenizer}` has no files of a tokenizer in {folder}"
                raise UsageError(f"tokenizer: {message}; name another part", at="tokenizer")
            copied = [(name, str(folder / name)) for name in files]
        return Beside(written, copied, told)

    def _config(self, asked: Any, at: str, told: list[str], change: Mapping[str, Any]) -> dict[str, Any] | None:
        """A config as it is asked for: wherever `of` stands, that of a part, with what `set` sets."""
        if asked is None:
            return None
        if isinstance(asked, str):
            if asked in self.models:
                return self._config({"of": asked}, at, told, change)
            path = Path(asked)
            found = read_config(path.parent, path.name)
            return {} if found is None else found
        if "of" not in asked:
            return {key: self._within(value, f"{at}.{key}", told, change) for key, value in asked.items()}
        if not asked.keys() <= {"of", "set"} or not isinstance(asked.get("set", {}), dict):
            raise UsageError(f"{at}: expected the part `of` and a mapping `set`, and nothing beside them", at=at)
        name = str(asked["of"])
        own = self._config_of(name) if name in self.models else None
        if own is None:
            what = "has no config.json" if name in self.models else "is no part that has a model"
            raise UsageError(f"{at}.of: `{name}` {what}{near(name, self.models)}", at=f"{at}.of")
        if change.get("decoded"):
            from suture.sidecars.quantized import without_quantisation

            own, more = without_quantisation(own, True)
            told += more
        if (dtype := self.dtypes[name]) is not None:
            own = _typed(own, dtype)
        return own | (self._config(asked.get("set", {}), f"{at}.set", told, change) or {})

    def _within(self, value: Any, at: str, told: list[str], change: Mapping[str, Any]) -> Any:
        """A value of a config that is asked for."""
        if isinstance(value, list):
            return [self._within(one, f"{at}[{i}]", told, change) for i, one in enumerate(value)]
        return self._config(value, at, told, change) if isinstance(value, dict) else value

    def _mask(self, out: str) -> bytes:
        """The freeze mask of the output: selectors name a part, and behind a slash what of it."""
        freeze = self.asked.freeze or {}
        if not freeze.keys() <= {"train", "freeze", "stages"}:
            raise UsageError("freeze: expected `train`, `freeze` or `stages`", at="freeze")
        try:
            stages = asked_stages(freeze.get("train"), freeze.get("freeze"), freeze.get("stages"))
        except UsageError as e:
            raise UsageError(f"freeze: {e}", at="freeze") from None
        known: dict[str, Known] = {}
        rows: list[Parameter] = []
        for part in self.asked.parts:
            if part.model is not None:
                known[part.name] = Known(part.model)
                by_name = {p.name: p for p in known[part.name].parameters}
                self.parameters[part.name] = [replace(by_name[own], name=name) for name, own in self.names[part.name]]
            rows += self.parameters[part.name]
        chosen = []
        for at, name, *both in stages:
            own = [None if s is None else {n for one in s for n in self._of_part(one, at, known)} for s in both]
            chosen.append((name, tuple(own)))
        return mask_bytes(masked_by(Path(out).name, rows, chosen))

    def _of_part(self, selector: str, at: str, known: Mapping[str, Known]) -> set[str]:
        """What a selector of the config chooses, by its names in the output."""
        name, _, rest = selector.partition("/")
        at = f"freeze.{at}"
        if name not in self.parameters:
            parts = ", ".join(self.parameters)
            such = f"{parts.split(',')[0]}/last:2"
            message = f"`{selector}`: expected a part ({parts}), or one and what of it, such as {such}"
            raise UsageError(f"{at}: {message}{near(name, self.parameters)}", at="freeze")
        every = {p.name for p in self.parameters[name] if not p.buffer}
        if not rest:
            return every
        if name not in known:
            raise UsageError(f"{at}: `{selector}`: `{name}` is a projection, and is trained whole", at="freeze")
        found = known[name].chosen([rest], at)
        taken = {new for new, old in self.names[name] if old in found}
        if not taken:
            raise UsageError(f"{at}: `{selector}` chooses nothing of what is taken of `{name}`", at="freeze")
        return taken


def _chosen(model: Checkpoint, asked: Sequence[str], at: str, among: Sequence[str]) -> list[str]:
    """The tensors of these names, or that begin with them up to a dot, in the order of the model.

    Raises:
        UsageError: if one is of no tensor.
    """
    found: set[str] = set()
    for one in asked:
        begin = one if one.endswith(".") else f"{one}."
        own = [name for name in among if name == one or name.startswith(begin)]
        if not own:
            there = _beginnings(among)
            hint = near(one.rstrip("."), there) or f"; there are {', '.join(t for t in there if '.' not in t)}"
            raise UsageError(f"{at}: no tensor of {model.path} is `{one}` or begins with it{hint}", at=at)
        found.update(own)
    return [name for name in among if name in found]


def _same(model: Checkpoint, one: str, other: str) -> bool:
    """Whether two tensors are one: of one dtype and shape, and to the byte."""
    from suture.surgery.trunk import hashed

    a, b = model.info(one), model.info(other)
    return (a.dtype, a.shape) == (b.dtype, b.shape) and hashed(model, one) == hashed(model, other)


def _beginnings(names: Sequence[str]) -> list[str]:
    """Names up to their dots, without those of single layers."""
    cut = {".".join(parts[:n]) for name in names for parts in [name.split(".")] for n in range(1, len(parts) + 1)}
    return sorted(c for c in cut if not any(p.isdigit() for p in c.split(".")))


def _typed(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """A config with the dtype it states, at any depth, as it now is."""
    return {
        key: dtype if key in ("dtype", "torch_dtype") and isinstance(value, str) else
        _typed(value, dtype) if isinstance(value, dict) and key != "quantization_config" else value
        for key, value in config.items()
    }  # fmt: skip
