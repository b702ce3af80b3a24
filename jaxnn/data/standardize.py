"""Mean 0 and standard deviation 1, by statistics that are taken once and kept."""

from typing import NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.data.check import check

Array = TypeVar("Array", np.ndarray, jax.Array)


class Standardizer(NamedTuple):
    """z = (x - mean) / std, feature by feature.

    A pytree of two plain arrays: save it beside the parameters and apply it to whatever is
    predicted on later. Works on numpy arrays and, under any transform, on JAX arrays. Integers
    come back as float32, floats as their own type.

    Args:
        mean, std: float32, the shape of one row.

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
        """The statistics of training inputs, or of targets, over rows.

        std is that of the rows themselves (divided by their number), taken in float64 about the
        mean. A feature that never varies gets std 1, so that it becomes 0 and not NaN.

        Args:
            x: (rows, ...), of training examples only.

        Raises:
            ValueError: no rows, or a NaN or infinity among them.
            TypeError: not an array of numbers.

        >>> Standardizer.fit(np.array([0.0, 10.0, 20.0, 30.0])).mean.item()
        15.0
        """
        check(x, x, name="Standardizer.fit")
        rows = np.asarray(x, np.float64)
        std = rows.std(axis=0).astype(np.float32)
        # Rounding in the mean gives a constant 0.1 a std of 1e-17: ask for equality instead.
        varies = (rows.min(axis=0) != rows.max(axis=0)) & (std > 0)
        return cls(
            np.where(varies, rows.mean(axis=0), rows[0]).astype(np.float32),
            np.where(varies, std, np.float32(1)),
        )

    def __call__(self, x: Array) -> Array:
        """(x - mean) / std for x of shape (..., *mean.shape); ValueError for any other.

        >>> Standardizer(np.float32(15), np.float32(5))(np.array([10, 15, 20])).tolist()
        [-1.0, 0.0, 1.0]
        """
        mean, std = self._beside(x)
        return cast(Array, ((x - mean) / std).astype(self._dtype(x)))

    def inverse(self, z: Array) -> Array:
        """z * std + mean: back to the original units, for predictions of standardized targets.

        >>> Standardizer(np.float32(15), np.float32(5)).inverse(np.array([-1.0, 0.0])).tolist()
        [10.0, 15.0]
        """
        mean, std = self._beside(z)
        return cast(Array, (z * std + mean).astype(self._dtype(z)))

    def _beside(self, x: np.ndarray | jax.Array) -> tuple[np.ndarray, np.ndarray]:
        """Mean and std with x's rank, which strict rank promotion asks for."""
        row = np.shape(self.mean)
        if x.shape[x.ndim - len(row) :] != row or x.ndim < len(row):
            raise ValueError(
                f"Standardizer: x has shape {x.shape}, wanted (..., {', '.join(map(str, row))}) "
                "as in the rows it was fitted to: write Standardizer.fit(x_train) for these"
            )
        shape = (1,) * (x.ndim - len(row)) + row
        return self.mean.reshape(shape), self.std.reshape(shape)

    @staticmethod
    def _dtype(x: np.ndarray | jax.Array) -> np.dtype:
        floating = jnp.issubdtype(x.dtype, np.inexact)
        return np.dtype(x.dtype) if floating else np.dtype(np.float32)
