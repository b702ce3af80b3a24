"""What `equal to rounding` means: two programs of the same sums may order and fuse them
differently, which moves a result by a few units in the last place for each sum it went through."""

from typing import Any

import chex
import jax.numpy as jnp
import numpy as np

# The nets of the table sum at most some ten terms, some ten times over.
UNITS = 100


def assert_near(one: Any, other: Any, dtype: Any = np.float32) -> None:
    rounding = UNITS * float(jnp.finfo(dtype).eps)
    chex.assert_trees_all_close(one, other, rtol=rounding, atol=rounding)
