"""Arrays: the machine of `lifting` that computes with stacks of blocks."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .lifting import ELEMENTWISE, TOTALS, Value, branch_results


class Arrays:
    """Computes with arrays; those with a value for each block have the stack's axes in front.

    Args:
        stacks: the sizes of the stacked axes of each parameter.
    """

    def __init__(self, stacks: Sequence[tuple[int, ...]]) -> None:
        self.stacks = stacks

    def constant(self, value: Any) -> Any:
        """The value itself."""
        return value

    def shared(self, eqn: Any, operands: Sequence[Any]) -> list[Any]:
        """The equation itself."""
        return _bound(eqn)(*operands)

    def mapped(self, eqn: Any, leaf: int, values: Sequence[Value]) -> list[Any]:
        """The equation, by `jax.vmap` unless it is the same for a stack."""
        function = _bound(eqn)
        if not _direct(eqn, leaf, values):
            axes = tuple(0 if value.kind == leaf else None for value in values)
            for _ in self.stacks[leaf]:
                function = jax.vmap(function, in_axes=axes)
        return function(*(value.data for value in values))

    def reduced(self, operation: str, value: Value) -> Any:
        """A reduction over the stack's axes."""
        stack = self.stacks[value.kind]
        if not stack:
            return value.data
        more = {"dtype": value.data.dtype} if operation == "add" else {}
        return TOTALS[operation](value.data, axis=tuple(range(len(stack))), **more)

    def joined(self, eqn: Any, values: Sequence[Value]) -> Any:
        """A concatenation of flat vectors."""
        return lax.concatenate([jnp.reshape(value.data, -1) for value in values], 0)

    def spread(self, value: Value, leaf: int) -> Any:
        """The value, broadcast along the stack's axes."""
        if value.kind == leaf:
            return value.data
        return jnp.broadcast_to(value.data, (*self.stacks[leaf], *jnp.shape(value.data)))

    def switch(
        self, branches: Sequence[Any], values: Sequence[Value], kinds: Sequence[Any]
    ) -> list[Any]:
        """A `lax.switch`."""
        number, *rest = values

        def run(branch: Any) -> Any:
            def one(*data: Any) -> list[Any]:
                again = [Value(v.kind, d) for v, d in zip(rest, data, strict=True)]
                return branch_results(branch, again, kinds, self)

            return one

        return lax.switch(number.data, [run(b) for b in branches], *(v.data for v in rest))


def _bound(eqn: Any) -> Any:
    """The equation as a function of its operands, which returns a list."""

    def function(*operands: Any) -> list[Any]:
        params = eqn.primitive.get_bind_params(eqn.params)
        functions, params = params if isinstance(params, tuple) else ((), params)  # by JAX version
        with eqn.ctx.manager:
            results = eqn.primitive.bind(*functions, *operands, **params)
        return list(results) if eqn.primitive.multiple_results else [results]

    return function


def _direct(eqn: Any, leaf: int, values: Sequence[Value]) -> bool:
    """Whether an equation is the same for a stack as for a block."""
    name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
    if name not in ELEMENTWISE or (name == "select_n" and any(v.kind != leaf for v in values[1:])):
        return False
    return all(
        atom.aval.shape == (shape if value.kind == leaf else ())
        for value, atom in zip(values, eqn.invars, strict=True)
    )
