"""The settings of the study, and of the run that only shows that everything runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from layer_swap_real.data import TASKS
from layer_swap_real.languages import TARGETS


@dataclass(frozen=True)
class Recipe:
    """How an expert is tuned.

    Attributes:
        texts: how many different texts there are.
        steps: updates.
        batch: texts of an update.
        rate: highest learning rate, after a warm-up over a twentieth of the steps; then it falls to 0 as a cosine does.
        decay: weight decay of matrices.
    """

    texts: int
    steps: int
    batch: int = 16
    rate: float = 2e-4
    decay: float = 0.01


@dataclass(frozen=True)
class Setup:
    """Everything that a result depends on, beside the seed of a training.

    Attributes:
        tasks: what task experts are tuned on.
        languages: what language experts are tuned on, and what is tested.
        recipes: of task and language experts.
        tune: ``full`` for all weights, or ``lora`` for adapters that suture folds.
        rank: of adapters.
        validation: problems that settings are chosen by.
        test: problems that are reported.
        bottoms: layers from the bottom in the grid of swaps.
        tops: layers from the top.
        fixed: bottom and top of the swap that nothing chose: the paper's 5 and 2 of 32 layers.
        weights: of either expert in task arithmetic.
        densities: of TIES.
        budget: candidates of each search without data.
        pairs: sentences whose similarity guides a swap.
    """

    tasks: tuple[str, ...] = TASKS
    languages: tuple[str, ...] = TARGETS
    recipes: dict[str, Recipe] = field(
        default_factory=lambda: {"task": Recipe(2400, 300), "language": Recipe(2400, 300)}
    )
    tune: str = "full"
    rank: int = 16
    validation: int = 60
    test: int = 200
    bottoms: tuple[int, ...] = (0, 2, 5)
    tops: tuple[int, ...] = (0, 2, 5)
    fixed: tuple[int, int] = (5, 2)
    weights: tuple[float, ...] = (0.7, 1.0)
    densities: tuple[float, ...] = (0.5, 0.2)
    budget: int = 40
    pairs: int = 100


def smoke(setup: Setup) -> Setup:
    """So few steps, problems and models that everything runs in minutes; its figures mean nothing."""
    return replace(
        setup,
        tasks=("arithmetic",),
        languages=("tr",),
        recipes={kind: Recipe(40, 2, batch=2) for kind in setup.recipes},
        validation=4,
        test=6,
        bottoms=(0, 5),
        tops=(2,),
        weights=(1.0,),
        densities=(0.5,),
        budget=2,
        pairs=10,
    )
