"""The files of a sweep's folder: the database, the driver's lock, and the states of lanes.

    FOLDER/ledger.sqlite   the tables; created by one rename
    FOLDER/driver.lock     held by the driver, the only writer
    FOLDER/lanes/          a file per cohort with the states that its lanes continue from
    FOLDER/kept/           a file per kept trial with the final states of its lanes

Errors of SQLite and the system are raised as `LedgerError`, one line that explains what to do. The
name of a state file is derived from the number of its cohort or trial, so no text in a ledger
selects a file; the ledger has the SHA-256 of each.
"""

import contextlib
import errno
import hashlib
import os
import re
import shlex
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from ..files import Lock, Locked, NoLock, replace_file, sqlite_code
from ..files.reading import (
    LONGEST,
    MEGABYTE,
    FileError,
    check_regular,
    open_regular,
    printable,
    quoted,
)
from ..installation import upgrade

FILE, LOCK, LANES, KEPT, NEW = "ledger.sqlite", "driver.lock", "lanes", "kept", ".new"
APPLICATION = 0x6A786E6E  # "jxnn", in the header of the file
SCHEMA = 1
WAIT = 10.0  # seconds for another connection, which holds the file for milliseconds
SECONDS = 120.0  # for one statement: a million results take about two
STEPS = 100_000  # of SQLite's machine between two looks at the clock
# More than any ledger needs. Python's sqlite3 names the limits as SQLite does.
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 16 * MEGABYTE,  # of a text, or a row
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 100,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}

TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE groups (
        name TEXT PRIMARY KEY, static TEXT NOT NULL, way TEXT NOT NULL, lanes INTEGER NOT NULL,
        devices INTEGER NOT NULL, probe TEXT NOT NULL, compile_seconds REAL NOT NULL)""",
    """CREATE TABLE trials (
        number INTEGER PRIMARY KEY, round INTEGER NOT NULL, bracket INTEGER NOT NULL,
        "values" TEXT NOT NULL, "group" TEXT REFERENCES groups, status TEXT NOT NULL
        CHECK (status IN ('asked', 'running', 'done', 'stopped', 'diverged', 'failed')),
        rung INTEGER, error TEXT)""",
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


class LedgerError(OSError):
    """A sweep's folder cannot be written, read, or used for this; the message explains why."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message, LONGEST))  # it may quote what the ledger holds


def command_to_resume(folder: Path, experiment: object) -> str:
    """Return the command that continues the sweep in `folder`.

    >>> command_to_resume(Path("runs/one two"), "experiments.mnist_mlp")
    "python -m experiments.mnist_mlp resume 'runs/one two'"
    """
    return f"python -m {shlex.quote(str(experiment))} resume {quoted(folder)}"


def damaged(folder: Path) -> str:
    """Return the error text for a damaged ledger."""
    return f"the ledger in {folder} is damaged, put back a copy of ledger.sqlite"


def check_undamaged(folder: Path, problem: object) -> None:
    """Raise LedgerError if there is a problem with the contents of a ledger.

    Args:
        folder: Folder of the sweep.
        problem: The problem; "" for none.
    """
    if problem:
        raise LedgerError(f"{damaged(folder)} ({problem})")


@contextlib.contextmanager
def undamaged(folder: Path) -> Iterator[None]:
    """Raise a ValueError from reading the ledger's contents as `LedgerError`."""
    problem: object = ""
    try:
        yield
    except ValueError as error:
        problem = error
    check_undamaged(folder, problem)


@contextlib.contextmanager
def explained(folder: Path, consequence: str = "Nothing was changed") -> Iterator[None]:
    """Raise errors of SQLite and the system inside as `LedgerError`.

    Args:
        folder: Folder of the sweep.
        consequence: The consequence, and the command to write. Default: nothing was changed.
    """
    try:
        yield
    except UnicodeDecodeError as error:  # SQLite's message quotes a damaged schema
        raise LedgerError(f"{damaged(folder)} ({error}). {consequence}") from error
    except (sqlite3.Error, OSError) as error:
        # A LedgerError is clear already; the other two are mistakes in a program.
        if isinstance(error, LedgerError | sqlite3.ProgrammingError | sqlite3.IntegrityError):
            raise
        raise LedgerError(f"{_cause(folder, error)}. {consequence}") from error


def _cause(folder: Path, error: sqlite3.Error | OSError) -> str:
    """Return the meaning of an error of SQLite or the system for a sweep's folder."""
    if isinstance(error, sqlite3.Error):
        text = {
            sqlite3.SQLITE_FULL: f"the disk is full, the ledger in {folder} cannot grow",
            sqlite3.SQLITE_CORRUPT: damaged(folder),
            sqlite3.SQLITE_NOTADB: damaged(folder),
            sqlite3.SQLITE_READONLY: f"{folder} cannot be written",
            sqlite3.SQLITE_CANTOPEN: f"{folder} cannot be written",
            sqlite3.SQLITE_PERM: f"{folder} cannot be written",
            sqlite3.SQLITE_BUSY: f"another process holds the ledger in {folder}",
            sqlite3.SQLITE_INTERRUPT: f"{damaged(folder)}: a statement took too long",
        }.get(sqlite_code(error), f"the ledger in {folder} cannot be used")
        return f"{text} ({error})"
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    where, text = cause.filename or folder, cause.strerror or str(cause)
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full, {where} cannot be written ({text})"
    if isinstance(cause, FileExistsError | NotADirectoryError):
        return f"{folder} cannot be written, {where} is not a folder"
    return f"{where} cannot be written ({text})"


# The database


def create_database(folder: Path, meta: Mapping[str, str]) -> None:
    """Create the database in `folder`, with these rows of `meta`; it appears by one rename."""
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
    _sync(folder)


def _remove(new: Path) -> None:
    for file in (new, new.with_name(new.name + "-journal")):
        file.unlink(missing_ok=True)


def connect(folder: Path, write: bool) -> sqlite3.Connection:
    """Return a connection to the database in `folder`, which is checked before it is changed.

    Raises:
        LedgerError: The folder has no database, another file, a damaged one, or one of a newer or
            older jaxnn.
    """
    file = folder / FILE
    problem = ""
    if not file.is_file():
        problem = (
            f"{folder} holds no sweep, there is no {FILE} in it: check the path, or begin a "
            f"sweep with `sweep --folder {quoted(folder)}`"
        )
    for ending in ("", "-wal", "-shm", "-journal"):  # SQLite would wait for a fifo
        try:
            check_regular(f"{file}{ending}")
        except FileNotFoundError:
            continue
        except FileError as error:
            problem = problem or f"{error}; check the path"
    if problem:
        raise LedgerError(problem)
    try:
        connection = _checked_connection(file, "rw" if write else "ro")
    except sqlite3.OperationalError:
        # SQLite creates files next to the database even to read it, unless it is immutable.
        if write or file.with_name(FILE + "-wal").exists():
            raise
        connection = _checked_connection(file, "ro&immutable=1")
    if write:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _checked_connection(file: Path, mode: str) -> sqlite3.Connection:
    uri = f"{file.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=WAIT, isolation_level=None)
    try:
        for limit, most in LIMITS.items():
            connection.setlimit(limit, most)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        with time_limit(connection):
            if problem := _header_problem(connection, file):
                raise LedgerError(problem)
            check_undamaged(file.parent, _problem(connection))
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def time_limit(connection: sqlite3.Connection) -> Iterator[None]:
    """Interrupt a statement inside if it takes longer than reading a whole ledger."""
    end = time.monotonic() + SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > end, STEPS)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)


def _header_problem(connection: sqlite3.Connection, file: Path) -> str:
    """Return what is wrong with the header of a database; "" if nothing is."""
    try:
        ((application,),) = connection.execute("PRAGMA application_id")
        ((schema,),) = connection.execute("PRAGMA user_version")
    except sqlite3.DatabaseError as error:
        if sqlite_code(error) != sqlite3.SQLITE_NOTADB:
            raise
        application = schema = 0
    age, remedy = "an older", "begin another sweep, or read it with that version"
    if schema > SCHEMA:
        age, remedy = "a newer", f"write {upgrade()}"
    schemas = f"its schema is {schema}, this one reads {SCHEMA}"
    problem = f"was written by {age} jaxnn ({schemas}): {remedy}" if schema != SCHEMA else ""
    if application != APPLICATION:
        problem = "is not the ledger of a sweep: check the path"
    return f"{file} {problem}" if problem else ""


def _problem(connection: sqlite3.Connection) -> str:
    """Return what is wrong with the tables and pages of a database; "" if nothing is.

    The tables have to be exactly those of `create_database`, without triggers: a view in the place
    of a table may compute forever, and a trigger may change other tables. A database whose pages
    are sound has no more rows and texts than its file has room for.
    """
    ours = {" ".join(text.split()) for text in TABLES}
    names = {text.split()[2] for text in ours if text.startswith("CREATE TABLE")}
    found = set()
    query = "SELECT type, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL"
    for kind, table, text in connection.execute(query):
        found.add(words := " ".join(str(text).split()))
        if kind == "trigger" or (str(table).lower() in names and words not in ours):
            return f"it has another {kind} than jaxnn creates"
    if ours - found:
        return "a table is missing, or another than jaxnn creates"
    ((pages,),) = connection.execute("PRAGMA quick_check(1)")
    return "" if pages == "ok" else str(pages).splitlines()[-1]


def other_files(folder: Path) -> list[str]:
    """Return the names in `folder`, except leftovers of an interrupted creation of a ledger."""
    ours = {LOCK, FILE + NEW, FILE + NEW + "-journal"}
    return sorted({file.name for file in folder.iterdir()} - ours) if folder.is_dir() else []


# The driver's lock: a folder has one driver, and any number of readers.


class DriverLock(Lock):
    """Held from its creation until `close`, or until the process dies.

    Raises:
        LedgerError: Another driver holds it, in this process or another.
    """

    def __init__(self, folder: Path) -> None:
        try:
            super().__init__(
                folder / LOCK,
                f"another driver is at work in {folder}, and there may be one at a time: wait for "
                f"it or stop it, then resume; `jaxnn sweep top {quoted(folder)}` shows its "
                "progress",
            )
        except (Locked, NoLock) as error:
            foreign = f"{folder / LOCK} is not a driver's lock: remove it"
            raise LedgerError(foreign if isinstance(error, NoLock) else str(error)) from None


def is_driven(folder: Path) -> bool:
    """Return whether a driver in another process is running in `folder`."""
    return Lock.held(folder / LOCK)


# The states of lanes


def states_file(number: int, kind: str = LANES) -> str:
    """Return the file with the states of a cohort, or of a kept trial, in the sweep's folder.

    >>> states_file(7), states_file(17, KEPT)
    ('lanes/000007.safetensors', 'kept/000017.safetensors')
    """
    return f"{kind}/{number:06d}.safetensors"


def write_states(folder: Path, number: int, contents: bytes, kind: str = LANES) -> str:
    """Write states so that they survive a power failure; return their SHA-256."""
    file = folder / states_file(number, kind)
    if not file.parent.is_dir():
        file.parent.mkdir(exist_ok=True)
        _sync(folder)
    replace_file(file, contents)
    _sync(file.parent)
    return hashlib.sha256(contents).hexdigest()


def read_states(folder: Path, number: int, sha256: str, kind: str = LANES) -> bytes:
    """Return the states of a cohort or a kept trial, whose file must have this SHA-256.

    Raises:
        LedgerError: The file is missing, unreadable, or another.
    """
    file = folder / states_file(number, kind)
    use = f"the lanes of cohort {number} continue from it"
    if kind == KEPT:
        use = f"it has the weights of trial {number}"
    try:
        with open_regular(file) as opened:
            # Another file may be too large for the memory: its digest is computed first.
            found = hashlib.file_digest(opened, "sha256").hexdigest()
            opened.seek(0)
            if found == sha256:
                return opened.read()
        problem = f"is damaged: its SHA-256 is {found[:12]}..., expected {sha256[:12]}..."
    except (OSError, FileError) as error:
        problem = f"cannot be read ({getattr(error, 'strerror', None) or error})"
    raise LedgerError(f"{file} {problem}; {use}: put back a copy of it")


def remove_states(folder: Path, numbers: Collection[int], kind: str = LANES) -> None:
    """Remove the states of these numbers. `clean` removes one that cannot be removed now."""
    for number in numbers:
        with contextlib.suppress(OSError):
            (folder / states_file(number, kind)).unlink()


def clean(folder: Path, used: Collection[int], kind: str = LANES) -> None:
    """Remove what a killed driver left: partial files, and states of numbers not in `used`."""
    names = {Path(states_file(number)).name for number in used}
    with contextlib.suppress(OSError):
        for file in (folder / kind).iterdir():
            ours = re.fullmatch(r"\d{6,}\.safetensors|\.\d{6,}\.safetensors-\w+", file.name)
            if ours and file.name not in names:
                file.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Make the names in a folder survive a power failure, if the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
