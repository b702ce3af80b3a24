"""The training of a `Recipe`: a network, a task, and an optimizer, as `Program.fit` trains them."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from .. import train
from ..data.order import epoch_order
from ..experiment.problem import Problem
from ..experiment.program import Program, Recipe
from ..fields import is_traced
from ..train.directions import direction_of
from ..train.ema import evaluation_params
from ..train.evaluation import pure_evaluation
from ..train.feed import pure_steps
from ..train.record import prefixed
from ..train.tally import means_of
from .numbers import like


@functools.lru_cache(maxsize=8)
def problem_of(recipe: Recipe[Any]) -> Problem:
    """The experiment's problem, read once a process."""
    return recipe.problem()


class FitTraining:
    """The training of a network, a task, and an optimizer, as `experiment.Program.fit` trains it.

    Args:
        program: the program of the configuration.
        problem: its data.
    """

    def __init__(self, program: Program, problem: Problem) -> None:
        self.program, self.problem = program, problem

    @property
    def epochs(self) -> int:
        """The number of its epochs."""
        if not is_traced(self.program.epochs) and self.program.epochs < 1:
            raise ValueError(f"epochs is {self.program.epochs}, wanted at least 1")
        return self.program.epochs

    @property
    def seed(self) -> int:
        """The root of its random numbers."""
        return self.program.seed

    @property
    def source(self) -> Problem:
        """The problem."""
        return self.problem

    def leaves(self) -> dict[str, Any]:
        """The numbers of the optimizer."""
        return {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(self.program.optimizer))}

    def with_leaves(self, leaves: Mapping[str, Any]) -> Self:
        """The program with these numbers of the optimizer."""
        now, structure = jax.tree.flatten(self.program.optimizer)
        given = [like(leaves[str(i)], leaf) for i, leaf in enumerate(now)]
        optimizer = jax.tree.unflatten(structure, given)
        return type(self)(dataclasses.replace(self.program, optimizer=optimizer), self.problem)

    def begin(self, seed: int) -> Any:
        """The state before the first step."""
        return start(self.program, self.problem, seed)

    def order(self, seed: int, record: int) -> np.ndarray:
        """The rows of each step of an epoch."""
        rows, size = len(self.problem.scaled.train.x), self.program.batch_size
        steps = rows // size
        return _order(seed, record, rows)[: steps * size].reshape(steps, size)

    def advance(self, state: Any, order: Any, data: Any) -> tuple[Any, Any]:
        """The steps, the sums of their metrics, and an evaluation."""
        (x, y), (held_x, held_y) = data
        p = self.program
        state, sums = pure_steps(p.net, p.task, p.optimizer, p.augment, state, x, y, order)
        size = min(1024, len(held_x))
        params = evaluation_params(state)
        return state, (
            sums,
            pure_evaluation(p.net, p.task, params, state.state, held_x, held_y, size),
        )

    def pieces(self, data: Any) -> list[tuple[Any, jax.Array]]:
        """None: `advance` evaluates."""
        return []

    def evaluate(self, state: Any, piece: Any, key: jax.Array) -> Any:
        """Not called."""
        raise NotImplementedError

    def metrics(self, found: Any, held: Sequence[Any], steps: int) -> dict[str, np.ndarray]:
        """Means over the steps of an epoch, and those of the evaluation."""
        sums, evaluated = (
            {name: np.asarray(one, np.float64) for name, one in part.items()} for part in found
        )
        return means_of(sums, steps) | prefixed("validation", evaluated)

    def reported(self, metrics: dict[str, np.ndarray]) -> dict[str, Any]:
        """The metrics in the units of the data set."""
        return self.problem.reported(metrics)

    def tried(self) -> Any:
        """A step and an evaluation of the first rows."""
        for field in ("batch_size", "epochs"):
            if is_traced(getattr(self.program, field)):
                raise TypeError(f"Program.{field} must be a number that Python knows")
        size = self.program.batch_size
        few = tuple(jnp.asarray(part[:size]) for part in self.problem.scaled.train)
        return self.advance(self.begin(0), jnp.zeros((1, size), jnp.int32), (few, few))

    def at_once(self) -> None:
        """All steps of an epoch."""

    def names(self) -> list[str]:
        """What it reports after each epoch."""
        return metric_names(self.program, self.problem)

    def maximized(self, metric: str) -> bool | None:
        """What the task declares."""
        return of_task(metric, self.program.task)


def of_task(metric: str, task: Any) -> bool | None:
    """Whether a task declares that a metric is maximized; None if it declares nothing."""
    direction = direction_of(metric, task)
    return None if direction is None else direction == "maximize"


def start(program: Program, problem: Problem, seed: Any) -> train.TrainState:
    """The state before the first step, as `train.fit` makes it."""
    x = problem.scaled.train.x
    example = jax.ShapeDtypeStruct((program.batch_size, *x.shape[1:]), x.dtype)
    return train.TrainState.create(program.net, program.optimizer, jax.random.key(seed), example)


def metric_names(program: Program, problem: Problem) -> list[str]:
    """What a run reports after each epoch, by name."""
    x, y = problem.scaled.train

    def names(x: Any, y: Any) -> Any:
        ts = start(program, problem, 0)
        return pure_evaluation(
            program.net, program.task, evaluation_params(ts), ts.state, x, y, len(x)
        )

    size = program.batch_size
    found = jax.eval_shape(
        names, *(jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype) for a in (x, y))
    )
    return [*found, *(f"validation_{name}" for name in found)]


@functools.lru_cache(maxsize=1024)
def _order(seed: int, epoch: int, rows: int) -> np.ndarray:
    """The order of an epoch, which lanes of one seed share."""
    return epoch_order(_root(seed), epoch, rows)


@functools.lru_cache(maxsize=1024)
def _root(seed: int) -> np.ndarray:
    """The words of the root key of a seed, on the host."""
    return np.asarray(jax.random.key_data(jax.random.key(seed)))
