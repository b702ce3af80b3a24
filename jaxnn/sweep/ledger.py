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
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from . import storage
from .storage import LedgerError, command_to_resume, explained
from .tables import BROKEN, Change, Cohort, EpochResult, Group, Tables, Trial, Values, to_text

__all__ = ["Change", "Cohort", "EpochResult", "Group", "Ledger", "LedgerError", "Trial"]

# Cohorts whose checkpoint is no longer needed: no open trial continues from it, and no open trial
# takes over a state from it at its epoch.
SPARE = """
    SELECT id FROM cohorts WHERE checkpoint IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM lanes AS here WHERE here.cohort = cohorts.id AND (
            EXISTS (
                SELECT 1 FROM trials WHERE number = here.trial AND status IN ('asked', 'running')
                AND NOT EXISTS (SELECT 1 FROM lanes AS later WHERE later.trial = here.trial
                    AND later.seed = here.seed AND later.epoch > here.epoch))
            OR EXISTS (
                SELECT 1 FROM changes JOIN trials ON number = changes.trial
                WHERE changes.source = here.trial AND changes.epoch = here.epoch
                AND status IN ('asked', 'running')
                AND NOT EXISTS (SELECT 1 FROM lanes AS later WHERE later.trial = changes.trial
                    AND later.seed = here.seed AND later.epoch > here.epoch))))"""

ADD_GROUP = """
    INSERT INTO groups VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET
    static = excluded.static, way = excluded.way, lanes = excluded.lanes, probe = excluded.probe,
    devices = excluded.devices, compile_seconds = excluded.compile_seconds"""


class Ledger(Tables):
    """The ledger in a folder: opened by `Ledger.create` or `Ledger.open`, closed by `with`.

    The methods that read are in `Tables`. Methods that write raise ValueError unless the ledger is
    open for its driver. Errors of SQLite or the disk are raised as LedgerError, in one line;
    committed data are not lost.

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
    ...     ledger.trials()[0].status, ledger.results("loss")[0].value
    ('done', 0.5)
    >>> folder.cleanup()
    """

    def __init__(self, folder: Path, write: bool, held: contextlib.ExitStack) -> None:
        with contextlib.ExitStack() as stack, explained(folder):
            stack.push(held.pop_all())
            super().__init__(folder, storage.connect(folder, write))
            stack.callback(self._connection.close)
            self._writes = write
            resume = command_to_resume(folder, self.meta.get("experiment", "experiments.NAME"))
            self._consequence = (
                "Nothing was lost; committed results are intact: remove the cause, then write "
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
        texts = {name: to_text(plain) for name, plain in meta.items()}
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
        with contextlib.ExitStack() as held, explained(folder):
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

    def set_meta(self, meta: Mapping[str, Any]) -> None:
        """Add entries to the meta data, or replace them.

        Args:
            meta: Plain data by name.
        """
        rows = [(name, to_text(plain)) for name, plain in meta.items()]
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)

    def add_group(self, group: Group) -> None:
        """Add a group, or replace the one with its name.

        Args:
            group: The group.
        """
        static, probe = to_text(dict(group.static)), to_text(dict(group.probe))
        numbers = group.lanes, group.devices, probe, float(group.compile_seconds)
        with self._transaction() as db:
            db.execute(ADD_GROUP, (group.name, static, group.way, *numbers))

    def ask(
        self, round: int, bracket: int, asked: Iterable[tuple[Values, str | None]]
    ) -> list[int]:
        """Add the trials of a round, and return their numbers.

        Args:
            round: Number of the round.
            bracket: Number of the bracket.
            asked: The values of each trial and the name of its group; None if no program could be
                built for it.
        """
        texts = [(to_text(values), group) for values, group in asked]
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
                (key, *run, to_text(pairs), *times, sha256, time.time()),
            )
            db.executemany("INSERT INTO lanes VALUES (?, ?, ?, ?, ?)", places)
            db.executemany("INSERT INTO results VALUES (?, ?, ?, ?, ?)", rows)
            unused = settle(db, statuses, errors, cohort.rung)
            if after != before:
                text = to_text({str(trial): after[trial] for trial in sorted(after)})
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
        rows = [(c.trial, c.epoch, to_text(c.values), c.source) for c in changes]
        with self._transaction() as db:
            db.executemany("INSERT INTO changes VALUES (?, ?, ?, ?)", rows)
            unused = settle(db, statuses, errors, rung)
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
            unused = release(db)
        storage.remove_states(self.folder, unused)

    def restart(self, meta: Mapping[str, Any]) -> None:
        """Reset all trials so that they run again, in a sweep with other meta data.

        All results and kept states are removed, in the transaction that changes the meta data.

        Args:
            meta: Entries to replace, plain data by name.
        """
        rows = [(name, to_text(plain)) for name, plain in meta.items()]
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


def settle(
    db: sqlite3.Connection,
    statuses: Mapping[int, str],
    errors: Mapping[int, str] | None,
    rung: int | None = None,
) -> list[int]:
    """Record the status of trials, their errors, and the rung that the unbroken ones reached.

    It returns the cohorts whose checkpoints are no longer needed, and records them as removed.

    Args:
        db: the connection.
        statuses: by trial.
        errors: by trial, or None.
        rung: that trials reached. Default: None, unchanged.
    """
    whole = [] if rung is None else [n for n, status in statuses.items() if status not in BROKEN]
    # A traceback may quote a file name that is not valid Unicode.
    texts = {n: e.encode("utf-8", "backslashreplace").decode() for n, e in (errors or {}).items()}
    for column, values in (
        ("status", statuses),
        ("error", texts),
        ("rung", dict.fromkeys(whole, rung)),
    ):
        rows = [(value, number) for number, value in values.items()]
        change = db.executemany(f"UPDATE trials SET {column} = ? WHERE number = ?", rows)
        if rows and change.rowcount != len(rows):
            raise ValueError(f"no trial {rows[0][1]} in the ledger: ask for it first")
    return release(db)


def release(db: sqlite3.Connection) -> list[int]:
    """Record that checkpoints that are no longer needed are removed; return their cohorts."""
    spare = [key for (key,) in db.execute(SPARE)]
    db.executemany("UPDATE cohorts SET checkpoint = NULL WHERE id = ?", [(key,) for key in spare])
    return spare
