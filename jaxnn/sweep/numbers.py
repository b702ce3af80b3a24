"""Numbers of lanes: traced as arrays, with the type that Python numbers would have."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Var, primitives


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


def array(leaf: Any) -> Any:
    """A leaf of a program as compiled code takes it."""
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf, jnp.result_type(leaf))


def like(number: Any, other: Any) -> Any:
    """A traced number, weakly typed if another one is."""
    return as_written(number) if getattr(jax.typeof(other), "weak_type", False) else number


def dependent(jaxpr: Any, count: int | None = None) -> list[bool]:
    """Whether each result of a jaxpr depends on its arguments, as far as it shows.

    Args:
        jaxpr: the jaxpr.
        count: how many of the first arguments count; all by default.
    """
    reached = set(jaxpr.invars[:count])
    for equation in jaxpr.eqns:
        if any(isinstance(var, Var) and var in reached for var in equation.invars):
            reached.update(equation.outvars)
    return [isinstance(var, Var) and var in reached for var in jaxpr.outvars]


def depends(jaxpr: Any) -> bool:
    """Whether any result of a jaxpr depends on its arguments, as far as it shows."""
    return any(dependent(jaxpr))
