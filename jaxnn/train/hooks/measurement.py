"""Hooks that measure a run: LearningRate, Throughput, and Profile, a trace of the device."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax
import numpy as np
import optax

from ...core.values import Value
from ...inspect.summary import flops
from ...validation import natural, positive
from ..optimizer import Optimizer, states_of
from ..program import Program
from ..record import Event, Moment
from . import FOLDER, Hook


@dataclasses.dataclass(frozen=True)
class LearningRate(Hook):
    """Add the learning rate of the last step to each record, as `learning_rate`.

    The program must contain a `train.Optimizer` with an argument `learning_rate`, a number or a
    schedule. If it contains several, their names are `learning_rate/PATH`, with the path in the
    program. A single schedule is evaluated at the number of updates in the state; several schedules
    are evaluated at the step of the run.

    Raises:
        ValueError: Before the first step: the program has no such optimizer.

    >>> import optax, jaxnn as nn
    >>> from jaxnn import train
    >>> rates = train.Cosine(1e-3, steps=100)
    >>> program = train.Supervised(nn.Dense(1), train.Regression(),
    ...                            train.Optimizer(optax.adam, learning_rate=rates))
    >>> list(rates_of(program, 0))
    ['learning_rate']
    """

    def check(self, run: Any) -> None:
        """Raise ValueError for a program without a learning rate."""
        names = rates_of(run.program, 0).keys()
        if not names:
            raise ValueError(
                "LearningRate finds no train.Optimizer with a learning_rate in "
                f"{type(run.program).__name__}; write "
                "train.Optimizer(optax.adam, learning_rate=1e-3), or leave the hook out"
            )
        run.names |= names

    def see(self, memory: Any, event: Event) -> tuple[Any, None]:
        """Add the rates to the record."""
        if event.is_record:
            counts = states_of(event.state, optax.ScaleByScheduleState)
            updates = int(counts[0].count) if len(counts) == 1 else event.step
            event.add(rates_of(event.run.program, max(updates - 1, 0)))
        return memory, None


def rates_of(program: Any, step: int) -> Mapping[str, float]:
    """Return the learning rates of a program by name, in the step with this number, from 0.

    Args:
        program: A `train.Program`, with optimizers anywhere in its fields.
        step: The number of updates before.
    """
    several = ((path, _rate_at(one, step)) for path, one in _optimizers(program))
    found = {path: rate for path, rate in several if rate is not None}
    if len(found) == 1:
        return {"learning_rate": next(iter(found.values()))}
    return {f"learning_rate/{path}": rate for path, rate in found.items()}


def _optimizers(program: Any, above: str = "") -> Iterator[tuple[str, Optimizer]]:
    """Yield the optimizers in the fields of a program and of programs inside, with their paths."""
    fields = {field.name: getattr(program, field.name) for field in dataclasses.fields(program)}
    kinds = Optimizer, Program
    leaves = jax.tree_util.tree_leaves_with_path(fields, is_leaf=lambda x: isinstance(x, kinds))
    for keys, item in leaves:
        path = above + jax.tree_util.keystr(keys, simple=True, separator="/")
        if isinstance(item, Program):
            yield from _optimizers(item, f"{path}/")
        elif isinstance(item, Optimizer):
            yield path, item


def _rate_at(optimizer: Optimizer, step: int) -> float | None:
    """Return the learning rate in a step, of an optimizer or the first inside it."""
    rate = optimizer.arguments.get("learning_rate")
    if rate is not None:
        return float(np.asarray(rate(step) if callable(rate) else rate))
    parts = jax.tree.leaves(optimizer.parts, is_leaf=lambda one: isinstance(one, Optimizer))
    inside = (_rate_at(one, step) for one in parts if isinstance(one, Optimizer))
    return next((found for found in inside if found is not None), None)


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
