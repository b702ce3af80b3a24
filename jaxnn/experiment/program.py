"""A configuration as a pure training program, and the recipe that makes one of the other."""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax

from .. import train
from ..core.layer import Layer
from ..train.evaluation import Trained
from ..train.feed import Augment
from ..train.loop import Record
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
    steps_per_dispatch: int | None = None

    def fit(self, data: Any, **options: Any) -> tuple[train.TrainState, list[Record]]:
        """Train on `data`: the state at the end, and the records.

        `options` are those of `train.fit` that say how a run is watched and kept: `validation`,
        `report`, `loggers`, `checkpoints`, ...
        """
        return train.fit(
            self.net,
            self.task,
            self.optimizer,
            data,
            key=jax.random.key(self.seed),
            batch_size=self.batch_size,
            epochs=self.epochs,
            augment=self.augment,
            steps_per_dispatch=self.steps_per_dispatch,
            **options,
        )


@dataclasses.dataclass(frozen=True)
class Command:
    """What an experiment's command line does with a saved run, beside predicting from it.

    Args:
        name: the word of the command line, before the run's folder.
        help: what it does, on one line.
        options: a frozen dataclass whose fields all have defaults: the command's options.
        run: does it, and prints what there is to see; it is given what was learned, how, the
            weights, and the options.
    """

    name: str
    help: str
    options: type[Any]
    run: Callable[[Problem, Program, Trained, Any], None]


@dataclasses.dataclass(frozen=True)
class Recipe(Generic[Config]):
    """An experiment: what the command line, and later a sweep, are made from.

    Args:
        name: the module's name in `experiments`, which names run folders too.
        header: the module's docstring: what it does, the command, the result to expect.
        config: the configuration, a frozen dataclass whose fields all have defaults.
        problem: reads the data and says what is to be learned.
        build: turns a configuration into a training program, purely.
        space: what a sweep may change: a `jaxnn.sweep.Space` of the configuration.
        finish: looks at what was trained, prints what there is to see, and gives more files for
            the run folder, contents by name.
        commands: more that can be done with a saved run.
    """

    name: str
    header: str | None
    config: type[Config]
    problem: Callable[[], Problem]
    build: Callable[[Config, Problem], Program]
    space: Any = dataclasses.field(default=None, compare=False)
    finish: Callable[[Problem, Program, Trained], dict[str, bytes]] | None = None
    commands: tuple[Command, ...] = ()

    @property
    def module(self) -> str:
        """The name of the module that defines it."""
        return self.build.__module__

    @property
    def parts(self) -> tuple[Any, ...]:
        """The functions and classes that its numbers follow from."""
        return self.build, self.problem, self.config


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
