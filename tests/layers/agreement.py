"""Agreement of a layer with another library's: outputs, and gradients for a random cotangent."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.near import assert_near

KEY = jax.random.key(0)


def normals(seed: int, *shape: int, dtype: Any = np.float32) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def outputs_and_gradients(f: Callable[..., jax.Array], *args: Any) -> tuple[Any, Any]:
    y, pull = jax.vjp(f, *args)
    return y, pull(normals(9, *y.shape, dtype=y.dtype))


def assert_agree(ours: Callable[..., Any], theirs: Callable[..., Any], *args: Any) -> None:
    """Both in one program, which compiles faster than many small ones."""
    both = jax.jit(lambda *a: (outputs_and_gradients(ours, *a), outputs_and_gradients(theirs, *a)))
    assert_near(*both(*args))
