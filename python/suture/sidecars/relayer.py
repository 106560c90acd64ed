"""config.json rewritten for layers that were moved: what every layer is stays true, or the move is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from suture.errors import SutureError
from suture.sidecars.kind_keys import (
    COUNTS,
    FIRSTS,
    HOOKS,
    INDEXES,
    LASTS,
    LISTS,
    Scalar,
    is_index,
    is_list,
    is_period,
    speaks,
)
from suture.sidecars.kind_rules import Rule, Section
from suture.sidecars.kinds import (
    ASPECTS,
    WINDOWS,
    Kind,
    Rules,
    count_of,
    keys_of,
    kinds_by,
    lender,
    named,
    rules_of,
    stack_of,
    synonyms,
)
from suture.sidecars.quantized import rename_quantized

Moved = Sequence[tuple[int, int]]
#: Sizes that all layers of most families have in common.
_SIZES = ("intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
#: Families whose decoder has as many layers as the encoder unless told.
_SYMMETRIC = ("t5", "mt5", "umt5", "longt5", "pop2piano", "udop")


@dataclass(frozen=True)
class _Move:
    """A move of layers."""

    section: Section
    before: int
    moved: Moved
    #: The section of every model that layers are taken from, and of `model`.
    donors: Mapping[int, Section]
    counts: Mapping[int, int]
    count_key: str
    model: int

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Every layer of the output: its number, the model and the number that it had there."""
        return ((i, m, layer) for i, (m, layer) in enumerate(self.moved))


def relayer(
    section: Section,
    moved: Moved,
    donors: Mapping[int, Section],
    count_key: str,
    *,
    model: int,
    model_type: str = "",
    prefix: str = "",
) -> tuple[dict[str, Any], list[str]]:
    """The part of a config that counts a stack of layers, as it must be once the layers are others.

    `moved[i]` is the model and the number of the layer that becomes layer `i`; `donors` has the same part of every
    model's config, and `section` is that of `model`. `model_type` is that of the whole config, for a part that does not
    state its own; `prefix` is what stands before the numbers of these layers in
    the names of tensors, for `quantization_config`. With the result come warnings that name keys whose meaning is not
    known. Where nothing moved, the section is as it was.

    Raises:
        SutureError: if the config cannot say what some layer is, or if what it says makes no sense.
    """
    before = count_of(section, count_key)
    if list(moved) == [(model, i) for i in range(before)]:
        return dict(section), []
    donors = {m: named(d, model_type) for m, d in donors.items()}
    move = _move(named(section, model_type), before, moved, donors, count_key, model)
    rules = _rules(move)
    kinds = {m: kinds_by(rules[m], d, move.counts[m]) for m, d in move.donors.items()}
    out = _counted(move)
    warnings = [
        f"model {m} has no config; its layers are taken to be as those of model {model}"
        for m in move.donors
        if m not in donors and m != model
    ]
    warnings += _lists(out, move, rules[model])
    _settle(out, move, rules[model], kinds)
    _check(out, move, rules[model], kinds)
    warnings += _quantized(out, move, prefix)
    if any(i != layer for i, _, layer in move) or len(moved) != before:
        warnings += _untold(move, rules[model])
    return {k: v for k, v in out.items() if k in section or k != "model_type"}, warnings


def _quantized(out: dict[str, Any], move: _Move, prefix: str) -> list[str]:
    """Gives the names of quantised layers their new numbers."""
    key = "quantization_config"
    told = {m: q for m, d in move.donors.items() if isinstance(q := d.get(key), Mapping)}
    if move.model not in told:
        return []
    out[key], warnings = rename_quantized(told[move.model], move.moved, told, model=move.model, prefix=prefix)
    return warnings


def _move(
    section: Section, before: int, moved: Moved, donors: Mapping[int, Section], count_key: str, model: int
) -> _Move:
    if not moved:
        raise SutureError(f"config.json: expected at least one layer to count as `{count_key}`, found none")
    used = {m: donors.get(m, section) for m, _ in moved} | {model: section}
    counts = {m: count_of(d, count_key) for m, d in used.items()}
    for i, (m, layer) in enumerate(moved):
        if not 0 <= layer < counts[m]:
            raise SutureError(
                f"config.json of model {m}: expected layers 0 to {counts[m] - 1} by `{count_key}`, found layer {layer} "
                f"to become layer {i}"
            )
    return _Move(section, before, moved, used, counts, count_key, model)


def _rules(move: _Move) -> dict[int, Rules]:
    """The rules of every model, so that all tell the same aspects."""
    rules = {m: rules_of(d, move.counts[m], move.count_key) for m, d in move.donors.items()}
    shared = _shared_rules(move, rules)
    aspects = {rule.aspect for rule in shared}
    return {
        m: Rules(r.family, r.known, (*(rule for rule in r.rules if rule.aspect not in aspects), *shared))
        for m, r in rules.items()
    }


def _shared_rules(move: _Move, rules: Mapping[int, Rules]) -> list[Rule]:
    """Rules made of the keys that any of the models has, to be asked of all."""
    own = rules[move.model]
    static = {rule.aspect for rule in own.family.rules}
    made: dict[str, Rule] = {}
    for found in (own, *rules.values()):
        for rule in found.rules:
            if (
                rule not in found.family.rules
                and rule.aspect not in static
                and not set(keys_of(rule)) & own.claimed_by_family
            ):
                made.setdefault(rule.aspect, rule)
    for key in _SIZES:
        sizes = [d.get(key) for d in move.donors.values()]
        if key not in made and all(type(s) is int for s in sizes) and len(set(sizes)) > 1:
            made[key] = Scalar(key, (key,))
    return list(made.values())


def _counted(move: _Move) -> dict[str, Any]:
    """The section with the new number of layers under every key that counts them."""
    section, after = move.section, len(move.moved)
    out = dict(section)
    same = [k for k in synonyms(section, move.count_key) if _is(section.get(k), move.before)]
    absent = move.count_key not in section and stack_of(section, move.count_key) == "decoder"
    for key in (*same, *([move.count_key] if absent or _is(section.get(move.count_key), move.before) else [])):
        out[key] = after
    if section.get("model_type") == "longcat_flash" and _is(section.get("num_hidden_layers"), 2 * move.before):
        out["num_hidden_layers"] = 2 * after
    encoder = move.count_key in ("num_layers", "num_hidden_layers") and section.get("model_type") in _SYMMETRIC
    if encoder and section.get("num_decoder_layers") is None:
        out["num_decoder_layers"] = move.before
    return out


def _is(value: Any, count: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == count


def _lists(out: dict[str, Any], move: _Move, rules: Rules) -> list[str]:
    """Gives every layer its own entry in lists with one a layer, and its new number in lists of numbers."""
    warnings = []
    listed = {k for rule in rules.rules for k in rule.lists()}
    for key, value in move.section.items():
        if key not in rules.claimed and is_index(key, value, move.before):
            out[key] = [i for i, m, layer in move if layer in (move.donors[m].get(key) or ())]
            warnings.append(f"`{key}` was taken to list layers by their numbers")
        elif isinstance(value, list) and (key in listed or is_list(key, value, move.before, move.section)):
            entries = [_entry(key, move.donors[m], move.counts[m], layer) for _, m, layer in move]
            if None not in entries:
                out[key] = [*(e[0] for e in entries if e), *value[move.before :]]
            elif key not in listed:
                raise SutureError(_no_entry(key, move, entries.index(None)))
            if key not in listed and key not in LISTS:
                warnings.append(f"`{key}` was taken to have one entry for each layer")
    return warnings + _elsewhere(move, rules)


def _no_entry(key: str, move: _Move, at: int) -> str:
    m, layer = move.moved[at]
    return (
        f"config.json of model {m}: expected an entry for layer {layer} in `{key}`, as model {move.model} has one for "
        f"each of its layers, found none; add the list, or take no layers of it"
    )


def _entry(key: str, section: Section, layers: int, layer: int) -> tuple[Any] | None:
    """A layer's entry in a list; None if there is no such list."""
    value = section.get(key)
    if isinstance(value, list):
        return (value[layer],) if len(value) >= layers > layer else None
    return (value,) if isinstance(value, int | float | str) else None


def _elsewhere(move: _Move, rules: Rules) -> list[str]:
    """Names lists of other models that the output's config has no key for."""
    warnings = []
    for m, section in move.donors.items():
        for key, value in section.items():
            if key in move.section or key in rules.claimed or key in LISTS | INDEXES:
                continue
            if is_list(key, value, move.counts[m], section) or is_index(key, value, move.counts[m]):
                warnings.append(f"`{key}` of model {m} is left out: model {move.model}, whose config it is, has none")
    return warnings


def _settle(out: dict[str, Any], move: _Move, rules: Rules, kinds: Mapping[int, list[Kind]]) -> None:
    """Lets every rule write what it must say, in their order: later ones may follow from earlier ones."""
    for rule in rules.rules:
        wanted = [_value(kinds[m][layer], rule.aspect) for _, m, layer in move]
        for key, value in (rule.settle(out, wanted) or {}).items():
            if value is None:
                out.pop(key, None)
            else:
                out[key] = value


def _value(kind: Kind, aspect: str) -> str:
    return str(getattr(kind, aspect)) if aspect in ASPECTS else dict(kind.sizes).get(aspect, "")


def _check(out: dict[str, Any], move: _Move, rules: Rules, kinds: Mapping[int, list[Kind]]) -> None:
    """Compares what every layer is with what the new config says that it is."""
    found = kinds_by(rules, out, len(move.moved))
    for i, m, layer in move:
        if found[i] != kinds[m][layer]:
            raise SutureError(_differs(move, rules, i, kinds[m][layer], found[i]))
    by_kind = any("num_kv_shared_layers" in keys_of(rule) for rule in rules.rules)
    for i, m, layer in move:
        now, was = lender(found, i, by_kind=by_kind), lender(kinds[m], layer, by_kind=by_kind)
        if (None if now is None else tuple(move.moved[now])) != (None if was is None else (m, was)):
            key = _key(move.section, rules, "shares")
            raise SutureError(
                f"config.json: `{key}` cannot say what the layers now are: layer {i} was layer {layer} of model {m} "
                f"and is expected to share what layer {was} there computes, found that it would share what was layer "
                f"{'none' if now is None else move.moved[now][1]}; keep both layers, in this order"
            )


def _differs(move: _Move, rules: Rules, i: int, wanted: Kind, found: Kind) -> str:
    m, layer = move.moved[i]
    aspect = next(f.name for f in fields(Kind) if getattr(wanted, f.name) != getattr(found, f.name))
    was, now = getattr(wanted, aspect), getattr(found, aspect)
    if aspect == "sizes":
        olds, news = dict(wanted.sizes), dict(found.sizes)
        aspect = next(k for k in sorted({*olds, *news}) if olds.get(k) != news.get(k))
        was, now = olds.get(aspect), news.get(aspect)
    key = _key(move.section, rules, aspect, wanted.attention)
    return (
        f"config.json: `{key}` cannot say what the layers now are: layer {i} was layer {layer} of model {m}, expected "
        f"{aspect} {was or 'as in all layers'!r} as it was there, found {now or 'as in all layers'!r}; choose layers "
        f"that keep their kinds in their new places"
    )


def _key(section: Section, rules: Rules, aspect: str, attention: str = "full") -> str:
    """The key that tells an aspect: one that the section has, if any."""
    keys = [k for rule in rules.rules if rule.aspect == aspect for k in keys_of(rule)]
    if aspect == "window":
        keys = list(WINDOWS.get(attention, ("sliding_window",)))
    if not keys:
        keys = [k for rule in rules.rules if rule.aspect == "attention" for k in keys_of(rule)]
    return next((k for k in keys if section.get(k) is not None), keys[0] if keys else "sliding_window")


def _untold(move: _Move, rules: Rules) -> list[str]:
    """Names the keys that speak of layers and whose meaning is not known, or that name layers for others."""
    warnings = []
    known = rules.claimed | LISTS | INDEXES | set(COUNTS)
    for key, value in move.section.items():
        if value in (None, False, [], {}, "") or key in rules.claimed:
            continue
        moved = is_list(key, value, move.before, move.section) or is_index(key, value, move.before)
        if key in HOOKS:
            warnings.append(f"`{key}` names layers by their numbers, and stays as it is")
        elif key in (*FIRSTS, *LASTS) or is_period(key, value):
            warnings.append(f"`{key}` stays as it is: {move.section.get('model_type')} is not known to read it")
        elif key not in known and speaks(key) and not moved:
            warnings.append(f"`{key}` may speak of layers, and stays as it is: its meaning is not known")
    return warnings
