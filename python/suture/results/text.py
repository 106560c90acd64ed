"""What the verbs of `suture text` return."""

from __future__ import annotations

from typing import TypedDict


class RunModel(TypedDict):
    """A model that was run.

    `kind` is ``decoder``, ``encoder`` or ``encoder-decoder``; `layers` of its main stack; `context` the most
    tokens of a text; `streamed`: with a layer's weights at a time.
    """

    path: str
    kind: str
    layers: int
    context: int
    dtype: str
    device: str
    streamed: bool


class RunText(TypedDict):
    """A text: its lines that are not empty, and their UTF-8 bytes."""

    language: str
    file: str
    lines: int
    empty: int
    bytes: int
    #: Entropy of its bytes, in bits: what a model that knows but their frequencies reaches.
    byte_entropy: float


class Loss(TypedDict):
    """A model's loss on a text.

    `uncovered` are bytes that no prediction covers, `unknown` tokens for what the vocabulary cannot write.
    """

    model: str
    language: str
    bits: float
    bits_per_byte: float
    nats_per_token: float | None
    tokens: int
    unknown: int
    windows: int
    uncovered: int


class Compared(TypedDict):
    """The child against the best of the other models on a text: bits per byte more, with an interval of 95 %."""

    language: str
    child: str
    best: str
    difference: float
    low: float
    high: float


class TextLoss(TypedDict):
    """What :func:`suture.text.loss` returns."""

    schema: int
    models: list[RunModel]
    texts: list[RunText]
    losses: list[Loss]
    #: Nothing with one model alone.
    child: list[Compared]
    #: Bits per byte of the last model, mean over texts: one number for a search.
    mean: float
    warnings: list[str]


class CountedLanguage(TypedDict):
    """How a model read a language: tokens, sentences cut off at the context, tokens that stand for the unknown."""

    model: str
    language: str
    pool: str
    tokens: int
    cut: int
    unknown: int


class Near(TypedDict):
    """How near translations are at a layer, and what wrong pairs, or chance, would have.

    `above` is the cosine less its baseline; `centred` the cosine with the mean of all states taken off.
    """

    cosine: float
    baseline: float
    above: float
    centred: float
    centred_baseline: float
    euclidean: float
    euclidean_baseline: float
    mexa: float
    mexa_chance: float
    retrieval: float
    retrieval_chance: float


class SimilarLayer(Near):
    """The same of a model, a language and a layer; 0 is the embedding."""

    model: str
    language: str
    layer: int


class Similarity(TypedDict):
    """What :func:`suture.text.similarity` returns."""

    schema: int
    models: list[RunModel]
    pivot: str
    sentences: int
    #: Sentences that are empty in a language.
    left_out: int
    files: list[str]
    languages: list[CountedLanguage]
    layers: list[SimilarLayer]
    warnings: list[str]


class Ranked(TypedDict):
    """A language of a ranking: its `score` is the mean cosine of last tokens over pairs and layers."""

    rank: int
    language: str
    score: float
    baseline: float
    above: float
    mexa: float
    mexa_max: float
    mexa_chance: float
    #: The cosine of each of the layers that are averaged.
    by_layer: list[float]


class Ranking(TypedDict):
    """What :func:`suture.text.rank` returns."""

    schema: int
    model: RunModel
    pivot: str
    sentences: int
    left_out: int
    #: The layers that are averaged, from 1.
    layers: list[int]
    languages: list[Ranked]
    warnings: list[str]


class ScriptLayer(TypedDict):
    """How far a text is from its romanisation at a layer: 1 less the mean cosine; and the share of equal lines."""

    model: str
    language: str
    layer: int
    gap: float
    baseline: float
    mexa: float
    mexa_chance: float
    unchanged: float


class ScriptGap(TypedDict):
    """What :func:`suture.text.script_gap` returns."""

    schema: int
    models: list[RunModel]
    romanised_by: str
    languages: list[CountedLanguage]
    layers: list[ScriptLayer]
    warnings: list[str]


class InfluenceLayer(TypedDict):
    """What a layer, counted from 0, does to the states of a text: 1 less the mean cosine of before and behind.

    `baseline` is the same with the next token's state behind the layer; nothing where no text has two tokens.
    """

    language: str
    layer: int
    influence: float
    baseline: float | None
    tokens: int


class RoutedLayer(TypedDict):
    """How often a layer's experts were chosen; `even` is the share that each would have."""

    language: str
    layer: int
    counts: list[int]
    even: float
    entropy: float
    even_entropy: float


class Influence(TypedDict):
    """What :func:`suture.text.influence` returns."""

    schema: int
    model: RunModel
    layers: list[InfluenceLayer]
    #: Layers from 0, those of least influence first; of several languages by the largest.
    order: list[int]
    #: Of a model with experts.
    routing: list[RoutedLayer]
    warnings: list[str]


class StatisticsFile(TypedDict):
    """A checkpoint of statistics: ``gram``, ``fisher`` or ``importance``."""

    kind: str
    file: str
    tensors: int


class Statistics(TypedDict):
    """What :func:`suture.text.statistics` returns."""

    schema: int
    model: RunModel
    text: str
    lines: int
    tokens: int
    files: list[StatisticsFile]
    warnings: list[str]


class LeftOut(TypedDict):
    """The root mean squared error of a target language that was left out; the mean of the others is the baseline."""

    target: str
    rows: int
    error: float
    baseline: float


class FitGroup(TypedDict):
    """A fit: score = `intercept` + sum of `weights` times standardised features = `constant` + sum of `slopes` times
    features.
    """

    group: str
    rows: int
    #: Empty cells, which stand for their columns' means.
    filled: int
    features: list[str]
    intercept: float
    weights: list[float]
    slopes: list[float]
    constant: float
    means: list[float]
    deviations: list[float]
    lowest: list[float]
    highest: list[float]
    mean: float
    #: Of the rows that were fitted; nothing where all scores are the same.
    r2: float | None
    #: Over all target languages, each left out in its turn; and the same of the mean of the others.
    rmse: float
    baseline_rmse: float
    left_out: list[LeftOut]


class Fit(TypedDict):
    """What :func:`suture.text.fit` returns."""

    schema: int
    table: str
    score: str
    target: str
    group: str | None
    curve: str | None
    ridge: float
    groups: list[FitGroup]
    warnings: list[str]


class Predicted(TypedDict):
    """A row and its prediction; `outside` are features beyond what was fitted, `baseline` the mean of what was."""

    row: dict[str, str]
    group: str
    predicted: float
    rmse: float
    baseline: float
    outside: list[str]


class Predictions(TypedDict):
    """What :func:`suture.text.use` returns."""

    schema: int
    score: str
    rows: list[Predicted]
    warnings: list[str]


class Helper(TypedDict):
    """A language that may help: the mean of its z-scores, and each; `missing` ones count as 0."""

    source: str
    score: float
    z: dict[str, float]
    missing: int


class Helpers(TypedDict):
    """What :func:`suture.text.helpers` returns."""

    schema: int
    table: str
    to: str
    features: list[str]
    helpers: list[Helper]
    warnings: list[str]


class Evaluated(TypedDict):
    """A task and a metric: each model's figure and standard error, and the child's less the best of the others."""

    task: str
    metric: str
    values: list[float]
    errors: list[float | None]
    best: str | None
    difference: float | None
    difference_error: float | None


class Evaluation(TypedDict):
    """What :func:`suture.text.table` returns; the last of the `results` is the child."""

    schema: int
    results: list[str]
    tasks: list[Evaluated]
    warnings: list[str]
