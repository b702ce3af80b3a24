"""One call of a compiled training step, on networks so small that the call itself is the cost."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.peers import LIBRARIES, offered
from benchmarks.report import Bar, Result, Table
from benchmarks.timing import interleaved

WIDTH = 16
BATCH = 32
# Calls to one measurement, by depth.
CALLS = {4: 20, 32: 5}
ROUNDS = 101
FLOOR = "pure jax, a call a step"


def run() -> Result:
    """Measure every library's step against hand-written jax."""
    return Result(
        f"A training step (softmax cross entropy, Adam) at width {WIDTH}, batch {BATCH}, always on "
        "the same batch: `train.make_step`, hand-written jax with donation, and each library's "
        "step as its documentation writes it.",
        [_table(depth) for depth in CALLS],
    )


def _table(depth: int) -> Table:
    widths = (WIDTH,) * (depth + 1)
    random = np.random.default_rng(0)
    x = jax.device_put(random.normal(size=(BATCH, WIDTH)).astype(np.float32))
    y = jax.device_put(random.integers(WIDTH, size=BATCH).astype(np.int32))
    steps, missing = offered("steps", widths, by=("pure_jax", "jaxnn_", *LIBRARIES))
    sides = {name: _repeated(step, x, y, CALLS[depth]) for name, step in steps.items()}
    samples = interleaved(sides, rounds=ROUNDS, per=CALLS[depth])
    bar = Bar("jaxnn over pure jax", samples["jaxnn make_step"].over(samples[FLOOR]), 1.05)
    return Table(f"Depth {depth}", "us a step", samples, FLOOR, [bar], missing)


def _repeated(
    step: Callable[..., Any], x: jax.Array, y: jax.Array, calls: int
) -> Callable[[], None]:
    def run() -> None:
        value = None
        for _ in range(calls):
            value = step(x, y)
        jax.block_until_ready(value)

    return run
