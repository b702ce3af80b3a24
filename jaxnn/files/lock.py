"""The lock that one process has on a folder.

It is an exclusive transaction on a small SQLite file of its own, which the system gives back when
the process dies, however it dies, on every platform.
"""

import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Self


class Locked(OSError):
    """Another process, or another part of this one, holds the lock."""


class NoLock(OSError):
    """The file is something else."""


class Lock:
    """Held from when it is made until `close`, or until the process dies.

    Args:
        file: the lock's file, made where there is none.
        busy: what to say where another holds it.

    Raises:
        Locked: another holds it.
        NoLock: the file is something else.
        sqlite3.Error: it cannot be written.
    """

    def __init__(self, file: Path, busy: str) -> None:
        _check(file)
        # Nothing else in this process may open the file: when it closes it, POSIX gives back all
        # locks that the process has on it.
        self._connection = sqlite3.connect(file, timeout=0, isolation_level=None)
        try:
            self._connection.execute("PRAGMA journal_mode = MEMORY")  # no second file
            self._connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            self._connection.close()
            if code(error) == sqlite3.SQLITE_BUSY:
                raise Locked(busy) from None
            if code(error) == sqlite3.SQLITE_NOTADB:
                raise NoLock(f"{file} is not a lock file: remove it") from None
            raise

    @staticmethod
    def held(file: Path) -> bool:
        """Whether another process holds the lock."""
        if not file.is_file():
            return False
        connection = sqlite3.connect(file, timeout=0)
        try:
            connection.execute("PRAGMA schema_version").fetchone()
        except sqlite3.DatabaseError as error:
            return code(error) == sqlite3.SQLITE_BUSY
        finally:
            connection.close()
        return False

    def close(self) -> None:
        """Give the lock back."""
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


def _check(file: Path) -> None:
    """Raise NoLock for what SQLite would wait for, such as a fifo."""
    if file.exists() and not file.is_file():
        raise NoLock(f"{file} is not a lock file: remove it")


def code(error: sqlite3.Error) -> int:
    """SQLite's primary result code, such as `sqlite3.SQLITE_BUSY`; -1 where Python raised."""
    extended = getattr(error, "sqlite_errorcode", None)
    return -1 if extended is None else extended & 0xFF
