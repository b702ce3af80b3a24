"""The training of one configuration as the functions that a lane needs, pure in its numbers.

A lane trains up to a record, evaluates, and continues. A sweep uses only these functions, so it can
train any program:

    begin(seed)                     the state before the first step, as in a solo run
    advance(state, order, data)     the state after the steps of a record, and their metrics
    evaluate(state, piece, key)     the metrics of a piece of the validation data
    metrics(found, held)            both as numbers, on the host
    leaves(), with_leaves(leaves)   the numbers that a solo run passes to compiled code

The numbers of lanes are traced as arrays of the type that Python numbers would have.
"""

import functools
from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Var, primitives

from ..data.accept import Augmented, augmented
from ..data.rows import check_rows, classes_of, row_count
from ..keys import as_key, kept_key
from ..train.evaluation import SIZE, require_metrics
from ..train.metrics import check_metrics, direction_of, directions, without_collected
from ..train.program import strong
from ..train.record import Tally, combine, prefixed
from ..train.step import check_step
from ..train.steps import has_convolution
from ..validation import integer
from .experiment import Configured, Experiment, Loaded, loaded, seed_words


class Order(NamedTuple):
    """The input of the steps of a record.

    Args:
        words: Words of the root key, from which augmentations draw.
        steps: The number of steps before each one, int32 (steps,).
        rows: The rows of each step, int32 (steps, batch); (steps, 0) without data.
    """

    words: Any
    steps: Any
    rows: Any


class FoldOfSeed(NamedTuple):
    """The seed of a lane that trains on the rows outside of a fold, and is evaluated on the fold.

    Args:
        seed: Root of its random numbers.
        fold: Number of the fold, from 0.
    """

    seed: int
    fold: int


class Folded(Loaded):
    """Data whose rows are divided into folds for cross-validation.

    The rows are those for training and for validation together, in a random order that is always
    the same. If the rows have whole numbers as targets, folds are stratified: the numbers of rows
    of a class in two folds differ by at most one. Folds have equal sizes; left-over rows, fewer
    than there are folds, are always used for training.

    Args:
        whole: The data.
        count: Number of folds, at least 2.

    Attributes:
        held: The rows of each fold, in `arrays`.
        taught: The rows outside of each fold.

    Raises:
        ValueError: There are no data or fewer rows than folds.
    """

    held: list[np.ndarray]
    taught: list[np.ndarray]

    def __init__(self, whole: Loaded, count: int) -> None:
        vars(self).update(vars(whole))
        vars(self).pop("identity", None)
        if whole.arrays is None:
            raise ValueError(
                f"--folds {count} divides the rows of data, and the experiment has none"
            )
        parts = [part for part in (whole.arrays, whole.validation) if part is not None]
        self.arrays: Any = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        rows = row_count(self.arrays)
        integer(2, rows)(count, "folds", f"there are {rows} rows")
        order, size = np.random.default_rng(0).permutation(rows).astype(np.int32), rows // count
        if (classes := classes_of(self.arrays)) is not None:
            order = order[np.argsort(classes[order], kind="stable")]
        # Dealt out in turn, so that each fold gets its share of every stretch of the order.
        self.held = [np.sort(order[k : size * count : count]) for k in range(count)]
        every = np.arange(rows, dtype=np.int32)
        self.taught = [np.setdiff1d(every, held, assume_unique=True) for held in self.held]
        self.validation: Any = _rows(self.arrays, self.held[0])
        self.rows: int | None = rows - size

    def one(self, fold: int) -> Loaded:
        """Return the data of a fold, as a single run has them.

        Args:
            fold: Number of the fold.
        """
        new = object.__new__(Loaded)
        vars(new).update(vars(self))
        new.arrays = new.train = _rows(self.arrays, self.taught[fold])
        for function in getattr(self.train, "functions", ()):
            new.train = Augmented(new.train, function)
        new.validation = _rows(self.arrays, self.held[fold])
        return new


@functools.lru_cache(maxsize=8)
def folded(whole: Loaded, count: int) -> Folded:
    """Return data in folds, the same object for equal arguments.

    Args:
        whole: The data.
        count: Number of folds.
    """
    return Folded(whole, count)


def training_of(experiment: Experiment[Any], config: Any, base: Any, folds: int = 1) -> "Training":
    """Return the training of a configuration.

    Args:
        experiment: The experiment.
        config: The configuration, whose numbers may be traced.
        base: A configuration with the same data and without traced numbers.
        folds: Number of folds that the rows are divided into. Default: 1, the rows stay as they
            are.
    """
    source = loaded(experiment, base)
    return Training(Configured(experiment, config, source if folds == 1 else folded(source, folds)))


class Training:
    """The training of a configuration, as `train.fit` trains it; its numbers may be traced.

    Args:
        run: The configuration with its program and data.

    Attributes:
        source: The data of the configuration.
        epochs: The number of its records.
        seed: The root of its random numbers.
    """

    run: Configured
    source: Loaded
    epochs: int
    seed: Any

    def __init__(self, run: Configured) -> None:
        self.run, self.source = run, run.data
        self.epochs, self.seed = len(run.ends), run.seed

    @property
    def arrays(self) -> tuple[Any, Any]:
        """The arrays to train on, and those for validation."""
        return self.source.arrays, self.source.validation

    def leaves(self) -> dict[str, Any]:
        """Return the leaves of the program by path."""
        flat = jax.tree_util.tree_flatten_with_path(self.run.program)[0]
        return {jax.tree_util.keystr(path): leaf for path, leaf in flat}

    def with_leaves(self, leaves: Mapping[str, Any]) -> Self:
        """Return the training with other leaves; numbers that are leaves only when traced stay.

        Args:
            leaves: Leaves by path.
        """
        given = [
            typed_like(leaves[name], leaf) if name in leaves else leaf
            for name, leaf in self.leaves().items()
        ]
        new = object.__new__(Configured)
        vars(new).update(vars(self.run))
        new.program = jax.tree.unflatten(jax.tree.structure(self.run.program), given)
        return type(self)(new)

    def begin(self, seed: int | FoldOfSeed) -> Any:
        """Return the state before the first step.

        Args:
            seed: Seed of the run.
        """
        first = jax.tree.map(jnp.asarray, _rows(self.arrays[0], self.order(seed, 0).rows[0]))
        key = as_key(jax.random.key(seed.seed if isinstance(seed, FoldOfSeed) else seed))
        return jax.tree.map(strong, self.run.program.init(key, first))

    def order(self, seed: int | FoldOfSeed, record: int) -> Order:
        """Return the input of the steps of a record.

        Args:
            seed: Seed of the run.
            record: Number of the record, from 0.
        """
        begin, end = (0, *self.run.ends)[record : record + 2]
        steps = np.arange(begin, end, dtype=np.int32)
        root = seed.seed if isinstance(seed, FoldOfSeed) else seed
        rows = self.run.order(root, record)
        if isinstance(seed, FoldOfSeed):
            rows = self._folds.taught[seed.fold][rows]
        return Order(seed_words(root), steps, rows)

    @property
    def _first(self) -> Order:
        """The input of the first step."""
        words, steps, rows = self.order(0, 0)
        return Order(words, steps[:1], rows[:1])

    @property
    def _folds(self) -> Folded:
        assert isinstance(self.source, Folded)
        return self.source

    def advance(self, state: Any, order: Order, data: Any) -> tuple[Any, Any]:
        """Return the state after the steps of an order, and the metrics of each.

        Args:
            state: The state before.
            order: The input of the steps.
            data: The arrays to train on, and those for validation.
        """
        program, functions = self.run.program, getattr(self.source.train, "functions", ())

        def step(state: Any, given: Any) -> tuple[Any, Any]:
            number, chosen = given
            batch = _rows(data[0], chosen)
            if functions:
                key = jax.random.fold_in(kept_key(order.words), number)
                batch = augmented(functions, jax.random.fold_in(key, 1), batch)
            result = program.step(state, batch)
            check_step(result, state, type(program).__name__)
            return result[0], jax.tree.map(jnp.asarray, without_collected(result[1]))

        if order.steps.shape[0] == 1:  # without a loop, as in a solo run
            state, metrics = step(state, (order.steps[0], order.rows[0]))
            return state, jax.tree.map(lambda leaf: leaf[None], metrics)
        return lax.scan(step, state, (order.steps, order.rows))

    def pieces(self, data: Any, seed: int | FoldOfSeed = 0) -> list[tuple[Any, jax.Array]]:
        """Return the pieces that `train.Evaluate` evaluates, and their keys.

        Args:
            data: The arrays to train on, and those for validation.
            seed: Seed of the lane; used only if it is a `FoldOfSeed`. Default: 0.
        """
        if not self.run.evaluations():
            return []
        validation = data[1]
        if isinstance(seed, FoldOfSeed):
            validation = _rows(data[0], self._folds.held[seed.fold])
        count = 1 if validation is None else -(-check_rows(validation, "validation data") // SIZE)
        keys = [jax.random.fold_in(jax.random.key(0), i) for i in range(count)]
        slices = [slice(i * SIZE, (i + 1) * SIZE) for i in range(count)]
        return [(_rows(validation, part), key) for part, key in zip(slices, keys, strict=True)]

    def evaluate(self, state: Any, piece: Any, key: jax.Array) -> Any:
        """Return the metrics of a piece.

        Args:
            state: The state of the program.
            piece: Rows of the validation data; None without data.
            key: Key of the piece.
        """
        found, owner = self.run.program.evaluate(state, piece, key=key), type(self.run.program)
        check_metrics(found, f"{owner.__name__}.evaluate")
        require_metrics(found, owner.__name__)
        return jax.tree.map(jnp.asarray, dict(found))

    def metrics(self, found: Any, held: Sequence[Any]) -> dict[str, np.ndarray]:
        """Return values by name, float64 (lanes,), summed in double precision as in a record.

        Args:
            found: The metrics of `advance`, stacked: arrays (lanes, steps).
            held: For each lane, the metrics of each piece.
        """
        numbers = []
        for lane in range(len(jax.tree.leaves(found)[0]) if found else 0):
            tally = Tally()
            tally.add(_rows(found, lane), self.run.batch_size)
            numbers.append(tally.metrics())
        whole = _by_name(numbers)
        if held and held[0]:
            counts = [1] * len(held[0])
            if (validation := self.source.validation) is not None:
                rows = row_count(validation)
                counts = [min(SIZE, rows - i * SIZE) for i in range(len(counts))]
            each = [combine(zip(pieces, counts, strict=True)) for pieces in held]
            whole |= prefixed("validation", _by_name(each))
        return whole

    def account(self, flops: bool = False) -> dict[str, float]:
        """Return the costs of a program: parameters, bytes, and flops per row of a training step.

        Parameters are the floating-point numbers of `state.params`, or of the whole state of a
        program without it. FLOPs are counted by XLA before it optimizes the step.

        Args:
            flops: Whether to count FLOPs, which requires lowering the step. Default: False.
        """
        state = jax.eval_shape(lambda: self.begin(0))
        leaves = jax.tree.leaves(getattr(state, "params", state))
        numbers = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        found: dict[str, float] = {
            "parameters": sum(leaf.size for leaf in numbers),
            "bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in numbers),
        }
        if flops:
            first = self._first
            lowered = jax.jit(self.advance).lower(state, first, self.arrays)
            count: Any = lowered.cost_analysis()
            found["flops"] = float(count["flops"]) / max(1, first.rows.shape[1])
        return found

    def tried(self) -> Any:
        """Return a step and an evaluation of the first piece, for abstract evaluation."""
        state, metrics = self.advance(self.begin(0), self._first, self.arrays)
        held = [self.evaluate(state, *one) for one in self.pieces(self.arrays)[:1]]
        return state, metrics, held

    def at_once(self) -> int | None:
        """Return the maximum number of steps in one compiled program; None for a whole record.

        It is 1 if a step convolves on a CPU, where XLA's convolutions in loops are slower.
        """
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
        """Return the names of the metrics of each record."""
        return self._declared[0]

    def maximized(self, metric: str) -> bool | None:
        """Return whether the experiment, the metric, or the task maximizes; None if unspecified.

        Args:
            metric: Name of the metric.
        """
        stated = {self.run.experiment.maximize: True, self.run.experiment.minimize: False}
        known = self._declared[1] | {name: larger for name, larger in stated.items() if name}
        task = getattr(getattr(self.run.program, "objective", None), "task", None)
        direction = direction_of(metric, task)
        return known.get(metric, None if direction is None else direction == "maximize")


def _rows(data: Any, chosen: Any) -> Any:
    """Return the chosen rows of a pytree."""
    return jax.tree.map(lambda leaf: leaf[chosen], data)


def _by_name(numbers: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
    """Return the values of lanes by name, stacked."""
    names = numbers[0] if numbers else ()
    return {name: np.array([one[name] for one in numbers], np.float64) for name in names}


# Numbers of lanes


def scalar(value: Any) -> np.ndarray[Any, Any]:
    """Return a number as an argument of a program: float32, or int32 for an int."""
    return np.asarray(value, np.int32 if isinstance(value, int) else np.float32)


def as_written(number: Any) -> Any:
    """Return a traced number with the weak type of a Python number: 0.1 * bfloat16 is bfloat16.

    Args:
        number: A traced array.
    """
    return primitives.convert_element_type_p.bind(
        number, new_dtype=number.dtype, weak_type=True, sharding=None
    )


def array(leaf: Any) -> Any:
    """Return a leaf of a program as an argument of compiled code."""
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf, jnp.result_type(leaf))


def typed_like(number: Any, other: Any) -> Any:
    """Return a traced number, weakly typed if another one is."""
    return as_written(number) if getattr(jax.typeof(other), "weak_type", False) else number


def dependent(jaxpr: Any, count: int | None = None) -> list[bool]:
    """Return whether each result of a jaxpr depends on its arguments.

    Args:
        jaxpr: The jaxpr.
        count: How many of the first arguments count. Default: all.
    """
    reached = set(jaxpr.invars[:count])
    for equation in jaxpr.eqns:
        if any(isinstance(var, Var) and var in reached for var in equation.invars):
            reached.update(equation.outvars)
    return [isinstance(var, Var) and var in reached for var in jaxpr.outvars]
