"""Keras on jax: `compile` and `fit`."""

from collections.abc import Callable, Sequence
from typing import Any

import keras  # pyright: ignore[reportMissingImports]
import numpy as np

from benchmarks.peers import LEARNING_RATE


def epochs(
    widths: Sequence[int], x: np.ndarray, y: np.ndarray, batch: int
) -> dict[str, Callable[[], Any]]:
    """`model.fit` for one epoch, with default settings and with several steps a call."""
    return {
        "keras fit": _fit(widths, x, y, batch, steps_per_execution=1),
        "keras fit, 16 steps an execution": _fit(widths, x, y, batch, steps_per_execution=16),
    }


def _fit(
    widths: Sequence[int], x: np.ndarray, y: np.ndarray, batch: int, steps_per_execution: int
) -> Callable[[], Any]:
    hidden = [keras.layers.Dense(width, activation="relu") for width in widths[1:-1]]
    model = keras.Sequential([*hidden, keras.layers.Dense(widths[-1])])
    model.compile(
        optimizer=keras.optimizers.Adam(LEARNING_RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=steps_per_execution,
    )
    # Keras declares `verbose` a string, and 0 silences it.
    silent: Any = 0
    return lambda: model.fit(x, y, batch_size=batch, epochs=1, shuffle=True, verbose=silent)
