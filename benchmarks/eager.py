"""A network applied outside of `jax.jit`, as in a notebook: the calls are the cost."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.peers import LIBRARIES, offered
from benchmarks.report import Bar, Result, Table
from benchmarks.timing import interleaved

WIDTHS, BATCH, CALLS, ROUNDS = (64,) * 9, 32, 10, 41
FLOOR = "pure jax"
LIMIT = 1.8


def run() -> Result:
    """Measure every library against the same operations written in jax."""
    x = jax.device_put(np.random.default_rng(0).normal(size=(BATCH, WIDTHS[0])).astype("float32"))
    peers = tuple(name for name in LIBRARIES if name not in ("torch_", "keras_"))
    sides, missing = offered("forwards", WIDTHS, by=("pure_jax", "jaxnn_", *peers))
    runs = {name: _repeated(apply, x) for name, apply in sides.items()}
    samples = interleaved(runs, rounds=ROUNDS, per=CALLS)
    bar = Bar("jaxnn over pure jax", samples["jaxnn"].over(samples[FLOOR]), LIMIT)
    return Result(
        "A perceptron of 8 layers, 64 wide, on 32 rows, outside of `jax.jit`.",
        [Table("Apply", "us a call", samples, FLOOR, [bar], missing)],
    )


def _repeated(apply: Callable[[Any], jax.Array], x: jax.Array) -> Callable[[], None]:
    def run() -> None:
        for _ in range(CALLS):
            jax.block_until_ready(apply(x))

    return run
