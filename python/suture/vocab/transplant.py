"""A model with another's tokenizer: which rows it keeps, which a method makes, and what the rest gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture.errors import SutureError, UsageError
from suture.sidecars.files import read_config
from suture.sidecars.tokenizer import TOKENIZER_FILES
from suture.vocab.gains import gains_of, limited, told_of
from suture.vocab.matching import KIND, Matches, matches_of, roles_of
from suture.vocab.mixes import Mixes
from suture.vocab.respell import speller
from suture.vocab.rowplan import MIX, PAD, RowPlan, Rows
from suture.vocab.stored import Table
from suture.vocab.tokens import Vocabulary

FALLBACKS = ("subwords", "mean")


@dataclass(frozen=True)
class Model:
    """A model, or a tokenizer alone, as planners see it.

    Attributes:
        folder: where it is.
        vocabulary: its tokens.
        embed: its embeddings; None of a tokenizer alone.
        head: its head, where that is not its embeddings.
    """

    folder: Path
    vocabulary: Vocabulary
    embed: Table | None = field(default=None, repr=False)
    head: Table | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Ask:
    """What a method is asked.

    Attributes:
        model: the model that is rewritten.
        donor: whose tokenizer it gets.
        matches: the model's token for each of the donor's.
        missing: int64: the donor's tokens without one, by number.
        anchors: int64: the donor's tokens that have one, by number, none of them special; each of the model's once.
        budget: bytes that may be held.
    """

    model: Model
    donor: Model
    matches: Matches
    missing: NDArray[np.int64]
    anchors: NDArray[np.int64]
    budget: int

    @property
    def places(self) -> NDArray[np.int64]:
        """int64 [anchors]: the anchors' rows in the model's tables."""
        return self.matches.old[self.anchors]


@dataclass(frozen=True)
class Found:
    """What a method gives.

    Attributes:
        table: mixes of the model's rows, for tokens by number; matched tokens among them are not kept as they are.
        head: those of the head, where they are others.
        reasons: why, as text; and `why` the place in them for each mix of `table`.
        figures: numbers for the report.
        told: what the user should know.
    """

    table: Mixes
    head: Mixes | None = None
    reasons: Sequence[str] = ("",)
    why: NDArray[np.int64] | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    told: Sequence[str] = ()


Method = Callable[[Ask], Found]


def plan_of(
    model: Model,
    donor: Model,
    method: Method | None,
    *,
    options: Mapping[str, Any],
    verb: str = "transplant",
    matches: Matches | None = None,
    fallback: str = "subwords",
    fuzzy: bool = False,
    max_gain: float | None = None,
    over_gain: str = "cap",
    multiple: int = 1,
    budget: int = 2**30,
) -> RowPlan:
    """The plan of a model with the tokenizer of another.

    Tokens that both have keep the model's rows; `method` makes rows of the others; what it does not make is the mean of
    the pieces that the model's own tokenizer cuts the token into, or of all the model's tokens.

    Args:
        model: the model that is rewritten.
        donor: whose tokenizer it gets.
        method: what makes rows; None for nothing.
        options: what was asked, as JSON.
        verb: which verb asks.
        matches: which tokens both have; None for what `matches_of` finds.
        fallback: ``subwords``, or ``mean`` for the mean of all rows at once.
        fuzzy: whether tokens that differ by case or word start are the same.
        max_gain: most gain of a row that a method makes, see `suture.vocab.gains`.
        over_gain: what becomes of one above: ``cap`` or ``reject``.
        multiple: the output's rows are a multiple of it.
        budget: bytes that may be held.

    Raises:
        UsageError: if something is asked for that does not go together.
        SutureError: if a model is not sound.
    """
    old, new = model.vocabulary, donor.vocabulary
    rows = _checked(model, donor, max_gain)
    matches = matches_of(new, old, rows=rows, fuzzy=fuzzy) if matches is None else matches
    named = np.array(sorted(new.names), dtype=np.int64)
    missing = named[~matches.matched[named]]
    anchors = np.array(
        sorted(n for n in matches.moved().values() if matches.kind[n] != KIND["special"]), dtype=np.int64
    )
    ask = Ask(model, donor, matches, missing, anchors, budget)
    found = Found(Mixes.none()) if method is None else method(ask)
    figures: dict[str, Any] = {"matched": int(matches.matched.sum()), "anchors": len(anchors), **found.figures}
    told = [*_told_of(ask), *found.told, *_loaded_by_type(model.folder, donor.folder)]
    common = (ask.places, anchors)
    made = {"table": found.table} | ({} if found.head is None else {"head": found.head})
    pairs = {"table": (model.embed, donor.embed), "head": (model.head, donor.head or donor.embed)}
    for name, mixes in made.items():
        base, other = pairs[name]
        if base is not None and other is not None and len(mixes) and len(anchors):
            gains = gains_of(mixes, base, other, common)
            if max_gain is not None:
                made[name], gains, count = limited(mixes, gains, max_gain, over_gain)
                figures[f"{name}_gain_over"] = count
            figures |= gains.figures(name, _names(new), made[name])
            told += told_of(figures, name, f"{donor.folder}: {'embeddings' if name == 'table' else name}")
    layout = _Layout(ask, fallback, multiple, found, last=method is not None)
    table = layout.rows(made["table"], told=True)
    return RowPlan(
        verb=verb,
        options=dict(options),
        models=[model.folder],
        names=_names(new),
        table=table,
        kind=layout.kind,
        reasons=layout.reasons,
        why=layout.why,
        moved=matches.moved(),
        written=[],
        copied=[(name, str(donor.folder / name)) for name in TOKENIZER_FILES if (donor.folder / name).is_file()],
        head=layout.rows(made["head"]) if "head" in made else None,
        roles=_padded(roles_of(new)),
        told=told,
        figures=figures,
    )


class _Layout:
    """The output's rows: where each is from, what it is and why."""

    def __init__(self, ask: Ask, fallback: str, multiple: int, found: Found, *, last: bool) -> None:
        new = ask.donor.vocabulary
        total = -(-new.size // multiple) * multiple
        self.ask, self.fallback, self.found, self.last = ask, fallback, found, last
        self.total, self.named = total, len(new.names)
        self.kind = np.full(total, KIND["padding"], dtype=np.int8)
        self.why = np.zeros(total, dtype=np.int32)
        self.reasons: list[str] = ["no token has this number"]
        self._numbers = {self.reasons[0]: 0}
        self._pieces: dict[int, Sequence[int]] = {}
        self._spell: Callable[[bool, bytes], list[int]] | None = None
        matches = ask.matches
        for name, text in _REASONS.items():
            own = matches.of(name)
            self.kind[own] = KIND[name]
            self.why[own] = self._reason(text) if len(own) else 0

    def rows(self, mixes: Mixes, *, told: bool = False) -> Rows:
        """The rows of a table with these mixes in it; with `told` they are what is said of the output's rows."""
        ask, matched = self.ask, self.ask.matches.matched
        # A sum of nothing is no row: a head of zeros would win over all that is negative.
        mixes = mixes.taken(np.flatnonzero(mixes.counts > 0))
        source, row = np.full(self.total, PAD, dtype=np.int64), np.zeros(self.total, dtype=np.int64)
        kept = np.flatnonzero(matched)
        source[kept], row[kept] = 0, ask.matches.old[kept]
        named = np.array(sorted(ask.donor.vocabulary.names), dtype=np.int64)
        rest = np.setdiff1d(named[~matched[named]], mixes.at)
        spelt, bare = self._fallen(rest)
        whole = Mixes.union([mixes, spelt])
        # What is a row once is copied as bytes.
        alone = (whole.counts == 1) & (whole.weight[whole.starts[:-1]] == 1.0)
        copies, mixed = whole.taken(np.flatnonzero(alone)), whole.taken(np.flatnonzero(~alone))
        source[copies.at], row[copies.at] = 0, copies.index
        source[mixed.at], row[mixed.at] = MIX, np.arange(len(mixed))
        index, weight, starts = mixed.index, mixed.weight, mixed.starts
        if len(bare) == self.named and len(bare):
            # Nothing else is there to take a mean of.
            every = np.array(sorted(ask.model.vocabulary.names), dtype=np.int64)
            source[bare], row[bare] = MIX, len(mixed)
            index = np.concatenate([index, every])
            weight = np.concatenate([weight, np.full(len(every), 1 / len(every))])
            starts = np.append(starts, len(index))
        if told:
            self._name(mixes, copies, spelt, bare)
        return Rows(source, row, starts, index, weight, np.zeros(len(starts) - 1))

    def _name(self, mixes: Mixes, copies: Mixes, spelt: Mixes, bare: NDArray[np.int64]) -> None:
        """Say of each row what it is; embeddings decide where a head differs."""
        old = self.ask.matches.old
        why = np.zeros(len(self.found.table), dtype=np.int64) if self.found.why is None else self.found.why
        reason = dict(zip(self.found.table.at.tolist(), why.tolist(), strict=True))
        alone = dict(zip(copies.at.tolist(), copies.index.tolist(), strict=True))
        for at in mixes.at.tolist():
            if alone.get(at, -2) == old[at]:
                continue
            self.kind[at] = KIND["copied" if at in alone else "approximated"]
            self.why[at] = self._reason(self.found.reasons[reason[at]])
        kind = "fallback" if self.last else "mixed"
        for at in spelt.at.tolist():
            count = len(self._pieces[at])
            what = "its one piece" if count == 1 else f"the mean of its {count} pieces"
            self.kind[at] = KIND["copied" if at in alone else kind]
            self.why[at] = self._reason(f"{what} in the model's tokenizer")
        self.kind[bare] = KIND["fallback"]
        if len(bare):
            self.why[bare] = self._reason("the mean of all other tokens' rows")

    def _fallen(self, rest: NDArray[np.int64]) -> tuple[Mixes, NDArray[np.int64]]:
        """Means of pieces for tokens that nothing else is known of, and the tokens that have no pieces either."""
        if self.fallback == "mean" or not len(rest):
            return Mixes.none(), rest
        if self._spell is None:
            self._spell = speller(self.ask.model.vocabulary)
        vocabulary, most = self.ask.donor.vocabulary, _count(self.ask.model)
        at, parts, bare = [], [], []
        for number in rest.tolist():
            if number not in self._pieces:
                key = vocabulary.key(number)
                content = vocabulary.names[number].encode("utf-8", "surrogatepass") if key.role else key.content
                self._pieces[number] = [n for n in self._spell(key.starts, content) if n < most]
            own = self._pieces[number]
            if own:
                at.append(number)
                parts.append((np.array(own, dtype=np.int64), np.full(len(own), 1 / len(own))))
            else:
                bare.append(number)
        return Mixes.of(np.array(at, dtype=np.int64), parts), np.array(bare, dtype=np.int64)

    def _reason(self, text: str) -> int:
        if text not in self._numbers:
            self._numbers[text] = len(self.reasons)
            self.reasons.append(text)
        return self._numbers[text]


_REASONS = {
    "kept": "the same token",
    "special": "the token of the same role or text",
    "exact": "a token of the same bytes",
    "byte": "the same byte",
    "fuzzy": "a token that differs by case or word start alone",
    "copied": "the nearest token of the map",
}


def _names(vocabulary: Vocabulary) -> list[str | None]:
    return [vocabulary.names.get(number) for number in range(vocabulary.size)]


def _count(model: Model) -> int:
    """How many rows a model's tables have; as many as tokens, where it has no tables."""
    return model.vocabulary.size if model.embed is None else model.embed.count


def _checked(model: Model, donor: Model, max_gain: float | None) -> int:
    """The rows of the model's tables.

    Raises:
        UsageError: if a tokenizer is missing or cannot be read, or gains are limited that are not known.
        SutureError: if a table has fewer rows than there are tokens.
    """
    for one in (model, donor):
        known(one)
    if model.embed is not None and model.head is not None and model.embed.count != model.head.count:
        message = f"its table has {model.embed.count:,} rows and its head {model.head.count:,}; expected as many"
        raise SutureError(f"{model.folder}: {message}", model.folder)
    if max_gain is not None and donor.embed is None:
        raise UsageError(f"max_gain: {donor.folder} is a tokenizer alone; gains need a donor's rows", at="max_gain")
    return _count(model)


def known(one: Model) -> Model:
    """A model whose tokens are known, and have rows if it has any.

    Raises:
        UsageError: if its tokenizer is missing or cannot be read.
        SutureError: if a table has fewer rows than there are tokens.
    """
    form = one.vocabulary.form
    if form == "none":
        raise UsageError(f"{one.folder}: has no tokenizer")
    if form == "slow":
        raise UsageError(
            f"{one.folder}: has no tokenizer.json, and its tokens cannot be told from what it has; load its "
            "tokenizer with transformers once and save it, which writes that file"
        )
    for what, table in (("table of tokens", one.embed), ("head", one.head)):
        if table is not None and table.count < one.vocabulary.size:
            raise SutureError(
                f"{one.folder}: its {what} has {table.count:,} rows, its tokenizer numbers tokens up to "
                f"{one.vocabulary.size - 1:,}; give the tokenizer that belongs to the model",
                one.folder,
            )
    return one


def _told_of(ask: Ask) -> list[str]:
    """What is told of how the two vocabularies go together."""
    new, old = ask.donor.vocabulary, ask.model.vocabulary
    told = []
    share = len(ask.anchors) / max(len(new.names), 1)
    if share < 0.1:
        told.append(
            f"{ask.donor.folder}: {len(ask.anchors):,} of its {len(new.names):,} tokens are also those of "
            f"{ask.model.folder} ({100 * share:.1f} %); most rows are guesses"
        )
    digits = [_digits(one) for one in (old, new)]
    if digits[0] != digits[1]:
        told.append(
            f"numbers are cut otherwise: tokens of up to {digits[0]} digits in {ask.model.folder}, {digits[1]} in "
            f"{ask.donor.folder}; arithmetic is what suffers most"
        )
    return told


def _digits(vocabulary: Vocabulary) -> int:
    """The most digits that a token of digits alone has."""
    keys = (vocabulary.key(number) for number in vocabulary.names)
    return max((len(key.content) for key in keys if not key.role and not key.byte and key.content.isdigit()), default=0)


def _padded(roles: Mapping[str, int]) -> dict[str, int]:
    """The numbers by role; what ends text pads it where nothing else does: some families cannot be without padding."""
    return {**({"pad": roles["eos"]} if "eos" in roles else {}), **roles}


#: Types of models whose tokenizer transformers 5 makes by the type, whatever tokenizer_config.json says.
_BY_TYPE = ("qwen2", "qwen3_5", "qwen3_5_moe")


def _loaded_by_type(model: Path, donor: Path) -> list[str]:
    """What to tell where another family's tokenizer goes into a model whose type decides how a tokenizer is loaded."""
    kinds = [(read_config(folder) or {}).get("model_type") for folder in (model, donor)]
    if kinds[0] not in _BY_TYPE or kinds[0] == kinds[1]:
        return []
    how = "load it by PreTrainedTokenizerFast.from_pretrained, not by AutoTokenizer, which may cut text otherwise"
    return [f"{model}: transformers 5 makes the tokenizer of a {kinds[0]} by that type, whatever the files say; {how}"]
