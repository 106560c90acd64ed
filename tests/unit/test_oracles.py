"""The oracles of tests/reference agree with the goldens, published vectors and what is done by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ..reference import config, dare, delta, gradient, linear, passthrough, philox, rounding, slerp, swap
from ..reference import select as selection
from ..reference.task_arithmetic import task_arithmetic
from ..reference.ties import sign_margin, ties
from ..support.checkpoints import (
    Raw,
    assert_agree,
    assert_mostly_equal,
    encode,
    llama_family,
    read_checkpoint,
    tree_digest,
)

GOLDENS = Path(__file__).parent.parent / "goldens"
CASES = sorted(folder.name for folder in (GOLDENS / "cases").iterdir())


def f32(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


@pytest.fixture(scope="module")
def models() -> dict[str, dict[str, NDArray[Any]]]:
    folders = (GOLDENS / "models").iterdir()
    return {f.name: {name: raw.values() for name, raw in read_checkpoint(f).items()} for f in folders}


@pytest.mark.parametrize("case", CASES)
def test_oracle_agrees_with_golden(case: str, models: dict[str, dict[str, NDArray[Any]]]) -> None:
    """The precision law: goldens within 2e-6 in f32; in bf16 999 of 1000 elements with the same bits."""
    folder = GOLDENS / "cases" / case
    expected = read_checkpoint(folder / "expected.safetensors")
    found = config.merge(yaml.safe_load((folder / "config.yml").read_text()), models)
    assert sorted(found) == sorted(expected)
    stored = {name: encode(values, expected[name].dtype) for name, values in found.items()}
    (assert_mostly_equal if case == "arcee_fusion" else assert_agree)(stored, expected)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(counter: list[int], key: tuple[int, int], expected: str) -> None:
    """The determinism law stands on this generator: the Random123 known-answer vectors."""
    words = philox.blocks(np.array([counter], dtype=np.uint64), key)[0]
    assert " ".join(f"{word:08x}" for word in words) == expected


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**35), st.integers(0, 40), st.integers(0, 40))
def test_philox_words_do_not_depend_on_the_range(key: int, start: int, before: int, size: int) -> None:
    """A draw is a function of key and element index alone, beyond 2**32 elements too."""
    whole = philox.words(key, before + size, start)
    np.testing.assert_array_equal(philox.words(key, size, start + before), whole[before:])


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_dare_keeps_its_share_and_its_mean(density: float) -> None:
    """DARE: the kept count is binomial (5 sigma) and 1/density leaves the expected delta unchanged."""
    size = 40_000
    kept = dare.drop(np.ones(size, dtype=np.float32), density, key=0x0123456789ABCDEF)
    spread = 5 * np.sqrt(size * density * (1 - density))
    assert abs(int((kept != 0).sum()) - size * density) < spread
    np.testing.assert_allclose(np.unique(kept), [0, 1 / density], rtol=1e-7)


def test_dare_rescales_and_ends_of_the_density() -> None:
    """DARE: l1 matches the norm, none leaves values, density one is the delta, zero is nothing."""
    change = np.linspace(-1, 1, 1001, dtype=np.float32)
    matched = dare.drop(change, 0.3, 7, "l1")
    assert np.abs(matched).sum() == pytest.approx(np.abs(change).sum(), rel=1e-6)
    plain = dare.drop(change, 0.3, 7, "none")
    np.testing.assert_array_equal(plain[plain != 0], change[plain != 0])
    np.testing.assert_array_equal(dare.drop(change, 1.0, 7), change)
    assert not dare.drop(change, 0.0, 7).any()


def test_dare_merges_are_the_plain_merges_of_thinned_models() -> None:
    """dare_linear is task arithmetic, dare_ties is untrimmed ties, of base + thinned delta."""
    rng = np.random.default_rng(5)
    base = np.zeros(500, dtype=np.float32)
    tuned = [rng.normal(size=500).astype(np.float32) for _ in range(3)]
    weights, densities, keys = [0.6, 0.4, 0.5], [0.3, 0.5, 0.9], [1, 2**40, 2**63 + 5]
    thinned = [dare.drop(x, d, k) for x, d, k in zip(tuned, densities, keys, strict=True)]
    np.testing.assert_array_equal(
        dare.dare_linear(base, tuned, weights, densities, keys), task_arithmetic(base, thinned, weights)
    )
    np.testing.assert_array_equal(
        dare.dare_ties(base, tuned, weights, densities, keys),
        ties(base, thinned, weights, [1.0] * 3, normalize=False),
    )


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=40), st.floats(0, 1.2))
def test_selection_is_the_sorted_definition(values: list[int], density: float) -> None:
    """The selection law: exactly k, by magnitude, then by index, with as many ties as there may be."""
    k = selection.keep_count(density, len(values))
    chosen = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))[:k]
    mask = selection.top_k_mask(np.array(values, dtype=np.float32), k)
    assert sorted(chosen) == np.flatnonzero(mask).tolist()


@pytest.mark.parametrize(
    ("density", "size", "count"),
    [(0.29, 100, 28), (0.001, 10, 1), (0, 10, 0), (1, 3, 3), (0.5, 0, 0), (0.2, 64, 12)],
)
def test_keep_count_truncates(density: float, size: int, count: int) -> None:
    """The selection law: k = max(1, int(density * n)) in float64."""
    assert selection.keep_count(density, size) == count


def test_ties_by_hand() -> None:
    """TIES: trim to half, elect by weighted sum, divide by the weights that agree; S = 0 is positive."""
    base = f32(1, 1, 1, 1)
    tuned = [base + f32(4, -3, 1, 2), base + f32(-2, -1, 3, -4)]
    found = ties(base, tuned, [1.0, 0.5], [0.5, 0.5])
    np.testing.assert_array_equal(found, base + f32(4, -3, 3, -4))
    even = ties(f32(0), [f32(2), f32(-2)], [1.0, 1.0], [1.0, 1.0])
    np.testing.assert_array_equal(even, f32(2))
    assert sign_margin([f32(2), f32(-2)], [1.0, 1.0])[0] == 0


def test_ties_divisor_zero_and_lambda() -> None:
    """TIES: where nobody agrees the divisor is one; lambda scales the sum; rescale keeps the L1 norm."""
    zero = f32(0, 0)
    np.testing.assert_array_equal(ties(zero, [zero, zero], [0.3, 0.7], [1, 1]), zero)
    found = ties(zero, [f32(3, 1)], [0.5], [0.5], lam=2.0, rescale=True)
    np.testing.assert_array_equal(found, f32(8, 0))


def test_task_arithmetic_identities() -> None:
    """A0: experts equal to the base give the base; one expert of weight one is given back."""
    base, tuned = f32(1, 2, -3), f32(1.5, 0, -3)
    np.testing.assert_array_equal(task_arithmetic(base, [base, base], [0.3, 0.9]), base)
    np.testing.assert_array_equal(task_arithmetic(base, [tuned], [1.0]), tuned)
    np.testing.assert_array_equal(task_arithmetic(base, [tuned], [1.0], lam=-1.0), f32(0.5, 4, -3))
    np.testing.assert_array_equal(task_arithmetic(base, [tuned, tuned], [3, 1], normalize=True), tuned)


def test_linear_by_hand() -> None:
    """Linear divides by the sum of weights unless told otherwise, and refuses a sum of zero."""
    inputs = [f32(1, 2), f32(3, 6)]
    np.testing.assert_array_equal(linear.linear(inputs, [1, 3]), f32(2.5, 5))
    np.testing.assert_array_equal(linear.linear(inputs, [1, 3], normalize=False), f32(10, 20))
    with pytest.raises(ValueError, match="sum to zero"):
        linear.linear(inputs, [1, -1])


def test_passthrough_is_the_input() -> None:
    """Without a scale passthrough moves any dtype untouched."""
    integers = np.arange(4)
    assert passthrough.passthrough(integers) is integers
    np.testing.assert_array_equal(passthrough.passthrough(f32(1, -2), 0.5), f32(0.5, -1))


def test_slerp_by_hand() -> None:
    """Slerp: ends are the inputs, a right angle's middle is on the circle, parallel or zero is linear."""
    x, y = f32(1, 0), f32(0, 1)
    np.testing.assert_allclose(slerp.slerp(x, y, 0.5), f32(0.5**0.5, 0.5**0.5), rtol=1e-7)
    np.testing.assert_allclose(slerp.slerp(x, y, 0.0), x, atol=1e-9)
    np.testing.assert_allclose(slerp.slerp(x, y, 1.0), y, atol=1e-9)
    np.testing.assert_array_equal(slerp.slerp(x, 3 * x, 0.25), f32(1.5, 0))
    np.testing.assert_array_equal(slerp.slerp(x, -x, 0.5), f32(0, 0))
    np.testing.assert_array_equal(slerp.slerp(x, 0 * x, 0.25), f32(0.75, 0))


@pytest.mark.parametrize("low", [0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_bf16_is_the_nearest_even(low: int) -> None:
    """The precision law: of the two neighbouring bfloat16 values the nearer one, the even one at a tie.

    For every finite upper half; the neighbour above the largest finite value is 2**128.
    """
    upper = np.arange(2**16, dtype=np.uint32)
    upper = upper[(upper & 0x7F80) != 0x7F80]
    values = ((upper << np.uint32(16)) | np.uint32(low)).view(np.float32).astype(np.float64)
    below = rounding.bf16_values(upper.astype(np.uint16)).astype(np.float64)
    above = rounding.bf16_values((upper + 1).astype(np.uint16)).astype(np.float64)
    above = np.where(np.isfinite(above), above, np.copysign(2.0**128, below))
    to_below, to_above = np.abs(values - below), np.abs(above - values)
    up = (to_above < to_below) | ((to_above == to_below) & (upper % 2 == 1))
    np.testing.assert_array_equal(rounding.bf16_bits(values), (upper + up).astype(np.uint16))


def test_rounding_keeps_what_is_special() -> None:
    """Infinities, signed zeros and NaN survive rounding; half overflows to infinity."""
    special = f32(np.inf, -np.inf, 0.0, -0.0, np.nan)
    assert rounding.bf16_bits(special)[:4].tolist() == [0x7F80, 0xFF80, 0, 0x8000]
    noisy = np.array([0x7F800001, 0xFFFFFFFF], dtype=np.uint32).view(np.float32)
    assert np.isnan(rounding.round_to(noisy, "BF16")).all()
    assert rounding.f16_bits(f32(1, 65519, 65520, 2.0**-25)).tolist() == [0x3C00, 0x7BFF, 0x7C00, 0]


def test_gradient_positions_and_filters() -> None:
    """The grammar: a lone layer takes the last value, non-layers the first, the first match wins."""
    assert [gradient.at([0, 0.5, 1], gradient.position(i, 4)) for i in range(4)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert gradient.at([0.1, 0.9], gradient.position(0, 1)) == 0.9
    assert gradient.at([True, False], 0.9) is True
    rules = [{"filter": "self_attn", "value": [0, 1]}, {"filter": "layers.1", "value": 5}, {"value": 7}]
    assert gradient.resolve(rules, "model.layers.1.self_attn.q_proj.weight", 0.25) == 0.25
    assert gradient.resolve(rules, "model.layers.10.mlp.up_proj.weight", 0.25) == 5
    assert gradient.resolve(rules, "model.norm.weight", 0.0) == 7
    assert gradient.resolve(rules[:2], "model.norm.weight", 0.0) is None
    assert gradient.resolve({"filter": "*", "value": 3}, "x", 0.0) == 3


def test_swap_roles_of_the_paper() -> None:
    """Layer swapping with 5 below, 2 above and one seam layer of 32: donor 0-4, 30, 31; blend 5, 29."""
    found = swap.roles(32, bottom=5, top=2, transition=1)
    assert [i for i, role in enumerate(found) if role == "donor"] == swap.parse_layers("0-4,30,31")
    assert [i for i, role in enumerate(found) if role == "blend"] == [5, 29]
    assert swap.roles(4) == ["into"] * 4
    assert swap.roles(3, bottom=3) == ["donor"] * 3
    with pytest.raises(ValueError, match="do not fit"):
        swap.roles(4, bottom=2, top=1, transition=1)


def test_blend_rounds_once() -> None:
    """A seam at one half is the float32 mean, rounded once to the stored dtype."""
    into, donor = rounding.round_to(f32(1.0, 2.0), "BF16"), rounding.round_to(f32(1.0078125, 4.0), "BF16")
    np.testing.assert_array_equal(swap.blend(into, donor, 0.5, "BF16"), f32(1.0, 3.0))
    np.testing.assert_array_equal(swap.blend(into, donor, 0.25, "F32"), f32(1.001953125, 2.5))


def test_delta_metrics_by_hand() -> None:
    """Every figure on a pair small enough to do on paper."""
    found = delta.row(f32(3, -4, 0, 1), f32(3, 4, 2, 1))
    assert (found["mean_abs"], found["max_abs"], found["mean"]) == (2.5, 8, 2.5)
    assert (found["changed"], found["unchanged"], found["flipped"]) == (0.5, 0.5, 0.25)
    assert found["l2"] == pytest.approx(68**0.5)
    assert found["rms"] == pytest.approx(17**0.5)
    assert found["relative_l2"] == pytest.approx((68 / 26) ** 0.5)
    assert found["relative_mean"] == 10 / 8
    assert found["cosine"] == pytest.approx(-6 / (26 * 30) ** 0.5)
    odd = delta.row(f32(np.nan, 1, -0.0), f32(np.nan, np.inf, 0.0))
    assert (odd["nonfinite_base"], odd["nonfinite_tuned"], odd["nonfinite"]) == (1, 2, 3)
    assert (odd["changed"], odd["unchanged"], odd["flipped"], odd["l2"]) == (2 / 3, 1 / 3, 0, 0)
    assert delta.row(f32(0, 0), f32(0, 1))["relative_mean"] == np.inf


def test_delta_spread_by_hand() -> None:
    """Quantiles, concentration and thresholds on paper: changes of 0, 1, 1, 2 and 6 against a mean of 2."""
    found = delta.spread(f32(2, -2, 2, 2, -2), f32(2, -1, 3, 4, -8), ("1", "0.5x", "3x", "6"))
    assert [found[q] for q in ("q50", "q90", "q99", "q999")] == [1, 6, 6, 6]
    assert found["gini"] == pytest.approx((2 * (1 * 0 + 2 * 1 + 3 * 1 + 4 * 2 + 5 * 6) / 10 - 6) / 5)
    assert found["top1"] == 0.6
    assert [found[f"above_{t}"] for t in ("1", "0.5x", "3x", "6")] == [0.4, 0.4, 0, 0]
    nothing = delta.spread(f32(1, np.nan), f32(1, 2))
    assert set(nothing.values()) == {0}
    assert set(delta.spread(f32(np.nan), f32(np.nan)).values()) == {0}


@given(st.lists(st.integers(0, 9), min_size=1, max_size=2100))
def test_delta_quantiles_are_numpys(values: list[int]) -> None:
    """The selection law: `inverted_cdf`, with as many ties as there may be; Gini by its other definition."""
    sizes = np.sort(np.array(values, np.float64))
    for q in delta.QUANTILES.values():
        assert delta.quantile(sizes, q) == np.quantile(sizes, float(q), method="inverted_cdf")
    if sizes.any():
        # the histogram of values, not the n x n matrix of differences
        counts = np.bincount(sizes.astype(int), minlength=10)
        gaps = np.abs(np.subtract.outer(np.arange(10), np.arange(10)))
        by_pairs = (counts[:, None] * counts * gaps).sum() / (2 * sizes.size**2 * sizes.mean())
        assert delta.gini(sizes) == pytest.approx(by_pairs, abs=1e-12)


def test_delta_slices_by_hand() -> None:
    """Heads, neuron groups and vocabulary rows as their definitions say, bounds written out."""
    names = {end: f"model.layers.7.self_attn.{end}" for end in ("q_proj.weight", "k_proj.bias", "o_proj.weight")}
    assert delta.place(names["k_proj.bias"]) == ("7", "self_attn.k_proj")
    assert delta.place("bert.encoder.layer.0.attention.output.dense.weight") == ("0", "attention.output.dense")
    assert delta.place("model.layers.3.mlp.experts.12.up_proj.weight") == ("3", "mlp.experts.*.up_proj")
    assert delta.place("lm_head.weight") == ("-", "lm_head")
    config = {"num_attention_heads": 4, "num_key_value_heads": 2}
    matrix = np.arange(64.0).reshape(8, 8)
    found = delta.heads(names["q_proj.weight"], matrix, config)
    np.testing.assert_array_equal(found[1], matrix[2:4])
    np.testing.assert_array_equal(delta.heads(names["o_proj.weight"], matrix, config)[3], matrix[:, 6:8])
    np.testing.assert_array_equal(delta.heads(names["k_proj.bias"], np.arange(4.0), config)[1], [2, 3])
    assert delta.heads(names["q_proj.weight"], matrix, {"num_attention_heads": 3}) == []
    assert delta.heads("model.layers.0.mlp.up_proj.weight", matrix, config) == []
    assert delta.heads("bert.encoder.layer.0.output.dense.weight", matrix, config) == []
    assert delta.groups(10, 4) == [(0, 1), (2, 4), (5, 6), (7, 9)]
    assert delta.groups(3, 99) == [(0, 0), (1, 1), (2, 2)]
    down = delta.neurons("model.layers.0.mlp.down_proj.weight", np.ones((2, 3)), 2)
    assert [(first, last, part.shape) for first, last, part in down] == [(0, 0, (2, 1)), (1, 2, (2, 2))]
    rows = np.zeros((5, 2)), np.array([[0.0, 1], [0, 0], [2, 0], [0, 1], [0, 2]])
    assert delta.tokens(*rows, 3) == [2, 4, 0]
    assert delta.tokens(*rows, 9) == [2, 4, 0, 3]


def test_delta_pairs_by_hand() -> None:
    """Two fine-tunes on paper: changes of (1, 2, 0, 2) and (1, -2, 3, 0); what both changed, and which way."""
    base = f32(1, 1, 1, 1)
    found = delta.pair(base, f32(2, 3, 1, 3), f32(2, -1, 4, 1))
    assert found == {"elements": 4, "cosine": pytest.approx(-3 / (9 * 14) ** 0.5), "both": 0.5, "agree": 0.5}
    assert delta.pair(base, base, f32(2, 2, 2, 2)) == {"elements": 4, "cosine": 0, "both": 0, "agree": 0}
    assert delta.tops(base, f32(2, 3, 1, 3), f32(2, -1, 4, 1)) == (2, 1, 0)
    assert delta.tops(base, f32(2, 3, 1, 3), f32(1, 1, 1, 3)) == (2, 1, 1)
    assert delta.overlap([(base, f32(2, 3, 1, 3), f32(1, 1, 1, 3)), (base, base, f32(2, 1, 1, 1))]) == 0.5
    assert delta.overlap([(base, base, f32(2, 2, 2, 2))]) == 0


def test_delta_ancestry_by_hand() -> None:
    """Ancestry is the cosine of all matrices laid end to end; vectors say nothing of it."""
    one, two = f32(1, 0).reshape(1, 2), f32(0, 1).reshape(1, 2)
    assert delta.ancestry([(f32(1), f32(5))]) == {"cosine": None, "relative_l2": None, "verdict": "unknown"}
    for tuned, verdict in (([one, one], "related"), ([one, two], "doubtful"), ([two, two], "strangers")):
        found = delta.ancestry([(one, part) for part in tuned] + [(f32(1), f32(-9))])
        assert found["verdict"] == verdict
        assert found["cosine"] == pytest.approx(sum(part is one for part in tuned) / 2)


def test_family_writes_and_reads_back(tmp_path: Path) -> None:
    """The test checkpoints: a digest sees tensors, not shards, and bf16 reads back as what was rounded."""
    one = llama_family(tmp_path / "one", n=1)
    seven = llama_family(tmp_path / "seven", n=1, shards=7)
    assert [tree_digest(f) for f in one] == [tree_digest(f) for f in seven]
    assert len(list(seven[0].glob("*.safetensors"))) == 7
    base, tuned = (read_checkpoint(folder) for folder in one)
    assert {raw.dtype for raw in base.values()} == {"BF16"}
    assert [name for name in base if base[name] == tuned[name]] == ["model.norm.weight"]
    tied = read_checkpoint(llama_family(tmp_path / "tied", n=0, tied=True, dtype="f32")[0])
    assert "lm_head.weight" not in tied
    assert encode(f32(1, 2), "F16") == Raw("F16", (2,), b"\x00\x3c\x00\x40")
