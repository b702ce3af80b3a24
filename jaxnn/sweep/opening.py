"""The file of a ledger: made whole or not at all, and known by its header."""

import contextlib
import os
import shlex
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from ..files.lock import code
from ..installation import upgrade
from . import lock
from .checkpoints import sync_folder
from .faults import LedgerError
from .tables import TABLES

FILE = "ledger.sqlite"
APPLICATION = 0x6A786E6E  # "jxnn": what the file says that it is
SCHEMA = 1
WAIT = 10.0  # seconds for another connection, which holds the file for milliseconds at most
NEW = ".new"


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
            f"sweep with `sweep --folder {shlex.quote(str(folder))}`"
        )
    try:
        connection = _checked(file, "rw" if write else "ro")
    except sqlite3.OperationalError:
        # SQLite wants to make files beside it even to read; not so where nothing can change.
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
    ours = {lock.FILE, FILE + NEW, FILE + NEW + "-journal"}
    return sorted({file.name for file in folder.iterdir()} - ours) if folder.is_dir() else []


def _checked(file: Path, mode: str) -> sqlite3.Connection:
    uri = f"{file.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=WAIT, isolation_level=None)
    try:
        _check(connection, file)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, file: Path) -> None:
    try:
        application, schema = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
    except sqlite3.DatabaseError as error:
        if code(error) != sqlite3.SQLITE_NOTADB:
            raise
        raise LedgerError(f"{file} is no ledger of a sweep ({error}): look at the path") from None
    if application != APPLICATION:
        raise LedgerError(f"{file} is no ledger of a sweep: look at the path")
    if schema > SCHEMA:
        raise LedgerError(
            f"{file} was written by a newer jaxnn (its schema is {schema}, this one knows "
            f"{SCHEMA}): write {upgrade()}"
        )


def _remove(new: Path) -> None:
    for file in (new, new.with_name(new.name + "-journal")):
        file.unlink(missing_ok=True)
