"""The training of one configuration, as what a lane needs: pure functions of its numbers.

A lane trains up to a record, evaluates, and trains on. This is all that the rest of a sweep knows
of what it trains, so any program can be swept:

    begin(seed)                     the state before the first step, as a solo run makes it
    advance(state, order, data)     the state after the steps of a record, and their metrics
    evaluate(state, piece, key)     the metrics of a piece of the validation data
    metrics(found, held, steps)     the numbers of both, on the host
    leaves(), with_leaves(leaves)   the numbers that a solo run passes to compiled code

`ProgramTraining` is that of a `train.Program`, and `FitTraining`, in another file, that of a
`Recipe`.
"""

import functools
from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..data.rows import check_rows, row_count
from ..experiment.experiment import AnyRecipe, Configured, Experiment, Loaded, loaded
from ..experiment.problem import Problem
from ..keys import as_key
from ..train.assessment import SIZE, check_names
from ..train.combining import Tally, combine
from ..train.dispatch import has_convolution
from ..train.metrics import check_metrics, directions, without_collected
from ..train.placed_step import check_step
from ..train.record import prefixed
from ..train.state import strong
from .fit_training import FitTraining, of_task, problem_of
from .numbers import like

Source: TypeAlias = Problem | Loaded


class Training(Protocol):
    """The training of one configuration; its numbers may be traced.

    Attributes:
        epochs: the number of its records.
        seed: the root of its random numbers.
    """

    @property
    def epochs(self) -> int:
        """The number of its records."""
        ...

    @property
    def seed(self) -> int:
        """The root of its random numbers."""
        ...

    @property
    def source(self) -> "Source":
        """The data that all lanes share."""
        ...

    def leaves(self) -> dict[str, Any]:
        """The numbers by path that a solo run passes to compiled code."""
        ...

    def with_leaves(self, leaves: Mapping[str, Any]) -> Self:
        """The same training with these numbers."""
        ...

    def begin(self, seed: int) -> Any:
        """The state before the first step."""
        ...

    def order(self, seed: int, record: int) -> np.ndarray:
        """The rows of each step up to a record, int32 (steps, batch)."""
        ...

    def advance(self, state: Any, order: Any, data: Any) -> tuple[Any, Any]:
        """The state after the steps of an order, and what was found: pure."""
        ...

    def pieces(self, data: Any) -> list[tuple[Any, jax.Array]]:
        """The pieces of the data that are evaluated, each with its key; none if `advance` does."""
        ...

    def evaluate(self, state: Any, piece: Any, key: jax.Array) -> Any:
        """The metrics of a piece: pure."""
        ...

    def metrics(self, found: Any, held: Sequence[Any], steps: int) -> dict[str, np.ndarray]:
        """Numbers by name, float64 (lanes,), on the host.

        Args:
            found: what `advance` found, stacked.
            held: of each lane, the metrics of each piece.
            steps: the number of steps.
        """
        ...

    def reported(self, metrics: dict[str, np.ndarray]) -> dict[str, Any]:
        """The metrics as a solo run reports them."""
        ...

    def tried(self) -> Any:
        """A step and an evaluation, for abstract evaluation."""
        ...

    def at_once(self) -> int | None:
        """The largest number of steps of one compiled program; None for all of a record."""
        ...

    def names(self) -> list[str]:
        """What it reports at each record, by name."""
        ...

    def maximized(self, metric: str) -> bool | None:
        """Whether a metric is maximized; None if nobody declares it."""
        ...


def training_of(recipe: AnyRecipe, config: Any, base: Any) -> Training:
    """The training of a configuration.

    Args:
        recipe: the experiment.
        config: the configuration, whose numbers may be traced.
        base: the configuration whose data it has: one without traced numbers.
    """
    if isinstance(recipe, Experiment):
        return ProgramTraining(Configured(recipe, config, loaded(recipe, base)))
    problem = problem_of(recipe)
    return FitTraining(recipe.build(config, problem), problem)


def source_of(recipe: AnyRecipe, base: Any) -> Source:
    """The data of a configuration."""
    return loaded(recipe, base) if isinstance(recipe, Experiment) else problem_of(recipe)


def arrays_of(source: Source) -> tuple[Any, Any]:
    """The arrays to train on, and those for validation."""
    if isinstance(source, Loaded):
        return source.train, source.validation
    return (*source.scaled.train,), (*source.scaled.validation,)


class ProgramTraining:
    """The training of a `train.Program`, as `train.fit` trains it.

    Args:
        run: the configuration with its program and data.
    """

    def __init__(self, run: Configured) -> None:
        self.run = run

    @property
    def epochs(self) -> int:
        """The number of its records."""
        return len(self.run.ends)

    @property
    def seed(self) -> int:
        """The root of its random numbers."""
        return self.run.seed

    @property
    def source(self) -> "Source":
        """The data of the configuration."""
        return self.run.data

    def leaves(self) -> dict[str, Any]:
        """The leaves of the program by path."""
        flat = jax.tree_util.tree_flatten_with_path(self.run.program)[0]
        return {jax.tree_util.keystr(path): leaf for path, leaf in flat}

    def with_leaves(self, leaves: Mapping[str, Any]) -> Self:
        """The program with these leaves. Numbers that are leaves only when traced stay."""
        flat, structure = jax.tree_util.tree_flatten_with_path(self.run.program)
        now = {jax.tree_util.keystr(path): leaf for path, leaf in flat}
        given = {n: like(leaves[n], leaf) if n in leaves else leaf for n, leaf in now.items()}
        new = object.__new__(Configured)
        vars(new).update(vars(self.run))
        new.program = jax.tree.unflatten(structure, list(given.values()))
        return type(self)(new)

    def begin(self, seed: int) -> Any:
        """The state before the first step."""
        first = _rows(self.run.data.train, self.order(seed, 0)[0])
        first = jax.tree.map(jnp.asarray, first)
        state = self.run.program.init(as_key(jax.random.key(seed)), first)
        return jax.tree.map(strong, state)

    def order(self, seed: int, record: int) -> np.ndarray:
        """The rows of each step."""
        return self.run.order(seed, record)

    def advance(self, state: Any, order: Any, data: Any) -> tuple[Any, Any]:
        """The steps, and the metrics of each."""
        rows, _ = data
        program = self.run.program

        def step(state: Any, chosen: Any) -> tuple[Any, Any]:
            result = program.step(state, _rows(rows, chosen))
            check_step(result, state, type(program).__name__)
            return result[0], jax.tree.map(jnp.asarray, without_collected(result[1]))

        if order.shape[0] == 1:  # without a loop, as in a solo run
            state, metrics = step(state, order[0])
            metrics = jax.tree.map(lambda leaf: leaf[None], metrics)
        else:
            state, metrics = lax.scan(step, state, order)
        return state, metrics

    def pieces(self, data: Any) -> list[tuple[Any, jax.Array]]:
        """The pieces that `train.Evaluate` evaluates, and their keys."""
        if not self.run.evaluations():
            return []
        _, validation = data
        key = jax.random.key(0)
        if validation is None:
            return [(None, jax.random.fold_in(key, 0))]
        return [
            (jax.tree.map(lambda leaf, at=i: leaf[at * SIZE :][:SIZE], validation), one)
            for i in range(-(-check_rows(validation, "validation data") // SIZE))
            for one in [jax.random.fold_in(key, i)]
        ]

    def evaluate(self, state: Any, piece: Any, key: jax.Array) -> Any:
        """The metrics of a piece."""
        found, owner = self.run.program.evaluate(state, piece, key=key), type(self.run.program)
        check_metrics(found, f"{owner.__name__}.evaluate")
        check_names(found, owner.__name__)
        return jax.tree.map(jnp.asarray, dict(found))

    def metrics(self, found: Any, held: Sequence[Any], steps: int) -> dict[str, np.ndarray]:
        """Sums in double precision, step by step, as those of a record."""
        numbers = _of_steps(found, self.run.batch_size)
        if not held or not held[0]:
            return numbers
        counts = [1] * len(held[0])
        if (validation := self.run.data.validation) is not None:
            rows = row_count(validation)
            counts = [min(SIZE, rows - i * SIZE) for i in range(len(counts))]
        each = [combine(zip(pieces, counts, strict=True)) for pieces in held]
        whole = {name: np.array([one[name] for one in each], np.float64) for name in each[0]}
        return numbers | prefixed("validation", whole)

    def reported(self, metrics: dict[str, np.ndarray]) -> dict[str, Any]:
        """The metrics as they are."""
        return metrics

    def tried(self) -> Any:
        """A step, and an evaluation of the first piece."""
        state, metrics = self.advance(self.begin(0), self.order(0, 0)[:1], arrays_of(self.source))
        held = [self.evaluate(state, *one) for one in self.pieces(arrays_of(self.source))[:1]]
        return state, metrics, held

    def at_once(self) -> int | None:
        """One if a step convolves on a CPU, where XLA has slower convolutions in loops."""
        if jax.default_backend() != "cpu":
            return None
        return 1 if has_convolution(jax.make_jaxpr(self.tried)().jaxpr) else None

    @functools.cached_property
    def _declared(self) -> tuple[list[str], dict[str, bool]]:
        """The names of the metrics, and the directions that they declare."""
        _, metrics, held = jax.eval_shape(self.tried)
        several = [metrics, *(prefixed("validation", one) for one in held)]
        larger = [directions(metrics), *(prefixed("validation", directions(one)) for one in held)]
        return [name for one in several for name in one], dict(ChainMap(*larger))

    def names(self) -> list[str]:
        """What it reports at each record."""
        return self._declared[0]

    def maximized(self, metric: str) -> bool | None:
        """What the experiment says, or else the metric itself, or else the task."""
        stated = {self.run.experiment.maximize: True, self.run.experiment.minimize: False}
        known = self._declared[1] | {name: larger for name, larger in stated.items() if name}
        objective = getattr(self.run.program, "objective", None)
        return known.get(metric, of_task(metric, getattr(objective, "task", None)))


def _rows(data: Any, chosen: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[chosen], data)


def _of_steps(found: Any, rows: int) -> dict[str, np.ndarray]:
    """Training metrics over the steps of a record, (lanes,), from arrays (lanes, steps)."""
    if not found:
        return {}
    each = []
    for lane in range(len(jax.tree.leaves(found)[0])):
        tally = Tally()
        tally.add(jax.tree.map(lambda leaf, lane=lane: leaf[lane], found), rows)
        each.append(tally.metrics())
    return {name: np.array([one[name] for one in each], np.float64) for name in each[0]}
