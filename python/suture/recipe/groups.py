"""Plans of groups: experts of languages and directions, merged group by group or kept, as a config for each output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suture import _core
from suture.errors import SutureError, UsageError, near
from suture.recipe.config import Config, folder_name, resolved
from suture.recipe.levels import refuse_unknown
from suture.recipe.paths import model_path
from suture.recipe.schema import merge_keys
from suture.reference import Reference

#: What lists where each language goes, in the folder that holds the outputs.
ROUTING = "routing.json"
_PLAN = frozenset({"groups", "directions", "experts"})
_MODELS = "the models of a plan are its `experts`"
#: Keys of merges that a plan has not, and why.
_REFUSED = {
    "models": _MODELS,
    "slices": f"{_MODELS}, which are merged whole",
    "modules": f"{_MODELS}, which are merged whole",
    "name": "a plan stands alone in its file: no other document uses what it makes",
    "outputs": "a plan makes an output for each group, and no others",
    "methods": "a set of models is run by `suture merge --all-of`; a direction has one `merge_method`",
}


@dataclass(frozen=True)
class Route:
    """Where a language goes in a direction.

    Attributes:
        direction: the direction.
        language: the language.
        group: its group.
        expert: its expert.
        output: the output that serves it; None where its expert does.
    """

    direction: str
    language: str
    group: str
    expert: str | Reference
    output: str | None


@dataclass(frozen=True)
class Plan:
    """A plan of groups.

    Attributes:
        configs: a merge for each output, with its models found.
        base: the base, if there is one.
        groups: the languages of each group.
        routes: for every direction and language, where it goes.
    """

    configs: list[Config]
    base: str | Reference | None
    groups: dict[str, list[str]]
    routes: list[Route]


def read_plan(document: Config, *, lenient: bool = False) -> Plan:
    """The merges that a plan asks for, and where each language goes; `lenient` if keys that nobody knows pass.

    Raises:
        UsageError: if the plan is wrong or has a gap; the message gives its line.
    """
    try:
        return _read(document, lenient or document.recipe.get("ignore_unknown") is True)
    except SutureError as e:
        raise document.locate(e) from None


def _read(document: Config, lenient: bool) -> Plan:
    given = document.recipe
    for key, why in _REFUSED.items():
        if key in given:
            raise UsageError(f"{key}: {why}", at=key)
    known = merge_keys() - _REFUSED.keys() | _PLAN
    if not lenient:
        refuse_unknown(given, known | set(_core.unread_keys()), known)
    for key in sorted(_PLAN):
        if not isinstance(given.get(key), dict) or not given[key]:
            raise UsageError(f"{key}: expected a mapping, which a plan of groups has", at=key)
    groups = _groups(given["groups"])
    of = {language: group for group, languages in groups.items() for language in languages}
    folder = document.source.parent if document.source else None
    experts = _experts(given["experts"], given["directions"], groups, of, folder)
    shared = {key: value for key, value in given.items() if key not in _PLAN}
    base = resolved({"base_model": shared.get("base_model")}, folder)["base_model"]
    configs: dict[str, Config] = {}
    made: Iterable[tuple[Config, list[str]]]
    routes: list[Route] = []
    for direction, asked in given["directions"].items():
        how, own = _way(direction, asked)
        its = experts[direction]
        if how == "merge":
            made = _merged(document, direction, {**shared, **own}, groups, its, folder)
        else:
            made = _copied(document, direction, its) if how == "copy" else []
        outputs: dict[str, str] = {}
        for config, languages in made:
            name = folder_name(config.name, f"directions.{direction}")
            if name in configs or name == ROUTING:
                what = "two outputs" if name in configs else "an output and the table of routes"
                message = f"{what} would be called `{name}`; rename a direction or a group"
                raise UsageError(f"directions.{direction}: {message}", at=f"directions.{direction}")
            configs[name] = config
            outputs |= dict.fromkeys(languages, name)
        routes += [Route(direction, one, of[one], its[one][0], outputs.get(one)) for one in of]
    if not configs:
        message = "directions: nothing is merged and nothing copied; give one of them `merge`, or `keep: copy`"
        raise UsageError(message, at="directions")
    return Plan(list(configs.values()), base, groups, routes)


def _groups(given: Mapping[str, Any]) -> dict[str, list[str]]:
    """The languages of each group; each is in one.

    Raises:
        UsageError: if one is in two, or a group has none.
    """
    seen: dict[str, str] = {}
    for group, languages in given.items():
        at = f"groups.{group}"
        folder_name(group, at)
        if not isinstance(languages, list) or not languages:
            raise UsageError(f"{at}: expected a list of languages", at=at)
        for i, language in enumerate(languages):
            if not isinstance(language, str) or not language.strip():
                message = f"expected a language, found `{language}`{_quoted(language)}"
                raise UsageError(f"{at}[{i}]: {message}", at=f"{at}[{i}]")
            if language in seen:
                where = f"in `{seen[language]}` and in `{group}`" if seen[language] != group else f"twice in `{group}`"
                raise UsageError(f"{at}[{i}]: `{language}` is {where}; a language has one group", at=f"{at}[{i}]")
            seen[language] = group
    return {group: list(languages) for group, languages in given.items()}


def _quoted(value: Any) -> str:
    """Norwegian, as YAML has it."""
    hint = "; YAML takes no, yes, on and off for switches: put the language into quotes"
    return hint if isinstance(value, bool) else ""


#: An expert: its model, and the parameters it has in its merge.
_Expert = tuple[Any, Any]


def _experts(
    given: Mapping[str, Any],
    directions: Mapping[str, Any],
    groups: Mapping[str, list[str]],
    of: Mapping[str, str],
    folder: Path | None,
) -> dict[str, dict[str, _Expert]]:
    """The expert of every language in every direction.

    Raises:
        UsageError: if one is missing, or there is one of a language that no group has.
    """
    for direction in given:
        if direction not in directions:
            meant = near(direction, directions)
            raise UsageError(f"experts.{direction}: no such direction{meant}", at=f"experts.{direction}")
    found: dict[str, dict[str, _Expert]] = {}
    for direction in directions:
        at, its = f"experts.{direction}", given.get(direction)
        if not isinstance(its, dict):
            what = "is missing" if its is None else "is no mapping"
            raise UsageError(f"{at}: {what}; expected a mapping from language to model", at=at if its else "experts")
        for language in its:
            if language not in of:
                hint = near(language, of) or _quoted({"True": True, "False": False}.get(language))
                raise UsageError(f"{at}.{language}: `{language}` is in none of the groups{hint}", at=f"{at}.{language}")
        for group, languages in groups.items():
            for language in languages:
                if its.get(language) is None:
                    raise UsageError(f"{at}: no expert of `{language}`, which is in group `{group}`", at=at)
        found[direction] = {one: _expert(its[one], f"{at}.{one}", folder) for one in of}
    return found


def _expert(value: Any, at: str, folder: Path | None) -> _Expert:
    """An expert: a model, or a mapping of one with its `parameters`."""
    parameters = None
    if isinstance(value, dict) and "parameters" in value:
        keys = {"model", "parameters"}
        refuse_unknown(value, keys, keys, f"{at}.")
        value, parameters = value.get("model"), value["parameters"]
    model = model_path(value, at, folder)
    if not isinstance(model, str | Reference) or not str(model).strip():
        raise UsageError(f"{at}: expected a model, found `{value}`", at=at)
    return model, parameters


def _way(direction: str, asked: Any) -> tuple[str, dict[str, Any]]:
    """What is done in a direction (``merge``, ``keep`` or ``copy``), and what its merges have of their own.

    Raises:
        UsageError: if it is none of these.
    """
    at = f"directions.{direction}"
    if asked in ("merge", "keep"):
        return str(asked), {}
    if isinstance(asked, dict):
        keys = {"merge", "keep"}
        refuse_unknown(asked, keys, keys, f"{at}.")
    if not isinstance(asked, dict) or len(asked) != 1:
        raise UsageError(f"{at}: expected `merge`, `keep`, or a mapping with one of the two, found `{asked}`", at=at)
    if "keep" in asked:
        if asked["keep"] not in (None, "copy", "route"):
            raise UsageError(f"{at}.keep: expected copy or route, found `{asked['keep']}`", at=f"{at}.keep")
        return "copy" if asked["keep"] == "copy" else "keep", {}
    own = asked["merge"] if asked["merge"] is not None else {}
    if not isinstance(own, dict):
        raise UsageError(f"{at}.merge: expected a mapping with `merge_method` and `parameters`", at=f"{at}.merge")
    for key, why in _REFUSED.items():
        if key in own:
            raise UsageError(f"{at}.merge.{key}: {why}", at=f"{at}.merge.{key}")
    return "merge", own


def _merged(
    document: Config,
    direction: str,
    recipe: dict[str, Any],
    groups: Mapping[str, list[str]],
    its: Mapping[str, _Expert],
    folder: Path | None,
) -> Iterator[tuple[Config, list[str]]]:
    """A merge of the experts of each group, and its languages."""
    at = f"directions.{direction}"
    if recipe.get("merge_method") is None:
        raise UsageError(f"{at}: `merge_method` is missing, here under `merge` and in the plan", at=at)
    for group, languages in groups.items():
        lines = document.lines | document.under(f"{at}.merge")
        models = []
        for i, language in enumerate(languages):
            model, parameters = its[language]
            models.append({"model": model} | ({} if parameters is None else {"parameters": parameters}))
            # What is wrong with a model is told where the plan has it.
            where = document.line(f"experts.{direction}.{language}")
            lines |= {f"models[{i}].{k}": n for k, n in document.under(f"experts.{direction}.{language}").items()}
            lines |= {} if where is None else {f"models[{i}]": where}
        made = resolved({**recipe, "models": models}, folder)
        yield Config(made, document.source, lines, f"{direction}.{group}", listed=True), languages


def _copied(document: Config, direction: str, its: Mapping[str, _Expert]) -> Iterator[tuple[Config, list[str]]]:
    """A copy of each expert, and its languages: one that several share is copied once."""
    shared: dict[str | Reference, list[str]] = {}
    for language, (model, parameters) in its.items():
        if parameters is not None:
            at = f"experts.{direction}.{language}.parameters"
            raise UsageError(f"{at}: kept experts stay as they are; leave it out", at=at)
        shared.setdefault(model, []).append(language)
    for model, languages in shared.items():
        recipe = {"merge_method": "passthrough", "models": [{"model": model}]}
        where = document.line(f"experts.{direction}.{languages[0]}")
        lines = {} if where is None else {"models[0]": where}
        yield Config(recipe, document.source, lines, f"{direction}.{languages[0]}", listed=True), languages
