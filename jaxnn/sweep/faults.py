"""What can go wrong below a ledger, said in one line: what came, what it means, what to write."""

import contextlib
import errno
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ..files.lock import code
from ..files.plain import quoted
from ..files.reading import LONGEST, printable

FULL = {errno.ENOSPC, errno.EDQUOT}


class LedgerError(OSError):
    """A sweep's folder cannot be written, read, or used for this. The message says why."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message, LONGEST))  # it may quote what the ledger holds


def resume_command(folder: Path, experiment: object) -> str:
    """The command that continues the sweep in `folder`.

    >>> resume_command(Path("runs/one two"), "experiments.mnist_mlp")
    "python -m experiments.mnist_mlp resume 'runs/one two'"
    """
    return f"python -m {shlex.quote(str(experiment))} resume {quoted(folder)}"


@contextlib.contextmanager
def explained(folder: Path, consequence: str) -> Iterator[None]:
    """Turn what SQLite and the system raise inside into a `LedgerError`.

    Args:
        folder: of the sweep.
        consequence: what follows, and what to write.
    """
    try:
        yield
    except (LedgerError, sqlite3.ProgrammingError, sqlite3.IntegrityError):
        raise  # the first is clear already, the others are mistakes in a program
    except sqlite3.Error as error:
        raise LedgerError(f"{_of_sqlite(folder, error)}. {consequence}") from error
    except OSError as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise LedgerError(f"{_of_system(folder, cause)}. {consequence}") from error


def damaged(folder: Path) -> str:
    """What to say of a ledger that is damaged."""
    return f"the ledger in {folder} is damaged, put back a copy of ledger.sqlite"


def _of_sqlite(folder: Path, error: sqlite3.Error) -> str:
    kind = code(error)
    if kind == sqlite3.SQLITE_FULL:
        return f"the disk is full, the ledger in {folder} cannot grow ({error})"
    if kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return f"{damaged(folder)} ({error})"
    if kind in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return f"{folder} cannot be written ({error})"
    if kind == sqlite3.SQLITE_BUSY:
        return f"another process holds the ledger in {folder} ({error})"
    if kind == sqlite3.SQLITE_INTERRUPT:
        return f"{damaged(folder)} (a statement took too long)"
    return f"the ledger in {folder} cannot be used ({error})"


def _of_system(folder: Path, error: OSError) -> str:
    cause = error.strerror or str(error)
    where = error.filename or folder
    if error.errno in FULL:
        return f"the disk is full, {where} cannot be written ({cause})"
    if isinstance(error, FileExistsError | NotADirectoryError):
        return f"{folder} cannot be written, {where} is not a folder"
    return f"{where} cannot be written ({cause})"
