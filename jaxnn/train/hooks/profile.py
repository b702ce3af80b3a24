"""Profile: a trace of chosen steps, for a profiler to show."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from ...core.values import Value
from ..evaluation import check_count
from ..event import Event
from ..every import Moment
from .hook import Hook


class Profile(Value, Hook):
    """Write a trace of `steps` steps, from the one after `first` on, into `folder`.

    TensorBoard's profiler and Perfetto show it. The first steps of a run compile; skip them. If the
    trace cannot be written, a warning reports it, and the run continues.

    Args:
        folder: where the trace goes; it is created.
        first: the number of steps before the trace, 10 by default.
        steps: the number of steps in the trace, 3 by default.

    Raises ValueError for numbers of steps out of range.

    >>> Profile("runs/a/trace", first=10, steps=3).ends
    (10, 13)
    """

    folder: str
    first: int = 10
    steps: int = 3

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_count(self.first, "Profile.first", least=0)
        check_count(self.steps, "Profile.steps")

    @property
    def ends(self) -> tuple[int, ...]:
        """The steps after which the trace begins and ends."""
        return self.first, self.first + self.steps

    @contextlib.contextmanager
    def open(self, run: Any) -> Iterator[Hook]:
        """The trace of a run; it ends with the run."""
        tracing = _Tracing(self, run.step)
        try:
            yield tracing
        finally:
            tracing.end()


class _Tracing(Hook):
    """The opened `Profile` of a run."""

    def __init__(self, profile: Profile, step: int) -> None:
        self._profile, self._step, self._on = profile, step, False

    @property
    def ends(self) -> tuple[int, ...]:
        """As `Profile.ends`."""
        return self._profile.ends

    def begin(self, state: Any) -> None:
        """Begin the trace if its first step is that of the run."""
        self._begin_at(self._step)

    def is_due(self, now: Moment, since: Moment) -> bool:
        """Whether the trace begins or ends here."""
        return now.step in self.ends

    def see(self, memory: Any, event: Event) -> tuple[Any, None]:
        """Begin or end the trace."""
        if event.step == self.ends[1]:
            jax.block_until_ready(event.state)
            self.end()
        self._begin_at(event.step)
        return memory, None

    def end(self) -> None:
        """End the trace, if there is one."""
        if self._on:
            self._on = False
            with self._attempted():
                jax.profiler.stop_trace()

    def _begin_at(self, step: int) -> None:
        if step == self._profile.first and not self._on:
            with self._attempted():
                Path(self._profile.folder).mkdir(parents=True, exist_ok=True)
                jax.profiler.start_trace(self._profile.folder)
                self._on = True

    @contextlib.contextmanager
    def _attempted(self) -> Iterator[None]:
        """Turn errors into warnings."""
        try:
            yield
        except Exception as error:
            warnings.warn(
                f"no trace was written into {self._profile.folder} ({type(error).__name__}: "
                f"{error}): the run continues without it; write Profile(...) with another folder",
                RuntimeWarning,
                stacklevel=4,
            )
