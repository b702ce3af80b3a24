"""Precision: one value that says in which type a network computes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ..core.calls import Call, Outcome
from ..core.declarations import Declaration, is_array
from ..core.layer import LayerLike, declared
from ..core.wrapper import Wrapper


class Precision(Wrapper):
    """The same network, computed in the floating type `compute`.

    Floating inputs and parameters are cast to `compute` and the output back to the type of the
    first floating input (of the parameters, where all inputs are integers). Integers and state stay
    as they are, and parameters keep their own type, so gradients and updates have it. Statistics,
    softmax and losses accumulate in at least float32 whatever `compute` is. Raises ValueError for a
    name that is no floating type.

    Reference: Micikevicius et al., Mixed precision training, 2018.

    >>> import jax, jax.numpy as jnp
    >>> from jaxnn import Dense
    >>> net = Precision(Dense(4), compute="bfloat16")
    >>> x = jnp.ones((2, 3))
    >>> params = net.init(jax.random.key(0), x)
    >>> params["w"].dtype.name, net.apply(params, x).dtype.name
    ('float32', 'float32')
    """

    inner: LayerLike
    compute: str = "bfloat16"

    def __post_init__(self) -> None:
        """Check the type's name."""
        try:
            floating = jnp.issubdtype(jnp.dtype(self.compute), jnp.floating)
        except TypeError:
            floating = False
        if not isinstance(self.compute, str) or not floating:
            raise ValueError(
                "Precision.compute is the name of a floating type, such as 'bfloat16', 'float16' "
                f"or 'float32'; got {self.compute!r}"
            )

    def _declare(self, method: str, inputs: Any, named: Any) -> Declaration:
        cast = _cast((inputs, named), self.compute)
        declaration = declared(self.wrapped, method, *cast)
        outside = _floating_type((inputs, named, declaration.params))
        return declaration._replace(output=_cast(declaration.output, outside))

    def _evaluate(self, call: Call, method: str, inputs: Any, named: Any) -> Outcome:
        outside = _floating_type((inputs, named, call.params))
        below = dataclasses.replace(call, params=_cast(call.params, self.compute))
        outcome = self.wrapped._evaluate(below, method, *_cast((inputs, named), self.compute))
        return outcome._replace(output=_cast(outcome.output, outside))


def _is_floating(leaf: Any) -> bool:
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def _floating_type(trees: Any) -> Any:
    """The type of the first floating array, or the default one."""
    found = (leaf.dtype for leaf in jax.tree.leaves(trees) if _is_floating(leaf))
    return next(found, jnp.result_type(float))


def _cast(tree: Any, dtype: Any) -> Any:
    def leaf(x: Any) -> Any:
        if not _is_floating(x):
            return x
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))
        return x.astype(dtype)

    return jax.tree.map(leaf, tree)
