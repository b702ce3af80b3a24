"""A configuration as a pure training program, and the recipe that makes one of the other."""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax

from .. import train
from ..core.layer import Layer
from ..train.loop import Augment, Record
from .problem import Problem

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class Program:
    """All that a run depends on beside the data: pure functions and numbers.

    What `train.fit` takes, as one value, so that the same program can be run by `fit`, stepped by
    hand or mapped over many configurations. The numbers of `net` and `optimizer` may be traced.
    """

    net: Layer
    task: train.Task
    optimizer: train.Optimizer
    batch_size: int
    epochs: int
    seed: int
    augment: Augment | None = None

    def fit(
        self, data: Any, *, validation: Any = None, report: Callable[[Record], None] | None = None
    ) -> tuple[train.TrainState, list[Record]]:
        """Train on `data = (x, y)`: the state after the last epoch, and a record an epoch."""
        return train.fit(
            self.net,
            self.task,
            self.optimizer,
            data,
            key=jax.random.key(self.seed),
            validation=validation,
            batch_size=self.batch_size,
            epochs=self.epochs,
            augment=self.augment,
            report=report,
        )


@dataclasses.dataclass(frozen=True)
class Recipe(Generic[Config]):
    """An experiment: what the command line, and later a sweep, are made from.

    Args:
        name: the module's name in `experiments`, which names run folders too.
        header: the module's docstring: what it does, the command, the result to expect.
        config: the configuration, a frozen dataclass whose fields all have defaults.
        problem: reads the data and says what is to be learnt.
        build: turns a configuration into a training program, purely.
        space: what a sweep may change: a `jaxnn.sweep.Space` of the configuration.
    """

    name: str
    header: str | None
    config: type[Config]
    problem: Callable[[], Problem]
    build: Callable[[Config, Problem], Program]
    space: Any = dataclasses.field(default=None, compare=False)


def run_length(rows: int, batch_size: int, epochs: int) -> int:
    """The number of steps of a run: whole batches an epoch, times epochs.

    Raises ValueError for numbers that no run can have.

    >>> run_length(rows=3500, batch_size=128, epochs=30)
    810
    """
    if not 1 <= batch_size <= rows:
        raise ValueError(
            f"batch_size is {batch_size}, wanted 1 .. {rows}, the number of training examples"
        )
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}, wanted at least 1")
    return rows // batch_size * epochs
