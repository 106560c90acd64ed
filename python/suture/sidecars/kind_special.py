"""Rules of single families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from suture.errors import SutureError
from suture.sidecars.kind_rules import (
    Changes,
    First,
    FirstOf,
    Fixed,
    Listed,
    Rule,
    Schedule,
    Section,
    number,
    numbers,
    plain,
    whole,
)
from suture.sidecars.kind_words import ROPES, attention, every, fixed


def dense_and_step(section: Section, layers: int) -> list[str]:
    """A.X: dense at first, then one layer with experts in every few."""
    first, step = number(section, "first_k_dense_replace", 1), number(section, "moe_layer_freq", 1, 1)
    return ["experts" if i >= first and i % step == 0 else "dense" for i in range(layers)]


class SparseStep(Rule):
    """Qwen: experts in one layer of every few, but for those listed."""

    def read(self, section: Section, layers: int) -> list[str]:
        """What the two keys say of every layer."""
        step, dense = number(section, "decoder_sparse_step", 1, 1), numbers(section, "mlp_only_layers") or []
        some = section.get("num_experts") != 0
        sparse = (some and i not in dense and (i + 1) % step == 0 for i in range(layers))
        return ["experts" if s else "dense" for s in sparse]

    def write(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """A list of those that are dense, with the step if it fits."""
        step = number(section, "decoder_sparse_step", 1, 1)
        if any(w == "experts" and (i + 1) % step for i, w in enumerate(wanted)):
            step = 1
        dense = [i for i, w in enumerate(wanted) if w == "dense" and (i + 1) % step == 0]
        changed = {"decoder_sparse_step": step} if step != section.get("decoder_sparse_step", 1) else {}
        return changed | {"mlp_only_layers": dense}


QWEN_MLP = SparseStep("mlp", ("mlp_only_layers", "decoder_sparse_step"))


class ErnieRange(Rule):
    """ERNIE: experts in one layer of every few between two layers."""

    def read(self, section: Section, layers: int) -> list[str]:
        """What the three keys say of every layer."""
        start, step = number(section, "moe_layer_start_index", 1), number(section, "moe_layer_interval", 1, 1)
        end = whole(section, "moe_layer_end_index", -1, -1)
        last = layers - 1 if end in (None, -1) else end
        return ["experts" if (i + 1) % step == 0 and start <= i <= (last or 0) else "dense" for i in range(layers)]

    def write(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """Other borders and another step, if some fit."""
        at = [i for i, w in enumerate(wanted) if w == "experts"]
        start, end = (at[0], at[-1]) if at else (len(wanted), len(wanted))
        for step in (number(section, "moe_layer_interval", 1, 1), *range(1, len(wanted) + 1)):
            new = {"moe_layer_start_index": start, "moe_layer_end_index": end, "moe_layer_interval": step}
            if self.read({**section, **new}, len(wanted)) == list(wanted):
                return new
        return None


class WindowFrom(Rule):
    """Qwen2: the layers from a number on have a window, if windows are used at all."""

    #: Where `use_sliding_window` is no key of the family.
    always = False

    def present(self, section: Section) -> bool:
        """It always says something."""
        del section
        return True

    def _first(self, section: Section) -> int | None:
        model = str(section.get("model_type"))
        window = section.get("sliding_window", None if model in _NO_WINDOW else 4096)
        if window is None or not (self.always or section.get("use_sliding_window")):
            return None
        return number(section, "max_window_layers", _MOST_FULL.get(model, 28))

    def read(self, section: Section, layers: int) -> list[str]:
        """What the keys say of every layer."""
        first = self._first(section)
        return ["full" if first is None or i < first else "sliding" for i in range(layers)]

    def write(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """Another border, if one fits."""
        if self._first(section) is None:
            return None
        return First("attention", self.keys, before="full", after="sliding").write(section, wanted)


#: Families without a window if `sliding_window` is absent.
_NO_WINDOW = ("qwen3_omni_moe_talker_code_predictor",)
#: Where windows begin if `max_window_layers` is absent, other than at 28.
_MOST_FULL = {"qwen2_vl": 80, "qwen2_vl_text": 80, "qwen2_5_vl": 80, "qwen2_5_vl_text": 80, "dots1": 62}


class AlwaysWindowFrom(WindowFrom):
    """dots1: the same, whether `use_sliding_window` is set or not."""

    always = True


def window_from(*, always: bool = False) -> Rule:
    """`max_window_layers`, beside the list of types."""
    return (AlwaysWindowFrom if always else WindowFrom)("attention", ("max_window_layers",))


def qwen2_moe_types(section: Section, layers: int) -> list[str]:
    """Every other layer below `max_window_layers` has a window."""
    most, used = number(section, "max_window_layers", 28), bool(section.get("use_sliding_window"))
    return ["sliding" if used and i % 2 == 0 and i < most else "full" for i in range(layers)]


class PatternOfLetters(Rule):
    """EXAONE: a period, or letters for local and global that are repeated; the last layer is then global."""

    def read(self, section: Section, layers: int) -> list[str]:
        """What the pattern says of every layer."""
        pattern = section.get("sliding_window_pattern", 4)
        if section.get("sliding_window", 4096) is None or pattern in (None, 0):
            return ["full"] * layers
        if isinstance(pattern, str):
            local = (pattern[i % len(pattern)] == "L" and i != layers - 1 for i in range(layers))
            return ["sliding" if w else "full" for w in local]
        return every(4, self.keys[0]).read(section, layers)

    def write(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """Another period; letters are left to the list, which all versions read the same."""
        number_told = not isinstance(section.get(self.keys[0]), str)
        return every(4, self.keys[0]).write(section, wanted) if number_told else None


LETTERS = PatternOfLetters("attention", ("sliding_window_pattern",))


class GroupedTypes(Rule):
    """GPT-Neo: groups of types, each with how often it is repeated."""

    def read(self, section: Section, layers: int) -> list[str]:
        """The groups, one after another."""
        groups = section.get("attention_types", [[["global", "local"], 12]])
        # No group is counted to before it is known to fit.
        groups = [(types, max(n, 0)) for types, n in groups if types]
        found = sum(len(types) * n for types, n in groups)
        if found != layers:
            raise SutureError(
                f"config.json: expected a type for each of the {layers} layers in `{self.keys[0]}`, found {found}"
            )
        return [t for types, n in groups for _ in range(n) for t in types]

    def write(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """The shortest group that is repeated."""
        del section
        for size in range(1, len(wanted) + 1):
            if len(wanted) % size == 0 and list(wanted[:size]) * (len(wanted) // size) == list(wanted):
                return {"attention_types": [[list(wanted[:size]), len(wanted) // size]]}
        return None


class Kimi(Rule):
    """Kimi Linear: two lists inside `linear_attn_config` that count layers from 1."""

    def present(self, section: Section) -> bool:
        """Whether both lists are there."""
        inner = section.get("linear_attn_config")
        return isinstance(inner, dict) and {"full_attn_layers", "kda_layers"} <= set(inner)

    def read(self, section: Section, layers: int) -> list[str]:
        """What the lists say of every layer."""
        inner = section["linear_attn_config"]
        full, other = (numbers(inner, k) or [] for k in _KIMI)
        if sorted([*full, *other]) != list(range(1, layers + 1)):
            raise SutureError(
                f"config.json: expected each of the layers 1 to {layers} in one list of `linear_attn_config`, found "
                f"{full} and {other}"
            )
        return ["full" if i + 1 in full else "linear" for i in range(layers)]

    def write(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """Both lists."""
        listed = {k: [i + 1 for i, w in enumerate(wanted) if w == v] for k, v in _KIMI.items()}
        inner = section.get("linear_attn_config")
        return {"linear_attn_config": {**inner, **listed}} if isinstance(inner, dict) else None


_KIMI = {"full_attn_layers": "full", "kda_layers": "linear"}


def llama4_types(section: Section, layers: int) -> list[str]:
    """Layers with rope see chunks, those without all."""
    return ["full" if r == "none" else "chunked" for r in LLAMA4_ROPE.read(section, layers)]


def smollm3_types(section: Section, layers: int) -> list[str]:
    """If windows are used at all, layers without rope have one."""
    used = bool(section.get("use_sliding_window")) and section.get("sliding_window") is not None
    return ["sliding" if used and r == "none" else "full" for r in SMOLLM3_ROPE.read(section, layers)]


def _rope(*, empty_is_none: bool) -> Rule:
    listed = Listed("rope", ("no_rope_layers",), ROPES, empty_is_none=empty_is_none)
    return FirstOf("rope", ways=(listed, every(4, "no_rope_layer_interval", "none", "", aspect="rope")))


LLAMA4_ROPE = _rope(empty_is_none=True)
SMOLLM3_ROPE = _rope(empty_is_none=False)


def indexers(section: Section, layers: int) -> list[str]:
    """GLM: which layers look for tokens themselves, and which take what an earlier layer found."""
    pattern = section.get("index_topk_pattern")
    if pattern is not None:
        return ["shared" if p in ("S", "shared") else "" for p in pattern]
    step = max(number(section, "index_topk_freq", 1), 1)
    offset = number(section, "index_skip_topk_offset", 2)
    return ["" if max(i - offset + 1, 0) % step == 0 else "shared" for i in range(layers)]


def indexed(otherwise: Rule) -> Rule:
    """A list of indexers, and what holds without it."""
    names = {"full": "", "shared": "shared"}
    return FirstOf("shares", ways=(Listed("shares", ("indexer_types",), names), otherwise))


INDEXERS = indexed(Fixed("shares", ("index_topk_pattern", "index_topk_freq", "index_skip_topk_offset"), indexers))


def cohere2_moe_types(section: Section, layers: int) -> list[str]:
    """The dense layers at first have a period of their own."""
    first = number(section, "first_k_dense_replace", 0)
    before = number(section, "prefix_dense_sliding_window_pattern", 1, 1)
    after = number(section, "sliding_window_pattern", 4, 1)
    types = [(i + 1) % before for i in range(min(first, layers))]
    types += [(i + 1) % after for i in range(layers - first)]
    return ["sliding" if t else "full" for t in types]


def deepseek_v4_types(section: Section, layers: int) -> list[str]:
    """Ratios of an older form, or twice heavily compressed and then by turns."""
    ratios = section.get("compress_ratios")
    names = {0: "sliding", 4: "compressed", 128: "heavily_compressed"}
    if ratios is not None:
        return [names.get(r, str(r)) for r in ratios][:layers]
    return ["compressed" if i >= 2 and i % 2 else "heavily_compressed" for i in range(layers)]


def step3_experts(section: Section, layers: int) -> list[str]:
    """Layers with experts as numbers in a text."""
    told = section.get("moe_layers_enum")
    items = told.split(",") if isinstance(told, str) else told
    among = range(3, layers) if items is None else [int(i) for i in items if str(i).strip()]
    return ["experts" if i in among else "dense" for i in range(layers)]


def ultrabert_types(section: Section, layers: int) -> list[str]:
    """Windows of an older form, or two of three layers with one."""
    windows = section.get("attention_windows")
    told = windows if isinstance(windows, list) else [(i + 1) % 3 for i in range(layers)]
    return ["sliding" if w else "full" for w in told]


@dataclass(frozen=True)
class Flags(Rule):
    """A list of ones and zeros, one a layer, inside another key where `within` names it."""

    within: str | None = None
    yes: str = "experts"
    no: str = "dense"

    def _told(self, section: Section) -> Any:
        outer = section.get(self.within) if self.within else section
        return outer.get(self.keys[0]) if isinstance(outer, Mapping) else None

    def present(self, section: Section) -> bool:
        """Whether there is such a list."""
        return isinstance(self._told(section), list)

    def read(self, section: Section, layers: int) -> list[str]:
        """The meaning of each entry."""
        told = self._told(section)
        if not isinstance(told, list) or len(told) != layers:
            raise SutureError(
                f"config.json: expected one entry for each of the {layers} layers in `{self.keys[0]}`, found {told!r}"
            )
        return [self.yes if t else self.no for t in told]

    def write(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """The list."""
        told = [int(w == self.yes) for w in wanted]
        if not self.within:
            return {self.keys[0]: told}
        outer = section.get(self.within)
        return {self.within: {**outer, self.keys[0]: told}} if isinstance(outer, Mapping) else None


def sparse_of(sparse: str) -> Schedule:
    """Switch Transformers: how many layers have experts, spread over all."""

    def schedule(section: Section, layers: int) -> list[str]:
        some = number(section, sparse, 3)
        step = layers // some if some > 0 else layers
        return ["experts" if step > 0 and (step == 1 or i % step == 1) else "dense" for i in range(layers)]

    return schedule


def minimax_decay(section: Section, layers: int) -> list[str]:
    """How fast a lightning layer forgets depends on its number among all."""
    types = MINIMAX.read(section, layers)
    return [f"layer {i} of {layers}" if t == "linear" else "" for i, t in enumerate(types)]


@dataclass(frozen=True)
class Scaled(Rule):
    """A factor of the residual that follows from the number of all layers."""

    default: float | None = None
    #: The power of the number of layers that divides the key's value; without a value, `2n` to this power.
    divided: bool = True

    def read(self, section: Section, layers: int) -> list[str]:
        """The factor, the same for all."""
        value = section.get(self.keys[0], self.default)
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            value = None
        if self.divided:
            factor = 1.0 if value is None else value / max(layers, 1) ** 0.5
        else:
            factor = (2 * max(layers, 1)) ** -0.5 if value is None else value
        return [f"{factor:.12g}"] * layers

    def write(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """The value that gives the same factor."""
        del section
        if len(set(wanted)) != 1:
            return None
        factor = float(wanted[0])
        return {self.keys[0]: factor * len(wanted) ** 0.5 if self.divided else factor}


MINIMAX = attention(fixed(lambda n: ["linear" if i % 2 else "full" for i in range(n)]))


def zamba_types(section: Section, layers: int) -> list[str]:
    """Three layers of their own, then one in every few shares a transformer."""
    step, at = number(section, "attn_layer_period", 6, 1), number(section, "attn_layer_offset", 4)
    return ["linear", "linear", "hybrid", *("hybrid" if i % step == at else "linear" for i in range(layers - 3))]


def muse_rope(default: float) -> Schedule:
    """Muse: every fourth layer from the end has no rope, the others have the model's base."""

    def schedule(section: Section, layers: int) -> list[str]:
        inner = section.get("rope_parameters")
        told = inner.get("rope_theta") if isinstance(inner, Mapping) else None
        base = section.get("rope_theta", default) if told is None else told
        return ["none" if (layers - 1 - i) % 4 == 0 else plain(base) for i in range(layers)]

    return schedule


@dataclass(frozen=True)
class LastFull(Rule):
    """Gemma 4: whatever is told, attention in the last layer is full."""

    told: Rule = field(default_factory=lambda: Rule("attention"))

    def lists(self) -> tuple[str, ...]:
        """The keys with one entry a layer."""
        return self.told.lists()

    def read(self, section: Section, layers: int) -> list[str]:
        """What is told, but for the last layer."""
        return [*self.told.read(section, layers)[:-1], "full"]

    def settle(self, section: Section, wanted: Sequence[str]) -> Changes | None:
        """Tells it, if the last layer is to be full."""
        return self.told.settle(section, wanted) if wanted[-1] == "full" else None
