"""An epoch written by hand around a step: shuffle, then one call a batch."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def epoch(step: Callable[..., Any], x: np.ndarray, y: np.ndarray, batch: int) -> Callable[[], None]:
    """A run over every full batch of the rows, in a new order each time."""
    random = np.random.default_rng(0)

    def run() -> None:
        value = None
        order = random.permutation(len(x))
        for start in range(0, len(x) - batch + 1, batch):
            rows = order[start : start + batch]
            value = step(x[rows], y[rows])
        jax.block_until_ready(value)

    return run
