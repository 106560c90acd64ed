"""Who judges candidates: a command that prints a number, or a callable."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from suture.errors import SutureError, UsageError
from suture.escape import printable

#: A number that stands by itself, not within a word, a path, a version or a date.
_NUMBER = re.compile(
    r"(?<![\w./+-])[+-]?(?:\d+(?:,\d+)*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w./-]*\w)|(?<![\w.])[+-]?(?:nan|inf(?:inity)?)(?!\w)",
    re.I,
)
#: Bytes from the end of what a command prints that are looked at.
_TAIL = 1 << 20


class JudgingError(SutureError):
    """A candidate could not be judged."""


class Command:
    """A command line in which ``{model}`` stands for the candidate's folder; no shell is asked.

    Args:
        line: the command, split as a shell does.
        metric: the key of a JSON object that it prints last, with dots for keys within keys; None for the last number.
        timeout: seconds it may take.

    Raises:
        UsageError: if it cannot be split, or names no model.
    """

    def __init__(self, line: str, metric: str | None = None, timeout: float | None = None) -> None:
        try:
            self._words = shlex.split(line)
        except ValueError as e:
            raise UsageError(f"evaluate: cannot be split into words: {e}", at="evaluate") from None
        if not any("{model}" in word for word in self._words):
            raise UsageError(
                f"evaluate: expected {{model}} where the candidate's folder goes, found `{line}`", at="evaluate"
            )
        if timeout is not None and not 0 < timeout < math.inf:
            raise UsageError(f"timeout: expected seconds above 0, found {timeout}", at="timeout")
        self._metric, self._timeout = metric, timeout
        self._running: set[subprocess.Popen[bytes]] = set()
        self._guard = threading.Lock()
        self._stopped = False

    def __call__(self, model: Path) -> float:
        """The score of a candidate.

        Raises:
            JudgingError: if the command cannot be run, fails, takes too long, or prints no number.
        """
        words = [word.replace("{model}", str(model)) for word in self._words]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            code = self._run(words, out, err)
            printed, said = _tail(out), _tail(err)
        if code != 0:
            how = f"was ended by signal {-code}" if code < 0 else f"exited with {code}"
            raise JudgingError(f"evaluator `{words[0]}` {how}{_last(said or printed)}")
        return _keyed(printed, self._metric) if self._metric else _number(printed)

    def _run(self, words: list[str], out: IO[bytes], err: IO[bytes]) -> int:
        try:
            with self._guard:
                if self._stopped:
                    raise KeyboardInterrupt
                # A group of its own, so that whatever it starts ends with it.
                child = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
                )
                self._running.add(child)
        except OSError as e:
            raise JudgingError(f"evaluator `{words[0]}` cannot be run: {e.strerror}") from None
        try:
            return child.wait(self._timeout)
        except subprocess.TimeoutExpired:
            raise JudgingError(f"evaluator `{words[0]}` took more than {self._timeout:g} s and was ended") from None
        finally:
            _end(child)
            with self._guard:
                self._running.discard(child)

    def stop(self) -> None:
        """End all that run, from any thread; none starts any more."""
        with self._guard:
            self._stopped = True
            running = list(self._running)
        for child in running:
            _signal(child, signal.SIGKILL)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a command that still runs, with all of its group: it is asked, and a moment later not any more."""
    if child.poll() is None:
        _signal(child, signal.SIGTERM)
        # Not waited for: once its end is taken notice of, its number may be another's.
        time.sleep(0.2)
        _signal(child, signal.SIGKILL)
        child.wait()


def _signal(child: subprocess.Popen[bytes], which: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, which)


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _TAIL, 0))
    return file.read().decode("utf-8", "replace").strip()


def _last(text: str) -> str:
    """The last lines of what was printed, behind a message."""
    lines = [line for line in text.splitlines() if line.strip()][-3:]
    return f": {printable(' / '.join(lines))[-500:]}" if lines else ", and printed nothing"


def _number(printed: str) -> float:
    """The last number that stands by itself."""
    found = _NUMBER.findall(printed)
    if not found:
        raise JudgingError(f"evaluator printed no number{_last(printed)}; with JSON, name its key with --metric")
    if "," in found[-1]:
        raise JudgingError(f"evaluator printed `{found[-1]}`; expected a number without commas")
    return checked(float(found[-1]))


def _keyed(printed: str, metric: str) -> float:
    """A number of the last JSON object: all that was printed, or its last line that is one."""
    for text in (printed, *reversed(printed.splitlines())):
        try:
            node = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(node, dict):
            break
    else:
        raise JudgingError(f"evaluator printed no JSON object for metric `{metric}`{_last(printed)}")
    value = _within(node, metric)
    if isinstance(value, bool) or not isinstance(value, int | float):
        keys = ", ".join(f"`{printable(str(k))}`" for k in list(node)[:10])
        raise JudgingError(f"metric `{metric}` is no number in what the evaluator printed; its keys are {keys}")
    return checked(float(value))


def _within(node: object, metric: str) -> object:
    """What a key names: the key itself, which may have dots, or a key within keys."""
    if not isinstance(node, dict):
        return None
    if metric in node:
        return node[metric]
    for i, c in enumerate(metric):
        if c == "." and metric[:i] in node and (found := _within(node[metric[:i]], metric[i + 1 :])) is not None:
            return found
    return None


def checked(score: float) -> float:
    """A score that is a finite number.

    Raises:
        JudgingError: if it is none.
    """
    if not math.isfinite(score):
        raise JudgingError(f"the score is {score}, no finite number")
    return score


def judged(judge: Callable[[Any], float], model: Any) -> tuple[float | None, str | None]:
    """The score of a candidate, or why it has none."""
    try:
        return checked(float(judge(model))), None
    except JudgingError as e:
        return None, str(e)
    except (TypeError, ValueError) as e:
        return None, f"the evaluator gave no number: {e}"
