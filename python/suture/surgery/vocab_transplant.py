"""The verb ``suture vocab transplant``: a model with another's tokenizer."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suture.errors import UsageError, near
from suture.reference import Model as Named
from suture.results.report import Report
from suture.settings import Progress, Settings

if TYPE_CHECKING:
    from suture.vocab.rowplan import RowPlan
    from suture.vocab.transplant import Method

METHODS = ("overlap", "subwords", "omp", "clp", "nearest", "sparsemax", "alignment")
UNITS = ("tokens", "words")
#: What is held at most where no memory is given.
_BUDGET = 2**30
#: Which options belong to which methods.
_OF = {
    "helper": ("clp",),
    "vectors": ("nearest", "sparsemax"),
    "source_vectors": ("nearest",),
    "table": ("alignment",),
    "units": ("alignment",),
    "min_count": ("alignment",),
    "smooth": ("alignment",),
    "k": ("omp", "nearest"),
    "tolerance": ("omp",),
    "top_k": ("clp",),
    "temperature": ("nearest",),
    "reference": ("omp", "clp", "nearest"),
}


def vocab_transplant(
    model: Named,
    donor: Named,
    out: str | PathLike[str],
    *,
    method: str,
    helper: Named | None = None,
    vectors: str | PathLike[str] | None = None,
    source_vectors: str | PathLike[str] | None = None,
    table: str | PathLike[str] | None = None,
    units: str | None = None,
    min_count: float | None = None,
    smooth: bool | None = None,
    k: int | None = None,
    tolerance: float | None = None,
    top_k: int | None = None,
    temperature: float | None = None,
    reference: bool | None = None,
    fuzzy: bool = False,
    fallback: str | None = None,
    max_gain: float | None = None,
    over_gain: str = "cap",
    pad_to_multiple_of: int = 1,
    keep: str | PathLike[str] | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write `model` with the tokenizer of `donor` to `out`.

    A token that both have keeps the model's row: special ones by role, the others by their bytes and whether a word
    begins there. A method makes rows of the model's rows for the others:

    * ``overlap``: nothing; they get the `fallback`, by default the mean of all rows.
    * ``subwords``: the mean of the pieces that the model's own tokenizer cuts them into (FVT).
    * ``omp``: sums of at most `k` rows, found in the donor's space by orthogonal matching pursuit.
    * ``clp``: the mean of common tokens, weighted by their cosines in a helper.
    * ``nearest``: the mean of the `k` tokens with the nearest vectors, weighted by a softmax (WECHSEL).
    * ``sparsemax``: the sparsemax of cosines of vectors with those of common tokens (FOCUS).
    * ``alignment``: counts of tokens aligned in translations (trans-tokenization), of common tokens too.

    Args:
        model: the model.
        donor: a model with the wanted tokenizer; but for ``omp`` a folder of its files alone will do.
        out: the output folder.
        method: one of the above.
        helper: clp: a small model with the donor's tokenizer; by default the donor.
        vectors: nearest, sparsemax: vectors of the donor's tokens, see `suture.vocab.vectors` for the files.
        source_vectors: nearest: vectors of the model's tokens, in the same space; by default `vectors` has them too.
        table: alignment: lines of ``model's unit <tab> donor's unit <tab> count``.
        units: alignment: ``tokens``, several in a unit with spaces between; or ``words``, which are segmented.
        min_count: alignment: lines that count less are passed over; 1 by default, the paper takes 10.
        smooth: alignment: whether tokens without counts are lent some; by default they are.
        k: omp: most rows of a sum, 64 by default. nearest: how many neighbours, 10 by default.
        tolerance: omp: a sum is finished when less than this share of the row is left; 1e-12 by default.
        top_k: clp: how many of the most similar tokens are kept; all by default.
        temperature: nearest: of the softmax, 0.1 by default.
        reference: as published code has it. omp: anchors are chosen by products, not by angles. clp: negative cosines
            keep their sign. nearest: common tokens get new rows, too.
        fuzzy: tokens that differ by case or word start alone are common ones.
        fallback: what tokens get that a method finds nothing for: ``subwords`` or ``mean``.
        max_gain: how much longer a new row may be than the donor's, beyond the ratio of common tokens' rows.
        over_gain: what becomes of one that is longer: ``cap`` scales it down, ``reject`` gives it the fallback.
        pad_to_multiple_of: the output's tables have a multiple of so many rows.
        keep: a file to keep the plan in.
        settings: how to do the work; `memory` bounds what planning holds, too, 1 GiB without.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if an option is wrong or missing, or the vocabularies have nothing in common.
        SutureError: if a model or file is not sound, or the output cannot be written.
    """
    from suture.surgery.rows import rewrite

    settings = settings or Settings()
    given = {
        "helper": helper, "vectors": vectors, "source_vectors": source_vectors, "table": table, "units": units,
        "min_count": min_count, "smooth": smooth, "k": k, "tolerance": tolerance, "top_k": top_k,
        "temperature": temperature, "reference": reference,
    }  # fmt: skip
    plan = transplant_plan(
        model,
        donor,
        method,
        {name: value for name, value in given.items() if value is not None},
        fuzzy=fuzzy,
        fallback=fallback,
        max_gain=max_gain,
        over_gain=over_gain,
        multiple=pad_to_multiple_of,
        budget=settings.memory_bytes or _BUDGET,
    )
    kept = None if keep is None else Path(keep)
    return rewrite(plan, out, settings=settings, dry_run=dry_run, progress=progress, keep=kept)


def transplant_plan(
    model: Named,
    donor: Named,
    method: str,
    given: dict[str, Any],
    *,
    fuzzy: bool = False,
    fallback: str | None = None,
    max_gain: float | None = None,
    over_gain: str = "cap",
    multiple: int = 1,
    budget: int = _BUDGET,
) -> RowPlan:
    """The plan of :func:`vocab_transplant`; `given` are the options of the method, by name.

    Raises:
        UsageError, SutureError: as there.
    """
    _check(method, given, fallback, max_gain, over_gain, multiple)
    from suture.surgery.vocab_models import model_at
    from suture.vocab.transplant import plan_of

    own, theirs = model_at(model), model_at(donor, bare=True)
    fallback = fallback or ("mean" if method == "overlap" else "subwords")
    options: dict[str, Any] = {name: _said(value) for name, value in given.items()}
    options |= {"method": method, "from": _said(donor), "fuzzy": fuzzy, "fallback": fallback}
    options |= {} if max_gain is None else {"max_gain": max_gain, "over_gain": over_gain}
    options |= {} if multiple == 1 else {"pad_to_multiple_of": multiple}
    return plan_of(
        own,
        theirs,
        _method(method, given, theirs),
        options=options,
        fallback=fallback,
        fuzzy=fuzzy,
        max_gain=max_gain,
        over_gain=over_gain,
        multiple=multiple,
        budget=budget,
    )


def _method(name: str, given: dict[str, Any], donor: Any) -> Method | None:
    """What makes rows."""
    from suture.surgery.vocab_models import file_at, model_at
    from suture.vocab import methods

    own = {key: value for key, value in given.items() if key not in ("helper", "vectors", "source_vectors", "table")}
    if name == "omp":
        return methods.Omp(**own)
    if name == "clp":
        from suture.surgery.rows import MOST_ENTRIES

        helper = model_at(given["helper"]) if "helper" in given else donor
        return methods.Clp(helper, **own, most=MOST_ENTRIES)
    if name == "nearest":
        second = Path(given["source_vectors"]) if "source_vectors" in given else None
        return methods.Nearest(file_at(given.get("vectors"), "vectors", name), second, **own)
    if name == "sparsemax":
        return methods.Sparsemax(file_at(given.get("vectors"), "vectors", name))
    if name == "alignment":
        return methods.Alignment(file_at(given.get("table"), "table", name), **own)
    return None


def _check(
    method: str, given: dict[str, Any], fallback: str | None, max_gain: float | None, over_gain: str, multiple: int
) -> None:
    """Refuses options that are wrong or belong to another method."""
    if method not in METHODS:
        raise UsageError(f"method: expected {', '.join(METHODS)}, found `{method}`{near(method, METHODS)}", at="method")
    for name in given:
        if method not in _OF[name]:
            raise UsageError(f"{name}: belongs to method {' or '.join(_OF[name])}, not to {method}", at=name)
    one_of = {"fallback": ("subwords", "mean"), "over_gain": ("cap", "reject"), "units": UNITS}
    for name, value in (("fallback", fallback), ("over_gain", over_gain), ("units", given.get("units"))):
        if value is not None and value not in one_of[name]:
            raise UsageError(f"{name}: expected {' or '.join(one_of[name])}, found `{value}`", at=name)
    whole = {"k": given.get("k", 1), "top_k": given.get("top_k", 1), "pad_to_multiple_of": multiple}
    for name, number in whole.items():
        if type(number) is not int or number < 1:
            raise UsageError(f"{name}: expected a number of at least 1, found {number!r}", at=name)
    above = {"temperature": given.get("temperature"), "max_gain": max_gain, "min_count": given.get("min_count")}
    for name, number in above.items():
        if number is not None and not 0 < number < float("inf"):
            raise UsageError(f"{name}: expected a number above 0, found {number}", at=name)
    if not 0 <= given.get("tolerance", 0) < 1:
        raise UsageError(f"tolerance: expected a share from 0 to 1, found {given['tolerance']}", at="tolerance")
    if given.get("reference") and "top_k" in given:
        raise UsageError("top_k: the published code leaves nothing out; give one of top_k and reference", at="top_k")


def _said(value: Any) -> Any:
    return fspath(value) if isinstance(value, PathLike) else value
