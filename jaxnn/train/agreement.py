"""What all processes of a run have to see alike: the time, and the signals that came."""

from collections.abc import Callable

import jax
import numpy as np

from .signals import Asked


class Agreed:
    """The time, and the signal that came or None, alike in all processes of a run.

    What one of them does because of either, all have to do at the same step. They ask each other at
    every fifth dispatch, since that waits for the device.
    """

    def __init__(self, clock: Callable[[], float], asked: Asked) -> None:
        self._clock, self._asked = clock, asked
        self._count, self._last = 0, (0.0, 0)

    def seconds(self) -> float:
        """The time at the end of a dispatch."""
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
        """The number of the signal that came, as of the last asking where there are several."""
        return self._asked.number if jax.process_count() == 1 else self._last[1] or None
