"""How fast the steps go: examples, floating-point operations and memory, where the device tells."""

import time
from typing import Any

import jax

from ..core.layer import Layer
from ..inspect.flops import flops
from .optimizer import as_pytree
from .state import TrainState
from .step import pure_step
from .task import Loss

# Peak operations a second of one device in bfloat16, dense, by what `device_kind` begins with.
# Sources: the data sheets of the makers.
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


def peak_flops(kind: str) -> float | None:
    """Peak operations a second in bfloat16 of a device of this kind; None where not known.

    >>> peak_flops("NVIDIA H100 80GB HBM3"), peak_flops("cpu")
    (989000000000000.0, None)
    """
    return next((peak for name, peak in PEAKS.items() if kind.startswith(name)), None)


class Meter:
    """What the steps take since `begin`, on the devices that the state is on.

    Args:
        net, task, optimizer, ts, batch: what a step is made of; only shapes are looked at.
        size: examples a step.
    """

    def __init__(
        self, net: Layer, task: Loss, optimizer: Any, ts: TrainState, batch: Any, size: int
    ) -> None:
        self._size = size
        self._devices = len(ts.step.devices())
        # Of other processes' devices nothing is told.
        self._own = min(ts.step.sharding.addressable_devices, key=lambda device: device.id)
        self._peak = peak_flops(self._own.device_kind)
        self._flops = 0
        if self._peak is not None:  # to trace the step once more is not worth it otherwise
            optimizer, spec = as_pytree(optimizer), jax.eval_shape(lambda: ts)
            self._flops = flops(lambda *a: pure_step(net, task, optimizer, *a), spec, batch)
        self.begin(int(ts.step))

    def begin(self, step: int) -> None:
        """Count from this step and now on."""
        self._step, self._began = step, time.perf_counter()

    def read(self, step: int) -> dict[str, float]:
        """What the steps until this one have taken, once they are computed."""
        steps = step - self._step
        seconds = max(time.perf_counter() - self._began, 1e-9)
        found: dict[str, float] = {"examples_per_second": steps * self._size / seconds}
        if self._peak is not None:
            rate = steps * self._flops / seconds
            found["flops_per_second"] = rate
            found["mfu"] = rate / (self._peak * self._devices)
        memory = self._own.memory_stats()
        if memory and "peak_bytes_in_use" in memory:
            found["device_bytes"] = memory["peak_bytes_in_use"]
        return found
