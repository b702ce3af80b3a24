"""Interruptions of a run: a signal that asks it to stop, and the death of another process.

All processes of a run have to act on a signal, and on the time, at the same step.
"""

import contextlib
import re
import signal
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np

# What the libraries that connect processes raise if one does not answer: Gloo on CPUs, NCCL on
# GPUs, and the service that JAX starts in the first process.
_LOST = re.compile(
    r"gloo \w+ failed|gloo.*(connection|peer|timed? ?out)|"
    r"nccl.*(remote|peer|connection|socket|abort|timed? ?out)|"
    r"coordination ?service|heartbeat timeout|tasks? (is|are) unhealthy|barrier (failed|timed out)",
    re.IGNORECASE | re.DOTALL,
)


class Interrupted(KeyboardInterrupt):
    """Raised after a complete step if a signal asked the run to stop.

    Args:
        message: One line with the step at which the run stopped, and how to resume it.
        number: The number of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class Asked:
    """The number of the received signal, or None."""

    number: int | None = None


@contextlib.contextmanager
def listening(asked: Asked) -> Iterator[None]:
    """Record the first SIGINT or SIGTERM in the context; a second one has its usual effect.

    Only the main thread of a process can listen; in other threads nothing is recorded.

    Args:
        asked: Records the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: object) -> None:
        asked.number = number
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        restore()


class Agreed:
    """The time, and the received signal or None, equal in all processes of a run.

    If one process acts because of either, all have to do so at the same step. They exchange both
    at every fifth dispatch, since that waits for the device.

    Args:
        clock: Returns the time of this process, in seconds.
        asked: The signal of this process.
    """

    def __init__(self, clock: Callable[[], float], asked: Asked) -> None:
        self._clock, self._asked = clock, asked
        self._count, self._last = 0, (0.0, 0)

    def seconds(self) -> float:
        """Return the time at the end of a dispatch."""
        if jax.process_count() == 1:
            return self._clock()
        self._count += 1
        if self._count % 5 == 0:
            from jax.experimental.multihost_utils import process_allgather

            own = np.array([self._clock(), self._asked.number or 0], np.float32)
            every = np.asarray(process_allgather(own))
            self._last = float(every[0, 0]), int(every[:, 1].max())
        return self._last[0]

    def signal(self) -> int | None:
        """Return the number of the received signal, as of the last exchange."""
        return self._asked.number if jax.process_count() == 1 else self._last[1] or None


class PeerLost(RuntimeError):
    """Another process of the run died, so that this one cannot continue."""


def is_peer_lost(error: BaseException) -> bool:
    """Return whether an error in one of several processes means that another does not answer.

    >>> is_peer_lost(ValueError("Gloo AllReduce failed: Connection closed by peer"))  # alone
    False
    """
    if isinstance(error, PeerLost):
        return True
    library = isinstance(error, RuntimeError | ValueError)  # what JAX raises for XLA's errors
    return library and jax.process_count() > 1 and _LOST.search(str(error)) is not None


def peer_lost(error: BaseException, resume: str = "") -> PeerLost:
    """Return the error as one line: what happened, the cause, and how to resume."""
    if isinstance(error, PeerLost):
        return error
    here, count = jax.process_index(), jax.process_count()
    cause = " ".join(str(error).split())
    return PeerLost(
        f"another process of this run died, and process {here} of {count} cannot continue without "
        f"it ({cause[:200]}{'...' * (len(cause) > 200)}): see what the other processes printed, "
        f"and start all {count} again{resume}"
    )


@contextlib.contextmanager
def watching_peers(resume: Callable[[], str]) -> Iterator[None]:
    """Raise PeerLost, one line, for the errors of libraries that another process caused."""
    try:
        yield
    except Exception as error:
        if not is_peer_lost(error):
            raise
        raise peer_lost(error, resume()) from None
