"""Statistics of a model's activations on a text as checkpoints that merges take: Gram matrices for `regmean`, squared
gradients for `fisher`, and the importance of each weight (Wanda).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError
from suture.results.text import Statistics
from suture.text.corpus import Given, texts
from suture.text.extra import need
from suture.text.forward import Batch, current, run
from suture.text.model import Model, Running, open_model


def statistics(
    model: str | PathLike[str],
    *,
    text: Given | Sequence[Given] | Mapping[str, Given] | None = None,
    random: int | None = None,
    gram: str | PathLike[str] | None = None,
    fisher: str | PathLike[str] | None = None,
    importance: str | PathLike[str] | None = None,
    lines: int | None = None,
    overwrite: bool = False,
    running: Running | None = None,
) -> Statistics:
    """Run texts, or random tokens, and write what merges are weighted by, each as one file of safetensors.

    Args:
        model: a model that predicts the next token.
        text: texts, all counted together.
        random: instead of a text so many rows of random tokens (seed 0), each as long as the context, up to 128.
        gram: where to write X^T X of the inputs of every linear layer, float32 [n, n] by the weight's name, divided by
            the number of tokens: ``gram`` of the method regmean (arXiv 2212.09849).
        fisher: where to write the mean over lines of the squared gradient of a line's mean loss, float32, of the shape
            of each weight: ``fisher`` of that method (arXiv 2111.09832); the labels are the text's own tokens.
        importance: where to write the absolute weight times the norm of its input over the tokens, float32 (Wanda,
            arXiv 2306.11695).
        lines: take so many lines of each text at most.
        overwrite: replace files of these names.
        running: how the model is run. Gradients need it whole.

    Returns:
        The files, how many tensors each has, and the tokens that were counted.

    Raises:
        UsageError: if nothing is to be written, a file is there, or neither or both of text and random are given.
        SutureError: if the model has to be streamed and gradients are asked for, or its weights have other names.
    """
    outs = {"gram": gram, "fisher": fisher, "importance": importance}
    asked = {kind: Path(out) for kind, out in outs.items() if out is not None}
    if not asked:
        raise UsageError("expected something to write, found none; give gram, fisher or importance", at="gram")
    if (text is None) == (random is None):
        raise UsageError("expected a text or random tokens, and one of them alone", at="text")
    for kind, out in asked.items():
        if out.suffix != ".safetensors":
            raise UsageError(f"{kind}: expected a file that ends in .safetensors, found `{out}`", at=kind)
        if out.exists() and not overwrite:
            raise UsageError(f"{out}: is there already; give another name, or --overwrite", at=kind)
        if not out.absolute().parent.is_dir():
            raise SutureError(f"{out}: cannot write: its folder is not there", out)
    seen = {Path(file["path"]).resolve() for file in Checkpoint.plain(model).describe()["files"]}
    for kind, out in asked.items():
        if out.resolve() in seen:
            raise UsageError(f"{kind}: expected a file of its own, found `{out}`", at=kind)
        seen.add(out.resolve())
    opened = open_model(model, running or Running(), head=True)
    if opened.weights is None:
        raise SutureError(f"{opened.path}: its tensors have other names than transformers gives them, so that "
                          "statistics could not be told which they are of", opened.path)  # fmt: skip
    if fisher is not None and opened.streamed:
        raise SutureError(f"{opened.path}: has more weights than memory, and gradients need all of them at once; give "
                          "more (--memory), or leave --fisher out", opened.path)  # fmt: skip
    tokens = _tokens(opened, text, random, lines)
    if not tokens:
        raise SutureError(f"{opened.path}: its vocabulary has no token for the text", opened.path)
    written: list[tuple[str, Path, dict[str, Any]]] = []
    told: list[str] = []
    if gram is not None or importance is not None:
        told = _others(opened)
        grams, norms, weights = _inputs(opened, tokens, whole=gram is not None, weigh=importance is not None)
        if gram is not None:
            written.append(("gram", asked["gram"], grams))
        if importance is not None:
            written.append(("importance", asked["importance"], {n: weights[n] * norms[n] for n in norms}))
    if fisher is not None:
        written.append(("fisher", asked["fisher"], _gradients(opened, tokens)))
    save = need("safetensors.torch").save_file
    for kind, _, tensors in written:
        if bad := next((n for n, t in tensors.items() if not t.isfinite().all()), None):
            raise opened.no_number(f"{kind} of `{bad}`")
    for _, out, tensors in written:
        draft = out.with_name(f".{out.name}.suture-partial")
        try:
            save({n: t.float().cpu().contiguous() for n, t in sorted(tensors.items())}, str(draft), {"format": "pt"})
            draft.replace(out)
        except OSError as e:
            draft.unlink(missing_ok=True)
            raise SutureError(f"{out}: cannot write: {e.strerror or e}", out) from None
    return {
        "schema": 1,
        "model": opened.told(),
        "text": "random tokens" if text is None else ", ".join(t.file for t in texts(text, lines)),
        "lines": len(tokens),
        "tokens": sum(map(len, tokens)),
        "files": [{"kind": kind, "file": fspath(out), "tensors": len(tensors)} for kind, out, tensors in written],
        "warnings": told,
    }


def _tokens(model: Model, text: Any, random: int | None, lines: int | None) -> list[list[int]]:
    if text is not None:
        return [one[: model.context] for t in texts(text, lines) for one in model.ids(t.lines) if one]
    if random is None or random < 1:
        raise UsageError(f"random: expected a number of rows from 1 on, found {random}", at="random")
    torch = need("torch")
    rows = int(model.module.get_input_embeddings().weight.shape[0])
    made = torch.randint(rows, (random, min(model.context, 128)), generator=torch.Generator().manual_seed(0))
    found: list[list[int]] = made.tolist()
    return found


def _names(model: Model) -> dict[tuple[int, str], str]:
    """The stored name of each parameter, by its module and its name there."""
    assert model.weights is not None
    return {(at, name): source for at, own in model.weights.places.items() for source, targets, _ in own
            for module, name, _ in targets if id(module) == at}  # fmt: skip


def _others(model: Model) -> list[str]:
    """What is told of matrices that are no linear layers of torch, such as those of GPT-2."""
    nn, names = need("torch").nn, _names(model)
    plain = (nn.Linear, nn.Embedding)
    found = [names[id(m), "weight"] for m in model.module.modules()
             if (id(m), "weight") in names and m.weight.dim() == 2 and not isinstance(m, plain)]  # fmt: skip
    text = f"{len(found):,} matrices are of no linear layers of torch, and have no statistics of inputs"
    return [f"{model.path}: {text} (first: `{found[0]}`)"] if found else []


def _inputs(model: Model, tokens: list[list[int]], *, whole: bool, weigh: bool) -> tuple[dict[str, Any], ...]:
    """Gram matrices and norms of the inputs of linear layers, and the absolute weights, by the weights' names."""
    torch, names = need("torch"), _names(model)
    grams: dict[str, Any] = {}
    squares: dict[str, Any] = {}
    weights: dict[str, Any] = {}
    count = sum(map(len, tokens))

    def hook(name: str) -> Any:
        def seen(module: Any, args: tuple[Any, ...]) -> None:
            mask = current(model).mask.reshape(-1).bool()
            x = args[0].reshape(-1, args[0].shape[-1])
            if len(x) != len(mask):
                return
            x = x[mask].double()
            if whole:
                grams[name] = grams.get(name, 0) + x.T @ x
            squares[name] = squares.get(name, 0) + (x * x).sum(0)
            if weigh and name not in weights:
                weights[name] = module.weight.abs().float().clone()

        return seen

    hooks = [
        module.register_forward_pre_hook(hook(names[id(module), "weight"]))
        for module in model.module.modules()
        if isinstance(module, torch.nn.Linear) and (id(module), "weight") in names
    ]
    try:
        run(model, tokens, seen=lambda *_: None)
    finally:
        for one in hooks:
            one.remove()
    if not squares:
        raise SutureError(f"{model.path}: has no linear layers of torch, whose inputs could be counted", model.path)
    return {n: g / count for n, g in grams.items()}, {n: s.sqrt().float() for n, s in squares.items()}, weights


def _gradients(model: Model, tokens: list[list[int]]) -> dict[str, Any]:
    """The mean over lines of the squared gradient of the mean loss, by the weights' names."""
    torch, names = need("torch"), _names(model)
    parameters: dict[str, Any] = {}
    for module in model.module.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and (id(module), name) in names:
                parameters.setdefault(names[id(module), name], parameter)
    sums = {n: torch.zeros(p.shape, dtype=torch.float32, device=p.device) for n, p in parameters.items()}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    used = [line for line in tokens if len(line) > 1]
    if not used:
        raise SutureError(f"{model.path}: no line has two tokens, so that nothing is predicted", model.path)
    for line in used:
        batch = Batch([0], [line], model.device)
        logits = model.module(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits[0, :-1]
        torch.nn.functional.cross_entropy(logits.float(), batch.ids[0, 1:]).backward()
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                sums[name] += parameter.grad.float() ** 2
                parameter.grad = None
    return {name: total / len(used) for name, total in sums.items()}
