"""What a search keeps: one SQLite file with what it is of and every candidate that was judged."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suture.errors import SutureError, UsageError

_TABLES = """
create table if not exists search (key text primary key, value text not null);
create table if not exists candidates (
    number integer primary key, generation integer not null, genes text not null,
    score real, failure text, made real not null, judged real not null);
"""
_COLUMNS = "number, generation, genes, score, failure, made, judged"


@dataclass(frozen=True)
class Candidate:
    """A candidate that was judged.

    Attributes:
        number: which, from 0; that is what the search begins with, and no generation's.
        generation: from 1, 0 for the first candidate.
        genes: its numbers, in the order of the genome.
        score: what the evaluator gave; None if it failed.
        failure: why there is no score.
        made: seconds that it took to write.
        judged: seconds that it took to evaluate.
    """

    number: int
    generation: int
    genes: list[float]
    score: float | None
    failure: str | None
    made: float
    judged: float


class State:
    """The file; candidates are committed one by one, so whatever ends the search, all that was judged is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            # A process that holds the file to the end keeps others from making the same candidates.
            self._db = sqlite3.connect(path, timeout=0.2, isolation_level=None)
            self._db.execute("pragma locking_mode = exclusive")
            self._db.execute("pragma synchronous = full")
            self._db.execute("begin exclusive")
            self._db.execute("commit")
            tables = {name for (name,) in self._db.execute("select name from sqlite_master")}
            if not tables <= {"search", "candidates", "sqlite_autoindex_search_1"}:
                # Somebody's own.
                self._db.close()
                raise sqlite3.DatabaseError("not a database")
            self._db.executescript(_TABLES)

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise SutureError(f"{self.path}: cannot keep the search: {e.strerror}", self.path) from None
        except sqlite3.Error as e:
            said = str(e)
            if "locked" in said:
                message = "another search is running with it; wait for it, or give another --state"
                raise SutureError(f"{self.path}: {message}", self.path) from None
            if "not a database" in said:
                raise UsageError(f"{self.path}: is no state of a search; give another --state", self.path) from None
            if "malformed" in said or "no such column" in said:
                raise self._damaged() from None
            message = f"cannot keep the search: {said}; what it holds already stays, make room and run the same again"
            raise SutureError(f"{self.path}: {message}", self.path) from None
        except (ValueError, TypeError):
            raise self._damaged() from None

    def _damaged(self) -> SutureError:
        message = "what it holds is damaged; move it away, with OUT, to begin anew, or put a copy in its place"
        return SutureError(f"{self.path}: {message}", self.path)

    def bind(self, identity: Mapping[str, Any]) -> None:
        """Take down what the search is of, or hold that against what is there.

        Raises:
            UsageError: if the file is of another search; it names what differs.
        """
        with self._told():
            kept = {k: json.loads(v) for k, v in self._db.execute("select key, value from search")}
            if not kept:
                self._db.execute("begin immediate")
                rows = [(k, json.dumps(v)) for k, v in identity.items()]
                self._db.executemany("insert into search values (?, ?)", rows)
                self._db.execute("commit")
                return
        differ = [k for k in {**kept, **identity} if kept.get(k) != json.loads(json.dumps(identity.get(k)))]
        if differ:
            was, now = (_brief(v.get(differ[0])) for v in (kept, identity))
            message = f"is the state of a search whose {differ[0]} was {was}, and not {now}"
            raise UsageError(f"{self.path}: {message}; go on with that, or give another --state and OUT", self.path)

    def candidates(self) -> dict[int, Candidate]:
        """All that were judged, by their numbers."""
        with self._told():
            rows = self._db.execute(f"select {_COLUMNS} from candidates order by number").fetchall()
            found = [Candidate(n, g, json.loads(genes), *more) for n, g, genes, *more in rows]
            for c in found:
                if [type(x) for x in (*c.genes, c.score or 0.0)] != [float] * (len(c.genes) + 1):
                    raise ValueError
        return {c.number: c for c in found}

    def keep(self, one: Candidate) -> None:
        """Keep one that was judged."""
        row = (one.number, one.generation, json.dumps(one.genes), one.score, one.failure, one.made, one.judged)
        with self._told():
            self._db.execute("insert or replace into candidates values (?, ?, ?, ?, ?, ?, ?)", row)


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return f"`{text}`" if len(text) <= 80 else f"`{text[:77]}...`"
