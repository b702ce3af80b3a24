"""Equality up to rounding.

Two programs that compute the same sums may order and fuse them differently, which changes a result
by a few units in the last place for each sum.
"""

from typing import Any

import chex
import jax.numpy as jnp
import numpy as np

# The networks in tests/cases.py compute about ten sums in a row, each of about ten terms.
UNITS = 100


def assert_near(one: Any, other: Any, dtype: Any = np.float32) -> None:
    """Assert that two trees are equal up to the rounding of `dtype`."""
    rounding = UNITS * float(jnp.finfo(dtype).eps)
    chex.assert_trees_all_close(one, other, rtol=rounding, atol=rounding)
