"""The file of a ledger: made whole or not at all, and known by its header."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..files.lock import Lock, Locked, NoLock, code
from ..files.plain import quoted
from ..files.reading import MEGABYTE, FileError, check_regular
from ..installation import upgrade
from .checkpoints import sync_folder
from .faults import LedgerError, damaged
from .tables import TABLES

FILE = "ledger.sqlite"
LOCK = "driver.lock"
APPLICATION = 0x6A786E6E  # "jxnn": what the file says that it is
SCHEMA = 1
WAIT = 10.0  # seconds for another connection, which holds the file for milliseconds at most
NEW = ".new"
SECONDS = 120.0  # for one statement: a million results take about two
STEPS = 100_000  # of SQLite's machine between two looks at the clock
# What no ledger needs. Python's sqlite3 calls the limits by SQLite's names.
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 16 * MEGABYTE,  # a text, or a row
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 100,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}


def make(folder: Path, meta: Mapping[str, str]) -> None:
    """Make the ledger's file in `folder`, with these rows of `meta`; it appears by one rename."""
    new = folder / (FILE + NEW)
    _remove(new)
    try:
        with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {SCHEMA}")
            for table in TABLES:
                connection.execute(table)
            connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            connection.execute("COMMIT")
        os.replace(new, folder / FILE)
    except BaseException:
        with contextlib.suppress(OSError):
            _remove(new)
        raise
    sync_folder(folder)


def connect(folder: Path, write: bool) -> sqlite3.Connection:
    """A connection to the ledger in `folder`, which is looked at before anything is changed.

    Raises LedgerError for a folder without a ledger, for another file and for a newer ledger.
    """
    file = folder / FILE
    if not file.is_file():
        raise LedgerError(
            f"{folder} holds no sweep, there is no {FILE} in it: look at the path, or begin a "
            f"sweep with `sweep --folder {quoted(folder)}`"
        )
    try:
        connection = _checked(file, "rw" if write else "ro")
    except sqlite3.OperationalError:
        # SQLite wants to make files next to it even to read; not so where nothing can change.
        if write or file.with_name(FILE + "-wal").exists():
            raise
        connection = _checked(file, "ro&immutable=1")
    if write:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    return connection


def foreign(folder: Path) -> list[str]:
    """The names in `folder` that a driver killed while it made a ledger did not leave there."""
    ours = {LOCK, FILE + NEW, FILE + NEW + "-journal"}
    return sorted({file.name for file in folder.iterdir()} - ours) if folder.is_dir() else []


def _checked(file: Path, mode: str) -> sqlite3.Connection:
    for ending in ("", "-wal", "-shm", "-journal"):  # SQLite would wait for a fifo
        try:
            check_regular(f"{file}{ending}")
        except FileNotFoundError:
            continue
        except FileError as error:
            raise LedgerError(f"{error}; look at the path") from None
    uri = f"{file.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=WAIT, isolation_level=None)
    try:
        for limit, most in LIMITS.items():
            connection.setlimit(limit, most)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        with patience(connection):
            _check(connection, file)
            _check_schema(connection, file)
            _check_pages(connection, file)
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def patience(connection: sqlite3.Connection) -> Iterator[None]:
    """Interrupt a statement inside that takes longer than a whole ledger would."""
    end = time.monotonic() + SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > end, STEPS)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)


def _check(connection: sqlite3.Connection, file: Path) -> None:
    try:
        application, schema = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
    except sqlite3.DatabaseError as error:
        if code(error) != sqlite3.SQLITE_NOTADB:
            raise
        raise LedgerError(
            f"{file} is not the ledger of a sweep ({error}): look at the path"
        ) from None
    if application != APPLICATION:
        raise LedgerError(f"{file} is not the ledger of a sweep: look at the path")
    if schema > SCHEMA:
        raise LedgerError(
            f"{file} was written by a newer jaxnn (its schema is {schema}, this one knows "
            f"{SCHEMA}): write {upgrade()}"
        )


def _check_schema(connection: sqlite3.Connection, file: Path) -> None:
    """Raise LedgerError unless the tables are those that `make` makes, without triggers.

    A view in the place of a table may compute for ever, and a trigger may change other tables.
    """
    ours = {_words(text) for text in TABLES}
    names = {text.split()[2] for text in ours if text.startswith("CREATE TABLE")}
    found = set()
    query = "SELECT type, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL"
    for kind, table, text in connection.execute(query):
        words = _words(str(text))
        found.add(words)
        if kind == "trigger" or (str(table).lower() in names and words not in ours):
            raise LedgerError(f"{damaged(file.parent)} (it has a {kind} of another make)")
    if ours - found:
        raise LedgerError(f"{damaged(file.parent)} (a table is missing, or of another make)")


def _check_pages(connection: sqlite3.Connection, file: Path) -> None:
    """Raise LedgerError if pages are used twice or broken: then a table could have no end.

    What passes has no more rows and texts than the file has room for.
    """
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise LedgerError(f"{damaged(file.parent)} ({str(found).splitlines()[-1]})")


def _words(text: str) -> str:
    """A statement with single blanks, to compare it."""
    return " ".join(text.split())


def _remove(new: Path) -> None:
    for file in (new, new.with_name(new.name + "-journal")):
        file.unlink(missing_ok=True)


# The driver's lock: one driver a folder. The ledger itself stays open to readers.


class DriverLock(Lock):
    """Held from when it is made until `close`, or until the process dies.

    Raises LedgerError where another driver holds it, in this process or another.
    """

    def __init__(self, folder: Path) -> None:
        try:
            super().__init__(
                folder / LOCK,
                f"another driver is at work in {folder}, and one at a time may be: let it end, or "
                f"stop it, and then resume; `jaxnn sweep top {quoted(folder)}` shows how far it is",
            )
        except Locked as error:
            raise LedgerError(str(error)) from None
        except NoLock:
            raise LedgerError(f"{folder / LOCK} is not a driver's lock: remove it") from None


def is_driven(folder: Path) -> bool:
    """Whether a driver of another process is at work in the folder."""
    return Lock.held(folder / LOCK)
