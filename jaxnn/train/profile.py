"""A trace of chosen steps, for a profiler to show."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from ..core.values import Value
from .evaluation import check_count


class Profile(Value):
    """Write a trace of `steps` steps, from the one after `first` on, into `folder`.

    TensorBoard's profiler and Perfetto show it. The first steps of a run compile; skip them. Raises
    ValueError for numbers that are no counts.

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
