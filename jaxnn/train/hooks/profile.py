"""Profile: a trace of chosen steps, for a profiler to show."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import jax

from ...core.values import Value
from ...validation import natural, positive
from ..every import Moment
from ..record import Event
from .hook import Hook


class Profile(Value, Hook):
    """Write a profiler trace of `steps` steps, after the first `first` steps, into `folder`.

    View the trace with TensorBoard's profiler or Perfetto. Skip the first steps of a run, which
    include compilation.

    Args:
        folder: The folder for the trace, which is created if it does not exist.
        first: Number of steps before the trace. Default: 10.
        steps: Number of steps in the trace. Default: 3.

    Raises:
        ValueError: A number of steps is out of range.
        OSError: Before the first step: the folder cannot be created.

    >>> Profile("runs/a/trace", first=10, steps=3).ends
    (10, 13)
    """

    folder: str
    first: Annotated[int, natural] = 10
    steps: Annotated[int, positive] = 3

    @property
    def ends(self) -> tuple[int, ...]:
        """The steps after which the trace begins and ends."""
        return self.first, self.first + self.steps

    @contextlib.contextmanager
    def open(self, run: Any) -> Iterator[Hook]:
        """Make the folder, and end the trace with the run."""
        Path(self.folder).mkdir(parents=True, exist_ok=True)
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
        """Return whether the trace begins or ends here."""
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
            jax.profiler.stop_trace()

    def _begin_at(self, step: int) -> None:
        if step == self._profile.first and not self._on:
            jax.profiler.start_trace(self._profile.folder)
            self._on = True
