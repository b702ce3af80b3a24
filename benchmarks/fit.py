"""The training loop of a small network, per step, against a call for each step."""

import numpy as np

from benchmarks import by_step
from benchmarks.peers import offered
from benchmarks.report import Bar, Result, Table
from benchmarks.timing import interleaved

WIDTH = 16
BATCH = 32
DEPTHS = (4, 32)
EXAMPLES = 3200
ROUNDS = 15
FLOOR = "pure jax, a call a step"
SCAN = "pure jax, a scan an epoch"


def run() -> Result:
    """Measure `train.fit` against hand-written loops."""
    return Result(
        f"Training at width {WIDTH}, batch {BATCH}, on {EXAMPLES} shuffled examples: `train.fit` "
        "in its steady state, and hand-written jax with a call a step or a scan an epoch.",
        [_table(depth) for depth in DEPTHS],
    )


def _table(depth: int) -> Table:
    widths = (WIDTH,) * (depth + 1)
    random = np.random.default_rng(0)
    x = random.normal(size=(EXAMPLES, WIDTH)).astype(np.float32)
    y = random.integers(WIDTH, size=EXAMPLES).astype(np.int32)
    steps, _ = offered("steps", widths, by=("pure_jax",))
    loops, _ = offered("epochs", widths, x, y, BATCH, by=("jaxnn_", "pure_jax"))
    sides = {name: by_step.epoch(step, x, y, BATCH) for name, step in steps.items()} | loops
    samples = interleaved(sides, rounds=ROUNDS, per=EXAMPLES // BATCH)
    ours = samples["jaxnn fit"]
    bars = [
        Bar("jaxnn fit over a call a step", ours.over(samples[FLOOR]), 0.25),
        Bar("jaxnn fit over a scan an epoch", ours.over(samples[SCAN]), 1.03),
    ]
    return Table(f"Depth {depth}", "us a step", samples, FLOOR, bars)
