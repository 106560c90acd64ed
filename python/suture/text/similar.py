"""Where languages share: how near the states of translations are, by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike

from suture.errors import UsageError
from suture.results.text import CountedLanguage, RunModel, Similarity, SimilarLayer
from suture.text.corpus import Given, parallel
from suture.text.model import Running, open_model
from suture.text.states import POOLS, by_language, check_pivot, nearness


def similarity(
    *models: str | PathLike[str],
    parallel_text: Given | Sequence[Given] | Mapping[str, Given],
    pivot: str = "en",
    pool: str | None = None,
    lines: int | None = None,
    running: Running | None = None,
) -> Similarity:
    """How near translations are to each other in a model, by layer and language.

    Layer 0 is the embedding; the last layer's states are behind the final norm. At each layer: the mean cosine of
    pairs, and of all wrong pairs, its baseline (`above` is the difference, which corrects for states that are all
    alike: Ethayarajh, arXiv 1909.00512); both again with the mean of all states taken off (`centred`); the euclidean
    distance likewise; MEXA (arXiv 2410.05873), the share of sentences whose own translation is nearer than any other,
    both ways; and retrieval, the share found as nearest, over both ways. Chance is what random states would have.

    Args:
        models: models of any kind; of encoder-decoders the encoder is run.
        parallel_text: translations, as :func:`suture.text.corpus.parallel` reads them.
        pivot: the language that all others are compared with.
        pool: what stands for a sentence: ``last`` token, ``mean`` of its tokens, or the mean ``weighted`` by place;
            None for ``weighted`` of decoders and ``mean`` of others. Special tokens that the tokenizer adds count.
        lines: take so many sentences at most.
        running: how models are run; longer texts are cut off at the context, and counted.

    Returns:
        Figures of each model, language and layer; see :class:`suture.results.text.Similarity`.

    Raises:
        UsageError: if the extra `text` is not installed, there is no model, or no such language or pool.
        SutureError: if texts are not parallel, or a file or a model is not sound.
    """
    if not models:
        raise UsageError("expected a model, found none", at="models")
    if pool not in (None, *POOLS):
        raise UsageError(f"pool: expected one of {', '.join(POOLS)}, found `{pool}`", at="pool")
    running = running or Running()
    text = parallel(parallel_text, lines)
    check_pivot(text.lines, pivot)
    told: list[RunModel] = []
    layers: list[SimilarLayer] = []
    languages: list[CountedLanguage] = []
    warnings: list[str] = []
    if text.left_out:
        warnings.append(f"{text.left_out:,} sentences that are empty in a language were left out")
    for path in models:
        model = open_model(path, running)
        told.append(model.told())
        own = pool or ("weighted" if model.kind == "decoder" else "mean")
        first = None
        for language, states, counts in by_language(model, text.lines, pivot, [own]):
            first = states[own] if first is None else first
            languages.append({"model": model.path, "language": language, "pool": own, "tokens": counts["tokens"],
                              "cut": counts["cut"], "unknown": counts["unknown"]})  # fmt: skip
            for number, (one, other) in enumerate(zip(first, states[own], strict=True)):
                if language != pivot:
                    near = nearness(one, other)
                    layers.append({"model": model.path, "language": language, "layer": number, **near})
        warnings += counted(model.path, languages)
        del model, first
    return {
        "schema": 1,
        "models": told,
        "pivot": pivot,
        "sentences": len(text),
        "left_out": text.left_out,
        "files": text.files,
        "languages": languages,
        "layers": layers,
        "warnings": warnings,
    }


def counted(path: str, languages: Sequence[CountedLanguage]) -> list[str]:
    """What a user should know of how texts were read."""
    own = [one for one in languages if one["model"] == path]
    return [
        *(f"{path}: {one['cut']:,} sentences of {one['language']} are longer than the context and were cut off there"
          for one in own if one["cut"]),
        *(f"{path}: the vocabulary cannot write {one['unknown']:,} tokens or characters of {one['language']}"
          for one in own if one["unknown"]),
    ]  # fmt: skip
