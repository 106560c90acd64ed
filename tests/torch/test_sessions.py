"""A session gives, merge after merge, what `merge` gives with the same coefficients, and finds once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import suture
import suture.torch
import suture.torch.resident
from suture.torch.registry import FORMS
from suture.torch.sessions import coefficients, prepare
from tests.support.catalogue import DEFAULTS, RESIDENT, Case
from tests.support.resident import call, differing, empty_like, family


def draws(case: Case) -> list[dict[str, Any]]:
    """Coefficients to apply in a row: others, those of the case, others, the first again."""
    spec = {p["name"]: p for p in case.spec["parameters"]}
    free = sorted(coefficients(case.name))
    out: list[dict[str, Any]] = []
    for turn in (1, 2):
        own: dict[str, Any] = {}
        for name in free:
            kind = spec[name]["kind"]
            if kind["kind"] == "choice":
                continue
            if kind["kind"] == "switch":
                own[name] = turn == 1
            elif kind["kind"] == "integer":
                own[name] = min(max(kind["min"], turn), kind["max"])
            else:
                low, high = max(kind["min"], 0.0), min(kind["max"], 1.0)
                values = [low + (high - low) * share for share in ((0.3, 0.55, 0.8) if turn == 1 else (0.9, 0.2, 0.4))]
                own[name] = values[: case.experts] if spec[name]["per_input"] else values[0]
        out.append(own)
    return [out[0], {}, out[1], out[0]]


def merged(arguments: dict[str, Any], changed: dict[str, Any], out: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The merge with other coefficients."""
    shared = {n: v for n, v in arguments["parameters"].items() if n not in changed}
    each = [{n: v for n, v in own.items() if n not in changed} for own in arguments["each"]]
    for name, value in changed.items():
        if isinstance(value, list):
            for own, one in zip(each, value, strict=True):
                own[name] = one
        else:
            shared[name] = value
    return suture.torch.merge(**{**arguments, "parameters": shared, "each": each}, out=out)


@pytest.mark.parametrize("case", RESIDENT, ids=str)
def test_a_session_gives_what_merge_gives(case: Case) -> None:
    models = family("BF16")
    arguments = call(case, models)
    session = prepare(**arguments)
    into = empty_like(models[0])
    for changed in draws(case):
        weights = changed.get("weight")
        rest = {name: value for name, value in changed.items() if name != "weight"}
        report = session.apply_(weights, into=into, parameters=rest)
        assert report.method == case.name
        assert differing(into, merged(arguments, changed, empty_like(models[0]))) == []


def counted(monkeypatch: pytest.MonkeyPatch, method: str) -> list[str]:
    """Every finding of a method from now on."""
    form, seen = FORMS[method], list[str]()

    def find(*given: Any) -> Any:
        seen.append("find")
        return form.find(*given) if form.find else None

    def wide(*given: Any) -> Any:
        seen.append("wide")
        return form.wide(*given) if form.wide else None

    own = replace(form, find=find if form.find else None, wide=wide if form.wide else None)
    monkeypatch.setitem(FORMS, method, own)
    return seen


@pytest.mark.parametrize("method", ["slerp", "nuslerp", "karcher", "ties", "breadcrumbs", "localize_and_stitch", "pcb"])
def test_what_does_not_depend_on_coefficients_is_found_once(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (case,) = (c for c in DEFAULTS if c.name == method and c.variant == "default")
    seen = counted(monkeypatch, method)
    models = family()
    session = prepare(**call(case, models))
    found = len(seen)
    assert found
    into, other = empty_like(models[0]), empty_like(models[0])
    for changed in draws(case) * 2:
        session.apply_(parameters=changed, into=into)
        session.apply_(parameters=changed, into=other)
    assert len(seen) == found


def test_coefficients_may_be_left_out_until_they_are_applied() -> None:
    base, *tuned = family()
    session = prepare({"de": tuned[0], "sw": tuned[1]}, "task_arithmetic", base=base)
    into = empty_like(base)
    report = session.apply_({"sw": 0.25, "de": 0.75}, into=into, parameters={"lambda": 0.5}, digests=True)
    how = {"weight": [0.75, 0.25], "lambda": 0.5}
    wanted = suture.torch.merge({"de": tuned[0], "sw": tuned[1]}, "task_arithmetic", base=base, parameters=how)
    assert differing(into, wanted) == []
    assert set(report.digests) == set(base)
    with pytest.raises(suture.UsageError, match="weight"):
        session.apply_(into=into)
    slerp = prepare([tuned[0]], "slerp", base=base)
    with pytest.raises(suture.UsageError, match=r"\bt\b"):
        slerp.apply_(into=into)


def test_an_output_that_lies_otherwise_is_found_for_anew() -> None:
    base, *tuned = family()
    session = prepare([tuned[0]], "slerp", base=base, parameters={"t": 0.4})
    turned = {n: t.t().contiguous().t() if t.dim() == 2 else t for n, t in empty_like(base).items()}
    plain = empty_like(base)
    for into in (turned, plain, turned):
        session.apply_(into=into, parameters={"t": 0.7})
        wanted = suture.torch.merge(
            [tuned[0]], "slerp", base=base, parameters={"t": 0.7}, out={n: torch.zeros_like(t) for n, t in into.items()}
        )
        assert differing(into, wanted) == []


@pytest.mark.parametrize("name", ["density", "gamma", "epsilon", "block", "scope", "sparsify", "rescale"])
def test_what_a_finding_depends_on_is_refused(name: str) -> None:
    base, *tuned = family()
    session = prepare(tuned, "ties", base=base, parameters={"weight": 1.0, "density": 0.5})
    with pytest.raises(suture.UsageError, match=f"{name}: .*may change: alpha, beta, lambda, normalize, weight"):
        session.apply_(into=empty_like(base), parameters={name: 0.3})


def test_mistakes_are_named_before_the_first_write() -> None:
    base, *tuned = family()
    session = prepare(tuned, "task_arithmetic", base=base, parameters={"weight": 1.0})
    into = empty_like(base)
    kept = empty_like(base)

    def refused(match: str, **how: Any) -> None:
        with pytest.raises(suture.SutureError, match=match):
            session.apply_(**({"into": into} | how))
        assert differing(into, kept) == []

    refused("expected a value for each of 3 models, found 2", weights=[1.0, 2.0])
    refused("expected a value for each of model-1, model-2, model-3; found model-1", weights={"model-1": 1.0})
    refused("no such parameter", parameters={"tempo": 1.0})
    refused("given twice", weights=[1.0, 1.0, 1.0], parameters={"weight": 1.0})
    refused("lambda", parameters={"lambda": "much"})
    refused("expected shape", into={**into, "column": torch.zeros(4, 1)})
    refused("makes, found none", into={n: t for n, t in into.items() if n != "column"})
    refused("`column`: shares memory with base", into={**into, "column": base["column"]})
    refused("`column`: shares memory with model-2", into={**into, "column": tuned[1]["column"]})
    refused("expected a torch module or a mapping", into=3)
    with pytest.raises(suture.UsageError, match="no weights that may change; may change: t"):
        prepare([tuned[0]], "slerp", base=base).apply_([1.0], into=into)
    with pytest.raises(suture.UsageError, match="none may change"):
        prepare(tuned, "metagpt", base=base).apply_([1.0] * 3, into=into)
    with pytest.raises(suture.UsageError, match="there is no `tides`; did you mean `ties`"):
        prepare(tuned, "tides", base=base)


def test_a_model_whose_memory_was_replaced_since_is_refused() -> None:
    """As `load_state_dict(assign=True)` and `.data` do: the session would go on with the old weights."""
    base, *tuned = family()
    into = {name: tensor.clone() for name, tensor in base.items()}
    session = prepare(tuned, "linear", parameters={"weight": 1.0})
    session.apply_(into=into)
    name = next(iter(tuned[1]))
    tuned[1][name] = tuned[1][name].clone()
    with pytest.raises(suture.SutureError, match=f"`{name}`: has other memory than when the session was prepared"):
        session.apply_(into=into)


def test_a_parameter_that_was_written_into_since_is_refused() -> None:
    """Models that are parameters are read as the others are; and a model may be called `base` beside the base."""
    base, *tuned = family()
    masks = [{name: torch.ones_like(tensor, dtype=torch.bool) for name, tensor in m.items()} for m in tuned]
    session = prepare(tuned, "mask", base=base, parameters={"masks": masks})
    session.apply_(into=empty_like(base))
    next(iter(masks[1].values())).zero_()
    with pytest.raises(suture.SutureError, match="was written into since"):
        session.apply_(into=empty_like(base))
    named = dict(zip(("base", "b", "c"), tuned, strict=True))
    session = prepare(named, "task_arithmetic", base=base, parameters={"weight": 0.5})
    base["column"].mul_(2)
    with pytest.raises(suture.SutureError, match="the base, tensor `column`: was written into since"):
        session.apply_(into=empty_like(base))


def test_a_model_that_was_written_into_since_is_refused() -> None:
    base, *tuned = family()
    session = prepare(tuned, "ties", base=base, parameters={"weight": 1.0})
    session.apply_(into=empty_like(base))
    tuned[1]["column"].mul_(2)
    with pytest.raises(suture.SutureError, match="model-2, tensor `column`: was written into since"):
        session.apply_(into=empty_like(base))


def test_modules_are_merged_into() -> None:
    modules = [torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7)) for _ in range(4)]
    base, *tuned = modules
    into = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7))
    places = [p.data_ptr() for p in into.parameters()]
    session = prepare(tuned, "dare_ties", base=base, parameters={"density": 0.5}, seed=3)
    report = session.apply_([0.5, 0.25, 0.25], into=into)
    assert any("training mode" in w for w in report.warnings)
    wanted = suture.torch.merge(
        tuned, "dare_ties", base=base, parameters={"density": 0.5, "weight": [0.5, 0.25, 0.25]}, seed=3
    )
    assert differing(into.state_dict(), wanted) == []
    assert [p.data_ptr() for p in into.parameters()] == places
    assert all(p.requires_grad and p.grad_fn is None for p in into.parameters())


def test_a_session_says_what_memory_it_takes() -> None:
    base, *tuned = family(count=3)
    few = prepare(tuned, "nuslerp", parameters={"weight": 1.0}, block=1 << 10)
    many = prepare(tuned, "nuslerp", parameters={"weight": 1.0}, block=1 << 12)
    assert 0 < few.extra_bytes < many.extra_bytes
    report = few.apply_([1.0, 2.0], into=empty_like(base))
    assert report.extra_bytes <= few.extra_bytes


WEIGHTS: list[Any] = [
    [0.5, 0.25, 0.25],
    [1.0, 0.0, 0.0],
    [0.2, 0.3, 0.1],
    [0.5, -0.25, 0.75],
    0.3,
    [{"filter": "mlp", "value": 0.5}, 0.25, 0.125],
    [0.3, 0.3, 0.4],
    [[0.1, 0.9], 0.2, 0.3],
    [2, 1, 1],
]


@pytest.mark.parametrize("method", ["linear", "ties", "task_arithmetic", "multislerp", "magmax", "fisher"])
def test_weights_of_any_form_follow_each_other(method: str) -> None:
    (case,) = (c for c in DEFAULTS if c.name == method and c.variant == "default")
    models = family()
    arguments = call(case, models)
    session = prepare(**arguments)
    into, out = empty_like(models[0]), empty_like(models[0])
    for weights in WEIGHTS:
        said = refusal(lambda w=weights: merged(arguments, {"weight": w}, out))  # type: ignore[misc]
        assert refusal(lambda w=weights: session.apply_(w, into=into)) == said  # type: ignore[misc]
        assert said or differing(into, out) == []


def refusal(call: Callable[[], object]) -> str:
    """What a call refuses; nothing if it does not."""
    try:
        call()
    except suture.SutureError as e:
        return f"{type(e).__name__}: {e}"
    return ""


def test_weights_that_sum_to_zero_are_refused_after_others() -> None:
    base, *tuned = family()
    session = prepare(tuned, "linear")
    for weights in ([0.5, 0.25, 0.25], [0.2, 0.2, 0.2]):
        session.apply_(weights, into=empty_like(base))
    wrong: Any
    for wrong in ([1.0, -0.5, -0.5], [float("nan"), 1.0, 1.0], ["much", 1.0, 1.0], [True, 1.0, 1.0], None):
        with pytest.raises(suture.UsageError):
            session.apply_(wrong, into=empty_like(base))
    single = prepare([tuned[0]], "passthrough")
    for scale in (2.0, 1.0, 0.5):
        into = empty_like(base)
        session_report = single.apply_(parameters={"scale": scale}, into=into)
        wanted = suture.torch.merge([tuned[0]], "passthrough", parameters={"scale": scale})
        assert differing(into, wanted) == []
        assert bool(session_report.computed) == (scale != 1.0)


def test_where_memory_does_not_suffice_blocks_are_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    base, *tuned = family()
    find, seen = suture.torch.resident.Runner.find, list[int]()

    def scarce(runner: Any) -> None:
        seen.append(runner.block)
        if runner.block > 1 << 10:
            raise torch.OutOfMemoryError("no memory")
        find(runner)

    monkeypatch.setattr("suture.torch.resident.Runner.find", scarce)
    session = prepare(tuned, "ties", base=base, parameters={"density": 0.5}, block=1 << 12)
    assert (seen, session.block) == ([1 << 12, 1 << 10], 1 << 10)
    into = empty_like(base)
    session.apply_([0.5, 0.25, 0.25], into=into)
    assert len(seen) == 2
    how = {"density": 0.5, "weight": [0.5, 0.25, 0.25]}
    assert differing(into, suture.torch.merge(tuned, "ties", base=base, parameters=how, block=1 << 10)) == []
    with pytest.raises(suture.SutureError, match="out of memory with blocks of 4096 elements; give a smaller block"):
        prepare(tuned, "ties", base=base, parameters={"density": 0.5}, block=1 << 14)
