"""The driver's lock: one driver a folder.

The lock is an exclusive transaction on a small SQLite file of its own, which the system gives back
when the process dies, however it dies, on every platform. The ledger itself stays open to readers.
"""

import sqlite3
from pathlib import Path
from types import TracebackType

from .faults import LedgerError, code

FILE = "driver.lock"


class DriverLock:
    """Held from when it is made until `close`, or until the process dies.

    Raises LedgerError where another driver holds it, in this process or another.
    """

    def __init__(self, folder: Path) -> None:
        # Nothing else in this process may open the file: when it closes it, POSIX gives back all
        # locks that the process has on it.
        self._connection = sqlite3.connect(folder / FILE, timeout=0, isolation_level=None)
        try:
            self._connection.execute("PRAGMA journal_mode = MEMORY")  # no second file
            self._connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            self._connection.close()
            if code(error) == sqlite3.SQLITE_BUSY:
                raise LedgerError(
                    f"another driver is at work in {folder}, and one at a time may be: let it end, "
                    f"or stop it, and then resume; `jaxnn sweep top {folder}` shows how far it is"
                ) from None
            if code(error) == sqlite3.SQLITE_NOTADB:
                raise LedgerError(f"{folder / FILE} is no driver's lock: remove it") from None
            raise

    @staticmethod
    def held(folder: Path) -> bool:
        """Whether a driver of another process is at work in the folder."""
        if not (folder / FILE).exists():
            return False
        connection = sqlite3.connect(folder / FILE, timeout=0)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            return code(error) == sqlite3.SQLITE_BUSY
        finally:
            connection.close()
        return False

    def close(self) -> None:
        """Give the lock back."""
        self._connection.close()

    def __enter__(self) -> "DriverLock":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
