"""Hooks that measure time: Throughput, and Profile, which records a trace of the device."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax

from ...core.values import Value
from ...inspect.summary import flops
from ...validation import natural, positive
from ..record import Event, Moment
from .hook import FOLDER, Hook

TIMINGS = (
    "seconds",
    "examples_per_second",
    "steps_per_second",
    "flops_per_second",
    "mfu",
    "device_bytes",
)
"""The names of the metrics of `Throughput`, whose values differ between equal runs."""

# Peak operations per second of one device in dense bfloat16, by prefix of `device_kind`. Sources:
# the data sheets of the manufacturers.
PEAKS = {
    "NVIDIA B200": 2.25e15,
    "NVIDIA H200": 989e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
    "Tesla V100": 125e12,
    "Tesla T4": 65e12,
    "TPU v6": 918e12,
    "TPU v5p": 459e12,
    "TPU v5": 197e12,
    "TPU v4": 275e12,
    "TPU v3": 123e12,
    "TPU v2": 46e12,
}


@dataclasses.dataclass(frozen=True)
class Throughput(Hook):
    """Add the speed of the steps since the last record to each record.

    The time of other hooks, such as an evaluation, is not counted, so this hook must be the first
    one. The first record includes the time of compilation. `train.TIMINGS` lists the names:

    - `seconds`: the duration of the run in seconds, including the time before it was resumed.
    - `examples_per_second`, or `steps_per_second` for a program without data.
    - `flops_per_second`: from the floating-point operations in the jaxpr of a step.
    - `mfu`: the utilization of the peak performance of the devices in bfloat16, if it is known.
    - `device_bytes`: the peak memory use of the first device, if it is known.

    >>> Throughput()
    Throughput()
    """

    leads: ClassVar[bool] = True

    def open(self, run: Any) -> contextlib.AbstractContextManager[Any]:
        """Return the meter of this run."""
        return contextlib.nullcontext(_Meter(run))


class _Meter(Hook):
    """The opened `Throughput` of a run."""

    leads = True

    def __init__(self, run: Any) -> None:
        self._run, self._step, self._rows = run, run.step, run.rows
        self._flops, self._devices, self._peak = 0, jax.local_devices()[:1], None

    def check(self, run: Any) -> None:
        """Count the operations of a step."""
        leaves = [leaf for leaf in jax.tree.leaves(run.state) if isinstance(leaf, jax.Array)]
        if leaves:
            self._devices = sorted(leaves[0].devices(), key=lambda device: device.id)
        self._peak = peak_flops(self._devices[0].device_kind)
        self._flops = flops(run.program.step, run.state, run.loader.spec())
        run.names |= self._numbers(1, 1, 1.0).keys()

    def see(self, memory: Any, event: Event) -> tuple[Any, None]:
        """Wait for the steps, and add the numbers to the record."""
        if event.is_record:
            event.metrics.plain()  # it waits for the steps
            seconds = max(time.perf_counter() - self._run.recorded_at, 1e-9)
            rows = event.run.rows - self._rows
            event.add(self._numbers(event.step - self._step, rows, seconds))
            self._step, self._rows = event.step, event.run.rows
        return memory, None

    def _numbers(self, steps: int, rows: int, seconds: float) -> dict[str, float]:
        run, rate = self._run, steps / seconds
        found = {"seconds": run.seconds()}
        if run.data is None:
            found["steps_per_second"] = rate
        else:
            found["examples_per_second"] = rows / seconds
        if self._flops:
            found["flops_per_second"] = rate * self._flops
            if self._peak is not None:
                found["mfu"] = rate * self._flops / (self._peak * len(self._devices))
        local = next((one for one in self._devices if one in jax.local_devices()), None)
        memory = local and local.memory_stats()
        if memory and "peak_bytes_in_use" in memory:
            found["device_bytes"] = memory["peak_bytes_in_use"]
        return found


def peak_flops(kind: str) -> float | None:
    """Return the peak operations per second of a device in bfloat16; None if unknown.

    Args:
        kind: Its `device_kind`.

    >>> peak_flops("NVIDIA H100 80GB HBM3"), peak_flops("cpu")
    (989000000000000.0, None)
    """
    return next((peak for name, peak in PEAKS.items() if kind.startswith(name)), None)


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

    folder: Annotated[str | os.PathLike[str], FOLDER]
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
