"""What a ledger holds: all that was asked and all that came of it, as values."""

import contextlib
import hashlib
import json
import math
import operator
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..files.reading import parse_json
from . import checkpoints, opening
from .faults import LedgerError, damaged, explained
from .tables import STATUSES, Change, Cohort, Group, Result, Trial, Values


class History:
    """The reading half of a `Ledger`. Each call sees what was committed when it began; `snapshot`
    makes several calls see the same."""

    folder: Path
    _connection: sqlite3.Connection

    @property
    def meta(self) -> dict[str, Any]:
        """What all trials have in common."""
        return {name: self._plain(text) for name, text in self._rows("meta", "tt", "")}

    def groups(self) -> list[Group]:
        """The groups, in the order in which they came."""
        return [
            Group(name, self._plain(static, dict), way, lanes, devices, self._plain(probe, dict), s)
            for name, static, way, lanes, devices, probe, s in self._rows(
                "groups", "tttiitr", "ORDER BY rowid"
            )
        ]

    def trials(self) -> list[Trial]:
        """All trials, in the order of their numbers."""
        rows = self._rows("trials", "iiitTtIT", "ORDER BY number")
        if [row[0] for row in rows] != list(range(len(rows))):
            raise LedgerError(f"{damaged(self.folder)} (a trial is missing)")
        if not {row[5] for row in rows} <= set(STATUSES):
            raise LedgerError(f"{damaged(self.folder)} (a trial has another status)")
        return [
            Trial(number, round, bracket, self._scalars(values), *rest)
            for number, round, bracket, values, *rest in rows
        ]

    def results(self, name: str | None = None) -> list[Result]:
        """All results, or those of one name, by trial, seed, epoch and name; NaN where it was."""
        which, values = ("", ()) if name is None else ("WHERE name = ?", (name,))
        order = f"{which} ORDER BY trial, seed, epoch, name"
        return [
            Result(trial, seed, at, key, math.nan if value is None else value)
            for trial, seed, at, key, value in self._rows("results", "iiitR", order, *values)
        ]

    def curves(self, trial: int, name: str) -> dict[int, list[tuple[int, float]]]:
        """One number of a trial over its epochs: (epoch, value) pairs by seed."""
        found: dict[int, list[tuple[int, float]]] = {}
        which = "WHERE trial = ? AND name = ? ORDER BY seed, epoch"
        for _, seed, epoch, _, value in self._rows("results", "iiitR", which, trial, name):
            found.setdefault(seed, []).append((epoch, math.nan if value is None else value))
        return found

    def cohorts(self) -> list[Cohort]:
        """The cohorts that ran, in the order in which they were committed."""
        return [self._cohort(row) for row in self._rows("cohorts", "itiiitrrTr", "ORDER BY id")]

    def _cohort(self, row: Sequence[Any]) -> Cohort:
        key, group, rung, first, last, text, seconds, compile_seconds, sha256, finished = row
        lanes = self._plain(text, list)
        if not all(isinstance(one, list) and [*map(type, one)] == [int, int] for one in lanes):
            raise LedgerError(f"{damaged(self.folder)} (cohort {key} has lanes of another form)")
        pairs = tuple((trial, seed) for trial, seed in lanes)
        file = None if sha256 is None else checkpoints.name(key)
        return Cohort(
            group, rung, first, last, pairs, seconds, compile_seconds, key, file, finished
        )

    def changes(self) -> list[Change]:
        """The changes of population-based training, by epoch and trial."""
        rows = self._rows("changes", "iiti", "ORDER BY epoch, trial")
        return [Change(trial, at, self._scalars(text), source) for trial, at, text, source in rows]

    def standing(self) -> dict[tuple[int, int], int]:
        """How many epochs each (trial, seed) that has run has behind it."""
        rows = self._typed("iii", "SELECT trial, seed, max(epoch) FROM lanes GROUP BY trial, seed")
        return {(trial, seed): epoch for trial, seed, epoch in rows}

    def states(self) -> dict[tuple[int, int, int], tuple[int, int]]:
        """Where states are kept: by (trial, seed, epoch) the cohort and the place in its lanes."""
        rows = self._typed(
            "iiiii",
            "SELECT trial, seed, epoch, cohort, place FROM lanes JOIN cohorts ON cohort = id "
            "WHERE checkpoint IS NOT NULL",
        )
        return {(trial, seed, epoch): (key, place) for trial, seed, epoch, key, place in rows}

    def lanes(self, cohort: int) -> bytes:
        """The states that `commit` was given for a cohort.

        Raises LedgerError, naming the file, where it is missing or damaged.
        """
        rows = self._typed("T", "SELECT checkpoint FROM cohorts WHERE id = ?", cohort)
        if not rows:
            raise ValueError(f"no cohort {cohort!r} in the ledger")
        if rows[0][0] is None:
            raise ValueError(f"cohort {cohort} has no checkpoint: none of its lanes continues")
        return checkpoints.read(self.folder, cohort, rows[0][0])

    def digest(self) -> str:
        """SHA-256 over all that was asked and all that came of it; times are no part of it.

        Two ledgers have the same digest exactly if their trials (number, values, status), results
        and changes are the same.
        """
        sha256 = hashlib.sha256()
        with self.snapshot():
            trials = [(trial.number, trial.values, trial.status) for trial in self.trials()]
            changes = [(c.trial, c.epoch, c.values, c.source) for c in self.changes()]
            sha256.update(json.dumps([trials, changes], sort_keys=True).encode())
            rows = self._rows("results", "iiitR", "ORDER BY trial, seed, epoch, name")
            for begin in range(0, len(rows), 10_000):
                sha256.update(json.dumps(rows[begin : begin + 10_000]).encode())
        return sha256.hexdigest()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read inside is of one moment, whatever a driver commits meanwhile."""
        if self._connection.in_transaction:  # inside another snapshot
            yield
            return
        self._query("BEGIN")
        try:
            yield
        finally:
            self._query("ROLLBACK")  # nothing was written

    def _query(self, query: str, *values: Any) -> list[Any]:
        with explained(self.folder, _UNCHANGED), opening.patience(self._connection):
            return self._connection.execute(query, values).fetchall()

    def _rows(self, table: str, kinds: str, rest: str, *values: Any) -> list[Any]:
        """Whole rows of a table; LedgerError if a column is not of its kinds.

        SQLite keeps a value of any type in any column.

        Args:
            table: its name.
            kinds: a letter a column: i for whole numbers, r for numbers, t for texts; a capital if
                there may be none.
            rest: of the query.
            values: of the query.
        """
        return self._typed(kinds, f"SELECT * FROM {table} {rest}", *values)

    def _typed(self, kinds: str, query: str, *values: Any) -> list[Any]:
        rows = self._query(query, *values)
        for place, kind in enumerate(kinds):
            if not set(map(type, map(operator.itemgetter(place), rows))) <= _KINDS[kind]:
                raise LedgerError(f"{damaged(self.folder)} (a column has a value of another type)")
        return rows

    def _plain(self, text: str, kind: type[Any] | None = None) -> Any:
        """JSON that may hold infinities and NaN; LedgerError if it is not of the kind."""
        try:
            plain = parse_json(text, finite=False, values=MOST_VALUES)
        except ValueError as error:
            raise LedgerError(f"{damaged(self.folder)} ({error})") from error
        if kind is not None and not isinstance(plain, kind):
            raise LedgerError(f"{damaged(self.folder)} ({text:.40} is not a {kind.__name__})")
        return plain

    def _scalars(self, text: str) -> Values:
        plain = self._plain(text, dict)
        if not all(isinstance(one, float | int | str | bool | None) for one in plain.values()):
            raise LedgerError(f"{damaged(self.folder)} ({text:.40} are not values of a trial)")
        return plain


MOST_VALUES = 500_000  # in a text of a ledger: a cohort of 100,000 lanes has 300,000
_UNCHANGED = "Nothing was changed"
_KINDS = {"i": {int}, "r": {int, float}, "t": {str}}
_KINDS |= {letter.upper(): kinds | {type(None)} for letter, kinds in _KINDS.items()}
