"""A stax-style pair of functions as a layer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..core import paths
from ..core.declarations import Param
from ..core.layer import Primitive
from ..initializers import Initializer, Shape


class layer(Primitive):
    """A layer made of two functions.

    The parameters are those that `init_fun` returns for the key of the layer. A pair
    `(init, apply)` of `jax.example_libraries.stax`, whose init takes a shape and returns
    `(output_shape, params)`, becomes `layer(lambda key, x: init(key, x.shape)[1], apply)`.

    Args:
        init_fun: Function of `(key, *inputs)` that returns parameters, a pytree of dicts, tuples,
            and lists. Inputs are `jax.ShapeDtypeStruct`.
        apply_fun: Function of `(params, *inputs)` that returns the output.

    >>> import jax, jax.numpy as jnp
    >>> scale = layer(lambda key, x: {"s": jnp.ones(x.shape)}, lambda params, x: x * params["s"])
    >>> params = scale.init(jax.random.key(0), jnp.ones(3))
    >>> scale.apply(params, 2 * jnp.ones(3)).tolist()
    [2.0, 2.0, 2.0]
    """

    init_fun: Callable[..., Any]
    apply_fun: Callable[..., Any]

    def parameters(self, *inputs: Any) -> Any:
        """Return the shapes of the parameters that `init_fun` returns."""
        given, structure = jax.tree.flatten(inputs)
        drawn = jax.eval_shape(lambda key: self.init_fun(key, *inputs), jax.random.key(0))
        leaves = dict(enumerate(paths.walk(drawn)))
        numbers = {path: number for number, (path, _) in leaves.items()}

        def declare(path: paths.Path, leaf: Any) -> Param:
            init = _Drawn(self.init_fun, tuple(given), structure, numbers[path])
            return Param(tuple(leaf.shape), init, leaf.dtype, lift=len(path))

        return paths.map_with_path(declare, drawn)

    def forward(self, params: Any, *inputs: Any) -> Any:
        """Return `apply_fun` of the parameters and inputs."""
        return self.apply_fun(params, *inputs)


class _Drawn(Initializer):
    """One array of what `init_fun` returns for a key."""

    init_fun: Callable[..., Any]
    given: tuple[Any, ...]
    structure: Any
    number: int

    def __call__(self, key: Any, shape: Shape, dtype: Any = None) -> jax.Array:
        """Return the array of that number."""
        inputs = jax.tree.unflatten(self.structure, self.given)
        drawn = list(paths.walk(self.init_fun(key, *inputs)))
        return jnp.asarray(drawn[self.number][1], dtype)
