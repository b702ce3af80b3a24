"""How often something is done: after a number of steps, epochs, or minutes."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..core.values import Value


class Moment(NamedTuple):
    """Where a run is.

    Args:
        step: steps done since the beginning of the run.
        steps_per_epoch: steps of an epoch.
        seconds: of a clock that never goes back.
    """

    step: int
    steps_per_epoch: int
    seconds: float


class Every(Value):
    """After a number of steps, epochs, or minutes; if several are given, whenever one is due.

    Steps and epochs count from the beginning of the run, so a resumed run has the same ones.
    Minutes count from the last time, and are noticed at the end of a dispatch.

    Args:
        steps: an int > 0, or None (the default).
        epochs: an int > 0, or None (the default).
        minutes: a number > 0, or None (the default).

    Raises ValueError if nothing is given, and for a number that is not above 0.

    >>> Every(epochs=2).due(Moment(20, 10, 0.0), since=Moment(10, 10, 0.0))
    True
    """

    steps: int | None = None
    epochs: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        given = {"steps": self.steps, "epochs": self.epochs, "minutes": self.minutes}
        given = {name: number for name, number in given.items() if number is not None}
        if not given:
            raise ValueError("Every takes steps, epochs, or minutes; write Every(epochs=1)")
        for name, number in given.items():
            whole = name == "minutes" or isinstance(number, int)
            if isinstance(number, bool) or not whole or not 0 < number < math.inf:
                kind = "a number" if name == "minutes" else "an int"
                raise ValueError(f"Every.{name} is {kind} above 0, got {number!r}")

    def due(self, now: Moment, since: Moment) -> bool:
        """Whether it is time now, if the last time was `since`."""
        if self.minutes is not None and now.seconds - since.seconds >= 60 * self.minutes:
            return True
        lengths = (self.steps, self.epochs and self.epochs * now.steps_per_epoch)
        return any(n and now.step // n > since.step // n for n in lengths)

    def next_step(self, step: int, steps_per_epoch: int) -> int | None:
        """The first step after `step` at which it is due by steps or epochs; None for minutes."""
        lengths = (self.steps, self.epochs and self.epochs * steps_per_epoch)
        return min((step - step % n + n for n in lengths if n), default=None)


def ends_of(
    epoch: int, at_once: int, total: int, several: Sequence[Every], further: Sequence[int] = ()
) -> Callable[[int], int]:
    """From a step to the end of the dispatch that begins there: a function of the step alone.

    Dispatches end with an epoch of `epoch` steps, with the run, whenever one of `several` is due by
    steps or epochs, and at the steps `further`; in between they take `at_once` steps.

    >>> end = ends_of(epoch=10, at_once=4, total=25, several=[Every(steps=6)])
    >>> [end(step) for step in (0, 4, 6, 8, 10, 24)]
    [4, 6, 8, 10, 12, 25]
    """

    def end(step: int) -> int:
        begun = step - step % epoch
        ends = [begun + epoch, step + at_once - (step - begun) % at_once, total]
        ends += [n for one in several if (n := one.next_step(step, epoch)) is not None]
        return min([*ends, *(n for n in further if n > step)])

    return end
