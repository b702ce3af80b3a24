"""The number of steps in one dispatch, which a run waits for.

A signal, a display, and hooks that depend on time wait for the end of a dispatch. The number
follows only from the jaxpr of the steps and not from a clock, so that a resumed run has the
dispatches of an uninterrupted one.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax

from ..inspect.flops import costs

LONGEST = 2.0  # seconds of a dispatch, by an estimate that is too high rather than too low
OPERATIONS = {"cpu": 5e9, "gpu": 1e13, "tpu": 1e13}  # a second
EQUATION = 1e-6  # seconds to begin one
UNKNOWN = 100  # times that a loop of unknown length runs


def steps_at_once(jaxpr: Any, count: int, most: int, steps_per_epoch: int | None) -> int:
    """Return the largest number of steps in one dispatch.

    Args:
        jaxpr: The jaxpr of `count` steps.
        count: Their number.
        most: The largest number that is allowed.
        steps_per_epoch: The steps of an epoch, which dispatches divide evenly if they can, so that
            there is one program; None without epochs.
    """
    platform = jax.default_backend()
    if platform == "cpu" and has_convolution(jaxpr):
        return 1  # XLA's convolutions are ten times slower in a loop on a CPU
    operations = sum(cost for _, cost in costs(jaxpr)) / OPERATIONS.get(platform, 5e9)
    seconds = (operations + EQUATION * sum(times for _, times in _equations(jaxpr))) / count
    most = min(most, max(1, math.floor(LONGEST / seconds)) if seconds else most)
    if steps_per_epoch is None:
        return most
    even = (n for n in range(most, most // 4, -1) if steps_per_epoch % n == 0)
    return next(even, most)


def has_convolution(jaxpr: Any) -> bool:
    """Return whether a jaxpr or one inside it convolves."""
    return any(e.primitive.name == "conv_general_dilated" for e, _ in _equations(jaxpr))


def _equations(jaxpr: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
    """Yield the equations of a jaxpr and of those inside it, with how often each runs."""
    from jax.extend.core import jaxprs_in_params  # here: its import is slow

    for equation in jaxpr.eqns:
        yield equation, times
        loops = {"scan": equation.params.get("length", 1), "while": UNKNOWN}
        inside = times * loops.get(equation.primitive.name, 1)
        for inner in jaxprs_in_params(equation.params):
            yield from _equations(inner, inside)
