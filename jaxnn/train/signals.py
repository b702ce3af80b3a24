"""SIGINT and SIGTERM, which ask a run to stop: the step ends first."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Interrupted(KeyboardInterrupt):
    """Raised by a run that a signal asked to stop, after a whole step.

    Args:
        message: where the run stopped and how to resume it, in a line.
        number: the number of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class Asked:
    """The number of the signal that came, or None."""

    number: int | None = None


@contextlib.contextmanager
def listening(asked: Asked | None = None) -> Iterator[Asked]:
    """Note the first SIGINT or SIGTERM inside; the second has its usual effect.

    Args:
        asked: where it is noted; a new one by default.

    Only the main thread of a process can listen; elsewhere nothing is noted.

    >>> with listening() as asked:
    ...     asked.number
    """
    asked = Asked() if asked is None else asked
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: object) -> None:
        asked.number = number
        for one, handler in before.items():
            signal.signal(one, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
