"""The lock that one process holds on a folder.

It is an exclusive transaction on a small separate SQLite file, which the system releases when the
process ends, for any reason and on every platform.
"""

import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Self


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
        _check(file)
        # Nothing else in this process may open the file: when it is closed, POSIX releases all
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
            return code(error) == sqlite3.SQLITE_BUSY
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


def _check(file: Path) -> None:
    """Raise NoLock for a file that SQLite would wait for, such as a fifo."""
    if file.exists() and not file.is_file():
        raise NoLock(f"{file} is not a lock file: remove it")


def code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code, such as `sqlite3.SQLITE_BUSY`; -1 if Python raised.

    Args:
        error: The error.
    """
    extended = getattr(error, "sqlite_errorcode", None)
    return -1 if extended is None else extended & 0xFF
