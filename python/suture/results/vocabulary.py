"""What the verbs of `suture vocab` that only read return."""

from __future__ import annotations

from typing import TypedDict


class VocabSizes(TypedDict):
    """How large a vocabulary is.

    `numbers` is the largest number and one, `holes` are numbers below it without a token, `rows` those of the
    embedding (nothing without weights), `padding` rows behind the last token, `beyond` tokens without a row.
    """

    tokens: int
    numbers: int
    holes: int
    rows: int | None
    padding: int | None
    beyond: int | None


class VocabKind(TypedDict):
    """What a tokenizer is; its `marks` say how bytes and beginnings of words are written: ``bytes``, ``pieces``,
    ``words`` or ``plain``.
    """

    #: BPE, Unigram, WordPiece or WordLevel.
    form: str
    marks: str
    #: True if its tokens are bytes, and any text can be written.
    byte_level: bool
    #: True if what no token writes is written byte by byte.
    byte_fallback: bool
    #: The tokens of single bytes of the latter kind.
    byte_tokens: int


class RoleToken(TypedDict):
    """A special token; its role is empty if it has none that the files say."""

    role: str
    token: str
    id: int


class ScriptTokens(TypedDict):
    """How many tokens are of a script."""

    script: str
    tokens: int
    share: float


class Cut(TypedDict):
    """How text is cut: of a script the words that are of it, or the whole text, spaces too.

    A share of nothing is nothing.
    """

    script: str
    words: int
    characters: int
    bytes: int
    tokens: int
    #: Tokens for what the vocabulary cannot write.
    unknown: int
    #: Tokens of one character or a part of one.
    single: int
    #: Words of two tokens or more.
    continued: int
    #: Words without a token, which the tokenizer drops.
    lost: int
    #: Tokens per word: the fertility.
    per_word: float | None
    per_character: float | None
    per_byte: float | None
    unknown_share: float | None
    single_share: float | None
    continued_share: float | None


class CutText(TypedDict):
    """How texts are cut."""

    files: list[str]
    lines: int
    whole: Cut
    scripts: list[Cut]


class LowRow(TypedDict):
    """A row that looks hardly trained; `low` by its norm, `near` by its cosine to rows that are known to be unused."""

    id: int
    token: str
    norm: float
    cosine: float | None
    low: bool
    near: bool


class TrainedRows(TypedDict):
    """The rows of an embedding or a head."""

    name: str
    role: str
    dtype: str
    rows: int
    width: int
    #: Quantiles of the norms of rows that are tokens in use: min, q01, median, q99, max.
    norms: dict[str, float]
    #: Rows that no text can have trained, by why that is known.
    unused: dict[str, int]
    zero: int
    nonfinite: int
    #: Rows that are another's copy, beside the first of each.
    equal: int
    #: Norms below this are low.
    low: float
    #: Cosines above this are near; nothing where no row is known to be unused, or most rows are that near.
    near: float | None
    #: Tokens in use whose rows look hardly trained, lowest norm first.
    undertrained: list[LowRow]


class VocabInspection(TypedDict):
    """What :func:`suture.analysis.vocab_inspect.inspect` returns."""

    schema: int
    path: str
    kind: VocabKind
    sizes: VocabSizes
    special: list[RoleToken]
    #: Tokens that are found in text before all else and are not special.
    added: int
    scripts: list[ScriptTokens]
    tables: list[TrainedRows]
    text: CutText | None
    warnings: list[str]


class ScriptOverlap(TypedDict):
    """The tokens of a script: those of each vocabulary, and those of the first that the second has."""

    script: str
    a: int
    b: int
    shared: int


class SharedTokens(TypedDict):
    """The tokens that two vocabularies share.

    `special` by role or text, `exact` by bytes and word start, `byte` a byte in two ways of writing; `text` those that
    are written alike, `number` those that have one number in both; shares of each vocabulary and of both together.
    """

    tokens: int
    special: int
    exact: int
    byte: int
    text: int
    number: int
    share_a: float
    share_b: float
    jaccard: float


class RolePair(TypedDict):
    """The tokens of a role in both; nothing where one has none."""

    role: str
    a: str | None
    b: str | None


class NearMiss(TypedDict):
    """A token of the first that the second lacks, and what comes nearest; `differs` in ``word start``, ``case``,
    ``both``, or in so many ``edits``. Tokens of bytes are told by their characters, with \u2581 where a word begins.
    """

    a: str
    b: str
    differs: str
    edits: int | None


class Misses(TypedDict):
    """Tokens of the first that the second lacks: all, how many of them differ by case or word start alone, examples."""

    tokens: int
    word_start: int
    case: int
    both: int
    examples: list[NearMiss]


class DigitCuts(TypedDict):
    """How numbers are cut, and the parts of some: ``single digits``, ``threes from the left`` or ``right``,
    ``whole``, as ``learned``, or ``unknown`` where the vocabulary cannot write them.
    """

    scheme: str
    cuts: dict[str, list[str]]


class Digits(TypedDict):
    """How both cut numbers; nothing where one has no tokenizer.json, or the package tokenizers is not there."""

    a: DigitCuts | None
    b: DigitCuts | None
    same: bool | None


class ScriptNeighbours(TypedDict):
    """The share of common neighbours of tokens of a script."""

    script: str
    tokens: int
    share: float


class Neighbours(TypedDict):
    """How far neighbourhoods agree: the share of the `k` tokens with the largest cosine that are the same in both.

    Neighbours are looked for among all `shared` tokens that are not special, of `asked` tokens: all, or so many drawn
    by `seed`. `chance` is the share that random neighbours would have.
    """

    k: int
    shared: int
    asked: int
    seed: int
    share: float
    chance: float
    scripts: list[ScriptNeighbours]


class Exchange(TypedDict):
    """Whether rows of one can stand in the other's table.

    `answer` is ``same`` (same tokens, same numbers), ``extended`` (the same, and one has more), ``renumbered`` (same
    tokens, other numbers), ``overlap`` (some tokens) or ``none``; `widths` are those of the embeddings.
    """

    answer: str
    #: Whether rows are of one width; nothing where one has no weights.
    fits: bool | None
    because: list[str]
    widths: list[int | None]


class VocabComparison(TypedDict):
    """What :func:`suture.analysis.vocab_compare.compare` returns."""

    schema: int
    a: str
    b: str
    kinds: list[VocabKind]
    sizes: list[VocabSizes]
    shared: SharedTokens
    roles: list[RolePair]
    scripts: list[ScriptOverlap]
    misses: Misses
    digits: Digits
    #: Parts of tokenizer.json that differ, apart from the tokens: where there are some, text is cut otherwise.
    differing: list[str]
    neighbours: Neighbours | None
    exchange: Exchange
    warnings: list[str]


class Induced(TypedDict):
    """How well translations are found: the share found first, and the mean of one over the rank of the first right."""

    p1: float
    mrr: float


class Induction(TypedDict):
    """Bilingual lexicon induction with a dictionary.

    `sources` words were looked up among `targets` words; pairs of which a word has no vector are `left_out`.
    """

    pairs: int
    sources: int
    targets: int
    left_out: int
    cosine: Induced
    csls: Induced
    #: Neighbours that CSLS takes the mean of.
    neighbours: int


class WordVectors(TypedDict):
    """What :func:`suture.analysis.vocab_words.words` returns."""

    schema: int
    model: str
    other: str | None
    #: The tensor that rows are from.
    table: str
    words: int
    dimensions: int
    #: Rows that a word is the mean of, on average.
    rows_per_word: float | None
    #: Words that the vocabulary cannot write, which have no vector.
    unknown: list[str]
    #: Words given more than once.
    repeated: int
    #: The files written.
    files: list[str]
    dictionary: Induction | None
    warnings: list[str]
