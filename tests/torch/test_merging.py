"""`merge_` writes what `merge` gives, into memory that stays where it is, or leaves all as it was."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import pytest
import torch

import suture
import suture.torch
from suture.torch import merge, merge_
from suture.torch.registry import FORMS
from tests.support.catalogue import DEFAULTS, RESIDENT, SPECS, Case
from tests.support.resident import Tensors, call, differing, empty_like, family, module_of

TIES: dict[str, Any] = {"weight": 0.5, "density": 0.5}


def split(case: Case, models: list[Tensors]) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """A case as the arguments of `merge`; the model that is written into, and those of `merge_`.

    The first of the merged models is written into; where there is a base, the base.
    """
    arguments = call(case, models)
    rest = dict(arguments)
    named = rest.pop("models")
    if arguments["base"] is not None:
        return arguments, arguments["base"], {"others": named, **rest}
    # The first is called `model` by merge_.
    (_, model), *others = named.items()
    arguments["models"] = {"model": model, **dict(others)}
    return arguments, model, {"others": dict(others), **rest}


IN_PLACE = [*((case, "BF16") for case in RESIDENT), *((case, "F32") for case in DEFAULTS)]


@pytest.mark.parametrize(("case", "dtype"), IN_PLACE, ids=str)
def test_merge_in_place_is_merge(case: Case, dtype: str) -> None:
    models = family(dtype)
    arguments, model, rest = split(case, models)
    wanted = merge(**arguments)
    others = [{n: t.clone() for n, t in m.items()} for m in models if m is not model]
    # Checkpoints beside the models may be the model that is written into; they are copied here.
    rest["each"] = [
        {k: {n: t.clone() for n, t in v.items()} if isinstance(v, dict) else v for k, v in own.items()}
        for own in rest["each"]
    ]
    places = {name: (tensor, tensor.data_ptr()) for name, tensor in model.items()}
    report = merge_(model, **rest)
    assert differing(model, wanted) == []
    assert {name: (tensor, tensor.data_ptr()) for name, tensor in model.items()} == places
    assert report.method == case.name
    assert {*report.computed, *report.moved, *report.kept} == set(wanted)
    for kept, other in zip(others, (m for m in models if m is not model), strict=True):
        assert differing(other, kept) == []


@pytest.mark.parametrize("case", [c for c in DEFAULTS if c.changes and c.spec["base"] == "required"], ids=str)
def test_the_first_model_may_be_written_into_beside_a_base(case: Case) -> None:
    models = family("BF16")
    arguments = call(case, models)
    (_, first), *others = arguments["models"].items()
    arguments["models"] = {"model": first, **dict(others)}
    arguments["each"] = [
        {k: {n: t.clone() for n, t in v.items()} if isinstance(v, dict) else v for k, v in own.items()}
        for own in arguments["each"]
    ]
    wanted = merge(**arguments)
    arguments["models"] = dict(others)
    others_of = arguments.pop("models")
    merge_(first, others_of, **arguments)
    assert differing(first, wanted) == []


@pytest.mark.parametrize("case", [c for c in RESIDENT if c.spec["class"] in ("element", "order")], ids=str)
def test_blocks_of_any_size_give_the_same_bits(case: Case) -> None:
    # Where norms are taken (`rescale`), these values are coarse enough for sums to be exact in any order.
    shapes = {"model.layers.0.w": (97, 33), "model.layers.1.w": (40, 64), "model.layers.1.b": (1100,), "z": ()}
    arguments = call(case, family("BF16", shapes=shapes))
    wanted = merge(**arguments, block=1 << 20)
    for block in (1 << 10, 1 << 11, 1 << 16):
        assert differing(merge(**arguments, block=block), wanted) == []


#: Of every kind; of those in front no bit may change.
KINDS = ("linear", "ties", "breadcrumbs", "dare_ties", "della", "slerp", "pcb", "arcee_fusion")


@pytest.mark.parametrize("method", KINDS)
def test_layouts_do_not_matter(method: str) -> None:
    (case,) = (c for c in DEFAULTS if c.name == method and c.variant == "default")
    models = family("F32")
    arguments, model, rest = split(case, models)
    wanted = merge(**arguments)

    def turned(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() != 2:
            return tensor.clone()
        return tensor.t().clone(memory_format=torch.contiguous_format).t()

    def sliced(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() != 2:
            return tensor.clone()
        wide = torch.full((tensor.shape[0], 2 * tensor.shape[1] + 3), 5.0)
        wide[:, 1 : 1 + tensor.shape[1]] = tensor
        return wide[:, 1 : 1 + tensor.shape[1]]

    for change in (turned, sliced):
        own = {name: change(tensor) for name, tensor in model.items()}
        merge_(own, **{**rest, "base": own if rest["base"] is not None else None})
        for name, tensor in own.items():
            assert torch.allclose(tensor, wanted[name], rtol=1e-5, atol=1e-7), name
            assert tensor.stride() == change(model[name]).stride()
        if method in KINDS[:5]:
            assert differing(own, wanted) == []
        others = {name: {n: change(t) for n, t in m.items()} for name, m in rest["others"].items()}
        found = merge_in_copy(model, {**rest, "others": others})
        assert all(torch.allclose(found[n], t, rtol=1e-5, atol=1e-7) for n, t in wanted.items())


def merge_in_copy(model: Tensors, rest: dict[str, Any]) -> Tensors:
    """What `merge_` makes of a copy."""
    own = {name: tensor.clone() for name, tensor in model.items()}
    merge_(own, **{**rest, "base": own if rest["base"] is model else rest["base"]})
    return own


def test_parameters_keep_all_that_they_are() -> None:
    base, *tuned = family("F32")
    module = module_of(base)
    module.lm_head = torch.nn.Module()
    module.lm_head.weight = module.model.embed_tokens.weight
    module.column.requires_grad_(False)
    module.train()
    grad = torch.ones_like(module.model.norm.weight)
    module.model.norm.weight.grad = grad
    before = {n: (p, p.data_ptr(), p.requires_grad) for n, p in module.named_parameters()}
    others = [{n: t for n, t in m.items() if n != "lm_head.weight"} for m in tuned]
    report = merge_(module, others, "ties", base=module, parameters=TIES)
    assert {n: (p, p.data_ptr(), p.requires_grad) for n, p in module.named_parameters()} == before
    assert module.lm_head.weight is module.model.embed_tokens.weight
    assert module.model.norm.weight.grad is grad
    assert all(p.is_leaf and p.grad_fn is None for p in module.parameters())
    assert any("training mode" in w for w in report.warnings)
    wanted = merge(others, "ties", base={n: t for n, t in base.items() if n != "lm_head.weight"}, parameters=TIES)
    assert differing({n: t for n, t in module.state_dict().items() if n != "lm_head.weight"}, wanted) == []
    quiet = merge_(module.eval(), others, "ties", base=module, parameters=TIES)
    assert not any("training mode" in w for w in quiet.warnings)


def test_a_graph_that_was_recorded_before_says_so() -> None:
    base, *tuned = [{"w": t["model.layers.0.self_attn.q_proj.weight"].clone()} for t in family()]
    model = {"w": torch.nn.Parameter(base["w"])}
    loss = (model["w"] ** 2).sum()
    merge_(model, tuned, "linear", parameters={"weight": 1.0})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class Half(torch.Tensor):  # type: ignore[misc]
    """A tensor of a kind that only its own library reads."""


def quantised(tensor: torch.Tensor) -> torch.Tensor:
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def inferred(tensor: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return tensor.clone()


#: What a tensor of the model or of another is made, and what is said of it.
BROKEN: dict[str, tuple[Callable[[torch.Tensor], Any], bool, str]] = {
    "shape": (lambda t: torch.zeros(2, 3), True, "shape|\\[2, 3\\]"),
    "meta": (lambda t: t.to("meta"), True, "is on the meta device"),
    "quantised": (quantised, True, "found quantised"),
    "subclass": (lambda t: t.as_subclass(Half), True, "found Half"),
    "sparse": (lambda t: t.to_sparse(), True, "expected a dense tensor"),
    "no tensor": (lambda t: t.tolist(), True, "expected a torch tensor, found list"),
    "dtype": (lambda t: t.to(torch.complex128), True, "complex128"),
    "expanded": (lambda t: t[:1].expand(t.shape), False, "is expanded"),
    "inference": (inferred, False, "was made in inference mode"),
}
NAME = "model.layers.2.self_attn.q_proj.weight"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", BROKEN)
def test_a_tensor_that_will_not_do_is_named_and_nothing_written(how: str) -> None:
    make, both, said = BROKEN[how]
    for whose in ("model", "model-2")[: 1 + both]:
        base, *tuned = family()
        models = [{n: t.clone() for n, t in base.items()}, *tuned]
        models[0 if whose == "model" else 2][NAME] = make(base[NAME])
        kept = {n: t.clone() for n, t in models[0].items() if n != NAME}
        with pytest.raises(suture.SutureError, match=said) as told:
            merge_(models[0], models[1:], "linear", parameters={"weight": 1.0})
        assert NAME in str(told.value)
        assert differing({n: t for n, t in models[0].items() if n != NAME}, kept) == []


def refusals() -> dict[str, tuple[str, dict[str, Any]]]:
    tuned = family()[1:]
    fewer = {n: t for n, t in tuned[1].items() if n != NAME}
    more = {**tuned[1], "extra": torch.ones(2)}
    return {
        "no method": ("there is no `tides`", {"method": "tides"}),
        "parameter": ("densty", {"parameters": {**TIES, "densty": 0.5}}),
        "range": ("density", {"parameters": {"weight": 1.0, "density": 3}}),
        "missing": ("weight", {"parameters": {}}),
        "count": ("weight: expected a value for each of 3 models, found 2", {"parameters": {"weight": [1.0, 2.0]}}),
        "each": ("each: expected parameters for 3 models, found 1", {"each": [{}]}),
        "base": ("base", {"base": None}),
        "name": ("without `/`", {"others": {"a/b": tuned[0]}}),
        "fewer": (NAME, {"others": [tuned[0], fewer, tuned[2]]}),
        "more": ("extra", {"others": [tuned[0], more, tuned[2]]}),
        "kind": ("expected a torch module or a mapping", {"others": [tuned[0], [1], tuned[2]]}),
    }


@pytest.mark.parametrize("how", refusals())
def test_mistakes_are_told_before_the_first_write(how: str) -> None:
    said, changed = refusals()[how]
    base, *tuned = family()
    kept = {n: t.clone() for n, t in base.items()}
    arguments: dict[str, Any] = {"others": tuned, "method": "ties", "base": base, "parameters": TIES}
    with pytest.raises(suture.SutureError, match=said):
        merge_(base, **(arguments | changed))
    assert differing(base, kept) == []


def test_memory_that_models_share_is_named() -> None:
    base, *tuned = family()
    shared = {**tuned[1], NAME: base[NAME]}
    with pytest.raises(suture.SutureError, match=f"{NAME}`: shares memory with model-2"):
        merge_(base, [tuned[0], shared], "ties", base=base, parameters=TIES)
    inside = {**tuned[1], "column": base["model.embed_tokens.weight"][0, :5].view(5, 1)}
    with pytest.raises(suture.SutureError, match=r"`model\.embed_tokens\.weight`: shares memory with model-2"):
        merge_(base, [tuned[0], inside], "ties", base=base, parameters=TIES)
    row = torch.zeros(30)
    overlapping = {"a": row[:20], "b": row[10:]}
    others = [{"a": torch.ones(20), "b": torch.ones(20)}]
    with pytest.raises(suture.SutureError, match="tensors `a` and `b` share memory"):
        merge_(overlapping, others, "linear", parameters={"weight": 1.0})
    assert row.abs().max() == 0
    beside = torch.zeros(4, 6)
    columns = {"a": beside[:, :3], "b": beside[:, 3:]}
    merge_(columns, [{"a": torch.ones(4, 3), "b": torch.ones(4, 3)}], "linear", parameters={"weight": 1.0})
    assert torch.equal(beside, torch.full((4, 6), 0.5))


def test_coefficients_that_cannot_be_are_told_before_the_first_write() -> None:
    def fine() -> torch.Tensor:
        return torch.randn(40, 40)

    models = [{"a": fine(), "b": torch.tensor(v)} for v in ([1.0, 0.0], [-0.5, 3**0.5 / 2], [-0.5, -(3**0.5) / 2])]
    kept = {n: t.clone() for n, t in models[0].items()}
    with pytest.raises(suture.SutureError, match="directions of the models cancel"):
        merge_(models[0], models[1:], "multislerp", parameters={"weight": 1.0})
    assert differing(models[0], kept) == []


def test_random_masks_depend_on_names_and_seed() -> None:
    base, *tuned = family("BF16")
    how: dict[str, Any] = {"method": "dare_linear", "base": base, "parameters": TIES}
    named = merge({"a": tuned[0], "b": tuned[1]}, **how)
    assert differing(merge({"a": tuned[0], "b": tuned[1]}, **how), named) == []
    assert differing(merge({"b": tuned[1], "a": tuned[0]}, **how), named) == []
    assert differing(merge({"a": tuned[0], "c": tuned[1]}, **how), named) != []
    assert differing(merge({"a": tuned[0], "b": tuned[1]}, **how, seed=1), named) != []
    assert differing(merge([tuned[0], tuned[1]], **how), merge({"model-1": tuned[0], "model-2": tuned[1]}, **how)) == []


def test_a_merge_goes_into_another_module() -> None:
    base, *tuned = family("BF16")
    wanted = merge(tuned, "ties", base=base, parameters=TIES)
    target = module_of(empty_like(base))
    places = [p.data_ptr() for p in target.parameters()]
    found = merge(tuned, "ties", base=base, parameters=TIES, out=target)
    assert differing(target.state_dict(), wanted) == []
    assert [p.data_ptr() for p in target.parameters()] == places
    assert {t.data_ptr() for t in found.values()} == set(places)
    wide = module_of({n: t.float() for n, t in empty_like(base).items()})
    merge(tuned, "ties", base=base, parameters=TIES, out=wide)
    assert all(torch.equal(t.bfloat16(), wanted[n]) for n, t in wide.state_dict().items())


def test_a_target_that_does_not_fit_is_refused_by_name() -> None:
    base, *tuned = family()
    out = empty_like(base)

    def refused(said: str, target: Any) -> None:
        with pytest.raises(suture.SutureError, match=said):
            merge(tuned, "ties", base=base, parameters=TIES, out=target)

    refused(f"expected a tensor `{NAME}`, which the merge makes, found none", {n: out[n] for n in out if n != NAME})
    refused("`extra`: the merge makes none of that name", {**out, "extra": torch.ones(1)})
    refused(rf"`{NAME}`: expected shape \[23, 17\], found \[17, 23\]", {**out, NAME: out[NAME].t()})
    refused(f"`{NAME}`: shares memory with model-1", {**out, NAME: tuned[0][NAME]})
    refused(f"`{NAME}`: is expanded", {**out, NAME: torch.zeros(1, 1).expand(23, 17)})
    assert differing(out, empty_like(base)) == []


def test_a_report_says_what_was_done() -> None:
    base, *tuned = family()
    tuned = [{**m, "steps": torch.arange(3)} for m in tuned]
    base["steps"] = torch.arange(3)
    first = merge_(base, tuned, "ties", base=base, parameters=TIES, digests=True, block=1 << 10)
    second = merge_(base, tuned, "ties", base=base, parameters=TIES, block=1 << 12)
    assert second.weight_version > first.weight_version
    assert second.digests == {}
    assert repr(second).startswith(f"<Report ties: {len(second.computed)} computed, ")
    assert second.extra_bytes > first.extra_bytes > 0
    assert (first.block, second.block) == (1 << 10, 1 << 12)
    assert first.tensors == (*first.computed, *first.moved)
    assert "steps" in first.kept
    assert set(first.digests) == set(base)
    assert len(set(map(len, first.digests.values()))) == 1
    again = merge_(base, tuned, "ties", base=base, parameters={**TIES, "lambda": 0.0}, digests=True)
    assert again.digests["steps"] == first.digests["steps"]


def test_every_method_has_a_form() -> None:
    assert set(FORMS) == set(SPECS)


@pytest.mark.parametrize("case", RESIDENT, ids=str)
def test_the_default_dtype_does_not_matter(case: Case) -> None:
    models = family("F32")
    expected = merge(**call(case, models))
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = merge(**call(case, models))
    finally:
        torch.set_default_dtype(torch.float32)
    assert differing(found, expected) == []


def test_what_a_state_dict_makes_is_not_written_into() -> None:
    module, other = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    module._register_state_dict_hook(lambda m, named, p, local: named.update({n: t.clone() for n, t in named.items()}))
    with pytest.raises(suture.SutureError, match="`weight`: is made by the module's state_dict"):
        merge_(module, [other], "linear", parameters={"weight": 0.5})


def test_a_table_does_not_stand_for_a_head_that_is_not_there() -> None:
    """A mapping does not tell whether its model is tied: under both names it does."""
    shapes = {
        "model.embed_tokens.weight": (6, 4),
        "lm_head.weight": (6, 4),
        "model.layers.0.mlp.up_proj.weight": (4, 4),
    }
    one, two = family("F32", 2, shapes=shapes)
    del two["lm_head.weight"]
    with pytest.raises(suture.SutureError, match=r"has no `lm_head\.weight`, which other models have"):
        suture.torch.merge([one, two], "linear", parameters={"weight": 0.5})
    two["lm_head.weight"] = two["model.embed_tokens.weight"]
    found = suture.torch.merge([one, two], "linear", parameters={"weight": 0.5})
    mean = (one["lm_head.weight"] + two["model.embed_tokens.weight"]) / 2
    assert torch.allclose(found["lm_head.weight"], mean)


def test_views_that_negate_their_memory_are_refused() -> None:
    one, two = family("F32", 2, shapes={"w": (3, 2)})
    two["w"] = torch._neg_view(two["w"])
    with pytest.raises(suture.SutureError, match="call `resolve_neg"):
        suture.torch.merge([one, two], "linear", parameters={"weight": 0.5})


def test_models_among_the_parameters_are_not_looked_at() -> None:
    tuned = family("F32", 2)
    fisher = [{n: t.abs() for n, t in model.items()} for model in tuned]
    with mock.patch.object(torch.Tensor, "tolist", side_effect=AssertionError):
        merge_(tuned[0], tuned[1:], "fisher", parameters={"fisher": fisher})


def test_threads_may_call_at_once() -> None:
    """Each on its own models, with plans and calls that push each other out."""

    def work(seed: int) -> None:
        models = family("F32", 3, seed=seed, shapes={"w": (5, 3), f"own-{seed}": (2, 2)})
        for turn in range(12):
            weight = 0.1 + turn / 20
            found = suture.torch.merge(models, "linear", parameters={"weight": weight, "normalize": False})
            wide = torch.stack([m["w"].double() for m in models]).sum(0) * weight
            assert torch.allclose(found["w"].double(), wide, rtol=1e-5)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(16)))
    finally:
        sys.setswitchinterval(interval)
