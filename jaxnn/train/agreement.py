"""What all processes of a run must agree on: the time, the signals, and the death of one."""

import contextlib
import re
from collections.abc import Callable, Iterator

import jax
import numpy as np

from .signals import Asked

# The errors of the libraries that connect processes if one does not answer: Gloo on CPUs, NCCL on
# GPUs, and the service that JAX starts in the first process.
_LOST = re.compile(
    r"gloo \w+ failed|gloo.*(connection|peer|timed? ?out)|"
    r"nccl.*(remote|peer|connection|socket|abort|timed? ?out)|"
    r"coordination ?service|heartbeat timeout|tasks? (is|are) unhealthy|barrier (failed|timed out)",
    re.IGNORECASE | re.DOTALL,
)


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
    """Raise PeerLost for the errors of libraries that another process caused."""
    try:
        yield
    except Exception as error:
        if not is_peer_lost(error):
            raise
        raise peer_lost(error, resume()) from None


class Agreed:
    """The time, and the signal received or None, the same in all processes of a run.

    What one process does because of either, all must do at the same step. They exchange both at
    every fifth dispatch, since that waits for the device.

    Args:
        clock: Returns the time in seconds.
        asked: The signals of this process.
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
        """Return the number of the signal received, as of the last exchange of the processes."""
        return self._asked.number if jax.process_count() == 1 else self._last[1] or None
