"""The tables of a ledger: their rows as frozen dataclasses, and how they are read.

A search asks for trials; each belongs to a group of equal structure. Lanes of a group run
together as cohorts, from one epoch to another, and report results after each epoch.
Population-based training changes the values of a trial during training. `ledger` writes the tables.
"""

import contextlib
import dataclasses
import json
import math
import operator
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..files.reading import parse_json
from . import storage

Scalar = float | int | str | bool | None
Values = dict[str, Any]  # of Scalars, and of tuples of them
# Open trials continue: those that have not begun, and those that wait at a rung. Others have ended.
OPEN = ("asked", "running")
BROKEN = ("diverged", "failed")
STATUSES = (*OPEN, "done", "stopped", *BROKEN)


@dataclasses.dataclass(frozen=True)
class Group:
    """Trials of equal structure: one compiled program for each width.

    Args:
        name: identifies the group.
        static: the values that its trials have in common, by name.
        way: how their lanes run, such as `vmap`.
        lanes: the number of lanes in one call.
        devices: the number of devices that share them. Default: 1.
        probe: measurements that led to this choice, as plain data; "seconds" is their wall time.
            Default: {}.
        compile_seconds: the part of it spent on compiling. Default: 0.
    """

    name: str
    static: Mapping[str, Any]
    way: str
    lanes: int
    devices: int = 1
    probe: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    compile_seconds: float = 0.0

    @property
    def probe_seconds(self) -> float:
        """The wall time of the probe, including compiling."""
        return max(float(self.probe.get("seconds", 0.0)), self.compile_seconds)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One configuration.

    Args:
        number: 0, 1, ... in the order in which trials were asked.
        round: the number of the round that asked for it.
        bracket: the number of its bracket; the driver starts one in each round.
        values: its point of the space, as asked.
        group: the name of its group; None if its structure is unknown.
        status: one of `STATUSES`. Default: "asked".
        rung: the last rung that it reached, from 0. Default: None, before the first.
        error: why it failed or diverged. Default: None.
    """

    number: int
    round: int
    bracket: int
    values: Values
    group: str | None
    status: str = "asked"
    rung: int | None = None
    error: str | None = None


class EpochResult(NamedTuple):
    """A number that a lane reported after an epoch; epochs count from 1."""

    trial: int
    seed: int
    epoch: int
    name: str
    value: float


@dataclasses.dataclass(frozen=True)
class Cohort:
    """Lanes of one group that ran together for a segment of epochs.

    Args:
        group: the name of their group.
        rung: the rung at the end of the segment, from 0.
        epoch_from: epochs that the lanes had completed before.
        epoch_to: epochs that they have completed now.
        lanes: the (trial, seed) of each, in the order of their states.
        seconds: wall time, including compiling. Default: 0.
        compile_seconds: the part of it spent on compiling. Default: 0.
        id: 0, 1, ...; set by the ledger.
        finished: when it was committed, in seconds since 1970; set by the ledger.
    """

    group: str
    rung: int
    epoch_from: int
    epoch_to: int
    lanes: tuple[tuple[int, int], ...]
    seconds: float = 0.0
    compile_seconds: float = 0.0
    id: int | None = None
    finished: float | None = None


@dataclasses.dataclass(frozen=True)
class Change:
    """Population-based training: after `epoch`, `trial` continues from the state of `source`.

    Args:
        trial: its number.
        epoch: after which its values change.
        values: its new values.
        source: the number of the trial whose state it takes.
    """

    trial: int
    epoch: int
    values: Values
    source: int


def frozen(plain: Any) -> Any:
    """Return a value as it was before it was written: JSON has lists instead of tuples."""
    return tuple(map(frozen, plain)) if isinstance(plain, list) else plain


def is_stored(plain: Any) -> bool:
    """Return whether JSON is a scalar, or a list of values."""
    return all(map(is_stored, plain)) if isinstance(plain, list) else isinstance(plain, Scalar)


def to_text(plain: Any) -> str:
    """Return plain data as JSON; infinities and NaN are written as Python does."""
    return json.dumps(plain, separators=(",", ":"))


# Reading

MOST_VALUES = 500_000  # in one text: a cohort of 100,000 lanes has 300,000


class _Content(NamedTuple):
    """A check of a part of a ledger that does not use `Accepts`, which imports JAX."""

    what: str
    test: Callable[[Any], bool]

    def __call__(self, value: Any, where: str) -> Any:
        """Return `value` if it passes the test, otherwise raise ValueError."""
        if not self.test(value):
            raise ValueError(f"{where} must be {self.what}, got {value!r:.40}")
        return value


def is_list(plain: Any, *types: type) -> bool:
    """Return whether JSON is a list of values of these types."""
    return isinstance(plain, list) and [*map(type, plain)] == [*types]


# Types of the values in a column, by letter; a capital also accepts NULL.
_KINDS = {"i": ("whole numbers", {int}), "r": ("numbers", {int, float}), "t": ("texts", {str})}
_NUMBERS = _Content("0, 1, 2, ..., without a gap", lambda v: v == list(range(len(v))))
_STATUSES = _Content(f"among {', '.join(STATUSES)}", lambda v: v <= set(STATUSES))
_ANY = _Content("anything", lambda plain: True)
_DICT = _Content("a dict", lambda plain: isinstance(plain, dict))
_VALUES = _Content(
    "a dict of values",
    lambda plain: isinstance(plain, dict) and all(map(is_stored, plain.values())),
)
_KEPT = _Content(
    "scores and SHA-256 of states by trial",
    lambda plain: (
        isinstance(plain, dict)
        and all(n.isdecimal() and is_list(one, float, str) for n, one in plain.items())
    ),
)
_LANES = _Content(
    "a list of lanes",
    lambda plain: isinstance(plain, list) and all(is_list(one, int, int) for one in plain),
)


class Tables:
    """Reads the tables of a ledger; the base of `Ledger`.

    Each read sees the data that were committed when it began; `snapshot` makes several reads see
    the same data. A value whose type is not that of its column raises LedgerError.

    Args:
        folder: Folder of the sweep.
        connection: Connection to its database.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder: Path = folder
        self._connection = connection

    @property
    def meta(self) -> dict[str, Any]:
        """The data that all trials share."""
        return {name: self._plain(text) for name, text in self._rows("meta", "tt")}

    def groups(self) -> list[Group]:
        """Return the groups, in the order in which they were added."""
        rows = self._rows("groups", "tttiitr", "ORDER BY rowid")
        return [
            Group(
                name, self._plain(static, _DICT), way, lanes, devices, self._plain(probe, _DICT), s
            )
            for name, static, way, lanes, devices, probe, s in rows
        ]

    def trials(self, first: int = 0) -> list[Trial]:
        """Return the trials, in the order of their numbers.

        Args:
            first: Number of the first one. Default: 0, all.
        """
        rows = self._rows("trials", "iiitTtIT", "WHERE number >= ? ORDER BY number", first)
        with storage.undamaged(self.folder):
            _NUMBERS([row[0] - first for row in rows], "the numbers of trials")
            _STATUSES({row[5] for row in rows}, "the statuses of trials")
        return [
            Trial(number, round, bracket, self._values(values), *rest)
            for number, round, bracket, values, *rest in rows
        ]

    def results(self, name: str | None = None, first: int = 0) -> list[EpochResult]:
        """Return the results in the order of trial, seed, epoch, and name.

        Args:
            name: Name of a metric. Default: all metrics.
            first: Number of the first trial. Default: 0, all.
        """
        which, values = ("", ()) if name is None else ("AND name = ?", (name,))
        order = "ORDER BY trial, seed, epoch, name"
        return [
            EpochResult(trial, seed, at, name, math.nan if value is None else value)
            for trial, seed, at, name, value in self._rows(
                "results", "iiitR", f"WHERE trial >= ? {which} {order}", first, *values
            )
        ]

    def cohorts(self) -> list[Cohort]:
        """Return the cohorts that ran, in the order of their commits."""
        cohorts = []
        for row in self._rows("cohorts", "itiiitrrTr", "ORDER BY id"):
            key, group, rung, begin, end, text, seconds, compiling, _, finished = row
            pairs = tuple((trial, seed) for trial, seed in self._plain(text, _LANES))
            run = (group, rung, begin, end, pairs, seconds, compiling)
            cohorts.append(Cohort(*run, key, finished))
        return cohorts

    def changes(self) -> list[Change]:
        """Return the changes of population-based training, by epoch and trial."""
        rows = self._rows("changes", "iiti", "ORDER BY epoch, trial")
        return [Change(trial, at, self._values(text), source) for trial, at, text, source in rows]

    def trained_epochs(self, first: int = 0) -> dict[tuple[int, int], int]:
        """Return how many epochs each (trial, seed) has trained.

        Args:
            first: Number of the first trial. Default: 0, all.
        """
        query = "SELECT trial, seed, max(epoch) FROM lanes WHERE trial >= ? GROUP BY trial, seed"
        rows = self._typed("iii", query, first)
        return {(trial, seed): epoch for trial, seed, epoch in rows}

    def states(self) -> dict[tuple[int, int, int], tuple[int, int]]:
        """Return where states are: the cohort and the index of a lane by (trial, seed, epoch)."""
        rows = self._typed(
            "iiiii",
            "SELECT trial, seed, epoch, cohort, place FROM lanes JOIN cohorts ON cohort = id "
            "WHERE checkpoint IS NOT NULL",
        )
        return {(trial, seed, epoch): (key, index) for trial, seed, epoch, key, index in rows}

    def lanes(self, cohort: int) -> bytes:
        """Return the states that `commit` received for a cohort.

        Args:
            cohort: Number of the cohort.

        Raises:
            LedgerError: The file with the states is missing or damaged.
        """
        rows = self._typed("T", "SELECT checkpoint FROM cohorts WHERE id = ?", cohort)
        if not rows or rows[0][0] is None:
            problem = "has no states: none of its lanes continues" if rows else "is not there"
            raise ValueError(f"cohort {cohort!r} of the ledger {problem}")
        return storage.read_states(self.folder, cohort, rows[0][0])

    def kept(self) -> dict[int, float]:
        """Return the scores of the trials whose final states are kept, smaller for better."""
        return {trial: score for trial, (score, _) in self._kept().items()}

    def kept_states(self, trial: int) -> bytes:
        """Return the final states of the lanes of a kept trial.

        Args:
            trial: Number of the trial; KeyError if it is not kept.

        Raises:
            LedgerError: The file with the states is missing or damaged.
        """
        return storage.read_states(self.folder, trial, self._kept()[trial][1], storage.KEPT)

    def _kept(self) -> dict[int, tuple[float, str]]:
        rows = self._rows("meta", "tt", "WHERE key = 'kept'")
        found = self._plain(rows[0][1], _KEPT) if rows else {}
        return {int(number): (score, sha256) for number, (score, sha256) in found.items()}

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Make all reads inside see the same data, even if a driver commits meanwhile."""
        if self._connection.in_transaction:  # inside another snapshot
            yield
            return
        self._query("BEGIN")
        try:
            yield
        finally:
            self._query("ROLLBACK")  # nothing was written

    def _query(self, query: str, *values: Any) -> list[Any]:
        with storage.explained(self.folder), storage.time_limit(self._connection):
            return self._connection.execute(query, values).fetchall()

    def _rows(self, table: str, kinds: str, rest: str = "", *values: Any) -> list[Any]:
        """Return whole rows of a table, whose columns have these kinds."""
        return self._typed(kinds, f"SELECT * FROM {table} {rest}", *values)

    def _typed(self, kinds: str, query: str, *values: Any) -> list[Any]:
        """Return the rows of a query; raise LedgerError if a column has a value of another kind.

        SQLite accepts a value of any type in any column. `_KINDS` explains the letters of kinds.
        """
        rows = self._query(query, *values)
        with storage.undamaged(self.folder):
            for column, kind in enumerate(kinds):
                what, accepted = _KINDS[kind.lower()]
                if kind.isupper():
                    what, accepted = f"{what} or NULL", accepted | {type(None)}
                types = set(map(type, map(operator.itemgetter(column), rows)))
                _Content(what, accepted.issuperset)(types, f"column {column}")
        return rows

    def _plain(self, text: str, content: _Content = _ANY) -> Any:
        """Return JSON that may hold infinities and NaN; raise LedgerError for other data."""
        with storage.undamaged(self.folder):
            return content(parse_json(text, finite=False, values=MOST_VALUES), "a text")

    def _values(self, text: str) -> Values:
        """Return the values of a trial."""
        return {name: frozen(one) for name, one in self._plain(text, _VALUES).items()}
