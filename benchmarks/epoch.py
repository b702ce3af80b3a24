"""One epoch of digits through 784-128-10, by each library's own way."""

import numpy as np

from benchmarks import by_step
from benchmarks.peers import LIBRARIES, offered, pure_jax
from benchmarks.report import Bar, Result, Table
from benchmarks.timing import fastest, interleaved
from jaxnn import data

WIDTHS = (784, 128, 10)
# The fastest other library over jaxnn, by batch size.
BARS = {32: 1.7, 128: 1.5}
ROUNDS = 9
PRODUCTS = "matrix products alone"
SCAN = "pure jax, a scan an epoch"


def run() -> Result:
    """Measure an epoch in every library, and only its matrix products."""
    x, y = data.mnist_5k().train_and_validation
    return Result(
        f"An epoch of {len(x)} digits through {'-'.join(map(str, WIDTHS))} (softmax cross entropy, "
        "Adam at 1e-3, shuffled each epoch, compilation excluded): `train.fit` in its steady "
        "state, each library's own loop, and hand-written jax.",
        [_table(x, y, batch) for batch in BARS],
    )


def _table(x: np.ndarray, y: np.ndarray, batch: int) -> Table:
    steps, missing = offered("steps", WIDTHS, by=("jaxnn_", "pure_jax", *LIBRARIES))
    by_hand = {name: by_step.epoch(step, x, y, batch) for name, step in steps.items()}
    floor, ours, own = (
        offered("epochs", WIDTHS, x, y, batch, by=by)[0]
        for by in (("pure_jax",), ("jaxnn_",), LIBRARIES)
    )
    products = pure_jax.products(WIDTHS, x, batch)
    samples = interleaved(ours | floor | by_hand | own | products, rounds=ROUNDS)
    libraries = [name for name in by_hand | own if not name.startswith(("jaxnn", "pure jax"))]
    rival, time = fastest(samples, libraries)
    run = samples["jaxnn fit"]
    bars = [
        Bar(
            f"fastest other library ({rival}) over jaxnn fit",
            time.over(run),
            BARS[batch],
            at_least=True,
        ),
        Bar("jaxnn fit over a scan an epoch", run.over(samples[SCAN]), 1.03),
    ]
    return Table(f"Batch {batch}", "ms an epoch", samples, PRODUCTS, bars, missing)
