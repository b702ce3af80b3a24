"""Agreement of a layer with another library's: outputs, and gradients for a random cotangent."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from tests.near import assert_near

KEY = jax.random.key(0)


def normals(seed: int, *shape: int, dtype: Any = np.float32) -> jax.Array:
    """Normal numbers, put on the device as they are: jnp.asarray compiles a program per shape."""
    return jax.device_put(np.random.default_rng(seed).normal(size=shape).astype(jnp.dtype(dtype)))


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def applied(net: nn.Layer, params: Any, *inputs: Any, **options: Any) -> Any:
    """What `net.apply` returns, from one program instead of one for each operation."""
    return net.apply(params, *inputs, **options)


def outputs_and_gradients(f: Callable[..., jax.Array], *args: Any) -> tuple[Any, Any]:
    y, pull = jax.vjp(f, *args)
    return y, pull(normals(9, *y.shape, dtype=y.dtype))


def assert_agree(ours: Callable[..., Any], theirs: Callable[..., Any], *args: Any) -> None:
    """Both in one program, which compiles faster than many small ones."""
    both = jax.jit(lambda *a: (outputs_and_gradients(ours, *a), outputs_and_gradients(theirs, *a)))
    assert_near(*both(*args))
