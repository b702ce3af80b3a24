"""One call of a compiled training step, on networks so small that the call itself is the cost."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.peers import LIBRARIES, offered
from benchmarks.report import Bar, Result, Table
from benchmarks.timing import interleaved

SMALL = 16
# Widths and batch of a network, and the calls to one measurement.
NETWORKS = {
    f"{SMALL} wide, depth 4, batch 32": ((SMALL,) * 5, 32, 20),
    f"{SMALL} wide, depth 32, batch 32": ((SMALL,) * 33, 32, 5),
    "784-128-10, batch 128": ((784, 128, 10), 128, 20),
}
ROUNDS = 101
FLOOR = "pure jax, a call a step"


def run() -> Result:
    """Measure every library's step against hand-written jax."""
    return Result(
        "A training step (softmax cross entropy, Adam), always on the same batch: "
        "`train.make_step`, hand-written jax with donation, and each library's step as its "
        "documentation writes it.",
        [_table(title, *network) for title, network in NETWORKS.items()],
    )


def _table(title: str, widths: Sequence[int], batch: int, calls: int) -> Table:
    random = np.random.default_rng(0)
    x = jax.device_put(random.normal(size=(batch, widths[0])).astype(np.float32))
    y = jax.device_put(random.integers(widths[-1], size=batch).astype(np.int32))
    steps, missing = offered("steps", widths, by=("pure_jax", "jaxnn_", *LIBRARIES))
    sides = {name: _repeated(step, x, y, calls) for name, step in steps.items()}
    samples = interleaved(sides, rounds=ROUNDS, per=calls)
    bar = Bar("jaxnn over pure jax", samples["jaxnn make_step"].over(samples[FLOOR]), 1.05)
    return Table(title.capitalize(), "us a step", samples, FLOOR, [bar], missing)


def _repeated(
    step: Callable[..., Any], x: jax.Array, y: jax.Array, calls: int
) -> Callable[[], None]:
    def run() -> None:
        value = None
        for _ in range(calls):
            value = step(x, y)
        jax.block_until_ready(value)

    return run
