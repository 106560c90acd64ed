"""A set of models for several methods: what the set says once becomes a config for each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suture import _core
from suture.errors import SutureError, UsageError, near
from suture.recipe.config import Config, folder_name, resolved
from suture.recipe.levels import mapped, model_lists, parameters_of, refuse_moved, refuse_unknown
from suture.recipe.models import with_places
from suture.recipe.schema import merge_keys
from suture.recipe.twelve import TWELVE
from suture.reference import Reference

#: What lists the figures of the outputs, in the folder that holds them.
TABLE = "all_of.json"
#: What the twelve do that their method does only if told.
_OWN: dict[str, dict[str, Any]] = {"weight_average": {"weight": 1.0}}
#: Parameters that a preset of the pipeline reads with these words of `sparsify` alone.
_WITH = {
    "density": {"magnitude", "random", "della", "breadcrumbs", "cabs"},
    "gamma": {"breadcrumbs"},
    "epsilon": {"della"},
    "block": {"cabs"},
}
#: Methods that drop elements where they stand inside another.
_CUTTING = ("ties", "dare", "della", "breadcrumbs", "cabs")
#: Keys of documents that a set has not, and what to do instead.
_REFUSED = {
    "merge_method": "a set is merged by every method; list some under `methods`, or leave --all-of out",
    "outputs": "a set makes one output for each method, and no others",
    "name": "a set stands alone in its file: no other document uses what it makes",
    "groups": "a plan of groups is no set; leave --all-of out",
    "directions": "a plan of groups is no set; leave --all-of out",
}


@dataclass(frozen=True)
class Method:
    """A method of a set.

    Attributes:
        name: what its output is called.
        method: its name in the registry.
        title: what the paper of the twelve calls it, or else the name in the registry.
        own: its parameters that stand for those of the set.
        at: where it stands in the config, if it does.
    """

    name: str
    method: str
    title: str
    own: dict[str, Any] = field(default_factory=dict)
    at: str | None = None


@dataclass(frozen=True)
class Set:
    """A set of models, and the merges to make of it.

    Attributes:
        configs: a merge for each method, with its models found.
        methods: the methods, by the names of their outputs.
        base: the base, if there is one.
        experts: the other models, each once, in their order.
        left_out: which of the twelve cannot be run, and why.
        warnings: what the user should know.
    """

    configs: list[Config]
    methods: dict[str, Method]
    base: str | Reference | None
    experts: list[str | Reference]
    left_out: dict[str, str]
    warnings: list[str]


def read_set(document: Config, *, lenient: bool = False) -> Set:
    """The merges that a set asks for; `lenient` if names that nobody knows pass.

    Raises:
        UsageError: if the set is wrong; the message gives its line.
    """
    try:
        return _read(document, lenient or document.recipe.get("ignore_unknown") is True)
    except SutureError as e:
        raise document.locate(e) from None


def _read(document: Config, lenient: bool) -> Set:
    for key, instead in _REFUSED.items():
        if key in document.recipe:
            raise UsageError(f"{key}: {instead}", at=key)
    known = merge_keys() - _REFUSED.keys() | {"methods"}
    if not lenient:
        refuse_unknown(document.recipe, known | set(_core.unread_keys()), known)
    folder = document.source.parent if document.source else None
    shared = resolved(_mappings({k: v for k, v in document.recipe.items() if k != "methods"}), folder)
    refuse_moved(shared)
    base = shared.get("base_model")
    experts = _experts(shared, base)
    if not experts:
        raise UsageError("models: a set has at least one model beside its base", at="models")
    specs = {spec["name"]: spec for spec in json.loads(_core.methods_json())}
    asked = document.recipe.get("methods")
    if asked is None:
        chosen, left_out = _twelve(specs, has_base=base is not None, fewest=_fewest(shared, base))
    else:
        chosen, left_out = list(_asked(asked, specs, folder)), {}
    warnings = [f"{name}: left out, {why}" for name, why in left_out.items()]
    if not chosen:
        why_not = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise UsageError(f"none of the twelve methods can be run: {why_not}", at="models")
    shared, told = _checked(shared, chosen, specs, lenient)
    configs = []
    for one in chosen:
        recipe = _for(one, shared, specs[one.method], base)
        lines = document.lines | ({} if one.at is None else document.under(one.at))
        configs.append(Config(recipe, document.source, lines, one.name, listed=True))
    return Set(configs, {one.name: one for one in chosen}, base, experts, left_out, [*warnings, *told])


def _mappings(node: dict[str, Any]) -> dict[str, Any]:
    """A set with models that are plain names as mappings with nothing else in them."""
    made = dict(node)
    if isinstance(models := node.get("models"), list):
        made["models"] = [{"model": m} if isinstance(m, str) else m for m in models]
    if isinstance(modules := node.get("modules"), dict):
        made["modules"] = {k: _mappings(part) if isinstance(part, dict) else part for k, part in modules.items()}
    return made


def _twelve(specs: Mapping[str, Any], *, has_base: bool, fewest: int) -> tuple[list[Method], dict[str, str]]:
    """Those of the twelve that these models allow, and why not the others."""
    chosen: list[Method] = []
    left_out: dict[str, str] = {}
    for name, (method, title) in TWELVE.items():
        spec = specs.get(method)
        if spec is None:
            left_out[name] = f"this build has no method `{method}`"
        elif spec["base"] == "required" and not has_base:
            left_out[name] = "it needs a `base_model`, and the set has none"
        elif fewest < spec["inputs"][0]:
            left_out[name] = f"it merges at least {spec['inputs'][0]} models, and the set has {fewest}"
        else:
            chosen.append(Method(name, method, title, _OWN.get(name, {})))
    return chosen, left_out


def _asked(asked: Any, specs: Mapping[str, Any], folder: Path | None) -> Iterator[Method]:
    """The methods that the set lists: names, or a mapping from an output's name to its method and parameters."""
    if isinstance(asked, list):
        named = [(f"methods[{i}]", name, None) for i, name in enumerate(asked)]
    elif isinstance(asked, dict):
        named = [(f"methods.{name}", name, own) for name, own in asked.items()]
    else:
        named = []
    if not named:
        raise UsageError(
            "methods: expected a list of methods, or a mapping from an output's name to its method", at="methods"
        )
    seen: set[str] = set()
    for at, name, own in named:
        if not isinstance(name, str):
            raise UsageError(f"{at}: expected the name of a method; parameters go into a mapping by name", at=at)
        if name in seen:
            raise UsageError(f"{at}: two outputs are called `{name}`; name them in a mapping", at=at)
        seen.add(name)
        yield _one(at, name, own, specs, folder)


def _one(at: str, name: str, own: Any, specs: Mapping[str, Any], folder: Path | None) -> Method:
    own = {} if own is None else own
    if not isinstance(own, dict):
        raise UsageError(f"{at}: expected nothing, or a mapping with `merge_method` and `parameters`", at=at)
    keys = {"merge_method", "parameters"}
    refuse_unknown(own, keys, keys, f"{at}.")
    called = own.get("merge_method", name)
    where = f"{at}.merge_method" if "merge_method" in own else at
    method, title = TWELVE.get(called, (called, called)) if isinstance(called, str) else (called, called)
    if method not in specs:
        if called in TWELVE:
            raise UsageError(f"{where}: this build has no method `{method}`", at=where)
        meant = near(str(called), [*specs, *TWELVE]) or "; `suture methods` lists them"
        raise UsageError(f"{where}: unknown method `{called}`{meant}", at=where)
    found = own.get("parameters")
    if found is not None and not isinstance(found, dict):
        raise UsageError(f"{at}.parameters: expected a mapping", at=f"{at}.parameters")
    parameters = resolved(found or {}, folder, at=f"{at}.parameters")
    output = folder_name(name, at)
    if output == TABLE:
        raise UsageError(f"{at}: `{TABLE}` has the figures of all; expected another name", at=at)
    return Method(output, method, title, {**_OWN.get(called, {}), **parameters}, at)


def _checked(
    shared: dict[str, Any], chosen: list[Method], specs: Mapping[str, Any], lenient: bool
) -> tuple[dict[str, Any], list[str]]:
    """The set with weights for all, and what is to be said of its parameters.

    Raises:
        UsageError: for a parameter that no method here has.
    """
    names = dict(parameters_of(shared))
    read = {p["name"] for one in chosen for p in specs[one.method]["parameters"]}
    known = {p["name"] for spec in specs.values() for p in spec["parameters"]}.union(_core.unread_keys())
    told = []
    for name, at in names.items():
        if name in read:
            continue
        if name not in known and not lenient:
            meant = near(name, read) or f"; these methods have {', '.join(sorted(read))}"
            raise UsageError(f"{at}: unknown parameter{meant}", at=at)
        told.append(f"{at}: no method of this set reads `{name}`")
    weighed = [one for one in chosen if "weight" not in one.own and _needs_weight(specs[one.method])]
    if weighed and "weight" not in names:
        shared = {**shared, "parameters": {**(shared.get("parameters") or {}), "weight": 1.0}}
        told.append("weight: none is given, so each model has 1")
    cut = [one for one in chosen if "density" not in one.own and _cuts(one, shared, specs[one.method])]
    if cut and "density" not in names:
        whole = [one.name for one in cut]
        told.append(f"density: none is given, so it is 1 and nothing is dropped by {', '.join(whole)}")
    return shared, told


def _needs_weight(spec: Mapping[str, Any]) -> bool:
    return any(p["name"] == "weight" and p["default"] is None for p in spec["parameters"])


def _cuts(one: Method, shared: Mapping[str, Any], spec: Mapping[str, Any]) -> bool:
    """Whether the method keeps a share of the elements, or the one inside it does."""
    inner = _word(one, shared, spec, "inner")
    if isinstance(inner, str) and any(p["name"] == "density" for p in spec["parameters"]):
        return inner.startswith(_CUTTING)
    return _sparsify(one, shared, spec) in _WITH["density"]


def _sparsify(one: Method, shared: Mapping[str, Any], spec: Mapping[str, Any]) -> Any:
    """What the method cuts by; None of one that is no preset of the pipeline."""
    return _word(one, shared, spec, "sparsify")


def _word(one: Method, shared: Mapping[str, Any], spec: Mapping[str, Any], name: str) -> Any:
    """What the method has for a parameter of words; None if it has no such parameter."""
    default = next((p["default"] for p in spec["parameters"] if p["name"] == name), None)
    if default is None:
        return None
    return one.own.get(name, (shared.get("parameters") or {}).get(name, default))


def _for(one: Method, shared: dict[str, Any], spec: Mapping[str, Any], base: Any) -> dict[str, Any]:
    """The merge of the set by a method: of the set's parameters those that it reads, its own in their place."""
    word = _sparsify(one, shared, spec)
    reads = {p["name"] for p in spec["parameters"]} - one.own.keys()
    if isinstance(word, str):
        reads -= {name for name, words in _WITH.items() if word not in words}

    def parameters(given: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in given.items() if k in reads}

    def sources(listed: list[Any]) -> list[Any]:
        # Where a method has no base, the base among the models would be one of them.
        kept = [s for s in listed if not (isinstance(s, dict) and _same(s.get("model"), base))]
        return kept if spec["base"] == "none" and kept else listed

    made = mapped(shared, parameters, sources)
    if one.own:
        made["parameters"] = {**(made.get("parameters") or {}), **one.own}
    return {"merge_method": one.method, **made}


def _experts(shared: dict[str, Any], base: Any) -> list[str | Reference]:
    """The models that are merged and are not the base, each once, in their order."""
    found: dict[str, str | Reference] = {}
    for _, listed in model_lists(shared):
        for source in listed:
            model = source.get("model") if isinstance(source, dict) else None
            if isinstance(model, str | Reference) and not _same(model, base):
                found.setdefault(_key(model), model)
    return list(found.values())


def _fewest(shared: dict[str, Any], base: Any) -> int:
    """The smallest number of models beside the base that are merged somewhere."""
    counts = [sum(not (isinstance(s, dict) and _same(s.get("model"), base)) for s in x) for _, x in model_lists(shared)]
    return min(counts, default=0)


def _key(model: Any) -> str:
    """A model by where it lies."""
    return json.dumps(with_places({"model": model}), default=Reference.data, sort_keys=True)


def _same(model: Any, base: Any) -> bool:
    return base is not None and model is not None and _key(model) == _key(base)
