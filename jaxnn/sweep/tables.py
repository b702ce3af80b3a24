"""The tables of a ledger, and the statements that keep them in order."""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from .records import STATUSES, Values

TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE groups (
        name TEXT PRIMARY KEY, static TEXT NOT NULL, way TEXT NOT NULL, lanes INTEGER NOT NULL,
        devices INTEGER NOT NULL, probe TEXT NOT NULL, compile_seconds REAL NOT NULL)""",
    f"""CREATE TABLE trials (
        number INTEGER PRIMARY KEY, round INTEGER NOT NULL, bracket INTEGER NOT NULL,
        "values" TEXT NOT NULL, "group" TEXT REFERENCES groups,
        status TEXT NOT NULL CHECK (status IN {STATUSES}), rung INTEGER, error TEXT)""",
    # SQLite keeps NaN as NULL; infinities it keeps.
    """CREATE TABLE results (
        trial INTEGER NOT NULL REFERENCES trials, seed INTEGER NOT NULL, epoch INTEGER NOT NULL,
        name TEXT NOT NULL, value REAL,
        PRIMARY KEY (trial, seed, epoch, name)) WITHOUT ROWID""",
    # What ran. `lanes` is [[trial, seed], ...], `checkpoint` the SHA-256 of its lane checkpoint.
    """CREATE TABLE cohorts (
        id INTEGER PRIMARY KEY, "group" TEXT NOT NULL REFERENCES groups, rung INTEGER NOT NULL,
        epoch_from INTEGER NOT NULL, epoch_to INTEGER NOT NULL, lanes TEXT NOT NULL,
        seconds REAL NOT NULL, compile_seconds REAL NOT NULL, checkpoint TEXT,
        finished REAL NOT NULL)""",
    # Where each lane has been: after `epoch`, its state was the `place`-th of the cohort's.
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

# Cohorts with a checkpoint that nothing goes on from: no open trial stands there, and no open trial
# that stands at its epoch takes over a state of it.
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


def to_text(plain: Any) -> str:
    """Plain data as JSON; infinities and NaN as Python writes them, since values may be such."""
    return json.dumps(plain, separators=(",", ":"))


def values_text(values: Values) -> str:
    """The values of a trial as JSON; raises TypeError for what is no scalar of Python's."""
    for name, value in values.items():
        if not isinstance(value, float | int | str | bool | None):
            raise TypeError(
                f"a trial's values are numbers, texts, booleans or None; {name!r} is {value!r} "
                f"({type(value).__name__}): convert it before, as in float(value)"
            )
    return to_text(values)


def set_statuses(
    db: sqlite3.Connection, statuses: Mapping[int, str], errors: Mapping[int, str] | None
) -> None:
    """Note what becomes of trials, and why."""
    rows = [(status, number) for number, status in statuses.items()]
    db.executemany("UPDATE trials SET status = ? WHERE number = ?", rows)
    # A traceback may quote a file name that is no Unicode text.
    texts = [(e.encode("utf-8", "backslashreplace").decode(), n) for n, e in (errors or {}).items()]
    db.executemany("UPDATE trials SET error = ? WHERE number = ?", texts)


def set_rung(db: sqlite3.Connection, numbers: Iterable[int], rung: int) -> None:
    """Note the rung that trials have reached."""
    rows = [(rung, number) for number in numbers]
    db.executemany("UPDATE trials SET rung = ? WHERE number = ?", rows)


def release(db: sqlite3.Connection) -> list[int]:
    """Note that checkpoints from which nothing goes on are gone; returns their cohorts."""
    spare = [key for (key,) in db.execute(SPARE)]
    db.executemany("UPDATE cohorts SET checkpoint = NULL WHERE id = ?", [(key,) for key in spare])
    return spare
