"""Augmentation as pure functions of a key, for use inside the training step; standardization.

`mixup` and `cutmix` mix examples and their targets. Such targets are soft: a probability for each
class, which `train.Classification` accepts like labels; or a weighted mean of two numbers, for
regression. `standardize` uses statistics that are computed once.
"""

import functools
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.data.rows import check_finite, check_rows, row_count
from jaxnn.validation import Accepts, above, integer, number


def random_shift(key: jax.Array, images: jax.Array, pixels: int) -> jax.Array:
    """Shift each image by a random whole number of pixels, and fill with zeros.

    out[b, i, j] = images[b, i - down[b], j - right[b]], zero outside. down and right are uniform
    over -pixels .. pixels and independent.

    Args:
        key: A JAX key; equal keys give equal shifts.
        images: (B, H, W) or (B, H, W, C), any dtype.
        pixels: Largest shift in each direction, a Python int less than H and W.

    Returns:
        Images of the same shape and dtype.

    Raises:
        TypeError: `pixels` is traced; it determines the size of a padded image, so it is static.
        ValueError: Images have another rank, or `pixels` could shift a whole image away.

    >>> dot = jnp.zeros((3, 5, 5)).at[:, 2, 2].set(1.0)
    >>> shifted = random_shift(jax.random.key(0), dot, 2)
    >>> shifted.shape, shifted.sum(axis=(1, 2)).tolist()
    ((3, 5, 5), [1.0, 1.0, 1.0])
    """
    height, width = _height_and_width(images, "random_shift")
    integer(0, min(height, width) - 1)(
        pixels, "random_shift.pixels", f"images have {height} x {width} pixels"
    )
    # One slice an image, under vmap: faster on CPU than an indexed gather, one-hot products or
    # selecting among all 2 * pixels + 1 shifts.
    with jax.named_scope("random_shift"):
        edges = ((pixels, pixels), (pixels, pixels), *((0, 0) for _ in images.shape[3:]))
        padded = jnp.pad(images, ((0, 0), *edges))
        corners = jax.random.randint(key, (len(images), 2), 0, 2 * pixels + 1)
        return _windows(padded, corners, images.shape[1:])


def random_crop(key: jax.Array, images: jax.Array, size: int | tuple[int, int]) -> jax.Array:
    """Cut a window of `size` out of each image, at a random place.

    out[b, i, j] = images[b, top[b] + i, left[b] + j]. top and left are uniform over the places
    where the window fits, and independent. `random_shift` is the crop of a padded image.

    Args:
        key: A JAX key; equal keys give equal crops.
        images: (B, H, W) or (B, H, W, C), any dtype.
        size: (height, width) of the window in pixels, or one int for both.

    Returns:
        (B, height, width) or (B, height, width, C), of the same dtype.

    Raises:
        TypeError: `size` is traced; it determines a shape, so it is static.
        ValueError: Images have another rank, or the window is larger than they are.

    >>> random_crop(jax.random.key(0), jnp.zeros((3, 32, 32, 3)), 28).shape
    (3, 28, 28, 3)
    """
    sides = _height_and_width(images, "random_crop")
    height, width = size if isinstance(size, tuple) else (size, size)
    for side, longest in zip((height, width), sides, strict=True):
        integer(1, longest)(side, "random_crop.size", "images have {} x {} pixels".format(*sides))
    with jax.named_scope("random_crop"):
        room = jnp.array([[sides[0] - height + 1, sides[1] - width + 1]])
        corners = jax.random.randint(key, (len(images), 2), 0, room)
        return _windows(images, corners, (height, width, *images.shape[3:]))


def _windows(images: jax.Array, corners: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return the window of each image that begins at its corner (row, column)."""

    def window(image: jax.Array, corner: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (*corner, *(0 for _ in shape[2:])), shape)

    return jax.vmap(window)(images, corners)


def random_flip(key: jax.Array, images: jax.Array, axis: int = 2) -> jax.Array:
    """Mirror each image with probability one half.

    out[b, i, j] = images[b, i, W - 1 - j] if image b is mirrored.

    Args:
        key: A JAX key; equal keys mirror the same images.
        images: (B, H, W) or (B, H, W, C), any dtype.
        axis: 2 to mirror left to right, 1 to mirror top to bottom. Default: 2.

    Returns:
        Images of the same shape and dtype.

    Raises:
        ValueError: Images have another rank.

    >>> flipped = random_flip(jax.random.key(0), jnp.array([[[1, 2]]] * 9))
    >>> sorted({tuple(row) for row in flipped[:, 0].tolist()})
    [(1, 2), (2, 1)]
    """
    _height_and_width(images, "random_flip")
    integer(1, 2)(axis, "random_flip.axis")
    with jax.named_scope("random_flip"):
        mirrored = jax.random.bernoulli(key, shape=(len(images),))
        mirrored = mirrored.reshape(-1, *(1 for _ in images.shape[1:]))
        return jnp.where(mirrored, jnp.flip(images, axis), images)


def cutout(key: jax.Array, images: jax.Array, size: int) -> jax.Array:
    """Set a square of each image to zero, at a random place.

    out[b, i, j] = 0 if 0 <= i - top[b] < size and 0 <= j - left[b] < size, else images[b, i, j].
    The square's center is uniform over the pixels, with top = center - size // 2, so that a part of
    it may lie outside, which the paper found to matter.

    Args:
        key: A JAX key; equal keys give equal squares.
        images: (B, H, W) or (B, H, W, C), any dtype.
        size: Side of the square in pixels, at least 1; it may be traced.

    Returns:
        Images of the same shape and dtype.

    Raises:
        ValueError: Images have another rank, or `size` is less than 1.

    Reference: DeVries and Taylor, Improved regularization of convolutional neural networks with
    cutout, 2017.

    >>> int(cutout(jax.random.key(0), jnp.ones((1, 9, 9)), 1).sum())
    80
    """
    _height_and_width(images, "cutout")
    number(1)(size, "cutout.size")
    with jax.named_scope("cutout"):
        corners = _centers(key, images) - size // 2
        inside = _in_box(images, corners, corners + size)
        return jnp.where(inside, jnp.zeros((), images.dtype), images)


def mixup(
    key: jax.Array, x: Any, y: Any, *, alpha: Any = 0.2, classes: int | None = None
) -> tuple[Any, Any]:
    """Replace each example by a weighted mean of itself and another, with one weight per example.

    x'[b] = w[b] x[b] + (1 - w[b]) x[p(b)], and y' likewise. w[b] is drawn from Beta(alpha, alpha),
    and p is a random order of the batch.

    Args:
        key: A JAX key; equal keys give equal mixtures.
        x: Inputs, a pytree of floats (B, ...).
        y: Targets, a pytree of (B, ...): floats; or labels, integers, if `classes` is given.
        alpha: Parameter of the Beta distribution, greater than 0; larger values mix more. It may be
            traced; with a traced 0, examples are unchanged. Default: 0.2.
        classes: Number of classes of labels; they become probabilities (B, ..., classes), and NaN
            for a label outside of [0, classes). Default: None if targets are floats.

    Returns:
        (x', y') of the same shapes, y' floats.

    Raises:
        TypeError: Inputs are not floats, or targets are labels and `classes` is None.
        ValueError: `alpha` is not greater than 0.

    Reference: Zhang et al., mixup: beyond empirical risk minimization, 2018.

    >>> x, y = jnp.arange(4.0)[:, None], jnp.arange(4)
    >>> mixed, soft = mixup(jax.random.key(0), x, y, classes=4)
    >>> bool(jnp.allclose(soft @ x, mixed)), soft.sum(1).tolist()
    (True, [1.0, 1.0, 1.0, 1.0])
    """
    x = _soft(x, None, "mixup.x", "write x.astype('float32') / 255")
    y = _soft(y, classes, "mixup.y", "write mixup(key, x, y, classes=10) for labels")
    weights, order = _weights_and_order(key, row_count(x), alpha, "mixup")
    with jax.named_scope("mixup"):
        return jax.tree.map(lambda a: _mean(a, a[order], weights), (x, y))


def cutmix(
    key: jax.Array, images: jax.Array, y: Any, *, alpha: Any = 1.0, classes: int | None = None
) -> tuple[jax.Array, Any]:
    """Replace a box of each image by the same box of another image, and mix targets by area.

    The sides of the box are sqrt(1 - w[b]) times those of the image. w[b] has the distribution
    Beta(alpha, alpha). The center of the box is uniform over the pixels, so that a part of it may
    lie outside. If s[b] is the fraction of the image's pixels inside the box, y'[b] = (1 - s[b])
    y[b] + s[b] y[p(b)]. p is a random order of the batch.

    Args:
        key: A JAX key; equal keys give equal mixtures.
        images: (B, H, W) or (B, H, W, C), any dtype.
        y: Targets, a pytree of (B, ...): floats; or labels, integers, if `classes` is given.
        alpha: Parameter of the distribution of the boxes' sizes; 1 gives uniform areas. It may be
            traced. Default: 1.
        classes: Number of classes of labels; they become probabilities (B, ..., classes), and NaN
            for a label outside of [0, classes). Default: None if targets are floats.

    Returns:
        (images', y') of the same shapes, y' floats.

    Raises:
        TypeError: Targets are labels and `classes` is None.
        ValueError: Images have another rank, or `alpha` is not greater than 0.

    Reference: Yun et al., CutMix: regularization strategy to train strong classifiers with
    localizable features, 2019.

    >>> images, y = jnp.arange(4.0)[:, None, None] * jnp.ones((4, 8, 8)), jnp.arange(4)
    >>> mixed, soft = cutmix(jax.random.key(0), images, y, classes=4)
    >>> bool(jnp.allclose(soft @ jnp.arange(4.0), mixed.mean((1, 2))))
    True
    """
    y = _soft(y, classes, "cutmix.y", "write cutmix(key, images, y, classes=10) for labels")
    _height_and_width(images, "cutmix")
    images = jnp.asarray(images)
    key, centers_key = jax.random.split(key)
    weights, order = _weights_and_order(key, len(images), alpha, "cutmix")
    with jax.named_scope("cutmix"):
        sides = jnp.sqrt(1 - weights)[:, None] * jnp.array([images.shape[1:3]], weights.dtype)
        low = _centers(centers_key, images) - (sides / 2).astype(int)
        inside = _in_box(images, low, low + sides.astype(int))
        area = inside.mean(tuple(range(1, inside.ndim)), dtype=weights.dtype)
        mixed = jax.tree.map(lambda a: _mean(a, a[order], 1 - area), y)
        return jnp.where(inside, images[order], images), mixed


def _height_and_width(images: Any, name: str) -> tuple[int, int]:
    """Return the sizes of images in pixels, or raise if they have another rank."""
    return _images(images, f"{name}.images").shape[1:3]


_images = Accepts(
    "(B, H, W) or (B, H, W, C)",
    lambda images: images.ndim in (3, 4),
    hint="write images.reshape(-1, H, W)",
    abstract=True,
)


def _centers(key: jax.Array, images: jax.Array) -> jax.Array:
    """Return a pixel (row, column) of each image, int32 (B, 2), uniform over all."""
    return jax.random.randint(key, (len(images), 2), 0, jnp.array([images.shape[1:3]]))


def _in_box(images: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Return which pixels lie in low[b] <= (row, column) < high[b], broadcast to images."""
    rows, columns = (
        (i >= low[:, axis, None]) & (i < high[:, axis, None])
        for axis, i in enumerate(jnp.arange(n)[None, :] for n in images.shape[1:3])
    )
    inside = rows[:, :, None] & columns[:, None, :]
    return inside.reshape(*inside.shape, *(1 for _ in images.shape[3:]))


def _weights_and_order(
    key: jax.Array, rows: int, alpha: Any, name: str
) -> tuple[jax.Array, jax.Array]:
    """Return the weight of each example, float32 (rows,), and the row that it is mixed with."""
    above(0)(alpha, f"{name}.alpha", f"leave {name} out to mix nothing")
    weights_key, order_key = jax.random.split(key)
    some = jnp.asarray(alpha) > 0
    ordinary = jnp.where(some, alpha, 1.0)  # Beta(0, 0) gives NaN
    weights = jax.random.beta(weights_key, ordinary, ordinary, (rows,), jnp.float32)
    weights = jnp.where(some, weights, jnp.ones_like(weights))
    return weights, jax.random.permutation(order_key, rows)


def _mean(one: jax.Array, other: jax.Array, weights: jax.Array) -> jax.Array:
    weights = weights.astype(one.dtype).reshape(-1, *(1 for _ in one.shape[1:]))
    mean = weights * one + (1 - weights) * other
    # 0 * NaN is NaN, but an example of weight 0 must not contribute.
    return jnp.where(weights == 0, other, jnp.where(weights == 1, one, mean))


def _soft(y: Any, classes: int | None, name: str, advice: str) -> Any:
    """Return arrays that can be mixed: floats, or probabilities for labels."""

    def soft(path: Any, y: jax.Array) -> jax.Array:
        if jnp.issubdtype(y.dtype, jnp.floating):
            return jnp.asarray(y)  # a traced order cannot index NumPy arrays
        if classes is None:
            keys = jax.tree_util.keystr(path, simple=True, separator="/").split()
            raise TypeError(
                f"{'/'.join([name, *keys])} must hold floats, got dtype {y.dtype}; {advice}"
            )
        # uint8 cannot count to `classes`
        labels = y if y.dtype.itemsize > 4 else y.astype(jnp.int32)
        known = (labels >= 0) & (labels < classes)
        return jnp.where(known[..., None], jax.nn.one_hot(labels, classes), jnp.nan)

    return jax.tree_util.tree_map_with_path(soft, y)


Array = TypeVar("Array", np.ndarray, jax.Array)


class Standardizer(NamedTuple):
    """z = (x - mean) / std, feature by feature.

    A pytree of two plain arrays: save it with the parameters and apply it to all later inputs. It
    accepts NumPy arrays and, under any transform, JAX arrays. Integers become float32; floats keep
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
            ValueError: There are no rows, or they contain NaN or infinity.
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
        """Return a function to use as a layer, for a network with inputs in their original units.

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
        like_rows = Accepts(
            f"(..., {', '.join(map(str, row))}), like the rows in fit",
            lambda x: tuple(x.shape)[max(x.ndim - len(row), 0) :] == row,
            hint="write Standardizer.fit(x_train) for these",
            abstract=True,
        )
        like_rows(x, "Standardizer.x")
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
