"""Intervals in steps, epochs, or minutes."""

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

from ..core.values import Value
from ..validation import above, positive


class Moment(NamedTuple):
    """The position of a run.

    Args:
        step: The number of steps since the beginning of the run.
        steps_per_epoch: The number of steps of an epoch.
        seconds: The time, of a clock that never goes back.
    """

    step: int
    steps_per_epoch: int
    seconds: float


class Every(Value):
    """An interval in steps, epochs, or minutes; if several are given, each is due separately.

    Steps and epochs count from the beginning of the run, so they are due at the same steps in a
    resumed run. Minutes count from the last time, and are checked at the end of each dispatch.

    Args:
        steps: An int >= 1. Default: None.
        epochs: An int >= 1. Default: None.
        minutes: A number > 0. Default: None.

    Raises:
        ValueError: No argument is given, or an argument is out of range.

    >>> Every(epochs=2).due(Moment(20, 10, 0.0), since=Moment(10, 10, 0.0))
    True
    """

    steps: Annotated[int | None, None | positive] = None
    epochs: Annotated[int | None, None | positive] = None
    minutes: Annotated[float | None, None | above(0)] = None

    def __post_init__(self) -> None:
        """Check that something is given."""
        if self.steps is self.epochs is self.minutes is None:
            raise ValueError("Every takes steps, epochs, or minutes; write Every(epochs=1)")

    def due(self, now: Moment, since: Moment) -> bool:
        """Return whether the interval is over at `now`, if the last time was `since`."""
        if self.minutes is not None and now.seconds - since.seconds >= 60 * self.minutes:
            return True
        counts = self._counts(now.steps_per_epoch)
        return any(now.step // count > since.step // count for count in counts)

    def next_step(self, step: int, steps_per_epoch: int) -> int | None:
        """Return the first step after `step` that steps or epochs make due; None for minutes."""
        counts = self._counts(steps_per_epoch)
        return min((step - step % count + count for count in counts), default=None)

    def _counts(self, steps_per_epoch: int) -> list[int]:
        counts = self.steps, self.epochs and self.epochs * steps_per_epoch
        return [count for count in counts if count is not None]


def ends_of(
    epoch: int, at_once: int, total: int, several: Sequence[Every], further: Sequence[int] = ()
) -> Callable[[int], int]:
    """Return a function from a step to the end of the dispatch that begins there.

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
