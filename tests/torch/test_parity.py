"""Law: every method gives on tensors that torch holds what the core gives on files, over its variants and dtypes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import suture.torch
from tests.support.catalogue import CASES, SPECS, Case, configure, merge
from tests.support.checkpoints import encode, write_checkpoint
from tests.support.merging import SHAPES
from tests.support.resident import as_torch

#: Methods whose sums over a tensor are taken in another order: their results may differ by more than a rounding.
SUMS = {name for name, spec in SPECS.items() if spec["class"] in ("gram", "model")} | {"sce", "arcee_fusion"}
#: Those that take models which torch holds.
HELD = [name for name, spec in SPECS.items() if all(p["kind"]["kind"] != "gram" for p in spec["parameters"])]
#: Methods of whole matrices, whose results are as near as singular vectors by another library are.
MATRICES = {name for name, spec in SPECS.items() if spec["class"] == "matrix"}


def family(folder: Path, dtype: str, seed: int = 0) -> tuple[list[Path], list[dict[str, torch.Tensor]]]:
    """A base and three fine-tunes, as files and as tensors; some changes are equal, some zero."""
    rng = np.random.default_rng(seed)
    base = {name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in SHAPES.items()}
    paths, held = [], []
    for i in range(4):
        model = {}
        for name, values in base.items():
            noise = np.round(rng.normal(0, 4, values.shape)).astype(np.float32) * 2**-9 if i else np.zeros_like(values)
            model[name] = encode(np.asarray(values + noise, dtype=np.float32), dtype)
        paths.append(write_checkpoint(folder / ("base" if not i else f"tuned-{i}"), model))
        held.append({name: as_torch(raw) for name, raw in model.items()})
    return paths, held


def resident(config: dict[str, Any], held: dict[str, dict[str, torch.Tensor]], **more: Any) -> dict[str, torch.Tensor]:
    """The merge of a config on tensors."""
    models = {Path(m["model"]).name: held[m["model"]] for m in config["models"]}
    each = [
        {k: held.get(v, v) if isinstance(v, str) else v for k, v in m["parameters"].items()} for m in config["models"]
    ]
    base = held[config["base_model"]] if "base_model" in config else None
    return suture.torch.merge(
        models, config["merge_method"], base=base, parameters=config["parameters"], each=each, **more
    )


def steps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """By how many representable numbers two tensors differ."""
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    least = torch.iinfo(width).min

    def ordered(x: torch.Tensor) -> torch.Tensor:
        bits = x.reshape(-1).view(width).long()
        return torch.where(bits < 0, least - bits, bits)

    return (ordered(a) - ordered(b)).abs()


#: What a page can say of a method, the strictest first; what each allows is in `agreement`.
WORDS = ("equal", "1 unit", "1e-5", "1e-5 of the change", "99.9 %")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "gpu.md"
MARKS = ("<!-- parity -->\n", "<!-- end -->")
#: The worst that was found of each method and dtype.
WORST: dict[tuple[str, str], str] = {}


def whole(case: Case) -> bool:
    """Whether singular vectors decide: of the method, or of what becomes of its result."""
    return case.name in MATRICES or bool(case.set("svc"))


def allowed(case: Case) -> str:
    """What results are held to."""
    name = case.name
    if whole(case):
        return "1e-5 of the change"
    return "99.9 %" if name == "arcee_fusion" else "1e-5" if name in SUMS else "1 unit"


def agreement(found: torch.Tensor, expected: torch.Tensor, base: torch.Tensor | None = None) -> str:
    """How far a tensor is from the core's: the first of `WORDS` that holds.

    With a base, what elements are off beyond a unit may also be small beside the change of the whole tensor, in norm.
    """
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    nan = expected.isnan()
    assert torch.equal(found.isnan(), nan)
    off = steps(found, expected).reshape(found.shape) * ~nan
    if not off.any():
        return "equal"
    if off.max() <= 1:
        return "1 unit"
    near = torch.isclose(found.double(), expected.double(), rtol=1e-5, atol=1e-7) | (off <= 1)
    if near.all():
        return "1e-5"
    if base is not None:
        change = (expected.double() - base.double()).norm()
        beyond = (found.double() - expected.double()) * (off > 1)
        assert float(beyond.norm()) <= 1e-5 * float(change), f"{float(beyond.norm() / change):.1e} of the change"
        return "1e-5 of the change"
    assert float(near.double().mean()) >= 0.999, f"{int((~near).sum())} of {near.numel()} differ"
    return "99.9 %"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_torch_gives_what_the_core_gives(case: Case, tmp_path: Path) -> None:
    if case.name not in HELD or case.set("larv") not in (None, "none"):
        pytest.skip("Gram matrices are read from files, layers measured of files: refused (test_mistakes.py)")
    for dtype in ("F32", "BF16"):
        paths, held = family(tmp_path / dtype, dtype)
        config = configure(case, paths)
        config.pop("exclude", None)
        expected = merge(config, tmp_path / f"out-{dtype}")
        found = resident(config, dict(zip(map(str, paths), held, strict=True)))
        assert set(found) == set(expected)
        for name, raw in expected.items():
            if not found[name].is_floating_point():
                assert torch.equal(found[name], as_torch(raw)), name
                continue
            word = agreement(found[name], as_torch(raw), held[0][name] if whole(case) else None)
            assert WORDS.index(word) <= WORDS.index(allowed(case)), f"{name}: {word}"
            if case.set("svc"):
                continue  # The page says this of the modifier itself.
            WORST[case.name, dtype] = max(WORST.get((case.name, dtype), "equal"), word, key=WORDS.index)


def ordinary(case: Case) -> bool:
    """Whether nothing modifies the method."""
    return not case.set("svc") and case.set("larv") in (None, "none")


def table(worst: dict[tuple[str, str], str]) -> str:
    """The table of the page."""
    variants = {name: sum(case.name == name and ordinary(case) for case in CASES) for name in SPECS}
    # Of matrices the page promises what holds for any size, not what small ones gave.
    worst = {(n, dtype): "1e-5 of the change" if n in MATRICES else word for (n, dtype), word in worst.items()}
    rows = [f"| {n} | {variants[n]} | {worst[n, 'F32']} | {worst[n, 'BF16']} |" for n in HELD]
    return "\n".join(["| method | variants | f32 | bf16 |", "| --- | --- | --- | --- |", *rows, ""])


def test_the_page_says_how_near_torch_is() -> None:
    """docs/gpu.md has a row for every method, and promises no more than was found.

    With SUTURE_WRITE=1 it is written anew.
    """
    if len(WORST) < 2 * len(HELD):
        pytest.skip("only when all methods were merged before it")
    before, rest = PAGE.read_text().split(MARKS[0])
    said, after = rest.split(MARKS[1])
    if os.environ.get("SUTURE_WRITE"):
        said = table(WORST)
        PAGE.write_text(before + MARKS[0] + said + MARKS[1] + after)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines()[2:]]
    assert [row[0] for row in rows] == HELD
    for name, _, *words in rows:
        for dtype, word in zip(("F32", "BF16"), words, strict=True):
            assert WORDS.index(WORST[name, dtype]) <= WORDS.index(word), (name, dtype)
