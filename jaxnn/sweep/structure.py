"""What trials have in common: which swept numbers can be traced is found, not declared.

Every swept number is tried as a tracer, by abstract evaluation of the experiment's whole program:
the configuration, the first parameters, one step, one evaluation. A number that comes through is
*traced*, an argument of the compiled program; one that something looks at (a shape, a Python `if`,
a loop count) is *static*, and the error that it met says why. Trials whose static values are equal
have the same `Structure`, and share compiled programs.
"""

import dataclasses
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import core
from ..experiment import experiment as experiment_module
from ..experiment.experiment import Experiment, Loaded
from ..fields import is_traced
from . import training as training_module
from .dimensions import Dimension, Int
from .space import Space, Values
from .training import Training, array, arrays_of, as_written, dependent, scalar, training_of

# The directories whose code a reason does not point into: those of jax and numpy, and what a layer
# is.
INNER = tuple(f"{Path(module.__file__ or '').parent}{os.sep}" for module in (jax, core, np))
OWN = {
    str(module.__file__) for module in (sys.modules[__name__], training_module, experiment_module)
}
TRACED = "traced"
# Samples of the space that are looked at, where those before could not run.
TRIES = 8


@dataclasses.dataclass(frozen=True)
class Structure:
    """The static part of a trial: trials of equal structure share compiled programs.

    Args:
        experiment: the experiment.
        base: the configuration that a trial's values change.
        static: the values that are baked into the program, by dimension.
        traced: the dimensions whose values are arguments of the program.
    """

    experiment: Experiment[Any]
    base: Any
    static: tuple[tuple[str, Any], ...]
    traced: tuple[str, ...]

    @property
    def name(self) -> str:
        """The static values on a line, `all` where there are none."""
        return ", ".join(f"{name}={value}" for name, value in self.static) or "all"

    def numbers(self, values: Values) -> dict[str, Any]:
        """The traced ones of a trial's values; a whole number among others is written as one."""
        dimensions = space_of(self.experiment).dimensions
        return {
            name: float(values[name]) if _is_float(dimensions[name]) else values[name]  # type: ignore[arg-type]
            for name in self.traced
        }

    def configured(self, numbers: Mapping[str, Any]) -> Any:
        """The configuration with these numbers, traced or not."""
        values = {**dict(self.static), **numbers}
        return space_of(self.experiment).configured(self.base, values)

    def training(self, numbers: Mapping[str, Any]) -> Training:
        """The training with these numbers, traced or not."""
        return training_of(self.experiment, self.configured(numbers), self.configured({}))


def space_of(experiment: Experiment[Any]) -> Space:
    """The experiment's search space; ValueError where it declares none."""
    space = experiment.space
    if space is None:
        raise ValueError(
            f"{experiment.name} declares no search space: write Experiment(..., "
            'space={"optimizer.learning_rate": LogUniform(1e-4, 1e-1)})'
        )
    if not isinstance(space, Mapping):
        return space
    key = id(space), experiment.config
    if key not in _spaces:
        _spaces[key] = space, Space(experiment.config, space)  # with the mapping, for its id
    return _spaces[key][1]


_spaces: dict[Any, tuple[Mapping[str, Any], Space]] = {}


def structure_of(
    experiment: Experiment[Any], base: Any, found: Mapping[str, str], values: Values
) -> Structure:
    """The structure of the trial with these values, by what `traced_or_static` found."""
    static = tuple((name, value) for name, value in values.items() if found[name] != TRACED)
    return Structure(experiment, base, static, tuple(n for n in values if found[n] == TRACED))


def traced_or_static(experiment: Experiment[Any], base: Any, exact: bool = False) -> dict[str, str]:
    """`traced`, or the reason why not, for each dimension of the experiment's space.

    Dimensions are tried one after the other, each next to those that came through before it, so
    that what is called traced can be traced together.

    Args:
        experiment: the experiment.
        base: the configuration that trials change.
        exact: whether lanes have the bits of runs of their own. A number of a program that is not
            one of its leaves, such as one inside a layer, is a constant of such a run.
    """
    space = space_of(experiment)
    random = np.random.default_rng(0)
    samples = [space.sample(random) for _ in range(64)]
    found: dict[str, str] = {}
    independent: set[str] = set()
    for name in space.dimensions:
        having = [values for values in samples if name in values]
        options = getattr(space.dimensions[name], "options", ())
        others = [o for o in options if isinstance(o, bool) or not isinstance(o, int | float)]
        if not having:
            found[name] = "no sample of the space has it"
        elif others:
            found[name] = f"it is not a number but {others[0]!r}"
        elif (why := _data_reason(experiment, base, having[0], name, independent)) is not None:
            found[name] = why
        else:
            for values in having[:TRIES]:
                together = tuple(other for other in values if found.get(other) == TRACED)
                found[name] = _tried(experiment, base, values, (*together, name), exact)
                if found[name] == TRACED:
                    break
                if _tried(experiment, base, values, together, exact) == TRACED:
                    break  # a trial that cannot run anyway says nothing about the number
    return found


def _is_float(dimension: Dimension) -> bool:
    options = getattr(dimension, "options", (0 if isinstance(dimension, Int) else 0.0,))
    return any(isinstance(option, float) for option in options)


def _tried(
    experiment: Experiment[Any], base: Any, values: Values, names: tuple[str, ...], exact: bool
) -> str:
    """Whether the last of these names can be traced next to the others."""
    static = tuple((name, value) for name, value in values.items() if name not in names)
    structure = Structure(experiment, base, static, names)
    try:
        numbers = {name: scalar(value) for name, value in structure.numbers(values).items()}
        jax.eval_shape(
            lambda numbers: structure.training(jax.tree.map(as_written, numbers)).tried(), numbers
        )
        if exact and names:
            _check_leaf(structure, numbers, names[-1])
    except Exception as error:  # whatever a user's code raises on a tracer
        return reason(error)
    return TRACED


class _Static(Exception):
    """Why a number is static, as a whole sentence."""


def _data_reason(
    experiment: Experiment[Any], base: Any, values: Values, name: str, independent: set[str]
) -> str | None:
    """Where the data of an experiment depend on a number; None if they do not.

    Lanes share their data, which are made outside of any trace. They are made once if they depend
    on no number, and else once for each.

    Args:
        experiment: the experiment.
        base: the configuration that trials change.
        values: of a trial.
        name: of the number.
        independent: names of numbers that the data do not depend on, which grow.
    """
    if name in independent:
        return None
    plain = {n: v for n, v in values.items() if isinstance(v, int | float)}
    plain = {n: v for n, v in plain.items() if not isinstance(v, bool)}
    said: str | None = None
    for names in (set(plain), {name}):
        static = tuple((n, value) for n, value in values.items() if n not in names)
        structure = Structure(experiment, base, static, tuple(names))
        try:
            _check_read(experiment, structure.configured, {n: scalar(plain[n]) for n in names})
        except Exception as error:  # whatever a user's code raises on a tracer
            said = reason(error)
        else:
            independent |= names
            return None
    return said


def _check_read(experiment: Experiment[Any], configured: Any, numbers: Any) -> None:
    """Raise an error if the data depend on the numbers that `configured` puts in their places."""
    load = experiment.data
    if load is None:
        return

    def read(numbers: Any) -> None:
        config = configured(jax.tree.map(as_written, numbers))
        with jax.ensure_compile_time_eval():  # all that does not depend on the numbers has values
            data = load(config)
        leaves = [] if data is None else jax.tree.leaves(arrays_of(Loaded(data)))
        if any(map(is_traced, leaves)):
            raise _Static("the data depend on it, and all lanes of a program share their data")

    jax.eval_shape(read, numbers)


def reads_seed(experiment: Experiment[Any], base: Any) -> str | None:
    """Where an experiment reads the seed of its configuration; None if it does not.

    Lanes with different seeds then differ in more than their keys.
    """

    def configured(seed: Any) -> Any:
        return dataclasses.replace(base, seed=seed)

    def tried(seed: Any) -> Any:
        return training_of(experiment, configured(as_written(seed)), base).tried()

    try:
        seed = scalar(base.seed)
        _check_read(experiment, configured, seed)
        jaxpr = jax.make_jaxpr(tried)
        if any(dependent(jaxpr(seed).jaxpr)):
            raise _Static(f"its program depends on {type(base).__name__}.seed")
    except Exception as error:  # whatever a user's code raises on a tracer
        return reason(error)
    return None


def _check_leaf(structure: Structure, numbers: Mapping[str, Any], name: str) -> None:
    """Raise an error unless a number acts through leaves of the program alone."""
    plain = {n: number.item() for n, number in numbers.items()}
    known = {n: array(leaf) for n, leaf in structure.training(plain).leaves().items()}

    def results(value: Any, others: Any) -> Any:
        training = structure.training(jax.tree.map(as_written, others | {name: value}))
        return training.with_leaves(known).tried()

    others = {n: number for n, number in numbers.items() if n != name}
    if any(dependent(jax.make_jaxpr(results)(numbers[name], others).jaxpr, count=1)):
        raise _Static(
            "it is not a leaf of the program, so a solo run compiles it as a constant, whose "
            "bits --exact keeps"
        )


def reason(error: Exception) -> str:
    """Why a number is static: the place that looked at it, and what was said there."""
    raised = traceback.extract_tb(error.__traceback__)
    frames = [
        frame
        for frame in raised
        if not frame.filename.startswith(INNER)
        and not frame.filename.endswith(".pyx")  # NumPy's, whose lines are not to be seen
        and frame.filename not in OWN
    ]
    said = str(error).strip().split("\n")[0]
    if isinstance(error, _Static):
        return said
    by_jax = bool(raised) and raised[-1].filename.startswith(INNER[0])
    if isinstance(
        error, jax.errors.ConcretizationTypeError | jax.errors.TracerArrayConversionError
    ) or (by_jax and "Tracer" in said):
        said = "Python has to know it there"
    if not frames:
        return said
    place = frames[-1]
    file = "/".join(Path(place.filename).parts[-2:])
    return f"{file}:{place.lineno}, {(place.line or '').strip()!r}: {said}"
