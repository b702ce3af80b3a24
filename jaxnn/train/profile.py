"""A trace of chosen steps, for a profiler to show."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from ..core.values import Value
from .evaluation import check_count
from .event import Event
from .every import Moment
from .hooks.hook import Hook


class Profile(Value, Hook):
    """Write a trace of `steps` steps, from the one after `first` on, into `folder`.

    TensorBoard's profiler and Perfetto show it. The first steps of a run compile; skip them. It is
    a hook, `train.fit(program, data, ..., hooks=[Profile("runs/a/trace")])`. A trace that cannot
    be written is reported by a warning, and the run continues. Raises ValueError for numbers that
    are no counts.

    Args:
        folder: where the trace goes; it is created.
        first: the number of steps before the trace, 10 by default.
        steps: the number of steps in the trace, 3 by default.

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
    def ends(self) -> tuple[int, int]:
        """The steps after which the trace begins and ends."""
        return self.first, self.first + self.steps

    @contextlib.contextmanager
    def open(self, run: Any) -> Iterator[Hook]:
        """The trace of a run; it ends with the run."""
        with tracing_of(self) as tracing:
            yield _Profiling(self, run.step, tracing)


class _Profiling(Hook):
    """The opened `Profile` of a run."""

    def __init__(self, profile: Profile, step: int, tracing: "Tracing") -> None:
        self._ends, self._step, self._tracing = profile.ends, step, tracing

    @property
    def ends(self) -> tuple[int, ...]:
        """As `Profile.ends`."""
        return self._ends

    def begin(self, state: Any) -> None:
        """Begin the trace if its first step is that of the run."""
        self._tracing.at(self._step)

    def is_due(self, now: Moment, since: Moment) -> bool:
        """Whether the trace begins or ends here."""
        return now.step in self._ends

    def see(self, memory: Any, event: Event) -> tuple[Any, None]:
        """Begin or end the trace."""
        self._tracing.at(event.step, event.state)
        self._tracing.at(event.step)
        return memory, None


class Tracing:
    """Begins and ends the trace when its steps come."""

    def __init__(self, profile: Profile | None) -> None:
        self._profile, self._on = profile, False

    def at(self, step: int, ts: Any = None) -> None:
        """The run is after this step; `ts` is waited for before the trace ends."""
        if self._profile is None:
            return
        first, last = self._profile.ends
        if step == first and ts is None and not self._on:
            with self._attempted():
                Path(self._profile.folder).mkdir(parents=True, exist_ok=True)
                jax.profiler.start_trace(self._profile.folder)
                self._on = True
        elif step == last and ts is not None:
            jax.block_until_ready(ts)
            self.end()

    def end(self) -> None:
        """End the trace, if there is one."""
        if self._on:
            self._on = False
            with self._attempted():
                jax.profiler.stop_trace()

    @contextlib.contextmanager
    def _attempted(self) -> Iterator[None]:
        """Turn what fails into a warning: a trace costs no run."""
        try:
            yield
        except Exception as error:
            folder = self._profile.folder if self._profile else ""
            warnings.warn(
                f"no trace was written into {folder} ({type(error).__name__}: {error}): the run "
                "continues without it; write Profile(...) with another folder",
                RuntimeWarning,
                stacklevel=4,
            )


@contextlib.contextmanager
def tracing_of(profile: Profile | None) -> Iterator[Tracing]:
    """The trace of a run; it ends with the run."""
    tracing = Tracing(profile)
    try:
        yield tracing
    finally:
        tracing.end()
