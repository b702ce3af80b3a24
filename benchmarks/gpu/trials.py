"""A thousand trials of a small network: as lanes of one program, and as a process for each."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TRIALS, EPOCHS, BATCH = 1000, 10, 128
ROWS, FEATURES, CLASSES = 3500, 784, 10


def thousand(small: bool) -> Iterator[str]:
    """784-128-10, ten epochs of 3,500 rows, a learning rate and a seed for each trial.

    The seconds of lanes are those of everything in this process after the imports: compilation,
    data, all trials, and their losses. Two processes of one trial each are timed as whole, one
    after the other, and the time of a thousand follows from their median.
    """
    alone = []
    for seed in range(1 if small else 2):
        began = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.gpu.trials", str(seed)]
        subprocess.run(
            [*command, *(["small"] if small else [])],
            check=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.DEVNULL,
        )
        alone.append(time.perf_counter() - began)
    each = statistics.median(alone)
    seconds = float("nan")
    for trials in (2,) if small else (1, TRIALS):
        began = time.perf_counter()
        losses = _losses(np.logspace(-4, -2, trials), np.arange(trials), small)
        seconds = time.perf_counter() - began
        finite = int(np.isfinite(losses).sum())
        yield (
            f"- {trials:,} trials as lanes: {seconds:.2f} s with compilation; {finite:,} losses "
            f"finite, the least {np.nanmin(losses):.4f}"
        )
    yield (
        f"- a process for each trial: {each:.2f} s a trial (median of {len(alone)}), so "
        f"{each * TRIALS:,.0f} s for {TRIALS:,}, extrapolated: {each * TRIALS / seconds:,.0f} "
        "times as long as the lanes"
    )


def _losses(rates: Any, seeds: Any, small: bool) -> np.ndarray:
    """The loss of each trial at its last step."""
    import jax
    import jax.numpy as jnp
    import optax

    import jaxnn as nn
    from jaxnn import train

    net = nn.Sequential(nn.Dense(128), jax.nn.relu, nn.Dense(CLASSES))
    rows, epochs = (2 * BATCH, 1) if small else (ROWS, EPOCHS)
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(rows, FEATURES)), jnp.float32)
    y = jnp.asarray(random.integers(CLASSES, size=rows), jnp.int32)

    def trial(rate: Any, seed: Any) -> Any:
        optimizer = train.Optimizer(optax.adam, learning_rate=rate)
        program = train.Supervised(net, train.Classification(CLASSES), optimizer)
        key = jax.random.key(seed)
        state = program.init(key, (x[:BATCH], y[:BATCH]))

        def epoch(state: Any, number: Any) -> Any:
            order = jax.random.permutation(jax.random.fold_in(key, number), rows)
            order = order[: rows // BATCH * BATCH].reshape(-1, BATCH)

            def step(state: Any, places: Any) -> Any:
                state, metrics = program.step(state, (x[places], y[places]))
                return state, metrics["loss"].value

            return jax.lax.scan(step, state, order)

        _, losses = jax.lax.scan(epoch, state, jnp.arange(epochs))
        return losses[-1, -1]

    found = jax.jit(jax.vmap(trial))(jnp.asarray(rates, jnp.float32), jnp.asarray(seeds))
    return np.asarray(jax.device_get(found))


if __name__ == "__main__":
    seed = int(sys.argv[1])
    print(_losses(np.array([1e-3]), np.array([seed]), sys.argv[2:] == ["small"]))
