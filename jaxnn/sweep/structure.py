"""What trials have in common: which swept numbers can be traced is found, not declared.

Every swept number is tried as a tracer, by abstract evaluation of the experiment's whole program:
the configuration, the first parameters, one step, one evaluation. A number that comes through is
*traced*, an argument of the compiled program; one that something looks at (a shape, a Python `if`,
a loop count) is *static*, and the error that it met says why. Trials whose static values are equal
have the same `Structure`, and share compiled programs.
"""

import dataclasses
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives

from .. import core, train
from ..core.values import is_traced
from ..experiment.problem import Problem
from ..experiment.program import Program, Recipe
from ..train.average import evaluation_params
from ..train.evaluation import pure_evaluation
from ..train.feed import pure_steps
from .dimensions import Dimension, Int
from .space import Space, Values

# The directories whose code a reason does not point into: those of jax, and what a layer is.
INNER = tuple(f"{Path(module.__file__ or '').parent}{os.sep}" for module in (jax, core))
TRACED = "traced"
# Samples of the space that are looked at, where those before could not run.
TRIES = 8


@dataclasses.dataclass(frozen=True)
class Structure:
    """The static part of a trial: trials of equal structure share compiled programs.

    Args:
        recipe: the experiment.
        base: the configuration that a trial's values change.
        static: the values that are baked into the program, by dimension.
        traced: the dimensions whose values are arguments of the program.
    """

    recipe: Recipe[Any]
    base: Any
    static: tuple[tuple[str, Any], ...]
    traced: tuple[str, ...]

    @property
    def name(self) -> str:
        """The static values on a line, `all` where there are none."""
        return ", ".join(f"{name}={value}" for name, value in self.static) or "all"

    def numbers(self, values: Values) -> dict[str, Any]:
        """The traced ones of a trial's values; a whole number among others is written as one."""
        dimensions = space_of(self.recipe).dimensions
        return {
            name: float(values[name]) if _is_float(dimensions[name]) else values[name]  # type: ignore[arg-type]
            for name in self.traced
        }

    def program(self, problem: Problem, numbers: Mapping[str, Any]) -> Program:
        """The program with these numbers, traced or not."""
        values = {**dict(self.static), **numbers}
        return self.recipe.build(space_of(self.recipe).configured(self.base, values), problem)


def space_of(recipe: Recipe[Any]) -> Space:
    """The experiment's search space; ValueError where it declares none."""
    if recipe.space is None:
        raise ValueError(
            f"{recipe.name} declares no search space: write Recipe(..., space=Space(Experiment, "
            '{"optimizer.learning_rate": Log(1e-4, 1e-1)}))'
        )
    return recipe.space


def structure_of(
    recipe: Recipe[Any], base: Any, found: Mapping[str, str], values: Values
) -> Structure:
    """The structure of the trial with these values, by what `traced_or_static` found."""
    static = tuple((name, value) for name, value in values.items() if found[name] != TRACED)
    return Structure(recipe, base, static, tuple(n for n in values if found[n] == TRACED))


def traced_or_static(recipe: Recipe[Any], base: Any, problem: Problem) -> dict[str, str]:
    """`traced`, or the reason why not, for each dimension of the experiment's space.

    Dimensions are tried one after the other, each beside those that came through before it, so
    that what is called traced can be traced together.
    """
    space = space_of(recipe)
    random = np.random.default_rng(0)
    samples = [space.sample(random) for _ in range(64)]
    found: dict[str, str] = {}
    for name in space.dimensions:
        having = [values for values in samples if name in values]
        options = getattr(space.dimensions[name], "options", ())
        others = [o for o in options if isinstance(o, bool) or not isinstance(o, int | float)]
        if not having:
            found[name] = "no sample of the space has it"
        elif others:
            found[name] = f"it is no number, but {others[0]!r}, say"
        else:
            for values in having[:TRIES]:
                together = tuple(other for other in values if found.get(other) == TRACED)
                found[name] = _tried(recipe, base, problem, values, (*together, name))
                if found[name] == TRACED:
                    break
                if _tried(recipe, base, problem, values, together) == TRACED:
                    break  # a trial that cannot run anyway says nothing about the number
    return found


def _is_float(dimension: Dimension) -> bool:
    options = getattr(dimension, "options", (0 if isinstance(dimension, Int) else 0.0,))
    return any(isinstance(option, float) for option in options)


def _tried(
    recipe: Recipe[Any], base: Any, problem: Problem, values: Values, names: tuple[str, ...]
) -> str:
    static = tuple((name, value) for name, value in values.items() if name not in names)
    structure = Structure(recipe, base, static, names)
    try:
        numbers = {name: scalar(value) for name, value in structure.numbers(values).items()}
        jax.eval_shape(
            lambda numbers: _one_step(structure, problem, jax.tree.map(as_written, numbers)),
            numbers,
        )
    except Exception as error:  # whatever a user's code raises on a tracer
        return reason(error)
    return TRACED


def _one_step(structure: Structure, problem: Problem, numbers: dict[str, Any]) -> Any:
    program = structure.program(problem, numbers)
    for field in ("batch_size", "epochs"):
        if is_traced(getattr(program, field)):
            raise TypeError(f"Program.{field} must be a number that Python knows")
    x, y = (jnp.asarray(part[: program.batch_size]) for part in problem.scaled.train)
    ts = start(program, problem, 0)
    order = jnp.zeros((1, program.batch_size), jnp.int32)
    ts, sums = pure_steps(
        program.net, program.task, program.optimizer, program.augment, ts, x, y, order
    )
    return sums, pure_evaluation(
        program.net, program.task, evaluation_params(ts), ts.state, x, y, len(x)
    )


def start(program: Program, problem: Problem, seed: Any) -> train.TrainState:
    """The state before the first step, as `train.fit` makes it."""
    x = problem.scaled.train.x
    example = jax.ShapeDtypeStruct((program.batch_size, *x.shape[1:]), x.dtype)
    return train.TrainState.create(program.net, program.optimizer, jax.random.key(seed), example)


def scalar(value: Any) -> np.ndarray[Any, Any]:
    """A number as the program takes it: float32, or int32 for a whole number."""
    return np.asarray(value, np.int32 if isinstance(value, int) else np.float32)


def as_written(number: Any) -> Any:
    """A traced number with the type that a Python number would have there.

    A Python number never widens what it meets: 0.1 times bfloat16 is bfloat16.
    """
    return primitives.convert_element_type_p.bind(
        number, new_dtype=number.dtype, weak_type=True, sharding=None
    )


def reason(error: Exception) -> str:
    """Why a number is static: the place that looked at it, and what was said there."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(INNER) and frame.filename != __file__
    ]
    said = str(error).strip().split("\n")[0]
    if isinstance(
        error, jax.errors.ConcretizationTypeError | jax.errors.TracerArrayConversionError
    ):
        said = "Python has to know it there"
    if not frames:
        return said
    place = frames[-1]
    file = "/".join(Path(place.filename).parts[-2:])
    return f"{file}:{place.lineno}, {(place.line or '').strip()!r}: {said}"
