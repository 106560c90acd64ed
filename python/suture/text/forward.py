"""Texts through a model, in batches; with the weights of one layer in memory at a time where the model is streamed.

A streamed model is run by its own code, not by a copy of it: every batch is a thread that stops before each layer.
When all have stopped there, the layer's weights are read, each thread goes through it alone, one after another, and the
weights are given back. So the figures are those of the whole model, whatever a layer is told beside the states.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from suture.text.extra import need
from suture.text.model import Model

#: Called with a layer's number, the states that go in and those that come out ([batch, length, width]), and the mask of
#: real tokens ([batch, length]).
Seen = Callable[[int, Any, Any, "Batch"], None]
#: Bytes of states that wait between layers of a streamed model.
WAITING = 2**28
#: Batches, each a thread, that wait so at most.
THREADS = 256


class Batch:
    """Texts run together, padded at the right.

    Attributes:
        rows: the number of each among all texts.
        ids: their tokens, int64 [batch, length].
        mask: 1 for a token, 0 for padding, int64 [batch, length].
    """

    def __init__(self, rows: list[int], tokens: Sequence[Sequence[int]], device: str) -> None:
        torch = need("torch")
        self.rows = rows
        length = max(len(tokens[r]) for r in rows)
        self.ids = torch.zeros((len(rows), length), dtype=torch.int64)
        self.mask = torch.zeros((len(rows), length), dtype=torch.int64)
        for i, r in enumerate(rows):
            self.ids[i, : len(tokens[r])] = torch.tensor(tokens[r], dtype=torch.int64)
            self.mask[i, : len(tokens[r])] = 1
        self.ids, self.mask = self.ids.to(device), self.mask.to(device)


def batches(tokens: Sequence[Sequence[int]], most: int, device: str) -> Iterator[Batch]:
    """Texts of like length together, `most` tokens at a time with padding; the order is a function of lengths alone."""
    order = sorted(range(len(tokens)), key=lambda r: (len(tokens[r]), r))
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * len(tokens[order[end]]) <= most:
            end += 1
        yield Batch(order[start:end], tokens, device)
        start = end


def run(
    model: Model,
    tokens: Sequence[Sequence[int]],
    *,
    seen: Seen | None = None,
    done: Callable[[Batch, Any], None] | None = None,
    most: int | None = None,
) -> None:
    """Run texts.

    Args:
        model: what runs them.
        tokens: of each text, one at least.
        seen: called at each layer of each batch.
        done: called with what the module returned of each batch.
        most: tokens at a time, if not as the model was opened.
    """
    made = batches(tokens, most or model.running.tokens, model.device)
    if not model.streamed:
        count = [0]
        hooks = _hooks(model, lambda: (current(model), count), seen) if seen is not None else []
        try:
            for batch in made:
                model.now, count[0] = batch, 0
                out = _called(model, batch)
                if done is not None:
                    done(batch, out)
        finally:
            for hook in hooks:
                hook.remove()
        return
    width = int(model.module.get_input_embeddings().weight.shape[1]) * 4
    waiting: list[Batch] = []
    for batch in made:
        waiting.append(batch)
        if len(waiting) >= THREADS or sum(b.ids.numel() for b in waiting) * width >= WAITING:
            _round(model, waiting, seen, done)
            waiting = []
    if waiting:
        _round(model, waiting, seen, done)


def current(model: Model) -> Batch:
    """The batch that is run where this is called, which is in a hook of a module."""
    found = threading.current_thread()
    batch = found.batch if isinstance(found, _Worker) else model.now
    assert isinstance(batch, Batch)
    return batch


def _called(model: Model, batch: Batch) -> Any:
    with need("torch").inference_mode():
        more = {} if model.kind == "encoder-decoder" or model.kind == "encoder" else {"use_cache": False}
        return model.module(input_ids=batch.ids, attention_mask=batch.mask, **more)


def _hooks(model: Model, now: Callable[[], tuple[Batch, list[int]]], seen: Seen) -> list[Any]:
    """Hooks that show each call of a layer, in the order of calls: some models call one module several times."""

    def after(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        batch, count = now()
        before = args[0] if args else kwargs["hidden_states"]
        seen(count[0], before, out if hasattr(out, "shape") else out[0], batch)
        count[0] += 1

    modules = {id(m): m for m in model.layers}.values()
    return [m.register_forward_hook(after, with_kwargs=True) for m in modules]


class _Over(BaseException):
    """Ends threads that wait when another has failed."""


class _Worker(threading.Thread):
    """A batch on its way; it moves only between `step` and its next stop."""

    def __init__(self, model: Model, batch: Batch, done: Callable[[Batch, Any], None] | None) -> None:
        super().__init__(daemon=True)
        self.model, self.batch, self.done = model, batch, done
        self.go, self.stopped = threading.Event(), threading.Event()
        self.at: Any = None
        self.over = self.cancelled = False
        self.error: BaseException | None = None
        self.count = [0]

    def run(self) -> None:
        self.go.wait()
        try:
            if not self.cancelled:
                out = _called(self.model, self.batch)
                if self.done is not None:
                    self.done(self.batch, out)
        except _Over:
            pass
        except BaseException as e:  # It is raised where the run was asked for.
            self.error = e
        self.at, self.over = None, True
        self.stopped.set()

    def pause(self, layer: Any) -> None:
        """Stop before a layer, in this thread."""
        self.at = layer
        self.go.clear()
        self.stopped.set()
        # Whoever cancels says so first, and then lets all go, which this may just have taken back.
        if not self.cancelled:
            self.go.wait()
        if self.cancelled:
            raise _Over

    def step(self) -> None:
        """Let it go to its next stop, and wait for that."""
        self.stopped.clear()
        self.go.set()
        self.stopped.wait()
        if self.error is not None:
            raise self.error


def _round(model: Model, waiting: list[Batch], seen: Seen | None, done: Callable[[Batch, Any], None] | None) -> None:
    """Batches through all layers, a layer at a time."""
    assert model.weights is not None

    def here() -> _Worker:
        found = threading.current_thread()
        assert isinstance(found, _Worker)
        return found

    hooks = [
        m.register_forward_pre_hook(lambda layer, _: here().pause(layer))
        for m in {id(m): m for m in model.layers}.values()
    ]
    if seen is not None:
        hooks += _hooks(model, lambda: (here().batch, here().count), seen)
    workers = [_Worker(model, batch, done) for batch in waiting]
    for worker in workers:
        worker.start()
    try:
        while left := [w for w in workers if not w.over]:
            layer = left[0].at
            if layer is not None:
                model.weights.load(layer.modules())
            for worker in left:
                if worker.at is layer:
                    worker.step()
            if layer is not None:
                model.weights.drop(layer.modules())
    finally:
        for worker in workers:
            worker.cancelled = True
            worker.go.set()
        for worker in workers:
            worker.join()
        for hook in hooks:
            hook.remove()
