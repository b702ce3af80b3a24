"""The rows of a ledger as frozen dataclasses, its tables, and statements that change them.

A search asks for trials; each belongs to a group of equal structure. Lanes of a group run
together as cohorts, from one epoch to another, and report results after each epoch.
Population-based training changes the values of a trial during training.
"""

import dataclasses
import json
import sqlite3
from collections.abc import Mapping
from typing import Any, NamedTuple

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
        round: the request that it came from.
        bracket: its bracket of Hyperband; 0 without Hyperband.
        values: its point of the space, as asked.
        group: the name of its group; None if its structure is unknown.
        status: one of `STATUSES`. Default: "asked".
        rung: the last rung that it reached, from 0; None before the first.
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
        lanes: the (trial, seed) of each, in the order of their states in the checkpoint.
        seconds: wall time, including compiling. Default: 0.
        compile_seconds: the part of it spent on compiling. Default: 0.
        id: 0, 1, ...; set by the ledger.
        checkpoint: the file with the states of the lanes, in the folder of the sweep; set by the
            ledger. None if there is none, or no lane needs it.
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
    checkpoint: str | None = None
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


TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE groups (
        name TEXT PRIMARY KEY, static TEXT NOT NULL, way TEXT NOT NULL, lanes INTEGER NOT NULL,
        devices INTEGER NOT NULL, probe TEXT NOT NULL, compile_seconds REAL NOT NULL)""",
    f"""CREATE TABLE trials (
        number INTEGER PRIMARY KEY, round INTEGER NOT NULL, bracket INTEGER NOT NULL,
        "values" TEXT NOT NULL, "group" TEXT REFERENCES groups,
        status TEXT NOT NULL CHECK (status IN {STATUSES}), rung INTEGER, error TEXT)""",
    # SQLite stores NaN as NULL, and infinities as they are.
    """CREATE TABLE results (
        trial INTEGER NOT NULL REFERENCES trials, seed INTEGER NOT NULL, epoch INTEGER NOT NULL,
        name TEXT NOT NULL, value REAL,
        PRIMARY KEY (trial, seed, epoch, name)) WITHOUT ROWID""",
    # What ran. `lanes` is [[trial, seed], ...], `checkpoint` the SHA-256 of its lane checkpoint.
    """CREATE TABLE cohorts (
        id INTEGER PRIMARY KEY, "group" TEXT NOT NULL REFERENCES groups, rung INTEGER NOT NULL,
        epoch_from INTEGER NOT NULL, epoch_to INTEGER NOT NULL, lanes TEXT NOT NULL,
        seconds REAL NOT NULL, compile_seconds REAL NOT NULL, checkpoint TEXT,
        finished REAL NOT NULL, CHECK (epoch_from < epoch_to))""",
    # After `epoch`, the state of a lane was the `place`-th of its cohort.
    """CREATE TABLE lanes (
        trial INTEGER NOT NULL REFERENCES trials, seed INTEGER NOT NULL, epoch INTEGER NOT NULL,
        cohort INTEGER NOT NULL REFERENCES cohorts, place INTEGER NOT NULL,
        PRIMARY KEY (trial, seed, epoch)) WITHOUT ROWID""",
    "CREATE INDEX lanes_of_a_cohort ON lanes (cohort)",
    """CREATE TABLE changes (
        trial INTEGER NOT NULL REFERENCES trials, epoch INTEGER NOT NULL, "values" TEXT NOT NULL,
        source INTEGER NOT NULL REFERENCES trials,
        PRIMARY KEY (trial, epoch)) WITHOUT ROWID""",
    "CREATE INDEX changes_from ON changes (source, epoch)",
)

# Cohorts with a checkpoint that nothing continues from: no open trial is there, and no open trial
# takes a state of it at its epoch.
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


def frozen(plain: Any) -> Any:
    """Return a value as it was before it was written: JSON has lists instead of tuples."""
    return tuple(map(frozen, plain)) if isinstance(plain, list) else plain


def is_stored(plain: Any) -> bool:
    """Return whether JSON is a scalar, or a list of values."""
    return all(map(is_stored, plain)) if isinstance(plain, list) else isinstance(plain, Scalar)


def to_text(plain: Any) -> str:
    """Return plain data as JSON; infinities and NaN are written as Python does."""
    return json.dumps(plain, separators=(",", ":"))


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
