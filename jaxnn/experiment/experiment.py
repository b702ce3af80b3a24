"""An experiment: a configuration, the data, and the program that it trains.

    EXPERIMENT = Experiment("ring_gan", Config, data=ring, program=build, space=SPACE,
                            maximize="validation_score")

`data(config)` is called outside of any trace and `program(config, data)` inside one, so a sweep can
trace every number of the configuration, including those inside layers. The length of a run, its
batch size, and its seed are fields of the configuration:

    steps or epochs     the length of a run
    batch_size          rows of a step; 128 if there is no such field
    every               steps between two records; by default an epoch, or the whole run
    seed                the root of all random numbers; 0 if there is no such field
"""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

import jax
import numpy as np

from .. import train
from ..core.layer import Layer
from ..data import Dataset
from ..data.accept import Augmented, as_source, fingerprint_of, unaugmented
from ..data.rows import leaves_by_path, row_count, row_spec
from ..data.source import Source, epoch_order
from ..explain.text import describe
from ..keys import kept_words
from ..train.minimize import SupervisedLoss
from ..validation import Accepts, check_fields, instance, integer, positive

Config = TypeVar("Config")
LENGTHS = ("steps", "epochs")
_dataclass = Accepts(
    "a frozen dataclass",
    lambda kind: isinstance(kind, type) and dataclasses.is_dataclass(kind),
    TypeError,
    "write @dataclass(frozen=True) class Config: steps: int = 1000",
)
_PAIR = Accepts(
    "(training data, validation data)",
    lambda data: len(data) == 2,
    TypeError,
    "write return (x, y, weights), None to train on several arrays",
)
_ARRAYS = Accepts(
    "arrays of rows",
    lambda data: not isinstance(data, Source | Augmented),
    TypeError,
    "return the arrays themselves, which all trials of a sweep share",
    abstract=True,
)
_program = instance(
    train.Program, "a train.Program", "write return train.Supervised(net, task, optimizer)"
)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedRun:
    """A finished run, the argument of `finish` and of additional commands.

    Args:
        config: The configuration of the run.
        data: The result of the experiment's function `data`.
        program: The program of the run.
        state: The final state of the program.
    """

    config: Any
    data: Any
    program: Any
    state: Any

    @property
    def net(self) -> Layer:
        """The network of a `train.Supervised`."""
        return self.program.objective.wrapped

    @property
    def params(self) -> Any:
        """The parameters of a `train.Minimize` for evaluation and prediction."""
        return train.evaluation_params(self.state)


@dataclasses.dataclass(frozen=True)
class Command:
    """An additional command of an experiment's command line, for the folder of a finished run.

    Args:
        name: Name of the command on the command line, which precedes the folder.
        help: One line that describes the command.
        options: A frozen dataclass with the options of the command. All fields have defaults.
        run: A function of the `TrainedRun` and the options that prints the result.
    """

    name: str
    help: str
    options: type[Any]
    run: Callable[[TrainedRun, Any], None]


@dataclasses.dataclass(frozen=True)
class Experiment(Generic[Config]):
    """An experiment: a configuration, a program, its data, and the search space of sweeps.

    Args:
        name: Name of the module and prefix of run folders.
        config: The configuration class, a frozen dataclass. All fields have defaults.
        program: A pure function that maps (config, data) to a `train.Program`. It is called inside
            a trace. `data` is the result of the function `data`, without `data.Augmented` around
            it.
        data: A function that maps a configuration to a `data.Dataset`, whose test rows are scored
            at the end of a run; to (training data, validation data), two pytrees of arrays of rows,
            of which the latter may be None; to a dict or an array of training data; or to None, if
            the program generates its data. `data.Augmented` around a data set or around training
            data augments the training batches. Default: None.
        space: The search space of sweeps: dimensions by dotted path, or a `jaxnn.sweep.Space`.
            Default: None, an empty space.
        maximize: Name of the metric for comparing trials, such as "validation_accuracy", if larger
            is better. With `--patience`, a single run monitors the same metric. Default: None.
        minimize: Name of the metric for comparing trials if smaller is better. If neither is given,
            trials are compared by the validation accuracy, the validation loss, or the only
            validation metric that declares a direction, and a single run monitors the validation
            loss. Default: None.
        finish: A function that is called with the `TrainedRun` at the end of a single run. It may
            print, and returns additional files for the run folder, contents by name. Default: None.
        commands: Additional commands for run folders. Default: ().

    Raises:
        TypeError, ValueError: The configuration is not a dataclass, or both metrics are given.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn.sweep import Uniform
    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...     rate: float = 0.25
    ...     steps: int = 2
    >>> class Descent(train.Program):
    ...     rate: float
    ...     def init(self, key, batch):
    ...         return jnp.float32(1)
    ...     def step(self, state, batch):
    ...         return state - self.rate * 2 * state, {"loss": state**2}
    >>> experiment = Experiment("descent", Config, space={"rate": Uniform(0.0, 1.0)},
    ...                         program=lambda config, data: Descent(config.rate))
    >>> state, history = configured(experiment, Config()).fit(progress=False)
    >>> float(state), history
    (0.25, [{'step': 2, 'loss': 0.625}])
    """

    name: str
    config: Annotated[type[Config], _dataclass]
    _: dataclasses.KW_ONLY
    program: Callable[[Config, Any], train.Program]
    data: Callable[[Config], Any] | None = None
    space: Any = dataclasses.field(default=None, compare=False)
    maximize: str | None = None
    minimize: str | None = None
    finish: Callable[[TrainedRun], dict[str, bytes]] | None = None
    commands: tuple[Command, ...] = ()

    def __post_init__(self) -> None:
        """Check the parts."""
        check_fields(self)
        if self.maximize and self.minimize:
            raise ValueError(
                f"trials are compared by one metric, got maximize={self.maximize!r} and "
                f"minimize={self.minimize!r}; write one of them"
            )

    @property
    def ranked(self) -> tuple[str, bool]:
        """The metric that a single run monitors, and whether larger is better."""
        return self.maximize or self.minimize or "validation_loss", self.maximize is not None

    @property
    def module(self) -> str:
        """The name of the module that defines the experiment."""
        return self.program.__module__

    @property
    def header(self) -> str | None:
        """The docstring of the module that defines the experiment."""
        return getattr(sys.modules.get(self.module), "__doc__", None)

    @property
    def parts(self) -> tuple[Any, ...]:
        """The functions and classes that determine the results of the experiment."""
        return tuple(part for part in (self.program, self.data, self.config) if part is not None)


class Loaded:
    """The data of an experiment: compared by identity.

    Args:
        data: as the experiment's function returned them.

    Attributes:
        data: the same without `data.Augmented` around them, as `program` receives them.
        dataset: the data if they are a `data.Dataset`, None otherwise.
        train: a pytree of arrays of rows, or `data.Augmented` of one; None without data.
        arrays: the arrays of `train`, without augmentation.
        validation: a pytree of arrays of rows, or None.
        rows: the number of rows to train on; None without data.
    """

    data: Any
    dataset: Dataset | None
    train: Any
    arrays: Any
    validation: Any
    rows: int | None

    def __init__(self, data: Any) -> None:
        functions = data.functions if isinstance(data, Augmented) else ()
        self.data = data = unaugmented(data)
        self.dataset = data if isinstance(data, Dataset) else None
        if isinstance(data, Dataset):
            self.train, self.validation = (*data.train,), (*data.validation,)
        elif isinstance(data, tuple | list):
            self.train, self.validation = _PAIR(data, "an experiment's data")
        else:
            self.train, self.validation = data, None
        self.train = as_source(self.train, "training data")
        self.validation = as_source(self.validation, "validation data")
        self.arrays = unaugmented(self.train)
        for part in (self.arrays, self.validation):
            _ARRAYS(part, "an experiment's data")
        for function in functions:
            self.train = Augmented(self.train, function)
        self.rows = None if self.arrays is None else row_count(self.arrays)

    def __str__(self) -> str:
        """Return a description of the data on one line."""
        if self.arrays is None:
            return "the program makes its own data"
        if self.dataset is not None:
            return repr(self.dataset)
        leaves = leaves_by_path(self.arrays).items()
        return ", ".join(f"{path} {describe(leaf)}".strip() for path, leaf in leaves)

    def checksums(self) -> dict[str, Any]:
        """Return shapes, types, and checksums of all arrays by path."""
        parts = {"train": self.arrays, "validation": self.validation}
        return {name: fingerprint_of(part) for name, part in parts.items()}

    @functools.cached_property
    def identity(self) -> Any:
        """A value that is equal for data with equal arrays, augmentations, and names."""
        about = {} if self.dataset is None else dict(vars(self.dataset))
        test = fingerprint_of(about.pop("test", None))
        about = {name: about[name] for name in about.keys() - {"train", "validation"}}
        return self.checksums(), test, about, getattr(self.train, "functions", ())


_kept: list[Loaded] = []


@functools.lru_cache(maxsize=32)
def loaded(experiment: Experiment[Any], config: Any) -> Loaded:
    """Return the data of a configuration, read once; equal data are one object.

    Args:
        experiment: the experiment.
        config: the configuration.
    """
    new = Loaded(None if experiment.data is None else experiment.data(config))
    kept = next((old for old in _kept if old.identity == new.identity), new)
    if kept is new:
        _kept.append(new)
        del _kept[:-4]
    return kept


class Configured:
    """One configuration of an experiment: its program, its data, and the length of its run.

    Numbers of the program may be traced, those of the loop may not.

    Args:
        experiment: the experiment.
        config: the configuration.
        data: its data.

    Raises:
        TypeError, ValueError: the function `program` returns no program, or a number of the loop
            is invalid.
    """

    experiment: Experiment[Any]
    config: Any
    data: Loaded
    program: train.Program

    def __init__(self, experiment: Experiment[Any], config: Any, data: Loaded) -> None:
        self.experiment, self.config, self.data = experiment, config, data
        loop: dict[str, Any] = {name: getattr(config, name, None) for name in (*LENGTHS, "every")}
        loop["batch_size"] = getattr(config, "batch_size", 128) if data.rows else 1
        for name, number in loop.items():
            (None | positive)(number, f"{type(config).__name__}.{name}")
        self.length: dict[str, int] = {n: loop[n] for n in LENGTHS if loop[n] is not None}
        self.every: int | None = loop["every"]
        self.batch_size: int = loop["batch_size"]
        self.seed: Any = getattr(config, "seed", 0)
        if len(self.length) != 1 or (data.rows is None and "epochs" in self.length):
            has = " and ".join(self.length) or "neither"
            one = "steps, without data," if data.rows is None else "either steps or epochs"
            raise ValueError(
                f"{type(config).__name__} must have {one} for the length of a run, got {has}; "
                "write steps: int = 1000"
            )
        if data.rows:
            hint = f"the training data have {data.rows} rows"
            integer(1, data.rows)(loop["batch_size"], f"{type(config).__name__}.batch_size", hint)
        self.program = experiment.program(config, data.data)
        what = f"{experiment.name}: the result of {experiment.program.__qualname__}"
        _program(self.program, what)

    @property
    def steps_per_epoch(self) -> int | None:
        """The number of batches of an epoch; None without data."""
        return None if self.data.rows is None else self.data.rows // self.batch_size

    @property
    def ends(self) -> tuple[int, ...]:
        """The steps after which there is a record, the last of them the end of the run."""
        per_epoch = self.steps_per_epoch
        total = self.length.get("steps") or self.length["epochs"] * (per_epoch or 1)
        every = self.every or per_epoch or total
        return (*range(every, total, every), total)

    def order(self, seed: int, record: int) -> np.ndarray:
        """Return the rows of each step up to a record, int32 (steps, batch).

        Without data, the shape is (steps, 0).

        Args:
            seed: of the run.
            record: its index, from 0.
        """
        ends = (0, *self.ends)
        begin, end = ends[record], ends[record + 1]
        per_epoch, rows, size = self.steps_per_epoch, self.data.rows, self.batch_size
        if rows is None or per_epoch is None:
            return np.zeros((end - begin, 0), np.int32)
        first = begin // per_epoch
        tables = [
            _order(seed, epoch, rows)[: per_epoch * size].reshape(per_epoch, size)
            for epoch in range(first, -(-end // per_epoch))
        ]
        return np.concatenate(tables)[begin - first * per_epoch :][: end - begin]

    @property
    def predicts(self) -> bool:
        """Whether the program has predictions."""
        if isinstance(self.program, train.Minimize):
            return self.program.objective._has_method("predict")
        return type(self.program).predict is not train.Program.predict

    @property
    def evaluates(self) -> bool:
        """Whether the program has metrics of an evaluation."""
        return type(self.program).evaluate is not train.Program.evaluate

    def evaluations(self) -> list[train.Hook]:
        """Return the hooks that evaluate at each record."""
        if self.data.validation is not None:
            return [train.Evaluate(self.data.validation)]
        return [train.Evaluate()] if self.data.rows is None and self.evaluates else []

    @property
    def task(self) -> Any:
        """The task of a `train.Supervised`, None for other programs."""
        objective = getattr(self.program, "objective", None)
        return objective.task if isinstance(objective, SupervisedLoss) else None

    @property
    def network(self) -> tuple[Layer, tuple[Any, ...], dict[str, Any]] | None:
        """The network, or the whole objective, of a `train.Minimize`; its inputs for one row.

        Inputs are shapes and types, positional and named. None for other programs.
        """
        if not isinstance(self.program, train.Minimize):
            return None
        row = None if self.data.rows is None else row_spec(self.data.arrays, 1)
        objective = self.program.objective
        if isinstance(objective, SupervisedLoss):
            return objective.wrapped, *objective._given("forward", row)
        return objective, (row,), self.program.named_inputs(0)

    def fit(self, *, hooks: Any = (), **options: Any) -> tuple[Any, list[dict[str, float]]]:
        """Train by `train.fit`, and return the final state and the records.

        Args:
            hooks: further hooks. Default: none.
            **options: further arguments of `train.fit`, such as `progress`.
        """
        leading = [hook for hook in hooks if getattr(hook, "leads", False)]
        others = [hook for hook in hooks if not getattr(hook, "leads", False)]
        return train.fit(
            self.program,
            self.data.train,
            key=jax.random.key(self.seed),
            batch_size=self.batch_size,
            every=self.every,
            hooks=[*leading, *self.evaluations(), *others],
            **self.length,
            **options,
        )


def configured(experiment: Experiment[Any], config: Any) -> Configured:
    """Return a configuration with its data and its program.

    Args:
        experiment: the experiment.
        config: the configuration.
    """
    return Configured(experiment, config, loaded(experiment, config))


@functools.lru_cache(maxsize=1024)
def _order(seed: int, epoch: int, rows: int) -> np.ndarray:
    """Return the order of the rows in an epoch, which all runs of a seed share."""
    return epoch_order(seed_words(seed), epoch, rows)


@functools.lru_cache(maxsize=1024)
def seed_words(seed: int) -> np.ndarray:
    """Return the words of the root key of a seed, on the host."""
    with jax.ensure_compile_time_eval():
        return np.asarray(kept_words(jax.random.key(seed)))
