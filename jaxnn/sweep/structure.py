"""The structure that trials share: which swept numbers can be traced is determined automatically.

Every swept number is tried as a tracer, by abstract evaluation of the whole program: the
configuration, the first parameters, one step, one evaluation. A number that passes is `traced`, an
argument of the compiled program. One that Python needs to know (a shape, an `if`, a loop count) is
`static`, and the error explains why. Trials whose static values are equal have the same
`Structure`, and share compiled programs. A function of a configuration is swept as an experiment.
"""

import dataclasses
import functools
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import core, validation
from ..experiment import experiment as experiment_module
from ..experiment import functional_training, sources
from ..experiment.experiment import Experiment, Loaded
from ..experiment.functional_training import (
    Training,
    array,
    as_written,
    dependent,
    scalar,
    training_of,
)
from ..fields import is_traced
from ..train import Program
from ..validation import Accepts, function, require
from .dimensions import Dimension
from .ranges import Int
from .space import Space, Values
from .storage import command_to_resume

# A reason does not point into the code of jax, numpy, and the core of jaxnn, nor into these files.
INNER = tuple(f"{Path(module.__file__ or '').parent}{os.sep}" for module in (jax, core, np))
OWN = {
    str(module.__file__)
    for module in (sys.modules[__name__], functional_training, experiment_module, validation)
}
TRACED = "traced"
# The most samples of the space that are tried, if those before could not run.
TRIES = 8


@dataclasses.dataclass(frozen=True)
class Structure:
    """The static part of a trial: trials of equal structure share compiled programs.

    Args:
        experiment: The experiment.
        base: The configuration that a trial's values change.
        static: The values that are compiled into the program, by dimension.
        traced: The dimensions whose values are arguments of the program.
        folds: Number of folds that the rows of the data are divided into. Default: 1, none.
    """

    experiment: Experiment[Any]
    base: Any
    static: tuple[tuple[str, Any], ...]
    traced: tuple[str, ...]
    folds: int = 1

    @property
    def name(self) -> str:
        """The static values in one line; "all" if every value is traced."""
        return ", ".join(f"{name}={value}" for name, value in self.static) or "all"

    def numbers(self, values: Values) -> dict[str, Any]:
        """Return the traced values of a trial; integers among floats become floats.

        Args:
            values: All values of the trial.
        """
        dimensions = space_of(self.experiment).dimensions
        return {name: traced_value(dimensions[name], values[name]) for name in self.traced}

    def configured(self, numbers: Mapping[str, Any]) -> Any:
        """Return the configuration with these numbers, traced or not."""
        values = {**dict(self.static), **numbers}
        return space_of(self.experiment).configured(self.base, values)

    def training(self, numbers: Mapping[str, Any]) -> Training:
        """Return the training with these numbers, traced or not."""
        base = self.configured({})
        return training_of(self.experiment, self.configured(numbers), base, self.folds)


def space_of(experiment: Experiment[Any]) -> Space:
    """Return the search space of an experiment; raise ValueError if it declares none."""
    space = experiment.space
    if space is None:
        raise ValueError(
            f"{experiment.name} declares no search space: write Experiment(..., "
            'space={"optimizer.learning_rate": LogUniform(1e-4, 1e-1)}), or on the command line '
            "--sweep optimizer.learning_rate=log:1e-4:1e-1"
        )
    if not isinstance(space, Mapping):
        return space
    key = id(space), experiment.config
    if key not in _spaces:
        _spaces[key] = space, Space(experiment.config, space)  # holds the mapping, for its id
    return _spaces[key][1]


def with_recorded_space(
    experiment: Experiment[Any], rows: Sequence[Mapping[str, Any]]
) -> Experiment[Any]:
    """Return the experiment with the space that a sweep recorded, which may differ from its own.

    Args:
        experiment: The experiment, whose `where` applies.
        rows: The rows of `Space.to_plain`.
    """
    where = getattr(experiment.space, "where", ())
    space = Space.from_plain(experiment.config, rows, where)
    return dataclasses.replace(experiment, space=space)


_spaces: dict[Any, tuple[Mapping[str, Any], Space]] = {}


def check_experiment(folder: Path, recorded: str, experiment: Experiment[Any]) -> None:
    """Raise ValueError unless a folder has a sweep of an experiment.

    Args:
        folder: The folder of the sweep.
        recorded: The module of its experiment.
        experiment: The experiment.
    """
    if recorded != (name := sources.module_of(experiment)):
        raise ValueError(
            f"{folder} is a sweep of {recorded}, not of {name}: write "
            f"{command_to_resume(folder, recorded)}"
        )


def structure_of(
    experiment: Experiment[Any], base: Any, found: Mapping[str, str], values: Values
) -> Structure:
    """Return the structure of a trial.

    Args:
        experiment: The experiment.
        base: The configuration that trials change.
        found: The result of `traced_or_static`.
        values: Values of the trial.
    """
    traced = [name for name in values if found[name] == TRACED]
    static = tuple((name, value) for name, value in values.items() if name not in traced)
    return Structure(experiment, base, static, tuple(traced))


def traced_or_static(experiment: Experiment[Any], base: Any, exact: bool = False) -> dict[str, str]:
    """Return "traced", or the reason why not, for each dimension of the experiment's space.

    Dimensions are tried one after the other, each together with the traced ones before it, so all
    that are traced can be traced together.

    Args:
        experiment: The experiment.
        base: The configuration that trials change.
        exact: Whether lanes are bitwise equal to solo runs. A number that is not a leaf of the
            program, such as one inside a layer, is a constant of such a run. Default: False.
    """
    space = space_of(experiment).around(base)
    random = np.random.default_rng(0)
    samples = [space.sample(random) for _ in range(64)]
    found: dict[str, str] = {}
    independent: set[str] = set()
    for name, dimension in space.dimensions.items():
        having = [values for values in samples if name in values]
        options = getattr(dimension, "options", ())
        others = [o for o in options if isinstance(o, bool) or not isinstance(o, int | float)]
        if not having:
            found[name] = "no sample of the space has it"
        elif others:
            found[name] = f"it is not a number but {others[0]!r}"
        elif (why := _data_reason(experiment, base, having[0], name, independent)) is not None:
            found[name] = why
        else:
            for values in having[:TRIES]:
                together = [other for other in values if found.get(other) == TRACED]
                found[name] = _tried(experiment, base, values, together, name, exact)
                if found[name] == TRACED:
                    break
                if _tried(experiment, base, values, together) == TRACED:
                    break  # otherwise the trial cannot run, whether the number is traced or not
    return found


def _as_traced(values: Values, names: Collection[str]) -> dict[str, str]:
    """Return what `traced_or_static` would return if these names were traced."""
    return {name: TRACED if name in names else "static" for name in values}


def traced_value(dimension: Dimension, value: Any) -> Any:
    """Return a value as a traced number: an integer among floats becomes a float.

    Args:
        dimension: The dimension.
        value: The value.
    """
    options = getattr(dimension, "options", (0 if isinstance(dimension, Int) else 0.0,))
    return float(value) if any(isinstance(option, float) for option in options) else value


def _tried(
    experiment: Experiment[Any],
    base: Any,
    values: Values,
    together: Collection[str],
    name: str = "",
    exact: bool = False,
) -> str:
    """Return "traced" if a number can be traced together with others; otherwise why not."""
    structure = structure_of(experiment, base, _as_traced(values, {*together, name}), values)
    try:
        numbers = {n: scalar(value) for n, value in structure.numbers(values).items()}
        jax.eval_shape(
            lambda numbers: structure.training(jax.tree.map(as_written, numbers)).tried(), numbers
        )
        if exact and name and not _is_leaf(structure, numbers, name):
            return (
                "it is not a leaf of the program: a solo run compiles it as a constant, and "
                "--exact lanes are bitwise equal to solo runs"
            )
    except Exception as error:  # whatever a user's code raises on a tracer
        return reason(error)
    return TRACED


def _data_reason(
    experiment: Experiment[Any], base: Any, values: Values, name: str, independent: set[str]
) -> str | None:
    """Return why the data of an experiment depend on a number; None if they do not.

    Lanes share their data, which are loaded outside of any trace: once if they depend on no number,
    otherwise once for each.

    Args:
        experiment: The experiment.
        base: The configuration that trials change.
        values: Values of a trial.
        name: Name of the number.
        independent: Names of numbers that the data do not depend on; this adds more.
    """
    if name in independent:
        return None
    plain = {n: v for n, v in values.items() if isinstance(v, int | float)}
    plain = {n: v for n, v in plain.items() if not isinstance(v, bool)}
    why: str | None = None
    for names in (set(plain), {name}):
        structure = structure_of(experiment, base, _as_traced(values, names), values)
        try:
            why = _read_reason(
                experiment, structure.configured, {n: scalar(plain[n]) for n in names}
            )
        except Exception as error:  # whatever a user's code raises on a tracer
            why = reason(error)
        if why is None:
            independent |= names
            return None
    return why


def _read_reason(experiment: Experiment[Any], configured: Any, numbers: Any) -> str | None:
    """Return why the data depend on the numbers of a configuration; None if they do not.

    Errors that loading the data raises for a traced number are not caught.
    """
    load = experiment.data
    if load is None:
        return None
    traced: list[bool] = []

    def read(numbers: Any) -> None:
        config = configured(jax.tree.map(as_written, numbers))
        with jax.ensure_compile_time_eval():  # what does not depend on the numbers is concrete
            data = load(config)
        parts = Loaded(data)
        traced.extend(map(is_traced, jax.tree.leaves((parts.arrays, parts.validation))))

    jax.eval_shape(read, numbers)
    why = "the data depend on it, and all lanes of a program share their data"
    return why if any(traced) else None


def reads_seed(experiment: Experiment[Any], base: Any) -> str | None:
    """Return where an experiment reads the seed of its configuration, or None.

    If it does, lanes with different seeds differ in more than their keys.

    Args:
        experiment: The experiment.
        base: A configuration with a field `seed`.
    """

    def configured(seed: Any) -> Any:
        return dataclasses.replace(base, seed=seed)

    def tried(seed: Any) -> Any:
        return training_of(experiment, configured(as_written(seed)), base).tried()

    try:
        seed = scalar(base.seed)
        why = _read_reason(experiment, configured, seed)
        if why is None and any(dependent(jax.make_jaxpr(tried)(seed).jaxpr)):
            why = f"its program depends on {type(base).__name__}.seed"
    except Exception as error:  # whatever a user's code raises on a tracer
        why = reason(error)
    return why


def _is_leaf(structure: Structure, numbers: Mapping[str, Any], name: str) -> bool:
    """Return whether a number acts only through leaves of the program."""
    plain = {n: number.item() for n, number in numbers.items()}
    known = {n: array(leaf) for n, leaf in structure.training(plain).leaves().items()}

    def results(value: Any, others: Any) -> Any:
        training = structure.training(jax.tree.map(as_written, others | {name: value}))
        return training.with_leaves(known).tried()

    others = {n: number for n, number in numbers.items() if n != name}
    return not any(dependent(jax.make_jaxpr(results)(numbers[name], others).jaxpr, count=1))


def reason(error: Exception) -> str:
    """Return why a number is static: the line that needs its value, and the error.

    Args:
        error: What the experiment raised on a tracer.
    """
    raised = traceback.extract_tb(error.__traceback__)
    frames = [
        frame
        for frame in raised
        if not frame.filename.startswith(INNER)
        # NumPy's compiled code and the constructors of dataclasses have no readable lines.
        and not frame.filename.endswith((".pyx", "<string>"))
        and frame.filename not in OWN
    ]
    text = str(error).strip().split("\n")[0]
    text = re.sub(
        r" is the traced number .*?, but (must be .*?, known before tracing).*", r" \1", text
    )
    by_jax = bool(raised) and raised[-1].filename.startswith(INNER[0])
    if isinstance(
        error, jax.errors.ConcretizationTypeError | jax.errors.TracerArrayConversionError
    ) or (by_jax and "Tracer" in text):
        text = "Python has to know it there"
    if not frames:
        return text
    last = frames[-1]
    file = "/".join(Path(last.filename).parts[-2:])
    return f"{file}:{last.lineno}, {(last.line or '').strip()!r}: {text}"


some_config: Accepts = Accepts(
    "a dataclass or an instance of it", lambda config: config is not None, TypeError
)


@dataclasses.dataclass(unsafe_hash=True)
class _WithoutData:
    """A function of a configuration as `Experiment.program`, a function of (config, data)."""

    program: Callable[[Any], Program]

    def __post_init__(self) -> None:
        functools.update_wrapper(self, self.program)

    def __call__(self, config: Any, data: Any) -> Program:
        return self.program(config)


class _GivenData:
    """Data as `Experiment.data`, a function of the configuration; equal if the data are."""

    def __init__(self, data: Any) -> None:
        self._data, self._identity = data, Loaded(data).identity

    def __call__(self, config: Any) -> Any:
        return self._data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _GivenData) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(repr(self._identity[0]))


def as_experiment(given: Any, config: Any, space: Any, data: Any) -> tuple[Experiment[Any], Any]:
    """Return the experiment with this space and data, and the configuration if one is given."""
    base = None if config is None or isinstance(config, type) else config
    kind: Any = config if base is None else type(base)
    if not isinstance(given, Experiment):
        function(given, "the experiment", "write an Experiment, or a function of a configuration")
        name = getattr(given, "__name__", type(given).__name__).strip("<>")
        hint = f"write sweep.run({name}, config=Config, space=...)"
        some_config(config, "the configuration of a function", hint)
        given = Experiment(name, kind, program=given if _takes_data(given) else _WithoutData(given))
    elif config is not None:
        what = f"{given.config.__name__}, the configuration of {given.name}, or an instance of it"
        require(kind is given.config, "config", what, config, error=TypeError)
    changes: dict[str, Any] = {} if space is None else {"space": space}
    if data is not None:
        changes["data"] = data if callable(data) else _GivenData(data)
    return dataclasses.replace(given, **changes) if changes else given, base


def _takes_data(program: Callable[..., Any]) -> bool:
    """Return whether a function can be called with a configuration and data."""
    try:
        inspect.signature(program).bind(None, None)
    except TypeError:
        return False
    return True
