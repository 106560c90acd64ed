"""Several fine-tunes at once: the rows of single runs, the base read once, what two changes have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import suture

from ..reference import delta
from ..support.checkpoints import Raw, encode, llama_config, llama_family, llama_shapes, write_checkpoint
from ..support.diffing import SECTIONS, agrees_as_pair, by_name, compare, laid, only

SHAPES = llama_shapes(2, 24, 4, 2, 40, 31, tied=False)
CONFIG = llama_config(2, 24, 4, 2, 40, 31, False, "BF16")
LABELS = ("alpha", "beta", "gamma")
ALL: dict[str, Any] = {"heads": True, "neurons": 3, "tokens": 4, "spread": True}
SLOW = suture.Settings(threads=1, chunk="16KiB", io="pread")
Triple = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def family(shapes: Mapping[str, tuple[int, ...]], dtypes: tuple[str, ...], share: float = 0.3) -> list[dict[str, Raw]]:
    """A base and fine-tunes that changed overlapping parts of it, partly the same way; no zero changes its sign."""
    rng = np.random.default_rng(len(dtypes))
    models: list[dict[str, Raw]] = [{} for _ in dtypes]
    for name, shape in shapes.items():
        base = encode(rng.normal(1, 0.2, shape).astype(np.float32), dtypes[0])
        common = rng.normal(0, 0.05, shape).astype(np.float32)
        models[0][name] = base
        for model, dtype in zip(models[1:], dtypes[1:], strict=True):
            own = rng.normal(0, 0.05, shape).astype(np.float32)
            moved = base.values() + np.where(rng.random(shape) < share, common + own, np.float32(0))
            model[name] = encode(moved, dtype)
    return models


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and three fine-tunes of two dtypes, differently sharded; the last with a layer untouched."""
    place = tmp_path_factory.mktemp("pairs")
    models = family(SHAPES, ("BF16", "BF16", "F32", "BF16"))
    models[3] |= {name: raw for name, raw in models[0].items() if ".layers.0." in name}
    return [
        write_checkpoint(place / name, tensors, shards=shards, config=CONFIG)
        for name, tensors, shards in zip(("base", *LABELS), models, (1, 2, 3, 1), strict=True)
    ]


@pytest.fixture(scope="module")
def values(folders: list[Path]) -> list[dict[str, NDArray[Any]]]:
    models = family(SHAPES, ("BF16", "BF16", "F32", "BF16"))
    found = [{name: raw.values() for name, raw in model.items()} for model in models]
    found[3] |= {name: array for name, array in found[0].items() if ".layers.0." in name}
    return found


@pytest.mark.parametrize("options", [{}, ALL], ids=["plain", "all"])
def test_three_at_once_are_three_single_runs(options: dict[str, Any], folders: list[Path]) -> None:
    """Law 3: a fine-tune's figures do not depend on what else is compared; labels are the folders' names."""
    found = suture.diff(folders[0], *folders[1:], **options)
    singles = [suture.diff(folders[0], path, **options) for path in folders[1:]]
    assert found["models"] == [only(single) for single in singles]
    assert [model["label"] for model in found["models"]] == list(LABELS)
    assert [model["tuned"] for model in found["models"]] == [str(path) for path in folders[1:]]
    assert found["base"] == str(folders[0])
    assert all(single["metrics"] == found["metrics"] for single in singles)
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]] == [
        ("alpha", "beta"),
        ("alpha", "gamma"),
        ("beta", "gamma"),
    ]
    assert not any(single["pairs"] for single in singles)


def test_pairs_agree_with_the_oracle(folders: list[Path], values: list[dict[str, NDArray[Any]]]) -> None:
    """Law 2: what two changes have in common, by tensor and of everything in a module, a layer, a cell together."""
    found: Any = suture.diff(*folders, spread=True)
    for pair, (i, j) in zip(found["pairs"], ((1, 2), (1, 3), (2, 3)), strict=True):
        groups: dict[tuple[str, ...], list[Triple]] = {}
        rows = by_name(pair)
        assert list(rows) == [row["name"] for row in found["models"][0]["tensors"]]
        for name, row in rows.items():
            triple = (values[0][name], values[i][name], values[j][name])
            agrees_as_pair(row, *triple)
            assert row["overlap"] == delta.overlap([triple]), name
            layer, module = delta.place(name)
            keys: list[tuple[str, ...]] = [("modules", module), ("layers", layer), ("cells", layer, module), ("total",)]
            for key in keys:
                groups.setdefault(key, []).append(triple)
        for group, triples in groups.items():
            section, labels = group[0], list(group[1:])
            of_section = [pair["total"]] if section == "total" else pair[section]
            (row,) = [r for r in of_section if [r[part] for part in ("layer", "module") if part in r] == labels]
            agrees_as_pair(row, *(laid(side) for side in zip(*triples, strict=True)))
            assert row["overlap"] == delta.overlap(triples), group
        assert sum(len(pair[section]) for section in SECTIONS[1:]) + len(rows) + 1 == len(groups) + len(rows)


@pytest.mark.parametrize("dtypes", [("F32", "F32", "F32"), ("F16", "F16", "F16"), ("BF16", "F32", "F16")])
def test_pairs_of_every_size(dtypes: tuple[str, ...], tmp_path: Path) -> None:
    """Laws 2 and 4: lengths around the borders of blocks and hundreds, dtypes of three kinds at once."""
    sizes = (1, 2, 99, 100, 101, 1023, 1024, 1025, 4096, 4097, 65537)
    base, a, b = family({f"t{size}": (size,) for size in sizes}, dtypes)
    (pair,) = compare(tmp_path, base, a, b, spread=True)["pairs"]
    for name, row in by_name(pair).items():
        triple = (base[name].values(), a[name].values(), b[name].values())
        agrees_as_pair(row, *triple)
        assert row["overlap"] == delta.overlap([triple]), name


def test_pairs_have_an_overlap_only_when_asked_for(folders: list[Path]) -> None:
    """`overlap` needs the quantiles, and is there with `spread` alone."""
    found: Any = suture.diff(*folders)
    for pair in found["pairs"]:
        assert list(pair["total"]) == ["elements", "cosine", "both", "agree"]
        assert all("overlap" not in row for section in SECTIONS for row in pair[section])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 0, 0], [1, 2, 0, 0], (1, 0.5, 1)),
        ([1, 2, 0, 0], [-1, -2, 0, 0], (-1, 0.5, 0)),
        ([1, 2, 0, 0], [0, 0, 3, -4], (0, 0, 0)),
        ([1, 2, 0, 0], [0, 0, 0, 0], (0, 0, 0)),
        ([0, 0, 0, 0], [0, 0, 0, 0], (0, 0, 0)),
        ([1, 1, 1, 1], [1, -1, 1, -1], (0, 1, 0.5)),
        ([3, 4, 0, 0], [4, 3, 0, 0], (0.96, 0.5, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_pairs_by_hand(
    first: list[int], second: list[int], expected: tuple[float, float, float], dtype: str, tmp_path: Path
) -> None:
    """The same change, its opposite, changes elsewhere, none at all."""
    base = np.array([8, 16, -8, 4], np.float32)
    sides = [encode(base + np.array(change, np.float32), dtype) for change in ([0] * 4, first, second)]
    found = compare(tmp_path, *({"a": side} for side in sides), spread=True)
    row = found["pairs"][0]["total"]
    assert (row["both"], row["agree"]) == expected[1:]
    assert row["cosine"] == pytest.approx(expected[0], abs=1e-6)


def test_overlap_of_planted_changes(tmp_path: Path) -> None:
    """Of the hundredth that each changed most, the share that is planted to be common."""
    rng = np.random.default_rng(8)
    base = np.ones(10_000, np.float32)
    noise = rng.uniform(0.001, 0.01, (2, base.size)).astype(np.float32)
    a, b = base + noise[0], base + noise[1]
    a[0:101] += 1
    b[61:162] += 1
    found = compare(tmp_path, *({"a": encode(side, "F32")} for side in (base, a, b)), spread=True)
    assert found["pairs"][0]["tensors"][0]["overlap"] == 40 / 101


def test_overlap_where_all_changes_tie(tmp_path: Path) -> None:
    """Law 4: what is as large as the border belongs to it: all, where all changed as much; none, where none did."""
    base = np.ones(500, np.float32)
    some = base.copy()
    some[:5] = 1.5
    sides = {"all": base + 0.5, "some": some, "none": base}
    for (one, a), (two, b), expected in (
        (("all", sides["all"]), ("all", sides["all"]), 1),
        (("all", sides["all"]), ("some", sides["some"]), 1),
        (("some", sides["some"]), ("none", sides["none"]), 0),
        (("none", sides["none"]), ("none", sides["none"]), 0),
    ):
        found = compare(tmp_path, *({"a": encode(side, "BF16")} for side in (base, a, b)), spread=True)
        assert found["pairs"][0]["total"]["overlap"] == expected == delta.overlap([(base, a, b)]), (one, two)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-12, 1e12, 1e30, 1e37])
def test_pairs_do_not_depend_on_the_scale(scale: float, tmp_path: Path) -> None:
    """Law 2: changes whose products leave the range of f32."""
    models = family({"a": (1500,)}, ("F32",) * 3)
    scaled = [{"a": encode(model["a"].values() * np.float32(scale), "F32")} for model in models]
    (pair,) = compare(tmp_path, *scaled, spread=True)["pairs"]
    triple = (scaled[0]["a"].values(), scaled[1]["a"].values(), scaled[2]["a"].values())
    agrees_as_pair(pair["total"], *triple)
    assert pair["total"]["overlap"] == delta.overlap([triple])


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_pairs_leave_out_what_is_not_finite(dtype: str, tmp_path: Path) -> None:
    """An element that is NaN or infinite in the base or either fine-tune is in no sum of their pair."""
    base, a, b = (model["a"].values().copy() for model in family({"a": (2000,)}, (dtype,) * 3, share=0.9))
    base[::50], a[3::40], b[5::30] = np.nan, np.inf, -np.inf
    b[3::40] += 100
    encoded = [{"a": encode(side, dtype)} for side in (base, a, b)]
    (pair,) = compare(tmp_path, *encoded, spread=True)["pairs"]
    triple = (encoded[0]["a"].values(), encoded[1]["a"].values(), encoded[2]["a"].values())
    agrees_as_pair(pair["total"], *triple)
    assert pair["total"]["overlap"] == delta.overlap([triple])


def test_a_pair_of_nothing_in_common(tmp_path: Path) -> None:
    """Fine-tunes that share tensors with the base and none with each other have nothing in common."""
    ones, twos = (encode(np.full(6, n, np.float32), "F32") for n in (1, 2))
    found = compare(tmp_path, {"a": ones, "b": ones}, {"a": twos}, {"b": twos}, spread=True)
    (pair,) = found["pairs"]
    assert [pair[section] for section in SECTIONS] == [[], [], [], []]
    assert {name: pair["total"][name] for name in ("elements", "cosine", "both", "agree")} == {
        "elements": 0, "cosine": 0, "both": 0, "agree": 0,
    }  # fmt: skip


def test_labels_of_one_name_are_numbered(tmp_path: Path) -> None:
    """Folders of one name are told apart; the paths are as given."""
    models = family({"w": (9,)}, ("F32",) * 4)
    paths = [write_checkpoint(tmp_path / place, tensors) for place, tensors in
             zip(("base", "a/x", "b/x", "c/x"), models, strict=True)]  # fmt: skip
    found = suture.diff(*paths)
    assert [model["label"] for model in found["models"]] == ["x", "x#2", "x#3"]
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]] == [("x", "x#2"), ("x", "x#3"), ("x#2", "x#3")]
    twice = suture.diff(paths[0], paths[1], paths[1])
    assert [model["label"] for model in twice["models"]] == ["x", "x#2"]
    assert twice["pairs"][0]["total"]["cosine"] == pytest.approx(1, abs=1e-12)


def test_each_fine_tune_has_its_own_lists(tmp_path: Path) -> None:
    """Law 5: what one fine-tune lacks is listed there and measured in the others; a pair has what both have."""
    ones, twos = (encode(np.full(6, n, np.float32), "F32") for n in (1, 2))
    wide = Raw("F32", (2, 3), ones.data)
    base = {"a": ones, "b": ones, "c": ones}
    found = compare(tmp_path, base, {"a": twos, "b": twos, "new": ones}, {"a": ones, "b": wide, "c": twos})
    first, second = found["models"]
    assert (first["only_base"], first["only_tuned"], first["reshaped"]) == (["c"], ["new"], [])
    assert (second["only_base"], second["only_tuned"], second["reshaped"]) == ([], [], ["b"])
    assert (sorted(by_name(first)), sorted(by_name(second))) == (["a", "b"], ["a", "c"])
    (pair,) = found["pairs"]
    assert sorted(by_name(pair)) == ["a"]
    assert pair["total"]["elements"] == 6


def test_one_of_three_has_nothing_in_common(tmp_path: Path) -> None:
    """Law 8: a wrong checkpoint among right ones is said, by its path."""
    ones = encode(np.ones(6, np.float32), "F32")
    with pytest.raises(suture.UsageError, match=r"tuned-2.*no tensor in common"):
        compare(tmp_path, {"a": ones}, {"a": ones}, {"b": ones}, {"a": ones})


def test_no_fine_tune_is_a_mistake(folders: list[Path]) -> None:
    """There is nothing to compare a base with, unless it is given."""
    with pytest.raises((suture.UsageError, TypeError)):
        suture.diff(folders[0])


@pytest.mark.parametrize(
    ("options", "tuned", "passes"),
    [
        ({}, 1, 1),
        ({}, 3, 1),
        ({"heads": True, "neurons": 2, "tokens": 2}, 2, 1),
        ({"spread": True}, 1, 2),
        ({"spread": True}, 3, 3),
        (ALL, 2, 3),
    ],
)
def test_the_base_is_read_once_a_pass(options: dict[str, Any], tuned: int, passes: int, folders: list[Path]) -> None:
    """However many fine-tunes: each pass takes the bytes of the base once and of each fine-tune once."""
    heard: list[tuple[int, int]] = []
    paths = folders[: 1 + tuned]
    suture.diff(*paths, settings=SLOW, progress=lambda done, total: heard.append((done, total)), **options)
    size = sum(tensor["nbytes"] for path in paths for tensor in suture.open(path).describe()["tensors"])
    assert {total for _, total in heard} == {passes * size}
    done = [at for at, _ in heard]
    assert done == sorted(done)
    assert done[-1] == passes * size


def test_threads_and_io_do_not_change_a_byte(folders: list[Path]) -> None:
    """Law 3: the same report to the last digit from any number of threads and any back end, with all there is."""
    reports = set()
    for threads, io in ((1, "auto"), (2, "mmap"), (4, "pread"), (4, "direct"), (1, "pread"), (2, "auto")):
        found = suture.diff(*folders, **ALL, settings=suture.Settings(threads=threads, io=io, chunk="16KiB"))
        reports.add(json.dumps(found, allow_nan=False))
    assert len(reports) == 1


def test_chunks_and_threads_do_not_change_a_byte_of_large_ones(tmp_path: Path) -> None:
    """Law 3 where tensors have several spans, which end inside a head, a group and a row."""
    paths = llama_family(
        tmp_path, layers=1, hidden=1100, heads=4, kv_heads=2, ff=4300, vocab=4000, tied=True, n=2, shards=[1, 2, 1]
    )
    reports = set()
    for threads, io, chunk in ((1, "mmap", None), (2, "pread", "64KiB"), (4, "direct", "1MiB")):
        settings = suture.Settings(threads=threads, io=io, chunk=chunk)
        reports.add(json.dumps(suture.diff(*paths, **ALL, settings=settings), allow_nan=False))
    assert len(reports) == 1


def ancestry(folder: Path, base: Mapping[str, Raw], tuned: Mapping[str, Raw]) -> Any:
    return only(compare(folder, base, tuned))["ancestry"]


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize(
    ("angle", "verdict"),
    [(0.0, "related"), (0.2, "related"), (0.3, "doubtful"), (1.2, "doubtful"), (1.4, "strangers"), (3.0, "strangers")],
)
def test_ancestry_is_the_cosine_of_all_matrices(angle: float, verdict: str, dtype: str, tmp_path: Path) -> None:
    """Vectors, integers and what was reshaped do not count; tensors of more than two dimensions do."""
    rng = np.random.default_rng(2)
    shapes = {"a": (40, 30), "b": (3, 4, 50), "c": (1, 7)}
    base, tuned = {}, {}
    for name, shape in shapes.items():
        one, two = rng.normal(0, 1, (2, *shape))
        base[name] = encode(one.astype(np.float32), dtype)
        tuned[name] = encode((np.cos(angle) * one + np.sin(angle) * two).astype(np.float32), dtype)
    wanted = delta.ancestry([(base[name].values(), tuned[name].values()) for name in shapes])
    vector = encode(np.full(5000, 100, np.float32), dtype)
    numbers = Raw("I64", (2, 2), bytes(range(32)))
    base |= {"norm": vector, "ids": numbers}
    tuned |= {"norm": encode(-vector.values(), dtype), "ids": Raw("I64", (2, 2), bytes(32))}
    found = ancestry(tmp_path, base, tuned)
    assert found["verdict"] == wanted["verdict"] == verdict
    assert found["cosine"] == pytest.approx(wanted["cosine"], abs=1e-6)
    assert found["relative_l2"] == pytest.approx(wanted["relative_l2"], rel=1e-6)


def test_ancestry_of_vectors_is_unknown(tmp_path: Path) -> None:
    """Without a matrix nothing is said of where a fine-tune comes from."""
    ones, twos = (encode(np.full(6, n, np.float32), "F32") for n in (1, 2))
    numbers = Raw("I64", (1, 2), bytes(16))
    found = ancestry(tmp_path, {"a": ones, "ids": numbers}, {"a": twos, "ids": numbers})
    assert found == {"cosine": None, "relative_l2": None, "verdict": "unknown"}


@pytest.mark.parametrize(("cosine", "verdict"), [(0.6, "doubtful"), (1.0, "related"), (0.0, "strangers")])
def test_ancestry_at_exact_cosines(cosine: float, verdict: str, tmp_path: Path) -> None:
    """Cosines that are exact on paper."""
    base = np.array([[1, 0], [0, 0]], np.float32)
    tuned = np.array([[cosine, (1 - cosine**2) ** 0.5], [0, 0]], np.float32)
    found = ancestry(tmp_path, {"a": encode(base, "F32")}, {"a": encode(tuned, "F32")})
    assert found["verdict"] == verdict
    assert found["cosine"] == pytest.approx(cosine, abs=1e-7)
