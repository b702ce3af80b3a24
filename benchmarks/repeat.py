"""Compiling a step of equal blocks, scanned by `Repeat` against unrolled in a `Sequential`."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

import jaxnn as nn
from benchmarks.peers import jaxnn_, shapes
from benchmarks.report import Bar, Result, Table
from benchmarks.timing import interleaved
from jaxnn import train

BLOCKS = 24
BATCH = 32
ROUNDS = 3
SCANNED, UNROLLED = "Repeat(block, n)", "Sequential(*[block] * n)"


def run() -> Result:
    """Measure both compilations."""
    block = jaxnn_.block()
    nets = {SCANNED: nn.Repeat(block, BLOCKS), UNROLLED: nn.Sequential(*[block] * BLOCKS)}
    sides = {name: _compilation(net) for name, net in nets.items()}
    samples = interleaved(sides, rounds=ROUNDS, warm_up=1)
    bar = Bar("Repeat over Sequential", samples[SCANNED].over(samples[UNROLLED]), 0.25)
    return Result(
        f"From `train.make_step` to the end of the first call, for {BLOCKS} transformer blocks "
        f"without attention (width {shapes.WIDTH}, hidden {shapes.HIDDEN}), all of jax's caches "
        "cleared before.",
        [Table("Trace, compile and first call", "s", samples, UNROLLED, [bar])],
    )


def _compilation(net: nn.Layer) -> Callable[[], object]:
    program, x = (
        train.Supervised(net, _mean_square, optax.adam(1e-3)),
        jnp.ones((BATCH, shapes.WIDTH)),
    )
    start = program.init(jax.random.key(0), (x, x))

    def run() -> float:
        jax.clear_caches()
        # A step takes the memory of the state it is given.
        state = jax.block_until_ready(jax.tree.map(jnp.copy, start))
        begin = time.perf_counter()
        step = train.make_step(program)
        jax.block_until_ready(step(state, (x, x)))
        return time.perf_counter() - begin

    return run


def _mean_square(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return ((outputs - targets) ** 2).mean()
