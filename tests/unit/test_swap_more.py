"""More of `swap`: every place and every source, seams of their own widths, ramps, several donors, other bases."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import suture

from ..reference import swap
from ..support.checkpoints import (
    INDEX_NAME,
    Raw,
    llama_family,
    read_checkpoint,
    write_json,
)
from ..support.swapping import HEAD, Shares, assemble, between, by_layer, carried, outside_of, same

SMALL: dict[str, Any] = {"layers": 4, "hidden": 16, "heads": 4, "kv_heads": 2, "ff": 20, "vocab": 12, "n": 3}
AGAIN = suture.Settings(overwrite=True)
SOURCES = ("into", "from", "base", "mean")
KINDS = ["sliding_attention", "full_attention"]


def family(folder: Path, **changes: Any) -> dict[str, Path]:
    """A base, a recipient, two donors; their configs say that every other layer is of another kind."""
    options = SMALL | {"shards": [1, 3, 2, 1]} | changes
    folders = llama_family(folder, **options)
    for path in folders:
        config = json.loads((path / "config.json").read_text())
        write_json(path / "config.json", config | {"layer_types": (KINDS * options["layers"])[: options["layers"]]})
    return dict(zip(("base", "into", "donor", "second"), folders, strict=True))


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return family(tmp_path_factory.mktemp("untied"))


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return family(tmp_path_factory.mktemp("tied"), tied=True)


def donors_of(models: Mapping[str, Path], **layers: str) -> Any:
    """Donors by their paths, each with its layers."""
    return {str(models[label]): listed for label, listed in layers.items()}


def read(models: Mapping[str, Path]) -> dict[str, dict[str, Raw]]:
    return {label: read_checkpoint(path) for label, path in models.items()}


def places(layers: int, *, fit: bool) -> list[dict[str, Any]]:
    """Every choice of ends and seams that fits into so many layers, or every one that does not."""
    keys = ("bottom", "top", "transition_bottom", "transition_top")
    found = []
    for numbers in itertools.product(range(layers + 1), repeat=4):
        place = dict(zip(keys, numbers, strict=True))
        idle = [numbers[seam] for end, seam in ((0, 2), (1, 3)) if numbers[end] == 0]
        if max(idle, default=0) > 1:  # a seam beside nothing: once is enough
            continue
        if (sum(swap.widths(**place)) + place["bottom"] + place["top"] <= layers) is fit:
            found.append(place)
    return found


def kept_as_in(recipient: Path, out: Path) -> None:
    """Every tensor in the shard it had, the index, config.json and the tokenizer files unchanged."""
    layouts = [{n: Path(c.info(n).shard).name for n in c.names} for c in (suture.open(recipient), suture.open(out))]
    assert layouts[0] == layouts[1]
    if (recipient / INDEX_NAME).exists():
        indices = [json.loads((folder / INDEX_NAME).read_text()) for folder in (recipient, out)]
        assert indices[0]["weight_map"] == indices[1]["weight_map"]
        assert indices[0]["metadata"]["total_size"] == indices[1]["metadata"]["total_size"]
    else:
        assert not (out / INDEX_NAME).exists()
    assert json.loads((recipient / "config.json").read_text()) == json.loads((out / "config.json").read_text())
    for name in ("tokenizer_config.json", "generation_config.json"):
        assert (recipient / name).read_bytes() == (out / name).read_bytes()


@pytest.mark.parametrize("non_layer", SOURCES)
@pytest.mark.parametrize("kind", ["untied", "tied"])
def test_every_place_and_every_source(
    kind: str, non_layer: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Laws 2 and 5: over the whole grid of ends and seams the bytes are those of an assembly by hand."""
    models: dict[str, Path] = request.getfixturevalue(kind)
    tensors, out = read(models), tmp_path / "out"
    base: dict[str, Any] = {"base": models["base"]} if non_layer == "base" else {}
    for place in places(SMALL["layers"], fit=True):
        if non_layer == "into" and not place["bottom"] and not place["top"]:
            with pytest.raises(suture.UsageError, match="nothing is swapped"):
                suture.swap(models["into"], models["donor"], tmp_path / "none", **place)
            continue
        suture.swap(models["into"], models["donor"], out, **place, **base, non_layer=non_layer, settings=AGAIN)
        shares = swap.shares(SMALL["layers"], **place)
        wanted = assemble(tensors, by_layer([between(share) for share in shares]), outside_of(non_layer))
        same(read_checkpoint(out), wanted)
    kept_as_in(models["into"], out)
    assert (HEAD in read_checkpoint(out)) is (kind == "untied")


def test_no_place_is_too_large_for_the_layers(untied: dict[str, Path], tmp_path: Path) -> None:
    """Law 8: every choice that does not fit is refused, with how many layers there are; nothing is written."""
    for place in places(SMALL["layers"], fit=False):
        if max(place.values()) < 4:
            with pytest.raises(suture.UsageError, match="4 layers"):
                suture.swap(untied["into"], untied["donor"], tmp_path / "out", **place, dry_run=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("width", [0, 1, 2])
def test_transition_is_both_widths(width: int, tmp_path: Path) -> None:
    """`transition` says the width of both seams at once; one given alone leaves the other at nothing."""
    models = family(tmp_path, layers=6)
    outs = []
    both = {"transition_bottom": width, "transition_top": width}
    choices: list[dict[str, Any]] = [{"transition": width}, both, {"transition_bottom": width}]
    for number, seams in enumerate(choices):
        outs.append(tmp_path / f"out-{number}")
        suture.swap(models["into"], models["donor"], outs[-1], bottom=1, top=1, **seams)
    same(read_checkpoint(outs[0]), read_checkpoint(outs[1]))
    shares = [1.0] + [0.5] * width + [0.0] * (4 - width) + [1.0]
    same(read_checkpoint(outs[2]), assemble(read(models), by_layer([between(share) for share in shares])))


@pytest.mark.parametrize(
    ("place", "shares"),
    [
        ({"bottom": 1, "transition": 1}, [1, 1 / 2, 0, 0, 0, 0]),
        ({"bottom": 2, "transition_bottom": 2, "top": 1}, [1, 1, 2 / 3, 1 / 3, 0, 1]),
        ({"bottom": 1, "transition_bottom": 3}, [1, 3 / 4, 1 / 2, 1 / 4, 0, 0]),
        ({"top": 1, "transition_top": 3}, [0, 0, 1 / 4, 1 / 2, 3 / 4, 1]),
        ({"bottom": 1, "top": 2, "transition_bottom": 1, "transition_top": 2}, [1, 1 / 2, 1 / 3, 2 / 3, 1, 1]),
        ({"bottom": 1, "top": 1}, [1, 0, 0, 0, 0, 1]),
    ],
    ids=str,
)
def test_a_ramp_falls_from_the_donors_side(place: dict[str, Any], shares: list[float], tmp_path: Path) -> None:
    """Law 2: at the j-th of t layers from the donor's side the donor's share is (t + 1 - j) / (t + 1)."""
    models = family(tmp_path, layers=6)
    suture.swap(models["into"], models["donor"], tmp_path / "out", **place, blend="ramp")
    assert swap.shares(6, "ramp", **place) == pytest.approx(shares)
    wanted = assemble(read(models), by_layer([between(share) for share in swap.shares(6, "ramp", **place)]))
    same(read_checkpoint(tmp_path / "out"), wanted)


@pytest.mark.parametrize(("into_tied", "base_tied"), [(True, False), (False, True)])
def test_a_base_of_other_ties_gives_its_head(into_tied: bool, base_tied: bool, tmp_path: Path) -> None:
    """Law 5: the base's head comes with its embedding, or is it; config.json says what there is."""
    models = family(tmp_path / "a", tied=into_tied)
    base = family(tmp_path / "b", tied=base_tied)["base"]
    out = tmp_path / "out"
    suture.swap(models["into"], models["donor"], out, bottom=1, base=base, non_layer="base")
    tensors = read(models) | {"base": read_checkpoint(base)}
    same(read_checkpoint(out), assemble(tensors, by_layer([between(s) for s in (1, 0, 0, 0)]), {"base": 1.0}))
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False


SEVERAL: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({"donor": "0", "second": "3"}, {}),
    ({"donor": "0-1", "second": "2-3"}, {}),
    ({"donor": "1,3", "second": "0"}, {"non_layer": "mean"}),
    ({"second": "2", "donor": "0"}, {"non_layer": "base"}),
    ({"donor": "0", "second": "1", "base": "3"}, {"non_layer": "mean"}),
    ({"donor": "0-1", "second": "3"}, {"modules": "self_attn.*"}),
    ({"donor": "0"}, {"non_layer": "from"}),
]


@pytest.mark.parametrize(("donors", "options"), SEVERAL, ids=str)
@pytest.mark.parametrize("kind", ["untied", "tied"])
def test_several_donors_give_their_layers(
    kind: str, donors: dict[str, str], options: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Laws 2 and 5: each donor's layers are its bytes; the mean is that of the recipient and all donors."""
    models: dict[str, Path] = request.getfixturevalue(kind)
    base: dict[str, Any] = {"base": models["base"]} if options.get("non_layer") == "base" else {}
    report = suture.swap(models["into"], donors_of(models, **donors), tmp_path / "out", **options, **base)
    givers = swap.givers(SMALL["layers"], donors)
    inside = by_layer([{giver or "into": 1.0} for giver in givers], options.get("modules", "*"))
    outside = outside_of(options.get("non_layer", "into"), list(donors))
    same(read_checkpoint(tmp_path / "out"), assemble(read(models), inside, outside))
    kept_as_in(models["into"], tmp_path / "out")

    used = {(label, name) for tensor in report.data["tensors"].values() for label, name, _ in tensor["from"]}
    unused = {(entry["model"], entry["tensor"]) for entry in report.data["unused"]}
    given = {"into", *donors, *base}
    assert used | unused == {(models[label].name, name) for label in given for name in read_checkpoint(models[label])}
    assert used & unused == set()


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("into", [True, False])
def test_the_mean_of_several_counts_every_head(into: bool, first: bool, second: bool, tmp_path: Path) -> None:
    """Law 5: if any of them has a head of its own the output has one, the mean of all, tied or not."""
    models = {
        label: family(tmp_path / label, tied=is_tied)[label]
        for label, is_tied in (("into", into), ("donor", first), ("second", second))
    }
    donors = donors_of(models, donor="0", second="3")
    suture.swap(models["into"], donors, tmp_path / "out", non_layer="mean")
    layers: list[Shares] = [{"donor": 1.0}, {"into": 1.0}, {"into": 1.0}, {"second": 1.0}]
    wanted = assemble(read(models), by_layer(layers), outside_of("mean", ["donor", "second"]))
    same(read_checkpoint(tmp_path / "out"), wanted)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is (HEAD not in wanted)


def test_layers_of_donors_may_be_numbers_and_paths_may_be_paths(untied: dict[str, Path], tmp_path: Path) -> None:
    """As everywhere else a path is text or a `Path`, and layers are text or numbers."""
    donors: Any = {untied["donor"]: [1, 0], untied["second"]: range(3, 4)}
    suture.swap(untied["into"], donors, tmp_path / "numbers")
    suture.swap(untied["into"], donors_of(untied, donor="0-1", second="3"), tmp_path / "text")
    same(read_checkpoint(tmp_path / "numbers"), read_checkpoint(tmp_path / "text"))


def test_a_lone_donor_with_its_layers_is_a_plain_swap(untied: dict[str, Path], tmp_path: Path) -> None:
    """A mapping of one donor says the same as the donor and `layers`."""
    suture.swap(untied["into"], donors_of(untied, donor="0,2-3"), tmp_path / "mapped")
    suture.swap(untied["into"], untied["donor"], tmp_path / "plain", layers="0,2-3")
    same(read_checkpoint(tmp_path / "mapped"), read_checkpoint(tmp_path / "plain"))


@pytest.fixture(scope="module", params=["bf16", "f16", "f32"])
def strangers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A recipient of one base, a donor of another that lies near it."""
    folder = tmp_path_factory.mktemp(f"bases-{request.param}")
    base, into, donor_base, donor = llama_family(folder, **SMALL, dtype=request.param, spread=0.01)
    return {"base": base, "into": into, "donor_base": donor_base, "donor": donor}


@pytest.mark.parametrize(
    "options",
    [
        {"bottom": 1, "top": 1},
        {"layers": "1-2"},
        {"bottom": 1, "top": 1, "transition": 1},
        {"bottom": 1, "transition_bottom": 3, "blend": "ramp"},
        {"bottom": 1, "top": 1, "transition_top": 1, "blend": 0.375, "non_layer": "base"},
        {"layers": "0-3", "modules": "mlp.*"},
    ],
    ids=str,
)
def test_the_delta_form(options: dict[str, Any], strangers: dict[str, Path], tmp_path: Path) -> None:
    """Law 2: base + (donor - donor_base), in float64, blended if asked, rounded once; the rest is not touched.

    All shares are sums of powers of two, for which float64 is exact: the order of the sum decides no halfway case.
    """
    bases: dict[str, Any] = {"base": strangers["base"], "donor_base": strangers["donor_base"]}
    suture.swap(strangers["into"], strangers["donor"], tmp_path / "out", **bases, **options)
    tensors = read(strangers)
    tensors["carried"] = carried(tensors["base"], tensors["donor"], tensors["donor_base"])
    place = {
        key: options[key]
        for key in ("bottom", "top", "transition", "transition_bottom", "transition_top")
        if key in options
    }
    if "layers" in options:
        shares = [float(layer in swap.parse_layers(options["layers"])) for layer in range(SMALL["layers"])]
    else:
        shares = swap.shares(SMALL["layers"], options.get("blend", 0.5), **place)
    layers: list[Shares] = [{"carried": share, "into": 1.0 - share} for share in shares]
    wanted = assemble(
        tensors, by_layer(layers, options.get("modules", "*")), outside_of(options.get("non_layer", "into"))
    )
    same(read_checkpoint(tmp_path / "out"), wanted)


@pytest.mark.parametrize("io", ["mmap", "pread", "direct"])
def test_the_delta_form_does_not_depend_on_how_it_is_done(io: str, strangers: dict[str, Path], tmp_path: Path) -> None:
    """Law 3: the same bytes for any number of threads, chunk, I/O mode and shards."""
    bases: dict[str, Any] = {"base": strangers["base"], "donor_base": strangers["donor_base"]}
    options: dict[str, Any] = bases | {"bottom": 1, "transition_bottom": 2, "blend": "ramp", "non_layer": "mean"}
    suture.swap(strangers["into"], strangers["donor"], tmp_path / "plain", **options)
    how = suture.Settings(io=io, threads=3, chunk="4KiB", shard_size="3kB", memory="128MiB")
    suture.swap(strangers["into"], strangers["donor"], tmp_path / "other", **options, settings=how)
    same(read_checkpoint(tmp_path / "other"), read_checkpoint(tmp_path / "plain"))


def test_the_delta_form_of_several_donors(strangers: dict[str, Path], tmp_path: Path) -> None:
    """Law 2: with several donors each one's change goes onto the recipient's base."""
    bases: dict[str, Any] = {"base": strangers["base"], "donor_base": strangers["donor_base"]}
    donors = donors_of(strangers, donor="0", into="3")
    suture.swap(strangers["base"], donors, tmp_path / "out", **bases)
    tensors = read(strangers)
    for label in ("donor", "into"):
        tensors[f"moved-{label}"] = carried(tensors["base"], tensors[label], tensors["donor_base"])
    layers: list[Shares] = [{"moved-donor": 1.0}, {"into": 1.0}, {"into": 1.0}, {"moved-into": 1.0}]
    same(read_checkpoint(tmp_path / "out"), assemble(tensors | {"into": tensors["base"]}, by_layer(layers)))


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("transition", [0, 1])
def test_the_delta_form_of_one_base_is_the_plain_swap(
    copied: bool, transition: int, strangers: dict[str, Path], tmp_path: Path
) -> None:
    """Law 2: where the donor's base is the recipient's, the same file or an equal one, nothing is added to it."""
    base = strangers["base"]
    other = Path(shutil.copytree(base, tmp_path / "copy")) if copied else base
    place: dict[str, Any] = {"bottom": 1, "top": 1, "transition": transition}
    suture.swap(strangers["into"], strangers["donor"], tmp_path / "delta", base=base, donor_base=other, **place)
    suture.swap(strangers["into"], strangers["donor"], tmp_path / "plain", **place)
    same(read_checkpoint(tmp_path / "delta"), read_checkpoint(tmp_path / "plain"))


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "two_donors_of_a_layer": ({"donor": "0-1", "second": "1-2"}, {}, ("layer 1", "tuned-2", "tuned-3")),
    "no_such_layer": ({"donor": "0", "second": "4"}, {}, ("4", "4 layers|there are 4")),
    "no_layers": ({"donor": "0", "second": ""}, {}, ("layers",)),
    "layers_of_words": ({"donor": "first"}, {}, ("first",)),
    "from_one_of_two": (
        {"donor": "0", "second": "1"},
        {"non_layer": "from"},
        ("non_layer|non-layer", "donors", "into", "base", "mean"),
    ),
    "bottom_besides": ({"donor": "0", "second": "1"}, {"bottom": 1}, ("bottom",)),
    "top_besides": ({"donor": "0"}, {"top": 1}, ("top",)),
    "layers_besides": ({"donor": "0"}, {"layers": "1"}, ("layers",)),
    "transition_besides": ({"donor": "0"}, {"transition": 1}, ("transition",)),
    "lower_transition_besides": ({"donor": "0"}, {"transition_bottom": 1}, ("transition",)),
    "nobody": ({}, {}, ("donor",)),
}


@pytest.mark.parametrize("name", WRONG)
def test_donors_that_do_not_go_together_are_refused(name: str, untied: dict[str, Path], tmp_path: Path) -> None:
    """Law 8: a usage error that says what was expected and found; nothing is written."""
    donors, options, said = WRONG[name]
    with pytest.raises(suture.UsageError) as caught:
        suture.swap(untied["into"], donors_of(untied, **donors), tmp_path / "out", **options)
    says(str(caught.value), *said)
    assert list(tmp_path.iterdir()) == []


def says(told: str, *parts: str) -> None:
    """Every part is in the message, or one of its alternatives."""
    assert [part for part in parts if not any(either in told for either in part.split("|"))] == [], told


WRONG_OPTIONS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"bottom": 1, "non_layer": "base"}, ("base",)),
    ({"bottom": 1, "donor_base": "base"}, ("base", "donor")),
    ({"bottom": 1, "non_layer": "donor"}, ("non_layer|non-layer", "donor", "into", "from", "base", "mean")),
    ({"layers": "0", "blend": "ramp"}, ("ramp", "layers")),
    ({"bottom": 1, "transition": 1, "blend": "slope"}, ("blend", "ramp", "slope")),
    ({"bottom": 1, "transition": 1, "blend": 1.5}, ("blend", "0 to 1", "1.5")),
    ({"bottom": 1, "transition_bottom": -1}, ("transition_bottom|transition-bottom", "-1")),
    ({"top": 1, "transition_top": -1}, ("transition_top|transition-top", "-1")),
    ({"bottom": 1, "transition_bottom": 4}, ("4 layers",)),
    ({"layers": "0", "transition_bottom": 1}, ("layers", "transition")),
    ({"layers": "0", "transition_top": 1}, ("layers", "transition")),
    ({"layers": "0,9"}, ("9", "4")),
]


@pytest.mark.parametrize(("options", "said"), WRONG_OPTIONS, ids=str)
def test_options_that_do_not_go_together_are_refused(
    options: dict[str, Any], said: tuple[str, ...], untied: dict[str, Path], tmp_path: Path
) -> None:
    """Law 8: a usage error that says what was expected and found; nothing is written."""
    options = {key: untied[value] if key == "donor_base" else value for key, value in options.items()}
    with pytest.raises(suture.UsageError) as caught:
        suture.swap(untied["into"], untied["donor"], tmp_path / "out", **options)
    says(str(caught.value), *said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["base", "donor_base"])
def test_a_base_that_is_not_there_is_named(key: str, untied: dict[str, Path], tmp_path: Path) -> None:
    """Law 8: a path that does not exist is an error with the path, whichever option gave it."""
    bases: dict[str, Any] = {"base": untied["base"], "donor_base": untied["second"]} | {key: tmp_path / "none"}
    with pytest.raises(suture.SutureError, match="none"):
        suture.swap(untied["into"], untied["donor"], tmp_path / "out", bottom=1, non_layer="base", **bases)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["base", "donor_base", "second"])
def test_models_of_other_shapes_are_refused(key: str, untied: dict[str, Path], tmp_path: Path) -> None:
    """Law 8: whichever model does not fit is named; nothing is written."""
    odd = family(tmp_path / "odd", layers=3)["base"].rename(tmp_path / "odd-one")
    donor: Any = {str(untied["donor"]): "0", str(odd): "1"} if key == "second" else untied["donor"]
    bases = {"base": untied["base"], "donor_base": untied["second"]} | {key: odd}
    options: dict[str, Any] = {} if key == "second" else bases | {"bottom": 4}
    with pytest.raises(suture.SutureError, match="odd-one"):
        suture.swap(untied["into"], donor, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_layers_of_another_kind_are_refused_of_every_donor(tmp_path: Path) -> None:
    """A sliding-window layer in the place of a full one is an error, whichever donor has it."""
    models = family(tmp_path)
    config = json.loads((models["second"] / "config.json").read_text())
    write_json(models["second"] / "config.json", config | {"layer_types": KINDS[::-1] * 2})
    with pytest.raises(suture.SutureError, match="layer_types") as caught:
        suture.swap(models["into"], donors_of(models, donor="0", second="1"), tmp_path / "out")
    assert "tuned-3" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_stranger_is_told(tmp_path: Path) -> None:
    """A donor that was not tuned from the recipient's base is a warning with its cosine; fine-tunes of one are none."""
    into = llama_family(tmp_path / "a", n=1, layers=4, hidden=64)
    stranger = llama_family(tmp_path / "b", n=0, layers=4, hidden=64, seed=99)[0]
    report = suture.swap(into[0], stranger, tmp_path / "out", bottom=1)
    assert any("tunings of one model" in w and stranger.name in w and "cosine" in w for w in report.warnings)
    assert suture.swap(into[0], into[1], tmp_path / "kin", bottom=1).warnings == []
