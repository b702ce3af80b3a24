"""Runs of one program side by side, by `jax.vmap` over the numbers of the program."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn import train


class Lanes(train.Program):
    """A program whose numbers have a leading axis, as one program.

    Args:
        program: each of its leaves is an array (lanes, ...), as `jax.vmap(build)(numbers)` returns.
        count: the number of lanes.
    """

    program: train.Program
    count: int

    def init(self, key, batch):
        """The state of each lane, all from the same key."""
        return jax.vmap(lambda program: program.init(key, batch))(self.program)

    def step(self, state, batch):
        """A step of each lane on the same batch; metrics are named `loss 0`, `loss 1`, ..."""
        state, metrics = jax.vmap(lambda program, s: program.step(s, batch))(self.program, state)
        return state, self.named(metrics)

    def evaluate(self, state, batch, *, key):
        """Metrics of each lane."""
        return self.named(
            jax.vmap(lambda program, s: program.evaluate(s, batch, key=key))(self.program, state)
        )

    def named(self, metrics):
        """Metrics of all lanes as metrics of each."""
        return {
            f"{name} {lane}": jax.tree.map(lambda leaf, lane=lane: leaf[lane], metric)
            for name, metric in metrics.items()
            for lane in range(self.count)
        }


def lanes(build: Callable[[Any], train.Program], config: Any, grid: dict[str, Any]):
    """The lanes of all combinations of a grid, and the numbers of each."""
    rows = list(itertools.product(*grid.values()))

    def one(*numbers):
        return build(dataclasses.replace(config, **dict(zip(grid, numbers, strict=True))))

    programs = jax.vmap(one)(*map(jnp.array, zip(*rows, strict=True)))
    return Lanes(programs, len(rows)), [dict(zip(grid, row, strict=True)) for row in rows]
