"""A quantised weight and its companions are one: all come from one model, dtypes kept, or nothing is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..reference.layers import layer_of
from ..support.checkpoints import Raw, read_checkpoint, write_checkpoint
from ..support.quantised import FAMILIES, LAYERS, Family, noise, quantised, stems, write_quantised
from ..support.refusals import refusal
from ..support.swapping import cast

Owner = Callable[[int | None, str], str | None]
QUERY, ATTENTION = "self_attn.q_proj", "self_attn."
LABELS = ("into", "donor", "third", "base")
#: Forms that merges do not decode (tests/quantised has the others).
KEPT = ("quanto", "torchao")


@dataclass(frozen=True)
class Set:
    """Four models of a family, which have no weight in common."""

    family: Family
    paths: Mapping[str, Path]
    tensors: Mapping[str, Mapping[str, Raw]]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Set]:
    found = {}
    for name, family in FAMILIES.items():
        folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
        tensors = {label: quantised(family, seed)[0] for seed, label in enumerate(LABELS)}
        paths = {n: write_quantised(folder / n, family, t, shards=1 + i) for i, (n, t) in enumerate(tensors.items())}
        found[name] = Set(family, paths, tensors)
    return found


def of_experts(family: str) -> bool:
    """Whether nothing is quantised but experts, so that attention is plain."""
    return QUERY not in FAMILIES[family].modules


def parts(tensors: Mapping[str, Raw], stem: str) -> dict[str, Raw]:
    """All that a model has of one weight, by what follows its name."""
    return {
        n.removeprefix(stem): raw for n, raw in tensors.items() if n == stem or n.startswith((f"{stem}.", f"{stem}_"))
    }


def torn(found: Mapping[str, Raw], family: Family, sources: Mapping[str, Mapping[str, Raw]]) -> list[str]:
    """The weights that are not, companions and all, one model's."""
    kept = {s: parts(found, s) for s in stems(family)}
    plain = family.plain or ("\0",)

    def core(group: Mapping[str, Raw]) -> dict[str, Raw]:
        return {n: raw for n, raw in group.items() if not n.endswith(plain)}

    return [s for s, g in kept.items() if all(core(g) != core(parts(t, s)) for t in sources.values())]


def swap(**options: Any) -> Callable[[Set, Path], Any]:
    """A swap of donor into recipient."""

    def call(models: Set, out: Path) -> Any:
        how: dict[str, Any] = {k: models.paths[v] if k in ("base", "donor_base") else v for k, v in options.items()}
        donor: Any = how.pop("donors", None)
        donor = {models.paths[k]: v for k, v in donor.items()} if donor else models.paths["donor"]
        return suture.swap(models.paths["into"], donor, out, **how)

    return call


def revert(**options: Any) -> Callable[[Set, Path], Any]:
    """A reset of the recipient to the donor."""
    return lambda models, out: suture.revert(models.paths["donor"], models.paths["into"], out, **options)


def layers(*listed: int, modules: Callable[[str], bool] = lambda _: True, outside: str = "into") -> Owner:
    """The donor's in these layers, where `modules` says so."""

    def owner(layer: int | None, module: str) -> str:
        if layer is None:
            return outside
        return "donor" if layer in listed and modules(module) else "into"

    return owner


def anyone(layer: int | None, module: str) -> str | None:
    """No matter whose, as long as it is one model's."""
    return None


#: What has to work, and whose each weight then is.
WHOLE: dict[str, tuple[Callable[[Set, Path], Any], Owner]] = {
    "layers": (swap(layers=[1]), layers(1)),
    "bottom and top": (swap(bottom=1, top=1), layers(0, 2)),
    "non-layer from": (swap(layers=[0], non_layer="from"), layers(0, outside="donor")),
    "modules of attention": (swap(layers=[1], modules="self_attn.*"), layers(1, modules=lambda m: ATTENTION in m)),
    "modules of mlp": (swap(bottom=2, modules="mlp.*"), layers(0, 1, modules=lambda m: "mlp." in m)),
    "one module": (swap(layers=[1], modules=QUERY), layers(1, modules=lambda m: m == QUERY)),
    "two modules": (
        swap(layers=[0, 2], modules="self_attn.[qk]_proj"),
        layers(0, 2, modules=lambda m: m in (QUERY, "self_attn.k_proj")),
    ),
    "revert layers": (revert(layers=[1]), layers(1)),
    "revert a module": (revert(layers=[1], modules=QUERY), layers(1, modules=lambda m: m == QUERY)),
    "revert outside": (revert(outside=True), layers(outside="donor")),
    "donors": (
        swap(donors={"donor": "0", "third": "2"}),
        lambda layer, _: {0: "donor", 2: "third"}.get(-1 if layer is None else layer, "into"),
    ),
    "donors of a module": (
        swap(donors={"donor": "0", "third": "2"}, modules=QUERY),
        lambda layer, m: {0: "donor", 2: "third"}.get(-1 if layer is None or m != QUERY else layer, "into"),
    ),
    "the same base": (swap(layers=[1], base="base", donor_base="base"), layers(1)),
}
#: What is done right or refused.
EITHER: dict[str, Callable[[Set, Path], Any]] = {
    "transition": swap(bottom=1, transition=1),
    "ramp": swap(top=1, transition=2, blend="ramp"),
    "non-layer mean": swap(layers=[0], non_layer="mean"),
    "non-layer base": swap(layers=[0], non_layer="base", base="base"),
    "weights alone": swap(layers=[1], modules="*.weight*"),
    "weights alone, packed": swap(layers=[1], modules="*.qweight,*_blocks,*_packed,*_qdata"),
    "scales alone": swap(layers=[1], modules="*scale*,*absmax*,*SCB*"),
    "zeros alone": swap(layers=[1], modules="*zero*,*g_idx,*quant_map,*_shape,*quant_state*"),
    "one of a pair": swap(layers=[1], modules="self_attn.?_proj"),
    "a name in full": swap(layers=[1], modules="self_attn.q_proj.weight"),
    "head": swap(layers=[1], heads="0"),
    "heads": swap(layers=[1], heads="0-1"),
    "heads of a module": swap(layers=[1], heads="0", modules=QUERY),
    "delta form": swap(layers=[1], base="base", donor_base="third"),
    "auto": swap(auto="layer", base="base"),
    "auto by module": swap(auto="module", base="base"),
    "auto by edges": swap(auto="edges", base="base"),
    "revert scales": revert(layers=[1], modules="*scale*,*absmax*,*SCB*"),
}


def owned(models: Set, out: Path, owner: Owner) -> list[str]:
    """The weights that are not whose they should be; checked by `verify`, too."""
    found = read_checkpoint(out)
    assert suture.verify(out)["differing"] == []
    wrong = torn(found, models.family, models.tensors)
    for stem in stems(models.family):
        layer = layer_of(stem)
        label = owner(layer, stem if layer is None else stem.split(f"layers.{layer}.")[1])
        if label is not None and parts(found, stem) != parts(models.tensors[label], stem):
            wrong.append(f"{stem}, which should be that of {label}")
    return wrong


@pytest.mark.parametrize("form", WHOLE)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_weight_moves_with_its_companions(family: str, form: str, sets: dict[str, Set], place: Path) -> None:
    """Law 10: whatever part is asked for, a weight and its companions are the donor's or the recipient's together."""
    call, owner = WHOLE[form]
    if of_experts(family) and form in ("one module", "revert a module", "donors of a module", "two modules"):
        # Its attention is plain; nothing that moves is quantised.
        owner = layers()
    call(sets[family], place / "out")
    assert owned(sets[family], place / "out", owner) == []


@pytest.mark.parametrize("form", ["layers", "one module", "revert outside", "donors"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_output_dtype_leaves_companions(family: str, form: str, sets: dict[str, Set], place: Path) -> None:
    """Law 2: `--dtype` rounds plain floats; the scales of quantised weights keep every bit."""
    call, owner = WHOLE[form]
    if of_experts(family) and "module" in form:
        owner = anyone
    models = sets[family]

    def with_dtype(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *a, **o: function(*a, **o, settings=suture.Settings(dtype="float16"))

    patch = pytest.MonkeyPatch()
    with patch.context() as m:
        m.setattr(suture, "swap", with_dtype(suture.swap))
        m.setattr(suture, "revert", with_dtype(suture.revert))
        call(models, place / "out")
    assert owned(models, place / "out", plain_cast(models.family, owner)) == []
    found = read_checkpoint(place / "out")
    assert found["model.norm.weight"].dtype == found["model.embed_tokens.weight"].dtype == "F16"


def plain_cast(family: Family, owner: Owner) -> Owner:
    """As `owner`, where no part of a weight is plain: such a part is rounded."""
    return anyone if family.plain else owner


@pytest.mark.parametrize("form", EITHER)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_weight_is_never_parted_from_its_companions(
    family: str, form: str, sets: dict[str, Set], place: Path
) -> None:
    """Law 10: heads, blends, changes and globs do it right, or are refused with nothing written."""
    models = sets[family]
    if refusal(EITHER[form], models, place / "out") is not None:
        assert not (place / "out").exists()
    else:
        assert owned(models, place / "out", anyone) == []


@pytest.mark.parametrize("form", ["layers", "one module", "donor", "modules of attention"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_model_beside_a_quantised_one(family: str, form: str, sets: dict[str, Set], place: Path) -> None:
    """Law 10: a plain weight never gets another's scales, nor a quantised one none; most often it is refused."""
    models = sets[family]
    rng = np.random.default_rng(5)
    known = {s: parts(models.tensors["into"], s) for s in stems(models.family)}
    quantised_names = {s + n for s, group in known.items() for n in group}
    tensors = {n: raw for n, raw in models.tensors["donor"].items() if n not in quantised_names}
    tensors |= {f"{s}.weight": noise(rng, "BF16", *shape) for s, shape in stems(models.family).items()}
    plain = write_checkpoint(place / "plain", tensors)
    into, donor = (plain, models.paths["donor"]) if form == "donor" else (models.paths["into"], plain)
    options = {"one module": {"modules": QUERY}, "modules of attention": {"modules": "self_attn.*"}}.get(form, {})
    if refusal(suture.swap, into, donor, place / "out", layers=[1], **options) is not None:
        assert not (place / "out").exists()
        return
    assert torn(read_checkpoint(place / "out"), models.family, {**models.tensors, "plain": tensors}) == []


def linear(*paths: Path, **more: Any) -> dict[str, Any]:
    """A mean."""
    entries = [{"model": str(p), "parameters": {"weight": 1 / len(paths)}} for p in paths]
    return {"merge_method": "linear", "models": entries} | more


def on_base(method: str, *paths: Path, **more: Any) -> dict[str, Any]:
    """A merge of changes onto the first."""
    entries = [{"model": str(p), "parameters": {"weight": 0.5}} for p in paths[1:]]
    return {"merge_method": method, "base_model": str(paths[0]), "models": entries} | more


def sphere(*paths: Path, **more: Any) -> dict[str, Any]:
    """A point between two."""
    entries = [{"model": str(p)} for p in paths[1:2]]
    return {"merge_method": "slerp", "base_model": str(paths[0]), "models": entries, "parameters": {"t": 0.5}} | more


MERGES: dict[str, Callable[..., dict[str, Any]]] = {
    "linear": linear,
    "slerp": sphere,
    **{m: (lambda *p, m=m, **o: on_base(m, *p, **o)) for m in ("ties", "task_arithmetic", "dare_ties", "metagpt")},
}


def without_weights(config: dict[str, Any]) -> dict[str, Any]:
    """The config for a method that takes none."""
    if config["merge_method"] == "metagpt":
        for entry in config["models"]:
            entry.pop("parameters")
    return config


@pytest.mark.parametrize(("method", "dtype"), [*((m, None) for m in MERGES), ("linear", "float16")])
@pytest.mark.parametrize("family", KEPT)
def test_equal_quantised_weights_are_copied(
    family: str, method: str, dtype: str | None, sets: dict[str, Set], place: Path
) -> None:
    """Law 10: models that differ in plain tensors alone are merged there; what is quantised is copied as it is."""
    models = sets[family]
    base = dict(models.tensors["base"])
    paths = [models.paths["base"]]
    for number, label in enumerate(("donor", "third")):
        other = {n: models.tensors[label][n] if n.endswith(("norm.weight", "embed_tokens.weight")) else raw
                 for n, raw in base.items()}  # fmt: skip
        paths.append(write_quantised(place / label, models.family, other, shards=2 + number))
    more = {} if dtype is None else {"dtype": dtype}
    suture.merge(without_weights(MERGES[method](*paths, **more)), place / "out")
    found = read_checkpoint(place / "out")
    assert torn(found, models.family, {"base": base}) == []
    assert found["model.norm.weight"] != base["model.norm.weight"]
    assert found["model.norm.weight"].dtype == ("F16" if dtype else "F32")


@pytest.mark.parametrize("method", MERGES)
@pytest.mark.parametrize("family", KEPT)
def test_differing_quantised_weights_are_refused(family: str, method: str, sets: dict[str, Set], place: Path) -> None:
    """Law 10: a weight or any companion that differs, be it a float, is not averaged: the merge is refused."""
    models = sets[family]
    base, other = models.tensors["base"], models.tensors["donor"]
    _, groups = quantised(models.family, 0)
    for number, name in enumerate(groups[0]):
        if base[name] == other[name]:
            continue
        folder = place / str(number)
        twin = write_quantised(folder / "twin", models.family, dict(base) | {name: other[name]})
        again = write_quantised(folder / "again", models.family, dict(base))
        config = without_weights(MERGES[method](models.paths["base"], twin, again))
        error = refusal(suture.merge, config, folder / "out")
        assert error is not None, f"{name} differs, and is merged"
        assert groups[0][0].rsplit(".", 1)[0].split("_proj")[0] in error, error
        assert not (folder / "out").exists(), name


ARITHMETIC: dict[str, dict[str, Any]] = {
    "scale": {"merge_method": "passthrough", "parameters": {"scale": 0.5}},
    "weight": {"merge_method": "linear", "parameters": {"weight": 0.5, "normalize": False}},
}


@pytest.mark.parametrize("how", ARITHMETIC)
@pytest.mark.parametrize("family", FAMILIES)
def test_arithmetic_on_one_quantised_model_is_refused(family: str, how: str, sets: dict[str, Set], place: Path) -> None:
    """Law 10: one model that is to be scaled or weighed is not copied as if nothing had been asked."""
    if how == "weight" and family not in KEPT:
        pytest.skip("it is decoded, and weighed")
    config = ARITHMETIC[how] | {"models": [{"model": str(sets[family].paths["base"])}]}
    if how == "weight":
        config |= {"models": [{**config["models"][0], "parameters": {"weight": 0.5}}]}
        config |= {"parameters": {"normalize": False}}
    assert refusal(suture.merge, config, place / "out") is not None
    assert not (place / "out").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_one_quantised_model_passed_through_is_copied(family: str, sets: dict[str, Set], place: Path) -> None:
    """Law 2: where nothing is asked of it a model comes out bit for bit."""
    suture.merge({"merge_method": "passthrough", "models": [{"model": str(sets[family].paths["base"])}]}, place / "out")
    assert read_checkpoint(place / "out") == sets[family].tensors["base"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stack_of_quantised_layers(family: str, sets: dict[str, Set], place: Path) -> None:
    """Law 10: layers stacked from two models, renumbered, keep each weight with its companions."""
    models = sets[family]
    cuts: Sequence[tuple[str, int, int]] = [("into", 0, 2), ("donor", 1, LAYERS)]
    slices = [{"sources": [{"model": str(models.paths[n]), "layer_range": [a, b]}]} for n, a, b in cuts]
    suture.merge({"merge_method": "passthrough", "slices": slices}, place / "out")
    found = read_checkpoint(place / "out")
    order = [(label, layer) for label, a, b in cuts for layer in range(a, b)]
    for number, (label, layer) in enumerate(order):
        for module in models.family.modules:
            wanted = parts(models.tensors[label], f"model.layers.{layer}.{module}")
            assert parts(found, f"model.layers.{number}.{module}") == wanted


@pytest.mark.parametrize("filters", [{"exclude": ["proj"]}, {"include": ["norm"]}], ids=str)
@pytest.mark.parametrize("family", KEPT)
def test_quantised_weights_that_are_left_out_are_the_first_models(
    family: str, filters: dict[str, Any], sets: dict[str, Set], place: Path
) -> None:
    """Law 10: models that differ in what a filter leaves out are merged elsewhere; that is copied, whole."""
    models = sets[family]
    tensors = dict(models.tensors["donor"])
    # The head is quantised too and no `proj`; here it is the same.
    tensors |= {n: raw for n, raw in models.tensors["into"].items() if n.startswith("lm_head")}
    if models.family.plain:
        tensors |= {n: raw for n, raw in models.tensors["into"].items() if n.endswith("_bias")}
    other = write_quantised(place / "other", models.family, tensors)
    suture.merge(linear(models.paths["into"], other, **filters), place / "out")
    assert torn(read_checkpoint(place / "out"), models.family, {"into": models.tensors["into"]}) == []


@pytest.mark.parametrize("filters", [{"exclude": ["q_proj.weight", "q_proj.qweight"]}, {"exclude": ["scale", "absmax"]},
                                     {"include": ["scale", "norm"]}], ids=str)  # fmt: skip
@pytest.mark.parametrize("family", KEPT)
def test_filters_part_no_weight_from_its_companions(
    family: str, filters: dict[str, Any], sets: dict[str, Set], place: Path
) -> None:
    """Law 10: a filter that names a part of a weight takes all of it, or the merge is refused."""
    models = sets[family]
    same = {n: raw for n, raw in models.tensors["into"].items() if "q_proj" not in n}
    other = write_quantised(place / "other", models.family, dict(models.tensors["donor"]) | same)
    if refusal(suture.merge, linear(models.paths["into"], other, **filters), place / "out") is not None:
        assert not (place / "out").exists()
        return
    assert (
        torn(read_checkpoint(place / "out"), models.family, {**models.tensors, "other": read_checkpoint(other)}) == []
    )


def test_the_oracle_of_torn_weights_by_hand() -> None:
    """A weight with another's scale is torn; one that is a model's own is not."""
    family = FAMILIES["block fp8"]
    a, b = (quantised(family, seed)[0] for seed in (0, 1))
    name = "model.layers.1.mlp.up_proj.weight_scale_inv"
    assert torn(a, family, {"a": a, "b": b}) == []
    assert torn(a | {name: b[name]}, family, {"a": a, "b": b}) == ["model.layers.1.mlp.up_proj"]
    assert torn(a | {name: cast(a[name], "BF16")}, family, {"a": a}) == ["model.layers.1.mlp.up_proj"]
