"""The ledger of a sweep: all that was asked and all that came of it, in a folder.

    FOLDER/ledger.sqlite   the tables (`opening`, `tables`), their rows as values (`records`)
    FOLDER/lanes/          the states of lanes that continue from a rung (`checkpoints`)
    FOLDER/driver.lock     held by the driver, which alone writes (`lock`)
    FOLDER/report.html     what the report makes of it

Whatever belongs together is one transaction: a round of asks, a cohort with its results, a rung's
decision. So a driver that is killed at any moment leaves a ledger that holds each of them whole or
not at all, and a resumed sweep asks and runs what is missing. A checkpoint is written before the
transaction that speaks of it, and removed after the one that needs it no more. Any number of
readers may look meanwhile. Only the standard library is imported.
"""

import contextlib
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import checkpoints, opening, tables
from .faults import LedgerError, explained, resume_command
from .history import History
from .opening import DriverLock
from .tables import BROKEN, Change, Cohort, Group, Result, Trial, Values

__all__ = ["Change", "Cohort", "Group", "Ledger", "LedgerError", "Result", "Trial"]


class Ledger(History):
    """The ledger in a folder; made by `Ledger.create` or `Ledger.open`, closed by `with`.

    Raises LedgerError, one line, for what the disk or the folder does not allow; nothing that was
    committed is lost then.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> place = Path(folder.name, "sweep")
    >>> with Ledger.create(place, {"experiment": "experiments.mnist_mlp"}) as ledger:
    ...     ledger.add_group(Group("wide", {"model.width": 128}, "vmap", lanes=64))
    ...     numbers = ledger.ask(0, 0, [({"optimizer.learning_rate": 0.1}, "wide")])
    ...     cohort = Cohort("wide", rung=0, epoch_from=0, epoch_to=1, lanes=((0, 0),))
    ...     ledger.commit(cohort, [Result(0, 0, 1, "loss", 0.5)], {0: "done"})
    0
    >>> with Ledger.open(place) as ledger:
    ...     ledger.trials()[0].status, ledger.curves(0, "loss")
    ('done', {0: [(1, 0.5)]})
    >>> folder.cleanup()
    """

    def __init__(self, folder: Path, write: bool, held: contextlib.ExitStack) -> None:
        with contextlib.ExitStack() as stack, explained(folder, "Nothing was changed"):
            stack.push(held.pop_all())
            self.folder = folder
            self._connection = opening.connect(folder, write)
            stack.callback(self._connection.close)
            self._writes = write
            resume = resume_command(folder, self.meta.get("experiment", "experiments.NAME"))
            self._consequence = (
                f"Nothing was lost, what was committed is whole: see to that, then write {resume}"
            )
            self._held = stack.pop_all()
        if write:
            named = self._query("SELECT id FROM cohorts WHERE checkpoint IS NOT NULL")
            checkpoints.clean(folder, [key for (key,) in named])

    @classmethod
    def create(cls, folder: Path | str, meta: Mapping[str, Any]) -> Self:
        """A new ledger, open for its driver, in a folder that is empty or does not exist.

        Args:
            folder: made if need be.
            meta: what all trials have in common, plain data by name; "experiment" is the module
                of the experiment.
        """
        folder = Path(folder)
        texts = {name: tables.to_text(plain) for name, plain in meta.items()}
        with (
            contextlib.ExitStack() as held,
            explained(folder, "Nothing was run; write --folder with another place"),
        ):
            _check_free(folder)
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(DriverLock(folder))
            _check_free(folder)  # another may have made it just now
            opening.make(folder, texts)
            return cls(folder, True, held)

    @classmethod
    def open(cls, folder: Path | str, write: bool = False) -> Self:
        """The ledger in `folder`: to read it, or with `write` as its one driver."""
        folder = Path(folder)
        with contextlib.ExitStack() as held, explained(folder, "Nothing was changed"):
            if write:
                opening.connect(folder, False).close()  # no lock in a folder without a ledger
                held.enter_context(DriverLock(folder))
            return cls(folder, write, held)

    def close(self) -> None:
        """Close the file and give the driver's lock back."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def set_meta(self, meta: Mapping[str, Any]) -> None:
        """Add these to the meta data, or replace them."""
        rows = [(name, tables.to_text(plain)) for name, plain in meta.items()]
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)

    def add_group(self, group: Group) -> None:
        """Add a group, or replace what is known about the one of that name."""
        static, probe = tables.to_text(dict(group.static)), tables.to_text(dict(group.probe))
        numbers = group.lanes, group.devices, probe, float(group.compile_seconds)
        with self._transaction() as db:
            db.execute(tables.ADD_GROUP, (group.name, static, group.way, *numbers))

    def ask(
        self, round: int, bracket: int, asked: Iterable[tuple[Values, str | None]]
    ) -> list[int]:
        """Note the trials of a round, each with its group: all of them, or none.

        Returns their numbers, which continue from those before. A group of None is for a trial that
        no program could be made for; `decide` notes that it failed.
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
        """Note the groups of trials that were asked without one."""
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
    ) -> int:
        """Note a cohort that ran, with all that came of it: everything, or nothing.

        Args:
            cohort: what ran; its lanes must stand at its `epoch_from`.
            results: (trial, seed, epoch, name, value) of each number reported.
            statuses: what becomes of its trials; `running` continues, from `lanes`.
            errors: why trials failed or diverged.
            lanes: the states of the lanes, for those that continue.

        Returns the number of the cohort. Raises ValueError for lanes that stand elsewhere, so that
        an outcome that comes twice is noted once.
        """
        pairs = [(int(trial), int(seed)) for trial, seed in cohort.lanes]
        rows = [(int(t), int(s), int(e), name, float(x)) for t, s, e, name, x in results]
        self._check_standing(cohort.epoch_from, pairs)
        key = self._query("SELECT coalesce(max(id) + 1, 0) FROM cohorts")[0][0]
        sha256 = None
        if lanes is not None:
            self._check_writes()
            with explained(self.folder, self._consequence):
                sha256 = checkpoints.write(self.folder, key, lanes)
        run = (cohort.group, cohort.rung, cohort.epoch_from, cohort.epoch_to)
        times = float(cohort.seconds), float(cohort.compile_seconds)
        places = [(*pair, cohort.epoch_to, key, place) for place, pair in enumerate(pairs)]
        with self._transaction() as db:
            db.execute(
                "INSERT INTO cohorts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (key, *run, tables.to_text(pairs), *times, sha256, time.time()),
            )
            db.executemany("INSERT INTO lanes VALUES (?, ?, ?, ?, ?)", places)
            db.executemany("INSERT INTO results VALUES (?, ?, ?, ?, ?)", rows)
            spare = tables.settle(db, statuses, errors, cohort.rung)
        checkpoints.remove(self.folder, spare)
        return key

    def decide(
        self,
        statuses: Mapping[int, str],
        rung: int | None = None,
        errors: Mapping[int, str] | None = None,
    ) -> None:
        """Note what becomes of trials at a rung, all at once; without one, of trials anywhere."""
        with self._transaction() as db:
            spare = tables.settle(db, statuses, errors, rung)
        checkpoints.remove(self.folder, spare)

    def change(self, changes: Iterable[Change]) -> None:
        """Note what a step of population-based training changes, all at once.

        Their sources' checkpoints are kept until each changed trial has continued.
        """
        rows = [(c.trial, c.epoch, tables.to_text(c.values), c.source) for c in changes]
        with self._transaction() as db:
            db.executemany("INSERT INTO changes VALUES (?, ?, ?, ?)", rows)

    def retry(self, numbers: Collection[int]) -> None:
        """Trials that failed or diverged are asked again, from the beginning; results are removed.

        Raises ValueError for any other trial.
        """
        status = dict(self._query("SELECT number, status FROM trials"))
        if wrong := [number for number in numbers if status.get(number) not in BROKEN]:
            raise ValueError(
                f"trial {wrong[0]} is {status.get(wrong[0], 'not in the ledger')}: retry takes "
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
            spare = tables.release(db)
        checkpoints.remove(self.folder, spare)

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
                with contextlib.suppress(sqlite3.Error):  # SQLite may have done so by itself
                    db.execute("ROLLBACK")
                raise

    def _check_writes(self) -> None:
        if not self._writes:
            raise ValueError(
                f"the ledger in {self.folder} is open to read: write Ledger.open(folder, "
                "write=True), as its one driver"
            )

    def _check_standing(self, epochs: int, lanes: Sequence[tuple[int, int]]) -> None:
        behind = "SELECT coalesce(max(epoch), 0) FROM lanes WHERE trial = ? AND seed = ?"
        for trial, seed in lanes:
            found = self._query(behind, trial, seed)[0][0]
            if found != epochs:
                raise ValueError(
                    f"seed {seed} of trial {trial} has {found} epochs behind it, and this cohort "
                    f"begins after {epochs}"
                )


def _check_free(folder: Path) -> None:
    found = opening.foreign(folder)
    if opening.FILE in found:
        with Ledger.open(folder) as ledger:
            experiment, count = ledger.meta.get("experiment"), len(ledger.trials())
        raise LedgerError(
            f"{folder} holds a sweep already (of {experiment}, {count} trials): continue it by "
            f"{resume_command(folder, experiment)}, or write --folder with another place"
        )
    if found:
        raise LedgerError(
            f"{folder} holds something else already ({found[0]}): write --folder with a new place"
        )
