"""`propose` chooses by the published rule, from the scores that the float64 oracle has; `swap(auto=...)` does it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture.proposal import edges_of

from ..reference import proposal, swap
from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint
from ..support.planted import in_layers, planted
from ..support.swapping import Inside, assemble, between, by_layer, outside_of, same

LAYERS = 8
QUERIES = "self_attn.q_proj"
OUTER = {0: 0.02, 1: 0.02, 7: 0.02}
MIDDLE = {3: 0.02, 4: 0.02}
PARTS = ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")


@pytest.fixture(scope="module")
def plants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Noise on the middle layers' queries of the recipient, and on the outer layers of the donor."""
    folder = tmp_path_factory.mktemp("plants")
    return planted(folder, in_layers(MIDDLE, QUERIES), in_layers(OUTER))


@pytest.fixture(scope="module", params=range(6))
def mixed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Noise of random size on every module of every layer of both, some layers of one of them left as they are."""
    rng = np.random.default_rng(request.param)
    sides: list[dict[str, float]] = []
    for _ in range(2):
        parts = [f"layers.{layer}.{block}" for layer in range(LAYERS) for block in PARTS]
        sides.append(
            {part: float(size) for part, size in zip(parts, rng.uniform(0.001, 0.01, len(parts)), strict=True)}
        )
        for layer in rng.choice(LAYERS, 2, replace=False):
            sides[-1] = {part: size for part, size in sides[-1].items() if f"layers.{layer}." not in part}
    dtype = ("BF16", "F32", "F16")[request.param % 3]
    folder = tmp_path_factory.mktemp(f"mixed-{request.param}")
    outside = {"embed_tokens": 0.003, "lm_head": 0.001}
    return planted(folder, sides[0] | outside, sides[1] | outside, dtype=dtype, seed=request.param)


def propose(models: Mapping[str, Path], **options: Any) -> dict[str, Any]:
    found: Any = suture.propose(models["base"], models["into"], models["donor"], **options)
    assert isinstance(found, dict)
    return found


def oracle(models: Mapping[str, Path], by: str = "layer") -> tuple[dict[proposal.Unit, float], ...]:
    """The normalised scores of recipient and donor."""
    values = {label: {n: raw.values() for n, raw in read_checkpoint(p).items()} for label, p in models.items()}
    return tuple(proposal.normalised(proposal.scores(values["base"], values[label], by)) for label in ("into", "donor"))


def differences(models: Mapping[str, Path], by: str = "layer") -> dict[proposal.Unit, float]:
    into, donor = oracle(models, by)
    return {unit: donor[unit] - share for unit, share in into.items()}


def choices(models: Mapping[str, Path], by: str, tau: float) -> dict[proposal.Unit, proposal.Choice]:
    into, donor = oracle(models, by)
    return {unit: proposal.chosen(share, donor[unit], tau) for unit, share in into.items()}


def rows(found: Mapping[str, Any]) -> dict[proposal.Unit, dict[str, Any]]:
    """The scores by layer and block, each there once."""
    units = [(row["layer"], row["block"]) for row in found["scores"]]
    assert len(set(units)) == len(units)
    return dict(zip(units, found["scores"], strict=True))


def whose(choice: proposal.Choice, alpha: float = 0.5) -> float:
    """The donor's share by a choice."""
    return {"donor": 1.0, "into": 0.0, "blend": alpha}[choice]


def expected_edges(models: Mapping[str, Path], tau: float = 0.001) -> proposal.Edges:
    return proposal.edges(list(differences(models).values()), tau)


def test_the_rules_by_hand() -> None:
    """The oracle on numbers small enough to do on paper."""
    ones, twos = np.ones((2, 2)), np.full((2, 2), 2.0)
    base = {f"model.layers.0.{m}.weight": ones for m in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "norm")}
    tuned = base | {"model.layers.0.self_attn.q_proj.weight": twos, "model.layers.0.mlp.up_proj.weight": -twos}
    assert proposal.scores(base, tuned, "layer") == {(0, None): 1 + 0 + 3}
    assert proposal.scores(base, tuned, "module") == {(0, "attention"): 1, (0, "mlp"): 3}
    assert proposal.root_of_squares([3, 4]) == 5
    assert proposal.moved(0 * ones, twos) == 4
    assert proposal.normalised({(0, None): 1, (1, None): 3})[1, None] == pytest.approx(0.75, abs=1e-8)
    assert [proposal.choose(d, 0.1) for d in (0.2, 0.1, 0, -0.1, -0.2)] == ["donor", *["blend"] * 3, "into"]


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([0.3, -0.6, 0.3], (1, 1, 0, 0, 0.6)),
        ([0.3, 0, 0, -0.6, 0, 0.3], (1, 1, 2, 1, 0.6)),
        ([0.1, -0.05, 0.2, 0, -0.5, 0.25], (3, 1, 1, 0, 0.5)),
        ([-0.1, 0.05, -0.2, 0.25], (0, 1, 0, 0, 0.25)),
        ([0.1, 0.2, -0.3], (2, 0, 0, 0, 0.3)),
        ([-0.1, 0.1, 0.0], (0, 2, 0, 0, 0.1)),
        ([0.0, 0.0], (0, 0, 0, 0, 0)),
        ([-1.0, 0.0], (0, 0, 0, 0, 0)),
        ([0.5, 0.5], (2, 0, 0, 0, 1)),
        ([0.25, 0, -0.5, 0.01, 0.25], (1, 2, 1, 0, 0.51)),
    ],
    ids=str,
)
def test_edges_by_hand(gains: list[float], expected: tuple[float, ...]) -> None:
    """The prefix and the suffix that together gain most; seams of what is within tau."""
    found = proposal.edges(gains, 0.001)
    assert (found.bottom, found.top, found.transition_bottom, found.transition_top) == expected[:4]
    assert found.gain == pytest.approx(expected[4])


def test_edges_are_the_best_of_all() -> None:
    """What is found at once is what trying every bottom and top finds, on 10,000 random claims with many ties."""
    rng = np.random.default_rng(0)
    for case in range(10_000):
        size = int(rng.integers(1, 13))
        claims = rng.normal(size=size) if case % 2 else rng.integers(-2, 3, size) / 4
        gains, expected = claims.tolist(), proposal.edges(claims.tolist(), 0.1)
        found = edges_of(gains, 0.1)
        assert found["gain"] == pytest.approx(expected.gain), gains
        assert found["bottom"] + found["top"] == expected.bottom + expected.top, gains
        whole = found["bottom"] + found["top"] == size
        assert (found["told"] is not None) == (whole or found["gain"] <= 0.1), gains


def test_planted_layers_are_found(plants: dict[str, Path]) -> None:
    """`edges` is exactly the donor's planted layers; the layer rule takes them and keeps the recipient's."""
    found = propose(plants)
    assert (found["edges"]["bottom"], found["edges"]["top"]) == (2, 1)
    assert (found["edges"]["transition_bottom"], found["edges"]["transition_top"]) == (1, 2)
    chosen = {layer: row["choice"] for (layer, _), row in rows(found).items()}
    assert {layer for layer, choice in chosen.items() if choice == "donor"} == set(OUTER)
    assert {layer for layer, choice in chosen.items() if choice == "into"} == set(range(LAYERS)) - set(OUTER)
    assert found["silent"] == sorted(set(range(LAYERS)) - set(OUTER) - set(MIDDLE))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
def test_any_planted_outer_layers_are_found(dtype: str, seed: int, tmp_path: Path) -> None:
    """Whatever outer layers are planted, and however many are left between them and the middle."""
    rng = np.random.default_rng(seed)
    bottom, top = (int(n) for n in rng.integers(0, 3, 2))
    outer = [*range(bottom), *range(LAYERS - top, LAYERS)]
    middle = range(bottom + int(rng.integers(0, 2)), LAYERS - top - int(rng.integers(0, 2)))
    donor = {layer: float(rng.uniform(0.01, 0.03)) for layer in outer}
    into = {layer: float(rng.uniform(0.01, 0.03)) for layer in middle}
    models = planted(tmp_path, in_layers(into, QUERIES), in_layers(donor), dtype=dtype, seed=seed)
    found = propose(models)
    assert (found["edges"]["bottom"], found["edges"]["top"]) == (bottom, top)
    assert [layer for (layer, _), row in rows(found).items() if row["choice"] == "donor"] == outer
    assert [layer for (layer, _), row in rows(found).items() if row["choice"] == "into"] == [
        layer for layer in range(LAYERS) if layer not in outer
    ]


@pytest.mark.parametrize("by", ["layer", "module"])
def test_scores_are_the_oracles(by: str, mixed: dict[str, Path]) -> None:
    """Law 2: every share, difference and margin agrees with float64; the choice follows from them."""
    tau = 0.004
    found = rows(propose(mixed, by=by, tau=tau))
    into, donor = oracle(mixed, by)
    assert list(found) == list(into)
    for unit, row in found.items():
        assert row["into"] == pytest.approx(into[unit], rel=1e-6)
        assert row["donor"] == pytest.approx(donor[unit], rel=1e-6)
        difference = donor[unit] - into[unit]
        assert row["difference"] == pytest.approx(difference, abs=1e-7)
        assert row["margin"] == pytest.approx(abs(abs(difference) - tau), abs=1e-7)
        assert row["choice"] == proposal.chosen(into[unit], donor[unit], tau)


@pytest.mark.parametrize("by", ["layer", "module"])
def test_biases_of_the_scored_modules_count(by: str, tmp_path: Path) -> None:
    """The published code takes every parameter of q, k, v, o, gate, up and down: in Qwen2 the biases too."""
    into = in_layers(MIDDLE, QUERIES) | in_layers({5: 0.05}, "self_attn.k_proj.bias")
    models = planted(tmp_path, into, in_layers(OUTER, "self_attn.v_proj"), extras=True)
    found, wanted = rows(propose(models, by=by)), oracle(models, by)
    assert [row["into"] for row in found.values()] == pytest.approx(list(wanted[0].values()), rel=1e-6)
    assert [row["donor"] for row in found.values()] == pytest.approx(list(wanted[1].values()), rel=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-11])
def test_a_base_of_next_to_nothing_is_not_divided_by(size: float, tmp_path: Path) -> None:
    """By the published rule a norm up to 1e-8 divides nothing: the change counts as it is."""
    models = planted(tmp_path, in_layers(MIDDLE, QUERIES), in_layers(OUTER), dtype="F32")
    tensors: dict[str, Any] = dict(read_checkpoint(models["base"]))
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = np.full(tensors[name].shape, size, np.float32)
    write_checkpoint(models["base"], tensors)
    found, wanted = rows(propose(models)), oracle(models)
    assert [row["into"] for row in found.values()] == pytest.approx(list(wanted[0].values()), rel=1e-6)
    assert [row["donor"] for row in found.values()] == pytest.approx(list(wanted[1].values()), rel=1e-6)


def test_what_is_proposed_is_said(plants: dict[str, Path]) -> None:
    """The models, the rule and its numbers stand in the proposal; tau is 0.001 and alpha 0.5 unless said."""
    found = propose(plants)
    assert {label: Path(found[label]) for label in plants} == plants
    assert (found["by"], found["tau"], found["alpha"]) == ("layer", 0.001, 0.5)
    assert all(row["block"] is None for row in found["scores"])
    assert found["layers"] == [row["choice"] for row in found["scores"]]
    given = propose(plants, by="module", tau=0.25, alpha=0.75)
    assert (given["by"], given["tau"], given["alpha"]) == ("module", 0.25, 0.75)
    assert [row["block"] for row in given["scores"]] == ["attention", "mlp"] * LAYERS


def test_edges_are_the_oracles(mixed: dict[str, Path]) -> None:
    """The second proposal comes from the shares of whole layers, whichever rule the first one is by."""
    for tau in (0.0, 0.001, 0.02, 0.2):
        wanted = expected_edges(mixed, tau)
        for by in ("layer", "module"):
            found = propose(mixed, tau=tau, by=by)["edges"]
            assert {key: found[key] for key in found if key not in ("gain", "told")} == {
                key: getattr(wanted, key) for key in ("bottom", "top", "transition_bottom", "transition_top")
            }
            assert found["gain"] == pytest.approx(wanted.gain, abs=1e-7)


@pytest.mark.parametrize("by", ["layer", "module"])
def test_donor_and_recipient_mirror_each_other(by: str, mixed: dict[str, Path]) -> None:
    """The rule knows no sides: with both exchanged every choice is the other one, and margins are the same."""
    other = {"into": "donor", "donor": "into", "blend": "blend"}
    there = rows(propose(mixed, by=by, tau=0.004))
    back = rows(propose(mixed | {"into": mixed["donor"], "donor": mixed["into"]}, by=by, tau=0.004))
    assert list(there) == list(back)
    for unit, row in there.items():
        silent = row["into"] == row["donor"] == 0
        assert back[unit]["choice"] == ("into" if silent else other[row["choice"]])
        assert back[unit]["difference"] == -row["difference"]
        assert back[unit]["margin"] == row["margin"]
        assert (back[unit]["into"], back[unit]["donor"]) == (row["donor"], row["into"])


def test_tau_decides_between_taking_and_blending(mixed: dict[str, Path]) -> None:
    """A difference beyond tau is a choice, one within it a blend; a margin says how near it was."""
    found = sorted(abs(difference) for difference in differences(mixed).values())
    for tau in (0.0, (found[2] + found[3]) / 2, (found[-2] + found[-1]) / 2, 1.0):
        chosen = [row["choice"] for row in rows(propose(mixed, tau=tau)).values()]
        assert chosen == list(choices(mixed, "layer", tau).values())
        silent = sum(share == donor == 0 for share, donor in zip(*(o.values() for o in oracle(mixed)), strict=True))
        assert chosen.count("blend") == sum(difference <= tau for difference in found) - silent


def test_nothing_that_is_not_scored_counts(tmp_path: Path) -> None:
    """Norms, embeddings and head may change as they will: only q, k, v, o, gate, up and down are looked at."""
    noise = {"layernorm": 0.5, "embed_tokens": 0.5, "lm_head": 0.5, "model.norm": 0.5}
    quiet = planted(tmp_path / "quiet", in_layers(MIDDLE, QUERIES), in_layers(OUTER, "mlp"))
    loud = planted(tmp_path / "loud", in_layers(MIDDLE, QUERIES) | noise, in_layers(OUTER, "mlp"))
    found = [{unit: row["choice"] for unit, row in rows(propose(models)).items()} for models in (quiet, loud)]
    assert found[0] == found[1]
    shares = [[row["into"] > 0 for row in rows(propose(models)).values()] for models in (quiet, loud)]
    assert shares[0] == shares[1] == [layer in MIDDLE for layer in range(LAYERS)]


@pytest.mark.parametrize("same_as", ["base", "into"])
def test_a_donor_that_learned_nothing_new_gives_nothing(same_as: str, plants: dict[str, Path]) -> None:
    """The base as donor gives no layer, the recipient itself blends of what it changed; neither has edges, as told."""
    found = propose(plants | {"donor": plants[same_as]})
    chosen = {layer: row["choice"] for (layer, _), row in rows(found).items()}
    blended = set() if same_as == "base" else set(MIDDLE)
    assert chosen == {layer: "blend" if layer in blended else "into" for layer in range(LAYERS)}
    told = found["edges"].pop("told")
    assert "gain more than tau" in told
    assert found["edges"] == {"bottom": 0, "top": 0, "transition_bottom": 0, "transition_top": 0, "gain": 0}


def test_a_recipient_that_is_the_base_takes_what_the_donor_learned(plants: dict[str, Path]) -> None:
    """Against an untouched recipient every change of the donor counts: the edges are its layers, and no more."""
    models = plants | {"into": plants["base"]}
    found = propose(models)
    assert (found["edges"]["bottom"], found["edges"]["top"]) == (2, 1)
    assert [layer for (layer, _), row in rows(found).items() if row["choice"] == "donor"] == list(OUTER)


def by_module(models: Mapping[str, Path], tau: float, alpha: float) -> Inside:
    """The module rule: attention and MLP by their choices, everything else of a layer from the recipient."""
    chosen = choices(models, "module", tau)

    def shares(layer: int, module: str) -> Mapping[str, float]:
        block = {"self_attn": "attention", "mlp": "mlp"}.get(module.split(".")[0])
        return between(0.0 if block is None else whose(chosen[layer, block], alpha))

    return shares


@pytest.mark.parametrize(("tau", "alpha"), [(0.001, 0.5), (0.02, 0.25), (0.02, 1.0), (0.02, 0.0), (1.0, 0.7)])
@pytest.mark.parametrize("by", ["layer", "module"])
def test_auto_swaps_what_is_proposed(by: str, tau: float, alpha: float, mixed: dict[str, Path], tmp_path: Path) -> None:
    """Law 2: chosen layers or blocks bit for bit, blends and all outside the layers with alpha of the donor."""
    suture.swap(mixed["into"], mixed["donor"], tmp_path / "out", auto=by, base=mixed["base"], tau=tau, alpha=alpha)
    chosen = choices(mixed, "layer", tau)
    inside = by_module(mixed, tau, alpha)
    if by == "layer":
        inside = by_layer([between(whose(choice, alpha)) for choice in chosen.values()])
    wanted = assemble(read(mixed), inside, between(alpha))
    same(read_checkpoint(tmp_path / "out"), wanted)


@pytest.mark.parametrize("choice", ["donor", "blend"])
def test_a_block_is_all_that_is_in_it(choice: str, tmp_path: Path) -> None:
    """By the published code all parameters of the attention move with it: biases, and the norms of q and k."""
    parts = ("self_attn.", "mlp.")
    size, tau = (0.02, 0.001) if choice == "donor" else (0.0005, 1.0)
    into = in_layers(MIDDLE, parts[1]) | {"self_attn.k_norm": 0.01}
    donor = in_layers(OUTER, parts[0]) | {f"layers.{n}.self_attn.q_norm": size for n in range(LAYERS)}
    models = planted(tmp_path, into, donor, extras=True)
    suture.swap(models["into"], models["donor"], tmp_path / "out", auto="module", base=models["base"], tau=tau)
    chosen = choices(models, "module", tau)
    assert choice in {chosen[layer, "attention"] for layer in OUTER} | {chosen[layer, "attention"] for layer in MIDDLE}
    same(read_checkpoint(tmp_path / "out"), assemble(read(models), by_module(models, tau, 0.5), between(0.5)))


@pytest.mark.parametrize("by", ["layer", "module"])
def test_auto_moves_only_the_modules_that_are_asked_for(by: str, mixed: dict[str, Path], tmp_path: Path) -> None:
    """Law 8: `modules` narrows what is proposed; no option is passed over in silence."""
    options: dict[str, Any] = {"auto": by, "base": mixed["base"], "modules": "self_attn.*"}
    suture.swap(mixed["into"], mixed["donor"], tmp_path / "out", **options)
    chosen = choices(mixed, by, 0.001)
    attention = [whose(chosen[layer, None if by == "layer" else "attention"]) for layer in range(LAYERS)]
    inside = by_layer([between(share) for share in attention], "self_attn.*")
    same(read_checkpoint(tmp_path / "out"), assemble(read(mixed), inside, between(0.5)))


def read(models: Mapping[str, Path]) -> dict[str, dict[str, Raw]]:
    return {label: read_checkpoint(path) for label, path in models.items()}


def test_auto_by_layers_is_the_swap_written_out(tmp_path: Path) -> None:
    """Where no layer is blended, the layer rule is `layers` with the mean of what lies outside them."""
    models = planted(tmp_path, in_layers(dict.fromkeys(range(2, 7), 0.02)), in_layers(OUTER))
    suture.swap(models["into"], models["donor"], tmp_path / "auto", auto="layer", base=models["base"])
    suture.swap(models["into"], models["donor"], tmp_path / "hand", layers="0,1,7", non_layer="mean")
    same(read_checkpoint(tmp_path / "auto"), read_checkpoint(tmp_path / "hand"))


@pytest.mark.parametrize("non_layer", ["into", "from", "base", "mean"])
def test_auto_by_edges_is_the_swap_written_out(non_layer: str, plants: dict[str, Path], tmp_path: Path) -> None:
    """`edges` is a swap of outer layers like any other, with what lies outside them as `non_layer` says."""
    options: dict[str, Any] = {"base": plants["base"], "non_layer": non_layer}
    suture.swap(plants["into"], plants["donor"], tmp_path / "auto", auto="edges", **options)
    place: dict[str, Any] = {"bottom": 2, "top": 1, "transition_bottom": 1, "transition_top": 2}
    suture.swap(plants["into"], plants["donor"], tmp_path / "hand", **place, **options)
    same(read_checkpoint(tmp_path / "auto"), read_checkpoint(tmp_path / "hand"))
    inside = by_layer([between(share) for share in swap.shares(LAYERS, **place)])
    same(read_checkpoint(tmp_path / "auto"), assemble(read(plants), inside, outside_of(non_layer)))


def test_auto_by_edges_of_any_models(mixed: dict[str, Path], tmp_path: Path) -> None:
    """Law 2: whatever edges the oracle finds, the output is the assembly by them."""
    edges = expected_edges(mixed, 0.02)
    suture.swap(mixed["into"], mixed["donor"], tmp_path / "out", auto="edges", base=mixed["base"], tau=0.02)
    place = {key: getattr(edges, key) for key in ("bottom", "top", "transition_bottom", "transition_top")}
    inside = by_layer([between(share) for share in swap.shares(LAYERS, **place)])
    same(read_checkpoint(tmp_path / "out"), assemble(read(mixed), inside))


def test_auto_with_tied_embeddings(tmp_path: Path) -> None:
    """Law 5: a tied embedding is blended once and stays tied."""
    models = planted(tmp_path, in_layers(MIDDLE) | {"embed": 0.01}, in_layers(OUTER) | {"embed": 0.02}, tied=True)
    suture.swap(models["into"], models["donor"], tmp_path / "out", auto="layer", base=models["base"], alpha=0.25)
    shares = [whose(choice, 0.25) for choice in choices(models, "layer", 0.001).values()]
    wanted = assemble(read(models), by_layer([between(share) for share in shares]), between(0.25))
    same(read_checkpoint(tmp_path / "out"), wanted)


def test_a_dry_run_proposes_and_writes_nothing(plants: dict[str, Path], tmp_path: Path) -> None:
    """The plan of a dry run is that of the run itself."""
    options: dict[str, Any] = {"auto": "layer", "base": plants["base"]}
    dry = suture.swap(plants["into"], plants["donor"], tmp_path / "out", **options, dry_run=True)
    assert list(tmp_path.iterdir()) == []
    report = suture.swap(plants["into"], plants["donor"], tmp_path / "out", **options)
    assert dry.data["hash"] == report.data["plan"]


WRONG: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"auto": "layer", "base": None}, ("base", "auto")),
    ({"auto": "tensor"}, ("auto", "layer", "module", "edges", "tensor")),
    ({"auto": "layer", "bottom": 1}, ("auto", "bottom")),
    ({"auto": "edges", "top": 1}, ("auto", "top")),
    ({"auto": "layer", "layers": "0"}, ("auto", "layers")),
    ({"auto": "edges", "transition": 1}, ("auto", "transition")),
    ({"auto": "layer", "tau": -0.1}, ("tau", "-0.1")),
    ({"auto": "layer", "tau": float("nan")}, ("tau",)),
    ({"auto": "layer", "alpha": 1.5}, ("alpha", "1.5")),
    ({"auto": "layer", "alpha": -0.5}, ("alpha", "-0.5")),
]


@pytest.mark.parametrize(("options", "said"), WRONG, ids=str)
def test_wrong_options_of_auto_are_refused(
    options: dict[str, Any], said: tuple[str, ...], plants: dict[str, Path], tmp_path: Path
) -> None:
    """Law 8: a usage error that says what was expected and found; nothing is written."""
    options = {"base": plants["base"]} | options
    with pytest.raises(suture.UsageError) as caught:
        suture.swap(plants["into"], plants["donor"], tmp_path / "out", **options)
    assert [part for part in said if part not in str(caught.value)] == [], str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_several_donors_are_not_chosen_from(plants: dict[str, Path], tmp_path: Path) -> None:
    """Law 8: donors that come with their layers leave nothing to propose."""
    donors: Any = {str(plants["donor"]): "0", str(plants["base"]): "1"}
    with pytest.raises(suture.UsageError, match="auto"):
        suture.swap(plants["into"], donors, tmp_path / "out", auto="layer", base=plants["base"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"by": "edges"}, ("by", "layer", "module", "edges")),
        ({"by": "head"}, ("by", "layer", "module", "head")),
        ({"tau": -1.0}, ("tau", "-1")),
        ({"alpha": 2.0}, ("alpha", "2")),
    ],
    ids=str,
)
def test_wrong_proposals_are_refused(options: dict[str, Any], said: tuple[str, ...], plants: dict[str, Path]) -> None:
    """Law 8: the same of `propose` itself."""
    with pytest.raises(suture.UsageError) as caught:
        propose(plants, **options)
    assert [part for part in said if part not in str(caught.value)] == [], str(caught.value)


def test_models_without_layers_are_refused(tmp_path: Path) -> None:
    """Law 8: where there is no layer there is nothing to propose."""
    tensors = {"embed.weight": encode(np.ones((2, 2)), "F32")}
    folders = [write_checkpoint(tmp_path / name, tensors) for name in ("base", "into", "donor")]
    with pytest.raises(suture.SutureError, match="layers"):
        suture.propose(*folders)


@pytest.mark.parametrize("label", ["base", "into", "donor"])
def test_models_that_do_not_match_are_refused(label: str, plants: dict[str, Path], tmp_path: Path) -> None:
    """Law 8: a model with other layers is named."""
    other = planted(tmp_path / "odd", {}, {}, layers=5)["base"].rename(tmp_path / "odd-one")
    with pytest.raises(suture.SutureError, match="odd-one"):
        propose(plants | {label: other})
