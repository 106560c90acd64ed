"""Which parameters a training changes, stage by stage, and whether it did."""

from __future__ import annotations

from typing import TypedDict


class Stage(TypedDict):
    """A stage of a training: what it changes and what stays."""

    #: What it is called: its place, from 1, unless the recipe says otherwise.
    name: str
    #: Names of the parameters that are trained, in the model's order; and of those that are frozen.
    train: list[str]
    freeze: list[str]
    #: A regular expression that matches exactly the names in `train`, and one for `freeze`.
    train_regex: str
    freeze_regex: str
    #: How many numbers are trained, and frozen.
    train_parameters: int
    freeze_parameters: int


class Mask(TypedDict):
    """What :func:`suture.mask` returns: every parameter of a model is in `train` or `freeze` of each stage."""

    schema: int
    #: The model, as it was named.
    model: str
    stages: list[Stage]
    #: Tensors that no training changes by gradients: buffers, and what is no float.
    buffers: list[str]
    warnings: list[str]


class MaskCheck(TypedDict):
    """What a fine-tune did to what was to stay."""

    #: The stages, by their names: frozen is what none of them trains.
    stages: list[str]
    #: How many tensors were to stay, and to change.
    frozen: int
    trained: int
    #: Frozen tensors whose values changed, and those that could not be compared.
    changed: list[str]
    uncompared: list[str]
    #: Tensors that were to be trained, and did not change.
    unmoved: list[str]
