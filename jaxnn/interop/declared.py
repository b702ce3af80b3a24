"""What a module of another library has, declared as a layer's parameters and state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core import paths
from ..core.declarations import Param, Variable, placeholder
from ..initializers import Initializer, Shape, constant


class Drawn(Initializer):
    """The array at `path` of what `make(key, *inputs)` gives."""

    make: Callable[..., Any]
    inputs: tuple[Any, ...]
    structure: Any
    path: tuple[str, ...]

    def __call__(self, key: Any, shape: Shape, dtype: Any = None) -> jax.Array:
        """The array."""
        inputs = jax.tree.unflatten(self.structure, self.inputs)
        found = dict(paths.walk(self.make(key, *placeholder(inputs))))
        return jnp.asarray(found[self.path], dtype)


def params_of(make: Callable[..., Any], inputs: Any) -> Any:
    """A `Param` for each array of the nested dicts that `make(key, *inputs)` gives, drawn at the
    layer's own key."""
    shapes = jax.eval_shape(make, jax.random.key(0), *inputs)
    given, structure = jax.tree.flatten(inputs)

    def declare(path: paths.Path, leaf: Any) -> Param:
        init = Drawn(make, tuple(given), structure, path)
        return Param(tuple(leaf.shape), init, leaf.dtype, lift=len(path))

    return paths.map_with_path(declare, shapes)


def slots_of(make: Callable[..., Any], inputs: Any) -> Any:
    """A `Variable` for each array of `make(key, *inputs)`.

    It starts constant if its numbers are equal, and the same for two keys; otherwise it is drawn at
    the layer's own key.
    """
    with jax.ensure_compile_time_eval():
        made = jax.jit(make)
        arrays, others = (made(jax.random.key(i), *placeholder(inputs)) for i in range(2))
    again = dict(paths.walk(others))
    given, structure = jax.tree.flatten(inputs)

    def declare(path: paths.Path, leaf: Any) -> Variable:
        numbers = np.asarray(leaf)
        first = numbers.flat[0].item() if numbers.size else 0
        if (numbers == first).all() and (np.asarray(again[path]) == first).all():
            return Variable(numbers.shape, constant(first), numbers.dtype)
        init = Drawn(make, tuple(given), structure, path)
        return Variable(numbers.shape, init, numbers.dtype, lift=len(path))

    return paths.map_with_path(declare, arrays)


def by_text(tree: Any) -> Any:
    """Nested mappings as dicts whose names are text."""
    if hasattr(tree, "items"):
        return {str(name): by_text(item) for name, item in tree.items()}
    return tree
