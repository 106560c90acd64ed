"""What each layer of a model is, as its config.json tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from suture.errors import SutureError
from suture.sidecars.kind_keys import DECODER, EITHER, ENCODER, by_names, by_shape
from suture.sidecars.kind_rules import Rule, Section, whole
from suture.sidecars.kind_special import LastFull
from suture.sidecars.kind_tables import FAMILIES
from suture.sidecars.kind_words import Family


@dataclass(frozen=True)
class Kind:
    """What one layer is; two layers can stand for each other where their kinds are equal.

    An empty text means: as every layer of its model. Values are those of transformers, without `_attention`.
    """

    #: full, sliding, chunked, linear (Mamba too), conv, cross, recurrent, hybrid, indexed, moe (alone), ...
    attention: str = "full"
    #: How far attention sees, where that is limited.
    window: int | None = None
    #: none, local, global, or a base of its own.
    rope: str = ""
    #: dense, experts or hashed.
    mlp: str = ""
    #: `shared` where keys and values, or what an indexer found, are an earlier layer's.
    shares: str = ""
    #: What depends on the number of the layer itself, in words.
    place: str = ""
    #: A factor of the residual that depends on the number of layers.
    residual: str = ""
    #: Values of the layer alone, by their keys, as JSON.
    sizes: tuple[tuple[str, str], ...] = ()


#: What a rule may tell beside values of single keys.
ASPECTS = frozenset(f.name for f in fields(Kind)) - {"window", "sizes"}
WINDOWS = {
    "sliding": ("sliding_window", "local_attention", "attention_window_size", "sliding_window_size"),
    "hybrid_sliding": ("sliding_window_size", "sliding_window"),
    "reference_sliding": ("sliding_window",),
    "local": ("window_size",),
    "chunked": ("attention_chunk_size",),
}
#: Model types without a `layer_types` of their own whose layers all have the window, if there is one.
_ALL_WINDOWED = {"mistral": 4096}


#: Layers that a config counts at most: no model has as many, and a hostile one must not make anyone count to them.
MOST = 100_000


#: What comes of reading values of other types than a key has.
SENSELESS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def senseless(error: Exception) -> str:
    """What was wrong with a value, of an error of ours or one of :data:`SENSELESS`."""
    ours = isinstance(error, SutureError)
    return str(error) if ours else f"config.json: what it says of its layers makes no sense: {error}"


def kinds(
    section: Mapping[str, Any], layers: int, count_key: str = "num_hidden_layers", *, model_type: str = ""
) -> list[Kind]:
    """What each of the layers is that this part of a config counts under `count_key`.

    `model_type` is that of the whole config, for a part that does not state its own.

    Raises:
        SutureError: if values make no sense, such as a list with an entry a layer that has fewer.
    """
    if layers > MOST:
        raise SutureError(f"config.json: expected at most {MOST:,} layers by `{count_key}`, found {layers:,}")
    section = named(section, model_type)
    try:
        return kinds_by(rules_of(section, layers, count_key), section, layers)
    except SENSELESS as e:
        raise SutureError(senseless(e)) from None


def named(section: Section, model_type: str) -> Section:
    """A section with a model type, its own if it has one."""
    return section if section.get("model_type") or not model_type else {**section, "model_type": model_type}


@dataclass(frozen=True)
class Rules:
    """The rules that hold for a section."""

    family: Family
    #: Whether the family is in a table.
    known: bool
    rules: tuple[Rule, ...]

    @property
    def claimed_by_family(self) -> frozenset[str]:
        """The keys that rules of the family read."""
        return frozenset(k for rule in self.family.rules for k in keys_of(rule)) | frozenset(self.family.idle)

    @property
    def claimed(self) -> frozenset[str]:
        """The keys that some rule reads."""
        return frozenset(k for rule in self.rules for k in keys_of(rule)) | frozenset(self.family.idle)


def keys_of(rule: Rule) -> tuple[str, ...]:
    """All keys of a rule."""
    inner = (*getattr(rule, "ways", ()), *([rule.told] if isinstance(rule, LastFull) else []))
    return (*rule.keys, *(k for way in inner for k in keys_of(way)))


def stack_of(section: Section, count_key: str) -> str:
    """Which of two stacks is counted under a key: encoder, decoder, or an empty text where there is but one."""
    if count_key in ENCODER:
        return "encoder"
    encoder = any(section.get(k) is not None for k in (*ENCODER, "num_layers"))
    decoder = any(section.get(k) is not None for k in DECODER)
    # T5 counts its encoder's layers as if there were no others; TrOCR is a decoder alone.
    two = section.get("is_encoder_decoder") is True or count_key == "num_decoder_layers" or (encoder and decoder)
    if count_key in DECODER:
        return "decoder" if two else ""
    return "encoder" if two else ""


def synonyms(section: Section, count_key: str) -> tuple[str, ...]:
    """Keys that count the same layers as `count_key`, if they have the same value."""
    stack = stack_of(section, count_key)
    return {"encoder": (*EITHER, *ENCODER), "decoder": DECODER}.get(stack, (*EITHER, *ENCODER, *DECODER))


def family_of(section: Section, stack: str = "") -> Family | None:
    """The family of a section, by its `model_type`."""
    own = str(section.get("model_type") or "")
    names = (own, f"{own}_text", f"{own}_text_model", own.replace("_", "-"), _ALIASES.get(own, ""))
    return next((FAMILIES[k] for n in names for k in (f"{n}/{stack}", n) if k in FAMILIES), None)


_ALIASES = {
    "t5gemma": "t5_gemma_module", "t5gemma2": "t5gemma2_text", "step3p7": "step3p5", "qwen2_5_omni_thinker":
    "qwen2_5_omni_text", "qwen3_omni_moe_thinker": "qwen3_omni_moe_text", "pix2struct": "pix2struct_text_model",
}  # fmt: skip


def rules_of(section: Section, layers: int, count_key: str = "num_hidden_layers") -> Rules:
    """The rules for a section: those of its family, and those for its lists."""
    stack = stack_of(section, count_key)
    found = family_of(section, stack)
    known = Rules(found or Family(), found is not None, (found or Family()).rules)
    more = [] if found else by_names(section, layers, known.claimed)
    claimed = known.claimed | {k for rule in more for k in keys_of(rule)}
    more += [r for r in by_shape(section, layers, claimed) if not _of_other_stack(r, stack)]
    if not any(r.aspect == "attention" for r in (*known.rules, *more)) and isinstance(section.get("layer_types"), list):
        more += by_names({"layer_types": section["layer_types"]}, layers, frozenset())
        more = [r for r in more if r.aspect != "layer_types"]
    return Rules(known.family, known.known, (*known.rules, *more))


def _of_other_stack(rule: Rule, stack: str) -> bool:
    """LED's windows are those of its encoder."""
    return stack == "decoder" and rule.keys == ("attention_window",)


def values_by(rules: Rules, section: Section, layers: int) -> dict[str, list[str]]:
    """What the rules read, by aspect."""
    return {rule.aspect: rule.read(section, layers) for rule in rules.rules}


def kinds_by(rules: Rules, section: Section, layers: int) -> list[Kind]:
    """What each layer is by these rules."""
    values = values_by(rules, section, layers)
    if "attention" not in values:
        values["attention"] = [_uniform(section)] * layers
    made = []
    for i in range(layers):
        own = {a: v[i] for a, v in values.items()}
        told = {a: v for a, v in own.items() if a in ASPECTS}
        if "rope" not in told:
            told["rope"] = rules.family.rope.get(own["attention"], "")
        sizes = tuple(sorted((a, v) for a, v in own.items() if a not in ASPECTS))
        made.append(Kind(window=_window(section, own["attention"], i), sizes=sizes, **told))
    return made


def _uniform(section: Section) -> str:
    """The attention of layers that are all alike."""
    window = section.get("sliding_window", _ALL_WINDOWED.get(str(section.get("model_type"))))
    return "sliding" if type(window) is int and window > 0 and section.get("use_sliding_window", True) else "full"


def _window(section: Section, attention: str, layer: int) -> int | None:
    for key in WINDOWS.get(attention, ()):
        value = section.get(key)
        if isinstance(value, list):
            return None  # It is among the sizes.
        if value is not None:
            return whole({key: value}, key, None, -1)
    return None


def lender(made: Sequence[Kind], layer: int, *, by_kind: bool) -> int | None:
    """The layer whose keys and values, or findings, a layer takes; None if it has its own.

    `by_kind` says that it must be of the same attention (Gemma); else it is the last before that has its own.
    """
    if made[layer].shares != "shared":
        return None
    own = (j for j in range(layer - 1, -1, -1) if made[j].shares != "shared")
    return next((j for j in own if not by_kind or made[j].attention == made[layer].attention), None)


def count_of(section: Section, count_key: str) -> int:
    """How many layers a section counts.

    Raises:
        SutureError: if no key tells.
    """
    others = [k for k in synonyms(section, count_key) if k != "max_window_layers"]
    for key in (count_key, *others, "num_layers"):
        if (found := whole(section, key, None, 1)) is not None:
            if found > MOST:
                raise SutureError(f"config.json: expected at most {MOST:,} layers by `{key}`, found {found:,}")
            return found
    for key in ("layers_block_type", "hybrid_override_pattern", "attn_layers", "layer_types"):
        if isinstance(section.get(key), list | str):
            return len(section[key])
    raise SutureError(f"config.json: expected the number of layers as `{count_key}`, found no such key")
