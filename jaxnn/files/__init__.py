"""Writing files completely or not at all, and the lock on a folder that one process writes.

`reading` reads files of unknown origin.
"""

import contextlib
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self


@contextlib.contextmanager
def explain_errors(what: str, then: str) -> Iterator[None]:
    """Add to an error of the system in a context what cannot be done, and what to do.

    Args:
        what: What the context does, as in "write metrics to a.jsonl".
        then: What remains, and what to do, as sentences.

    Raises:
        FileExistsError: The error was one.
        OSError: Any other error of the system, or of SQLite.
    """
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if isinstance(error, Locked):
            raise
        cause, place = getattr(error, "strerror", None) or error, getattr(error, "filename", None)
        if isinstance(error, FileExistsError) and place:
            cause = f"{place} is not a folder"
        elif isinstance(error, NotADirectoryError) and place:
            cause = f"a parent of {place} is not a folder"
        kind = FileExistsError if isinstance(error, FileExistsError) else OSError
        raise kind(f"cannot {what}: {cause}. {then}") from error


def replace_file(file: Path, contents: bytes) -> Path:
    """Replace the contents of a file by one rename.

    Args:
        file: The file; it need not exist.
        contents: The new contents.

    Returns:
        The file.

    Raises:
        OSError: It cannot be written; the contents before are kept.
    """
    hidden = file.with_name(f".{file.name}-{secrets.token_hex(4)}")
    with explain_errors(f"write {file}", "The contents before are unchanged"):
        try:
            with open(hidden, "xb") as opened:
                opened.write(contents)
                opened.flush()
                os.fsync(opened.fileno())  # a full disk may be reported only now
            hidden.replace(file)
        except OSError:
            hidden.unlink(missing_ok=True)
            raise
    return file


@contextlib.contextmanager
def fresh(target: Path) -> Iterator[Path]:
    """Yield a hidden path next to `target`, renamed to it at the end or removed after an error.

    Args:
        target: The path of the new file or folder; FileExistsError if it exists.
    """
    if target.exists() or target.is_symlink():
        raise FileExistsError(
            f"{target} exists already, and is never overwritten: name another place, or remove it"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    hidden = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    try:
        yield hidden
        hidden.rename(target)
    finally:
        if hidden.is_dir():
            shutil.rmtree(hidden, ignore_errors=True)
        else:
            hidden.unlink(missing_ok=True)


class Locked(OSError):
    """Another process, or another part of this one, holds the lock."""


class NoLock(OSError):
    """The file is not a lock file."""


class Lock:
    """A lock that is held from its creation until `close`, or until the process ends.

    Args:
        file: The lock's file, created if it does not exist.
        busy: The text of the error if another process holds the lock.

    Raises:
        Locked: Another process holds it.
        NoLock: The file is not a lock file.
        sqlite3.Error: It cannot be written.
    """

    def __init__(self, file: Path, busy: str) -> None:
        # SQLite would wait for other kinds of files, such as a fifo.
        code = sqlite3.SQLITE_NOTADB if file.exists() and not file.is_file() else sqlite3.SQLITE_OK
        if code == sqlite3.SQLITE_OK:
            # Nothing else in this process may open the file: when it is closed, POSIX releases all
            # locks that the process has on it.
            self._connection = sqlite3.connect(file, timeout=0, isolation_level=None)
            try:
                self._connection.execute("PRAGMA journal_mode = MEMORY")  # no second file
                self._connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.Error as error:
                self._connection.close()
                code = sqlite_code(error)
                if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_NOTADB):
                    raise
        if code == sqlite3.SQLITE_BUSY:
            raise Locked(busy)
        if code == sqlite3.SQLITE_NOTADB:
            raise NoLock(f"{file} is not a lock file: remove it")

    @staticmethod
    def held(file: Path) -> bool:
        """Return whether another process holds the lock.

        Args:
            file: The lock's file.
        """
        if not file.is_file():
            return False
        connection = sqlite3.connect(file, timeout=0)
        try:
            connection.execute("PRAGMA schema_version").fetchone()
        except sqlite3.DatabaseError as error:
            return sqlite_code(error) == sqlite3.SQLITE_BUSY
        finally:
            connection.close()
        return False

    def close(self) -> None:
        """Release the lock."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def sqlite_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code, such as `sqlite3.SQLITE_BUSY`; -1 if Python raised.

    Args:
        error: The error.
    """
    extended = getattr(error, "sqlite_errorcode", None)
    return -1 if extended is None else extended & 0xFF
