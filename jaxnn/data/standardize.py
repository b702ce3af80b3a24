"""Standardization to mean 0 and standard deviation 1, by statistics that are computed once."""

import functools
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.data.rows import check_finite, check_rows

Array = TypeVar("Array", np.ndarray, jax.Array)


class Standardizer(NamedTuple):
    """z = (x - mean) / std, feature by feature.

    A pytree of two plain arrays: save it with the parameters and apply it to all later inputs. It
    accepts NumPy arrays and, under any transform, JAX arrays. Integers become float32, floats keep
    their type.

    Args:
        mean: Mean of each feature, float32, the shape of one row.
        std: Standard deviation of each feature, likewise.

    >>> scale = Standardizer.fit(np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> scale.mean.tolist(), scale.std.tolist()          # the second feature never varies
    ([2.0, 5.0], [1.0, 1.0])
    >>> scale(np.array([[4.0, 5.0]])).tolist()
    [[2.0, 0.0]]
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray) -> "Standardizer":
        """Return the statistics of training inputs, or of targets, over rows.

        std is the root mean square of the difference from the mean, in float64. A feature that
        never varies gets std 1, so that it becomes 0 and not NaN.

        Args:
            x: Training examples only, (rows, ...).

        Raises:
            ValueError: There are no rows, or NaN or infinity among them.
            TypeError: `x` is not an array of numbers.

        >>> Standardizer.fit(np.array([0.0, 10.0, 20.0, 30.0])).mean.item()
        15.0
        """
        check_rows(x, "Standardizer.fit(x)")
        check_finite(x, "Standardizer.fit(x)")
        rows = np.asarray(x, np.float64)
        std = rows.std(axis=0).astype(np.float32)
        # Rounding of the mean gives a constant 0.1 a std of 1e-17: test for equality instead.
        varies = (rows.min(axis=0) != rows.max(axis=0)) & (std > 0)
        return cls(
            np.where(varies, rows.mean(axis=0), rows[0]).astype(np.float32),
            np.where(varies, std, np.float32(1)),
        )

    def __call__(self, x: Array) -> Array:
        """Return (x - mean) / std.

        Args:
            x: (..., *mean.shape); ValueError for any other shape.

        >>> Standardizer(np.float32(15), np.float32(5))(np.array([10, 15, 20])).tolist()
        [-1.0, 0.0, 1.0]
        """
        mean, std = self._as_wide_as(x)
        return cast(Array, ((x - mean) / std).astype(self._dtype(x)))

    def inverse(self, z: Array) -> Array:
        """Return z * std + mean, in the original units, for predictions of standardized targets.

        Args:
            z: (..., *mean.shape); ValueError for any other shape.

        >>> Standardizer(np.float32(15), np.float32(5)).inverse(np.array([-1.0, 0.0])).tolist()
        [10.0, 15.0]
        """
        mean, std = self._as_wide_as(z)
        return cast(Array, (z * std + mean).astype(self._dtype(z)))

    def layer(self) -> functools.partial[Any]:
        """Return a function to use as a layer, for a network of inputs in their original units.

        >>> import jaxnn as nn
        >>> scale = Standardizer(np.float32(15), np.float32(5))
        >>> net = nn.Sequential(scale.layer(), nn.Dense(1))
        >>> net == nn.Sequential(scale.layer(), nn.Dense(1))
        True
        """
        return functools.partial(standardized, mean=_numbers(self.mean), std=_numbers(self.std))

    def _as_wide_as(self, x: np.ndarray | jax.Array) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and std with x's rank, which strict rank promotion requires."""
        row = np.shape(self.mean)
        if x.shape[x.ndim - len(row) :] != row or x.ndim < len(row):
            raise ValueError(
                f"Standardizer.x must have shape (..., {', '.join(map(str, row))}), like the rows "
                f"in fit, got {x.shape}; write Standardizer.fit(x_train) for these"
            )
        shape = (1,) * (x.ndim - len(row)) + row
        return self.mean.reshape(shape), self.std.reshape(shape)

    @staticmethod
    def _dtype(x: np.ndarray | jax.Array) -> np.dtype:
        floating = jnp.issubdtype(x.dtype, np.inexact)
        return np.dtype(x.dtype) if floating else np.dtype(np.float32)


def standardized(x: Array, *, mean: Any, std: Any) -> Array:
    """Return (x - mean) / std, feature by feature; `Standardizer.layer` binds mean and std.

    Args:
        x: (..., *shape), with the shape of one row.
        mean: Numbers, in nested tuples of the shape of one row.
        std: Numbers, likewise.
    """
    return Standardizer(np.asarray(mean, np.float32), np.asarray(std, np.float32))(x)


def _numbers(array: Any) -> Any:
    """Return the numbers of an array in nested tuples."""
    return tuple(map(_numbers, array)) if np.ndim(array) else float(array)
