"""The nodes of a Ray cluster: how it is reached, which can make parts, and whether they see what the driver does."""

from __future__ import annotations

import importlib
import io
import os
import re
import secrets
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

from suture import _core
from suture.errors import SutureError, UsageError
from suture.settings import Settings

#: Seconds that a node is given to see a file that the driver has just written, and to answer at all.
_SEES, _ANSWERS = 5.0, 120.0


@dataclass(frozen=True)
class Node:
    """A node that can make parts.

    Attributes:
        id: Ray's.
        name: its host's name; with some of its id where several nodes are on one host.
        threads: how many threads compute there.
    """

    id: str
    name: str
    threads: int


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster and let go afterwards; a connection that the caller's process has is used, and stays.

    Args:
        address: as :attr:`suture.Settings.ray` has it.

    Raises:
        UsageError: if Ray is not installed.
        SutureError: if there is no cluster at that address.
    """
    # Ray tells its makers of its use, unless it is told not to; a merge does not do that of itself.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ray = importlib.import_module("ray")
            importlib.import_module("ray.util.scheduling_strategies")
        except ModuleNotFoundError as e:
            message = f"needs the package ray (no module {e.name}): pip install ray"
            raise UsageError(f"ray: {message}", at="ray") from None
        own = not ray.is_initialized()
        try:
            if own:
                _reach(address)
                ray.init(address or None, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError, OSError) as e:
            where = f"no Ray cluster at `{address}`" if address else "Ray does not start"
            raise SutureError(f"{where}: {reason(e)}; `ray status` says what runs", at="ray") from None
    if not own:
        yield ray
        return
    try:
        with redirect_stdout(cast("TextIO", _WithoutRay(sys.stdout))):
            yield ray
    finally:
        # What its threads have said several times it says once more now.
        with redirect_stdout(io.StringIO()):
            ray.shutdown()


def _reach(address: str) -> None:
    """Ask whether anybody listens at an address: Ray itself tries for minutes, and may end the process.

    Raises:
        OSError: if nobody does.
    """
    place = address if address not in ("", "auto") else os.environ.get("RAY_ADDRESS", "")
    host, _, port = place.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SEES).close()


class _WithoutRay:
    """A stream on which Ray's threads print nothing: they put pages on stdout when a node is lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, unless it is one of theirs that does."""
        return len(text) if threading.current_thread().name.startswith("ray_") else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        """All else is the stream's."""
        return getattr(self._stream, name)


def able(ray: Any, settings: Settings) -> tuple[list[Node], list[str]]:
    """As :func:`nodes_of`.

    Raises:
        SutureError: if no node can make parts.
    """
    nodes, told = nodes_of(ray, settings)
    if not nodes:
        raise SutureError("; ".join(["ray: no node of the cluster can make parts", *told]))
    return nodes, told


def nodes_of(ray: Any, settings: Settings) -> tuple[list[Node], list[str]]:
    """The nodes that have what a part takes, and of the others why not.

    Args:
        ray: Ray, connected.
        settings: threads, memory and device, of each node.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    hosts = [node["NodeManagerHostname"] for node in alive]
    found, told = [], []
    for node in sorted(alive, key=lambda node: (node["NodeManagerHostname"], node["NodeID"])):
        host = node["NodeManagerHostname"]
        name = host if hosts.count(host) == 1 else f"{host}/{node['NodeID'][:6]}"
        own = node["Resources"]
        threads = settings.threads or int(own.get("CPU", 0))
        lacking = [
            f"{what} {has:,.0f} of {wanted:,.0f}"
            for what, has, wanted in (
                ("CPUs", own.get("CPU", 0), threads or 1),
                ("bytes of memory", own.get("memory", 0), settings.memory_bytes or 0),
                ("GPUs", own.get("GPU", 0), gpus(settings)),
            )
            if has < wanted
        ]
        if not lacking:
            found.append(Node(node["NodeID"], name, threads))
        elif own.get("CPU", 0):
            # A head without CPUs is there to do nothing.
            told.append(f"node {name} makes no part: it has {', '.join(lacking)}")
    return found, told


def gpus(settings: Settings) -> int:
    """How many GPUs a node needs."""
    return 1 if settings.device.startswith("cuda") else 0


def on(ray: Any, node: Node) -> Any:
    """Where to run what is to run on this node and no other."""
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node.id, soft=False)


def check(ray: Any, nodes: Sequence[Node], folder: Path | None) -> tuple[list[Node], list[str]]:
    """Ask every node whether it has this version of suture and sees a folder that the driver sees.

    Returns:
        those that answer, and of those that do not that they make no part.

    Args:
        ray: Ray, connected.
        nodes: the nodes.
        folder: a folder that all must share; None to ask for the version alone.

    Raises:
        SutureError: if one has another or none, or does not see it, by its name; or if none answers.
    """
    token = None if folder is None else folder / f".new-{secrets.token_hex(8)}"
    word = secrets.token_hex(16)
    found: list[Node] = []
    told: list[str] = []
    try:
        if token is not None:
            token.write_text(word)
        ask = ray.remote(_question())
        path = None if token is None else str(token.absolute())
        asked = [
            ask.options(num_cpus=0, max_retries=1, scheduling_strategy=on(ray, n)).remote(path, _SEES) for n in nodes
        ]
        for node, ref in zip(nodes, asked, strict=True):
            try:
                version, error, seen = ray.get(ref, timeout=_ANSWERS)
            except ray.exceptions.RayError as e:
                # Ray takes a while to find out that a node is gone.
                told.append(f"node {node.name} makes no part: it does not answer ({reason(e)})")
                continue
            if version != _core.__version__:
                has = f"has suture {version}" if error is None else f"cannot import suture ({error})"
                message = f"{has}, and the driver has {_core.__version__}; all nodes need the same version"
                raise SutureError(f"node {node.name} {message}")
            if token is not None and seen != word:
                message = (
                    f"does not see {token.parent}, where parts are made; OUT must be in a folder that all nodes share"
                )
                raise SutureError(f"node {node.name} {message}", token.parent)
            found.append(node)
    except OSError as e:
        raise SutureError(f"{folder}: cannot write: {e.strerror}", folder) from None
    finally:
        if token is not None:
            with suppress(OSError):
                token.unlink()
    if not found:
        raise SutureError("; ".join(["ray: no node of the cluster can make parts", *told]))
    return found, told


def _question() -> Any:
    """What a node is asked; a function inside another travels whole, so that the node needs no suture to answer."""

    def answer(path: str | None, seconds: float) -> tuple[str | None, str | None, str | None]:
        import time
        from importlib import import_module

        version = error = None
        try:
            version = str(import_module("suture").__version__)
        except Exception as e:
            error = f"{type(e).__name__}: {e}"
        until = time.monotonic() + seconds
        while path is not None:
            try:
                with open(path) as file:
                    return version, error, file.read()
            except OSError:
                if time.monotonic() > until:
                    break
                time.sleep(0.25)
        return version, error, None

    return answer


def reason(e: BaseException) -> str:
    """What of an exception of Ray's is worth a line: it goes on for a page."""
    lines = [line.strip() for line in str(e).splitlines() if line.strip()] or [type(e).__name__]
    if found := re.search(r"Worker exit type: (\w+) Worker exit detail: ([^.]*)", str(e)):
        return f"{found[1]}: {found[2].strip()}"
    line = lines[-1 if "error raised in its creation task" in lines[0] else 0]
    return re.sub(r" ?\b[0-9a-f]{20,}\b", "", line).rstrip(".")
