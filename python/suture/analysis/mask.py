"""Which parameters a training recipe trains and freezes, as lists that trainers read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

from suture import _core
from suture.analysis.layers import listed_layers
from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError, near
from suture.recipe import documents
from suture.reference import Model
from suture.results.masks import Mask
from suture.results.masks import Stage as Masked
from suture.results.reading import Stack
from suture.results.stacks import stack_called

#: The file that says so, beside an output.
FILE = "suture-mask.json"
#: Words of names, lower-case: a part of a name between dots that is one of these, or holds it.
_NORM = re.compile(r".*norm.*|ln(_?\w+)?|layer_?norm\w*")
_ATTENTION = re.compile(r".*(attn|attention).*")
_ADAPTER = re.compile(r".*(lora_|adapter|bottleneck|ia3_|prefix_encoder|prompt_embeddings).*")
_MIXER = re.compile(r".*(mamba|ssm|mixer|conv|rwkv|recurrent|rglru).*")
_EXPERT = re.compile(r"experts?|shared_experts?")
_EMBEDDING = re.compile(r"(.*_)?embed(ding)?s?(_.*)?|wte|wpe|shared")
_HEAD = re.compile(r"(generator_)?lm_head|embed_out|output_projection|score|classifier|qa_outputs|cls|pooler|vocab_.*")


@dataclass(frozen=True)
class Parameter:
    """A tensor of a model, and what is known of it.

    Attributes:
        name: what it is called.
        elements: how many numbers it has.
        layer: its layer, as comparisons name it (``3``, ``encoder:3``); ``-`` for none.
        words: the parts of its name between dots, lower-case.
        table: whether it has a row for each token.
        buffer: whether no training changes it by gradients.
    """

    name: str
    elements: int
    layer: str
    words: tuple[str, ...]
    table: bool
    buffer: bool

    def has(self, pattern: re.Pattern[str]) -> bool:
        """Whether a word of its name is of a kind."""
        return any(pattern.fullmatch(word) for word in self.words)


def _inside(p: Parameter) -> bool:
    return p.layer != "-"


#: Classes of parameters, by what they are asked for.
CLASSES: dict[str, Callable[[Parameter], bool]] = {
    "all": lambda p: True,
    "words": lambda p: p.table,
    "embeddings": lambda p: p.table or (not _inside(p) and p.has(_EMBEDDING)),
    "head": lambda p: not _inside(p) and not p.table and (_core.is_vocabulary(p.name) or p.has(_HEAD)),
    "norms": lambda p: p.has(_NORM),
    "biases": lambda p: p.words[-1] == "bias",
    "attention": lambda p: any(_ATTENTION.fullmatch(w) and not _NORM.fullmatch(w) for w in p.words),
    "mlp": lambda p: _inside(p) and not any(map(p.has, (_NORM, _ATTENTION, _ADAPTER, _MIXER))),
    "experts": lambda p: p.has(_EXPERT),
    "adapters": lambda p: p.has(_ADAPTER),
}


class Known:
    """What selectors choose from: the parameters of a model.

    Attributes:
        model: the model.
        parameters: all its tensors, in the order of their bytes.
    """

    def __init__(self, model: Model) -> None:
        # It takes NumPy, which `suture diff` need not wait for.
        from suture.analysis.stored import tables

        self.model = model
        self._checkpoint = found = Checkpoint.plain(model)
        self._stacks: list[Stack] = json.loads(found._core.stacks_json())
        of_tokens = {t.name for t in tables(found) if t.role == "embedding"}
        self.parameters = [self._parameter(name, name in of_tokens) for name in found.names]

    def _parameter(self, name: str, table: bool) -> Parameter:
        info = self._checkpoint.info(name)
        place, layer = _core.layer_of(name), "-"
        for stack in self._stacks:
            if place is not None and place[0] == stack["prefix"] and 0 <= place[1] - stack["first"] < stack["layers"]:
                number = place[1] - stack["first"]
                layer = str(number) if stack["main"] else f"{stack['name']}:{number}"
        buffer = _core.is_buffer(name, len(info.shape)) or info.dtype not in ("F64", "F32", "F16", "BF16")
        words = tuple(name.lower().split("."))
        return Parameter(name, math.prod(info.shape), layer, words, table, buffer)

    def chosen(self, selectors: Sequence[str], at: str) -> set[str]:
        """The parameters that selectors choose, together.

        Raises:
            UsageError: if one chooses none, or cannot be read.
        """
        return {name for selector in selectors for name in self._one(selector, at)}

    def _one(self, selector: str, at: str) -> set[str]:
        # A pattern may hold a slash.
        head, of_pattern, tail = f"/{selector}".partition("/re:")
        terms = [t.strip() for t in head.split("/")[1:]] + ([f"re:{tail}"] if of_pattern else [])
        found: set[str] | None = None
        for term in terms:
            own = {p.name for p in self.parameters if not p.buffer} & self._term(term, at)
            found = own if found is None else found & own
        if not found:
            hint = near(selector, [*CLASSES, *self._prefixes()])
            kinds = ", ".join(CLASSES)
            ways = f"expected {kinds}, layers (0-3, last:2, outside), the beginning of a name, or re:PATTERN"
            raise UsageError(f"{at}: `{selector}` chooses nothing in {fspath(self.model)}{hint or f'; {ways}'}", at=at)
        return found

    def _term(self, term: str, at: str) -> set[str]:
        if term.startswith("re:"):
            try:
                pattern = re.compile(term[3:])
            except re.error as e:
                raise UsageError(f"{at}: `{term}` is no regular expression: {e}", at=at) from None
            return {p.name for p in self.parameters if pattern.search(p.name)}
        if term in CLASSES:
            return {p.name for p in self.parameters if CLASSES[term](p)}
        begin = term if term.endswith(".") else f"{term}."
        if edge := re.fullmatch(r"(?:(.*):)?(first|last):(\d+)", term):
            term = self._edge(edge[1], edge[2] == "first", int(edge[3]), at)
        elif by_name := {p.name for p in self.parameters if p.name == term or p.name.startswith(begin)}:
            stack = next((s for s in self._stacks if s["name"] == term), None)
            if stack is None:
                return by_name
        elif not re.fullmatch(r"outside|-|(.+:)?\s*\d+(\s*-\s*\d+)?", term) and all(
            term not in (s["name"], s["role"]) for s in self._stacks
        ):
            return set()
        try:
            layers = listed_layers(self.model, term)
        except UsageError as e:
            raise UsageError(f"{at}: {e}", at=at) from None
        return {p.name for p in self.parameters if p.layer in layers}

    def _edge(self, stack: str | None, first: bool, count: int, at: str) -> str:
        """The first or last layers of a stack, as a list of layers."""
        found = stack_called(fspath(self.model), self._stacks, stack, "name one, such as encoder:last:2")
        if not 1 <= count <= found["layers"]:
            raise UsageError(f"{at}: {count} layers of {found['layers']}; expected 1 to {found['layers']}", at=at)
        begin, end = (0, count - 1) if first else (found["layers"] - count, found["layers"] - 1)
        return f"{'' if found['main'] else found['name'] + ':'}{begin}-{end}"

    def _prefixes(self) -> list[str]:
        return sorted({".".join(p.name.split(".")[:n]) for p in self.parameters for n in (1, 2, 3)})


def mask(
    model: Model,
    *,
    train: str | Sequence[str] | None = None,
    freeze: str | Sequence[str] | None = None,
    stages: Sequence[Mapping[str, Any]] | str | PathLike[str] | None = None,
) -> Mask:
    """Which parameters a training recipe trains, and which it freezes. Headers are read, weights are not.

    Selectors are classes (``all``, ``words``, ``embeddings``, ``head``, ``norms``, ``biases``, ``attention``, ``mlp``,
    ``experts``, ``adapters``), layers (``0-3``, ``encoder:0-3``, ``first:2``, ``last:2``, ``outside``), names or their
    beginnings, ``re:PATTERN`` (found anywhere in a name); with ``/`` between them they must all hold
    (``last:2/attention``), a list is what any chooses.

    Args:
        model: the model that is to be trained.
        train: what is trained; all that `freeze` leaves, if not given.
        freeze: what is not, whatever `train` says; all that `train` leaves, if not given.
        stages: stages one after another, each a mapping with `train`, `freeze` or both, and perhaps a `name`; or a YAML
            file with a list of them under `stages`. Then `train` and `freeze` are not given.

    Raises:
        SutureError: if the model is not sound.
        UsageError: if a selector chooses nothing, or a stage trains or asks for nothing.
    """
    asked = asked_stages(train, freeze, stages)
    known = Known(model)
    chosen = [tuple(None if s is None else known.chosen(s, at) for s in both) for at, _, *both in asked]
    names = [name for _, name, *_ in asked]
    told = _ties(known, [(t, f) for t, f in chosen])
    return masked_by(fspath(model), known.parameters, list(zip(names, chosen, strict=True)), told)


#: A stage that is asked for: where, its name, the selectors of what is trained and of what is frozen.
Asked = tuple[str, str, Sequence[str] | None, Sequence[str] | None]


def asked_stages(train: Any, freeze: Any, stages: Any) -> list[Asked]:
    """The stages that are asked for.

    Raises:
        UsageError: if nothing is asked, or a stage is none.
    """
    if stages is not None and (train is not None or freeze is not None):
        raise UsageError("stages: say what each trains; leave train and freeze beside it out", at="stages")
    if stages is None:
        listed: Any = [{"train": train, "freeze": freeze}]
    elif isinstance(stages, str | PathLike):
        found = documents(fspath(stages))
        if len(found) != 1 or not isinstance(found[0].recipe.get("stages"), list):
            raise UsageError(f"{fspath(stages)}: expected a list under `stages`", at="stages")
        listed = found[0].recipe["stages"]
    else:
        listed = stages
    out: list[Asked] = []
    for i, stage in enumerate(listed if isinstance(listed, list | tuple) else [listed], 1):
        at = f"stages[{i - 1}]" if stages is not None else "train"
        if not isinstance(stage, Mapping) or not stage.keys() <= {"name", "train", "freeze"}:
            raise UsageError(f"{at}: expected a mapping with `train`, `freeze` or both, and perhaps a `name`", at=at)
        own = [_selectors(stage.get(key), f"{at}.{key}" if stages is not None else key) for key in ("train", "freeze")]
        if own == [None, None]:
            raise UsageError(f"{at}: say what is trained (`train`) or what is not (`freeze`)", at=at)
        name = str(stage.get("name", i))
        if name in [n for _, n, *_ in out]:
            raise UsageError(f"{at}.name: two stages are called `{name}`", at=at)
        out.append((at, name, own[0], own[1]))
    if not out:
        raise UsageError("stages: expected at least one", at="stages")
    return out


def _selectors(given: Any, at: str) -> list[str] | None:
    if given is None:
        return None
    listed = [given] if isinstance(given, str | int) else given
    if not isinstance(listed, list | tuple) or not listed or not all(isinstance(s, str | int) for s in listed):
        raise UsageError(f"{at}: expected selectors such as embeddings, last:2 or re:PATTERN", at=at)
    return [one.strip() for s in listed for one in _apart(str(s))]


def _apart(text: str) -> list[str]:
    """Selectors between commas; a pattern may hold one, and is the last."""
    found = re.search(r"(?:^|[,/])\s*re:", text)
    begin = text.rfind(",", 0, found.start() + 1) + 1 if found else len(text) + 1
    return [*(text[: begin - 1].split(",") if begin else ()), *([text[begin:]] if found else ())]


#: What a stage chose: of what is trained and what is frozen; None for what is left.
Chosen = tuple[set[str] | None, ...]


def masked_by(
    model: str, parameters: Sequence[Parameter], stages: Sequence[tuple[str, Chosen]], told: Sequence[str] = ()
) -> Mask:
    """The mask of parameters, of what each stage chose.

    Raises:
        UsageError: if a stage trains nothing.
    """
    trainable = [p for p in parameters if not p.buffer]
    out: list[Masked] = []
    for name, (train, freeze) in stages:
        yes = [p for p in trainable if (train is None or p.name in train) and not (freeze and p.name in freeze)]
        if not yes:
            raise UsageError(f"stage {name}: trains nothing; what it trains is frozen too", at="stages")
        own = {p.name for p in yes}
        no = [p for p in trainable if p.name not in own]
        out.append(
            {
                "name": name,
                "train": [p.name for p in yes],
                "freeze": [p.name for p in no],
                "train_regex": pattern([p.name for p in yes]),
                "freeze_regex": pattern([p.name for p in no]),
                "train_parameters": sum(p.elements for p in yes),
                "freeze_parameters": sum(p.elements for p in no),
            }
        )
    buffers = [p.name for p in parameters if p.buffer]
    return {"schema": 1, "model": model, "stages": out, "buffers": buffers, "warnings": list(told)}


def _ties(known: Known, chosen: Sequence[Chosen]) -> list[str]:
    """Tell of a head that is the embedding: it is trained, and frozen, with it."""
    found = known._checkpoint
    if found._core.tied is not True or not any((t is None or w) for t, _ in chosen for w in [_words(known, t)]):
        return []
    return [f"{found.path}: its head is its table of tokens, so that what trains the one trains the other"]


def _words(known: Known, chosen: set[str] | None) -> bool:
    return chosen is not None and any(p.table and p.name in chosen for p in known.parameters)


def pattern(names: Iterable[str]) -> str:
    """A regular expression that matches exactly these names: layers that have the same tensors share a group."""
    outside: list[str] = []
    layers: dict[str, dict[str, list[int]]] = {}
    for name in names:
        place = _core.layer_of(name)
        # What stands before and behind the number must give the name again.
        if place is None or not name.startswith(place[0]):
            outside.append(name)
            continue
        head, number, tail = re.match(r"(.*?)(\d+)(.*)", name[len(place[0]) :], re.DOTALL).groups()  # type: ignore[union-attr]
        if head or int(number) != place[1] or str(place[1]) != number:
            outside.append(name)
        else:
            layers.setdefault(place[0], {}).setdefault(tail, []).append(place[1])
    parts = [_either(outside)] if outside else []
    for stack, tails in layers.items():
        shared: dict[tuple[int, ...], list[str]] = {}
        for tail, numbers in tails.items():
            shared.setdefault(tuple(sorted(numbers)), []).append(tail)
        for which, own in shared.items():
            parts.append(f"{re.escape(stack)}{_either(map(str, which))}{_either(own)}")
    # Of no names: what nothing matches.
    return f"^(?:{'|'.join(parts)})$" if parts else "(?!)"


def _either(texts: Iterable[str]) -> str:
    listed = [re.escape(t) for t in texts]
    return listed[0] if len(listed) == 1 else f"(?:{'|'.join(listed)})"


def as_bytes(found: Mask) -> bytes:
    """The mask as its file has it."""
    return (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode()


def read_mask(path: str | PathLike[str]) -> Mask:
    """Read a mask that was written before.

    Raises:
        SutureError: if it cannot be read, or is no mask.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except OSError as e:
        raise SutureError(f"{fspath(path)}: cannot be read: {e.strerror}", path) from None
    except (ValueError, RecursionError) as e:
        raise SutureError(f"{fspath(path)}: cannot be read as JSON: {e}", path) from None
    stages = found.get("stages") if isinstance(found, dict) else None
    names = (found or {}).get("buffers", []) if isinstance(found, dict) else []
    lists = [s.get(key) if isinstance(s, dict) else None for s in stages or () for key in ("train", "freeze")]
    named = all(isinstance(s, dict) and isinstance(s.get("name"), str) for s in stages or ())
    sound = isinstance(stages, list) and stages and named and isinstance(names, list) and found.get("schema") == 1
    if not sound or not all(isinstance(own, list) and all(isinstance(n, str) for n in own) for own in [*lists, names]):
        raise SutureError(f"{fspath(path)}: is no mask of suture's; `suture mask` writes one", path)
    return found  # type: ignore[no-any-return]
