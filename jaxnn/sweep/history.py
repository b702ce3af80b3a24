"""What a ledger tells: all that was asked and all that came of it, as the values of `records`."""

import contextlib
import hashlib
import json
import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import checkpoints
from .faults import LedgerError, damaged, explained
from .records import Change, Cohort, Group, Result, Trial


class History:
    """The reading half of a `Ledger`. Each call sees what was committed when it began; `snapshot`
    makes several calls see the same."""

    folder: Path
    _connection: sqlite3.Connection

    @property
    def meta(self) -> dict[str, Any]:
        """What all trials have in common."""
        return {name: self._plain(text) for name, text in self._query("SELECT * FROM meta")}

    def groups(self) -> list[Group]:
        """The groups, in the order in which they came."""
        rows = self._query("SELECT * FROM groups ORDER BY rowid")
        return [
            Group(name, self._plain(static), way, lanes, devices, self._plain(probe), seconds)
            for name, static, way, lanes, devices, probe, seconds in rows
        ]

    def trials(self) -> list[Trial]:
        """All trials, in the order of their numbers."""
        rows = self._query("SELECT * FROM trials ORDER BY number")
        return [
            Trial(number, round, bracket, self._plain(values), *rest)
            for number, round, bracket, values, *rest in rows
        ]

    def results(self, name: str | None = None) -> list[Result]:
        """All results, or those of one name, by trial, seed, epoch and name; NaN where it was."""
        order = "ORDER BY trial, seed, epoch, name"
        if name is None:
            rows = self._query(f"SELECT * FROM results {order}")
        else:
            rows = self._query(f"SELECT * FROM results WHERE name = ? {order}", name)
        return [
            Result(trial, seed, epoch, key, math.nan if value is None else value)
            for trial, seed, epoch, key, value in rows
        ]

    def curves(self, trial: int, name: str) -> dict[int, list[tuple[int, float]]]:
        """One number of a trial over its epochs: (epoch, value) pairs by seed."""
        found: dict[int, list[tuple[int, float]]] = {}
        for seed, epoch, value in self._query(
            "SELECT seed, epoch, value FROM results WHERE trial = ? AND name = ? "
            "ORDER BY seed, epoch",
            trial,
            name,
        ):
            found.setdefault(seed, []).append((epoch, math.nan if value is None else value))
        return found

    def cohorts(self) -> list[Cohort]:
        """The cohorts that ran, in the order in which they were committed."""
        return [
            Cohort(
                *run,
                lanes=tuple((trial, seed) for trial, seed in self._plain(lanes)),
                seconds=seconds,
                compile_seconds=compile_seconds,
                id=key,
                checkpoint=None if sha256 is None else checkpoints.name(key),
                finished=finished,
            )
            for key, *run, lanes, seconds, compile_seconds, sha256, finished in self._query(
                "SELECT * FROM cohorts ORDER BY id"
            )
        ]

    def changes(self) -> list[Change]:
        """The changes of population-based training, by epoch and trial."""
        rows = self._query("SELECT * FROM changes ORDER BY epoch, trial")
        return [Change(trial, epoch, self._plain(v), source) for trial, epoch, v, source in rows]

    def standing(self) -> dict[tuple[int, int], int]:
        """How many epochs each (trial, seed) that has run has behind it."""
        rows = self._query("SELECT trial, seed, max(epoch) FROM lanes GROUP BY trial, seed")
        return {(trial, seed): epoch for trial, seed, epoch in rows}

    def states(self) -> dict[tuple[int, int, int], tuple[int, int]]:
        """Where states are kept: by (trial, seed, epoch) the cohort and the place in its lanes."""
        rows = self._query(
            "SELECT trial, seed, epoch, cohort, place FROM lanes JOIN cohorts ON cohort = id "
            "WHERE checkpoint IS NOT NULL"
        )
        return {(trial, seed, epoch): (key, place) for trial, seed, epoch, key, place in rows}

    def lanes(self, cohort: int) -> bytes:
        """The states that `commit` was given for a cohort.

        Raises LedgerError, naming the file, where it is missing or damaged.
        """
        rows = self._query("SELECT checkpoint FROM cohorts WHERE id = ?", cohort)
        if not rows:
            raise ValueError(f"no cohort {cohort!r} in the ledger")
        if rows[0][0] is None:
            raise ValueError(f"cohort {cohort} has no checkpoint: none of its lanes goes on")
        return checkpoints.read(self.folder, cohort, rows[0][0])

    def digest(self) -> str:
        """SHA-256 over all that was asked and all that came of it; times are no part of it.

        Two ledgers have the same digest exactly if their trials (number, values, status), results
        and changes are the same.
        """
        sha256 = hashlib.sha256()
        with self.snapshot(), explained(self.folder, _UNCHANGED):
            trials = [(trial.number, trial.values, trial.status) for trial in self.trials()]
            changes = [(c.trial, c.epoch, c.values, c.source) for c in self.changes()]
            sha256.update(json.dumps([trials, changes], sort_keys=True).encode())
            rows = self._connection.execute(
                "SELECT * FROM results ORDER BY trial, seed, epoch, name"
            )
            while some := rows.fetchmany(10_000):
                sha256.update(json.dumps(some).encode())
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
        with explained(self.folder, _UNCHANGED):
            return self._connection.execute(query, values).fetchall()

    def _plain(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise LedgerError(f"{damaged(self.folder)} ({error})") from error


_UNCHANGED = "Nothing was changed"
