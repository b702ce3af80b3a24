"""The driver's lock: one driver a folder. The ledger itself stays open to readers."""

from pathlib import Path

from ..files.lock import Lock, Locked, NoLock
from ..files.plain import quoted
from .faults import LedgerError

FILE = "driver.lock"


class DriverLock(Lock):
    """Held from when it is made until `close`, or until the process dies.

    Raises LedgerError where another driver holds it, in this process or another.
    """

    def __init__(self, folder: Path) -> None:
        try:
            super().__init__(
                folder / FILE,
                f"another driver is at work in {folder}, and one at a time may be: let it end, or "
                "stop it, and then resume; "
                f"`jaxnn sweep top {quoted(folder)}` shows how far it is",
            )
        except Locked as error:
            raise LedgerError(str(error)) from None
        except NoLock:
            raise LedgerError(f"{folder / FILE} is no driver's lock: remove it") from None


def is_driven(folder: Path) -> bool:
    """Whether a driver of another process is at work in the folder."""
    return Lock.held(folder / FILE)
