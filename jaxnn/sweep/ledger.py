"""The ledger of a sweep: all trials and all results, in a folder.

    FOLDER/ledger.sqlite   the tables (`tables`), opened by `storage`
    FOLDER/lanes/          the states of lanes that continue from a rung
    FOLDER/kept/           the final states of the best trials
    FOLDER/driver.lock     held by the driver, the only writer
    FOLDER/report.html     the report

Related changes are one transaction: the trials of a round, a cohort with its results, the decision
of a rung. If a driver is killed at any moment, the ledger therefore has each of them completely or
not at all, and a resumed sweep runs what is missing. States are written before the transaction that
refers to them, and removed after the one that no longer needs them. Any number of readers may read
at the same time. Only the standard library is imported.
"""

import contextlib
import hashlib
import json
import math
import operator
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from ..files.reading import parse_json
from . import storage, tables
from .storage import LedgerError, command_to_resume, explained
from .tables import BROKEN, STATUSES, Change, Cohort, EpochResult, Group, Trial

__all__ = ["Change", "Cohort", "EpochResult", "Group", "Ledger", "LedgerError", "Trial"]

MOST_VALUES = 500_000  # in one text: a cohort of 100,000 lanes has 300,000
_UNCHANGED = "Nothing was changed"


class _Content(NamedTuple):
    """A check of a part of a ledger that does not use `Accepts`, which imports JAX."""

    what: str
    test: Callable[[Any], bool]

    def __call__(self, value: Any, where: str) -> Any:
        """Return `value` if it passes the test, otherwise raise ValueError."""
        if not self.test(value):
            raise ValueError(f"{where} must be {self.what}, got {value!r:.40}")
        return value


# Types of the values in a column, by letter; a capital also accepts NULL.
_KINDS = {
    letter: _Content(what, lambda types, kinds=frozenset(kinds): types <= kinds)
    for letter, what, kinds in (
        ("i", "whole numbers", {int}),
        ("I", "whole numbers or NULL", {int, type(None)}),
        ("r", "numbers", {int, float}),
        ("R", "numbers or NULL", {int, float, type(None)}),
        ("t", "texts", {str}),
        ("T", "texts or NULL", {str, type(None)}),
    )
}
_NUMBERS = _Content("0, 1, 2, ..., without a gap", lambda v: v == list(range(len(v))))
_STATUSES = _Content(f"among {', '.join(STATUSES)}", lambda v: v <= set(STATUSES))
_ANY = _Content("anything", lambda plain: True)
_DICT = _Content("a dict", lambda plain: isinstance(plain, dict))
_VALUES = _Content(
    "a dict of values",
    lambda plain: isinstance(plain, dict) and all(map(tables.is_stored, plain.values())),
)
_KEPT = _Content(
    "scores and SHA-256 of states by trial",
    lambda plain: (
        isinstance(plain, dict)
        and all(number.isdecimal() for number in plain)
        and all(
            isinstance(one, list) and [*map(type, one)] == [float, str] for one in plain.values()
        )
    ),
)
_LANES = _Content(
    "a list of lanes",
    lambda plain: (
        isinstance(plain, list)
        and all(isinstance(one, list) and [*map(type, one)] == [int, int] for one in plain)
    ),
)


class Ledger:
    """The ledger in a folder: created by `Ledger.create` or `Ledger.open`, closed by `with`.

    Each read sees the data that were committed when it began; `snapshot` makes several reads see
    the same data. Writing methods raise ValueError unless the ledger is open for its driver. Errors
    of SQLite or the disk are raised as LedgerError, in one line; committed data are not lost.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name, "sweep")
    >>> with Ledger.create(path, {"experiment": "experiments.mnist_mlp"}) as ledger:
    ...     ledger.add_group(Group("wide", {"model.width": 128}, "vmap", lanes=64))
    ...     numbers = ledger.ask(0, 0, [({"optimizer.learning_rate": 0.1}, "wide")])
    ...     cohort = Cohort("wide", rung=0, epoch_from=0, epoch_to=1, lanes=((0, 0),))
    ...     ledger.commit(cohort, [EpochResult(0, 0, 1, "loss", 0.5)], {0: "done"})
    0
    >>> with Ledger.open(path) as ledger:
    ...     ledger.trials()[0].status, ledger.curves(0, "loss")
    ('done', {0: [(1, 0.5)]})
    >>> folder.cleanup()
    """

    def __init__(self, folder: Path, write: bool, held: contextlib.ExitStack) -> None:
        with contextlib.ExitStack() as stack, explained(folder, _UNCHANGED):
            stack.push(held.pop_all())
            self.folder = folder
            self._connection = storage.connect(folder, write)
            stack.callback(self._connection.close)
            self._writes = write
            resume = command_to_resume(folder, self.meta.get("experiment", "experiments.NAME"))
            self._consequence = (
                "Nothing was lost, what was committed is whole: remove the cause, then write "
                f"{resume}"
            )
            self._held = stack.pop_all()
        if write:
            named = self._query("SELECT id FROM cohorts WHERE checkpoint IS NOT NULL")
            storage.clean(folder, [key for (key,) in named])
            storage.clean(folder, self.kept(), storage.KEPT)

    @classmethod
    def create(cls, folder: Path | str, meta: Mapping[str, Any]) -> Self:
        """Return a new ledger, open for its driver, in a folder that is empty or does not exist.

        Args:
            folder: Folder of the sweep, created if it does not exist.
            meta: The data that all trials share, plain data by name; "experiment" is the module of
                the experiment.
        """
        folder = Path(folder)
        texts = {name: tables.to_text(plain) for name, plain in meta.items()}
        with (
            contextlib.ExitStack() as held,
            explained(folder, "Nothing was run; write --folder with another path"),
        ):
            check_free(folder)
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(storage.DriverLock(folder))
            check_free(folder)  # another process may have created one in the meantime
            storage.create_database(folder, texts)
            return cls(folder, True, held)

    @classmethod
    def open(cls, folder: Path | str, write: bool = False) -> Self:
        """Return the ledger in `folder`.

        Args:
            folder: Folder of a sweep.
            write: Whether to open it as its driver. Default: False, to read.
        """
        folder = Path(folder)
        with contextlib.ExitStack() as held, explained(folder, _UNCHANGED):
            if write:
                storage.connect(folder, False).close()  # no lock in a folder without a ledger
                held.enter_context(storage.DriverLock(folder))
            return cls(folder, write, held)

    def close(self) -> None:
        """Close the file and release the driver's lock."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Reading

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
        return self._results(f"WHERE trial >= ? {which} {order}", first, *values)

    def curves(self, trial: int, name: str) -> dict[int, list[tuple[int, float]]]:
        """Return a metric of a trial as (epoch, value) pairs by seed.

        Args:
            trial: Number of the trial.
            name: Name of the metric.
        """
        found: dict[int, list[tuple[int, float]]] = {}
        which = "WHERE trial = ? AND name = ? ORDER BY seed, epoch"
        for result in self._results(which, trial, name):
            found.setdefault(result.seed, []).append((result.epoch, result.value))
        return found

    def cohorts(self) -> list[Cohort]:
        """Return the cohorts that ran, in the order of their commits."""
        cohorts = []
        for row in self._rows("cohorts", "itiiitrrTr", "ORDER BY id"):
            key, group, rung, begin, end, text, *times, sha256, finished = row
            file = None if sha256 is None else storage.states_file(key)
            pairs = tuple((trial, seed) for trial, seed in self._plain(text, _LANES))
            run = (group, rung, begin, end, pairs, times[0], times[1])
            cohorts.append(Cohort(*run, key, file, finished))
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

    def digest(self) -> str:
        """Return the SHA-256 of all trials and results, without times.

        Two ledgers have the same digest if and only if their trials (number, values, status),
        results, changes, and kept states are the same.
        """
        sha256 = hashlib.sha256()
        with self.snapshot():
            trials = [(trial.number, trial.values, trial.status) for trial in self.trials()]
            changes = [(c.trial, c.epoch, c.values, c.source) for c in self.changes()]
            kept = sorted((trial, text) for trial, (_, text) in self._kept().items())
            sha256.update(json.dumps([trials, changes, kept], sort_keys=True).encode())
            rows = self._rows("results", "iiitR", "ORDER BY trial, seed, epoch, name")
            for begin in range(0, len(rows), 10_000):
                sha256.update(json.dumps(rows[begin : begin + 10_000]).encode())
        return sha256.hexdigest()

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
        with explained(self.folder, _UNCHANGED), storage.time_limit(self._connection):
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
                types = set(map(type, map(operator.itemgetter(column), rows)))
                _KINDS[kind](types, f"column {column}")
        return rows

    def _results(self, rest: str, *values: Any) -> list[EpochResult]:
        rows = self._rows("results", "iiitR", rest, *values)
        return [
            EpochResult(trial, seed, at, name, math.nan if value is None else value)
            for trial, seed, at, name, value in rows
        ]

    def _plain(self, text: str, content: _Content = _ANY) -> Any:
        """Return JSON that may hold infinities and NaN; raise LedgerError for other data."""
        with storage.undamaged(self.folder):
            return content(parse_json(text, finite=False, values=MOST_VALUES), "a text")

    def _values(self, text: str) -> tables.Values:
        """Return the values of a trial."""
        return {name: tables.frozen(one) for name, one in self._plain(text, _VALUES).items()}

    # Writing

    def set_meta(self, meta: Mapping[str, Any]) -> None:
        """Add entries to the meta data, or replace them.

        Args:
            meta: Plain data by name.
        """
        rows = [(name, tables.to_text(plain)) for name, plain in meta.items()]
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)

    def add_group(self, group: Group) -> None:
        """Add a group, or replace the one with its name.

        Args:
            group: The group.
        """
        static, probe = tables.to_text(dict(group.static)), tables.to_text(dict(group.probe))
        numbers = group.lanes, group.devices, probe, float(group.compile_seconds)
        with self._transaction() as db:
            db.execute(tables.ADD_GROUP, (group.name, static, group.way, *numbers))

    def ask(
        self, round: int, bracket: int, asked: Iterable[tuple[tables.Values, str | None]]
    ) -> list[int]:
        """Add the trials of a round, and return their numbers.

        Args:
            round: Number of the round.
            bracket: Number of the bracket.
            asked: The values of each trial and the name of its group; None if no program could be
                built for it.
        """
        texts = [(tables.to_text(values), group) for values, group in asked]
        with self._transaction() as db:
            first = db.execute("SELECT coalesce(max(number) + 1, 0) FROM trials").fetchone()[0]
            rows = [
                (first + i, round, bracket, text, group) for i, (text, group) in enumerate(texts)
            ]
            db.executemany("INSERT INTO trials VALUES (?, ?, ?, ?, ?, 'asked', NULL, NULL)", rows)
        return [row[0] for row in rows]

    def join(self, groups: Mapping[int, str]) -> None:
        """Set the groups of trials that were asked without one.

        Args:
            groups: Names of groups by the number of the trial.
        """
        rows = [(group, number) for number, group in groups.items()]
        with self._transaction() as db:
            db.executemany('UPDATE trials SET "group" = ? WHERE number = ?', rows)

    def commit(
        self,
        cohort: Cohort,
        results: Iterable[tuple[int, int, int, str, float]],
        statuses: Mapping[int, str],
        errors: Mapping[int, str] | None = None,
        lanes: bytes | None = None,
        kept: Mapping[int, tuple[float, bytes | None]] | None = None,
    ) -> int:
        """Add a cohort that ran, with its results, and return its number.

        Args:
            cohort: What ran; its lanes must have trained `epoch_from` epochs.
            results: (trial, seed, epoch, name, value) of each metric.
            statuses: The new status of each trial; one that is `running` continues from `lanes`.
            errors: Why trials failed or diverged.
            lanes: The states of the lanes, for those that continue.
            kept: The trials whose final states are kept from now on, with their scores, smaller for
                better, and the states of those that were not kept before. Default: unchanged.

        Raises:
            ValueError: A lane has trained a different number of epochs, as when an outcome arrives
                twice.
        """
        pairs = [(int(trial), int(seed)) for trial, seed in cohort.lanes]
        rows = [(int(t), int(s), int(e), name, float(x)) for t, s, e, name, x in results]
        trained = "SELECT coalesce(max(epoch), 0) FROM lanes WHERE trial = ? AND seed = ?"
        for trial, seed in pairs:
            if (epochs := self._query(trained, trial, seed)[0][0]) != cohort.epoch_from:
                raise ValueError(
                    f"seed {seed} of trial {trial} has trained {epochs} epochs, and this cohort "
                    f"begins after {cohort.epoch_from}"
                )
        key = self._query("SELECT coalesce(max(id) + 1, 0) FROM cohorts")[0][0]
        sha256 = None
        if lanes is not None:
            self._check_writes()
            with explained(self.folder, self._consequence):
                sha256 = storage.write_states(self.folder, key, lanes)
        before = self._kept()
        after = before if kept is None else self._keep(kept, before)
        run = (cohort.group, cohort.rung, cohort.epoch_from, cohort.epoch_to)
        times = float(cohort.seconds), float(cohort.compile_seconds)
        places = [(*pair, cohort.epoch_to, key, index) for index, pair in enumerate(pairs)]
        with self._transaction() as db:
            db.execute(
                "INSERT INTO cohorts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (key, *run, tables.to_text(pairs), *times, sha256, time.time()),
            )
            db.executemany("INSERT INTO lanes VALUES (?, ?, ?, ?, ?)", places)
            db.executemany("INSERT INTO results VALUES (?, ?, ?, ?, ?)", rows)
            unused = tables.settle(db, statuses, errors, cohort.rung)
            if after != before:
                text = tables.to_text({str(trial): after[trial] for trial in sorted(after)})
                db.execute("INSERT OR REPLACE INTO meta VALUES ('kept', ?)", (text,))
        storage.remove_states(self.folder, unused)
        storage.remove_states(self.folder, before.keys() - after.keys(), storage.KEPT)
        return key

    def _keep(
        self, kept: Mapping[int, tuple[float, bytes | None]], before: Mapping[int, Any]
    ) -> dict[int, tuple[float, str]]:
        """Write the final states of trials that were not kept before; return all kept ones."""
        self._check_writes()
        found = {}
        with explained(self.folder, self._consequence):
            for trial, (score, states) in kept.items():
                if states is None:
                    found[trial] = before[trial]
                else:
                    sha256 = storage.write_states(self.folder, trial, states, storage.KEPT)
                    found[trial] = float(score), sha256
        return found

    def decide(
        self,
        statuses: Mapping[int, str],
        rung: int | None = None,
        errors: Mapping[int, str] | None = None,
        changes: Iterable[Change] = (),
    ) -> None:
        """Set what a decision changes, in one transaction.

        Args:
            statuses: The new status of each trial.
            rung: The rung that the trials reached. Default: none.
            errors: Why trials failed or diverged.
            changes: The changes of population-based training. The states of their sources are kept
                until each changed trial has continued.
        """
        rows = [(c.trial, c.epoch, tables.to_text(c.values), c.source) for c in changes]
        with self._transaction() as db:
            db.executemany("INSERT INTO changes VALUES (?, ?, ?, ?)", rows)
            unused = tables.settle(db, statuses, errors, rung)
        storage.remove_states(self.folder, unused)

    def retry(self, numbers: Collection[int]) -> None:
        """Reset failed and diverged trials so that they run again; their results are removed.

        Args:
            numbers: Numbers of the trials.

        Raises:
            ValueError: A trial neither failed nor diverged.
        """
        status = dict(self._query("SELECT number, status FROM trials"))
        if wrong := [number for number in numbers if status.get(number) not in BROKEN]:
            raise ValueError(
                f"trial {wrong[0]} is {status.get(wrong[0], 'not in the ledger')}: retry accepts "
                f"those that are {' or '.join(BROKEN)}"
            )
        keys = [(int(number),) for number in numbers]
        with self._transaction() as db:
            for table in ("results", "lanes", "changes"):
                db.executemany(f"DELETE FROM {table} WHERE trial = ?", keys)
            db.executemany(
                "UPDATE trials SET status = 'asked', rung = NULL, error = NULL WHERE number = ?",
                keys,
            )
            db.execute("DELETE FROM meta WHERE key = 'ended'")
            unused = tables.release(db)
        storage.remove_states(self.folder, unused)

    def restart(self, meta: Mapping[str, Any]) -> None:
        """Reset all trials so that they run again, in a sweep with other meta data.

        All results and kept states are removed, in the transaction that changes the meta data.

        Args:
            meta: Entries to replace, plain data by name.
        """
        rows = [(name, tables.to_text(plain)) for name, plain in meta.items()]
        with self._transaction() as db:
            for table in ("results", "lanes", "changes", "cohorts"):
                db.execute(f"DELETE FROM {table}")
            db.execute("UPDATE trials SET status = 'asked', rung = NULL, error = NULL")
            db.execute("DELETE FROM meta WHERE key IN ('kept', 'test')")
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
        storage.clean(self.folder, [])
        storage.clean(self.folder, [], storage.KEPT)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._check_writes()
        with explained(self.folder, self._consequence):
            db = self._connection
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back itself
                    db.execute("ROLLBACK")
                raise

    def _check_writes(self) -> None:
        if not self._writes:
            raise ValueError(
                f"the ledger in {self.folder} is open for reading: write Ledger.open(folder, "
                "write=True), as its only driver"
            )


def check_free(folder: Path) -> None:
    """Raise LedgerError unless a folder is empty or does not exist.

    Args:
        folder: The folder.
    """
    found = storage.other_files(folder)
    if storage.FILE in found:
        with Ledger.open(folder) as ledger:
            experiment, count = ledger.meta.get("experiment"), len(ledger.trials())
        problem = (
            f"a sweep already (of {experiment}, {count} trials): continue it with "
            f"{command_to_resume(folder, experiment)}, or write --folder with another path"
        )
    elif found:
        problem = f"something else already ({found[0]}): write --folder with a new path"
    else:
        return
    raise LedgerError(f"{folder} holds {problem}")
