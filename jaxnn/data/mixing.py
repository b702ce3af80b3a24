"""Augmentation that mixes examples, and their targets likewise.

Targets become soft: a probability for each class, which `train.Classification` takes as it takes
labels; or a number between two, for regression.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.data.augment import in_box, square_centers
from jaxnn.data.rows import leaves_by_path, row_count
from jaxnn.fields import is_traced


def mixup(
    key: jax.Array, x: Any, y: Any, *, alpha: Any = 0.2, classes: int | None = None
) -> tuple[Any, Any]:
    """Replace each example by a mean of itself and another, with a separate weight for each.

    x'[b] = w[b] x[b] + (1 - w[b]) x[p(b)], and y' likewise, where w[b] is drawn from
    Beta(alpha, alpha) and p is a random order of the batch.

    Args:
        key: a JAX key; equal keys give equal mixtures.
        x: inputs, a pytree of floats (B, ...).
        y: targets, a pytree of (B, ...): floats; or labels, integers, if `classes` is given.
        alpha: more mixes more; near 0 hardly at all. It may be traced; a traced 0 mixes nothing.
        classes: how many classes labels name; they become probabilities (B, ..., classes), and
            NaN for a label outside of [0, classes).

    Returns:
        (x', y') of the same shapes, y' floats.

    Raises:
        TypeError: inputs that are not floats, or labels without `classes`.
        ValueError: alpha is not more than 0.

    Reference: Zhang et al., mixup: beyond empirical risk minimization, 2018.

    >>> x, y = jnp.arange(4.0)[:, None], jnp.arange(4)
    >>> mixed, soft = mixup(jax.random.key(0), x, y, classes=4)
    >>> bool(jnp.allclose(soft @ x, mixed)), soft.sum(1).tolist()
    (True, [1.0, 1.0, 1.0, 1.0])
    """
    y = _soft(y, classes, "mixup")
    for path, leaf in leaves_by_path(x, "x").items():
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"mixup: {path} has dtype {leaf.dtype}, wanted floats: write "
                "x.astype('float32') / 255"
            )
    weights, order = _drawn(key, row_count(x), alpha, "mixup")
    with jax.named_scope("mixup"):
        return jax.tree.map(lambda a: _mean(a, a[order], weights), (x, y))


def cutmix(
    key: jax.Array, images: jax.Array, y: Any, *, alpha: Any = 1.0, classes: int | None = None
) -> tuple[jax.Array, Any]:
    """Replace a box of each image by what another image has there, and mix targets by area.

    The box has sides sqrt(1 - w[b]) of the image's, w[b] drawn from Beta(alpha, alpha), and its
    center is uniform over the pixels, so that a part of it may lie outside. With the share s[b] of
    the pixels inside of it, y'[b] = (1 - s[b]) y[b] + s[b] y[p(b)], where p is a random order of
    the batch.

    Args:
        key: a JAX key; equal keys give equal mixtures.
        images: (B, H, W) or (B, H, W, C), any dtype.
        y: targets, a pytree of (B, ...): floats; or labels, integers, if `classes` is given.
        alpha: of the distribution of the boxes' sizes; 1 for uniform areas. It may be traced.
        classes: how many classes labels name; they become probabilities (B, ..., classes), and
            NaN for a label outside of [0, classes).

    Returns:
        (images', y') of the same shapes, y' floats.

    Raises:
        TypeError: labels without `classes`.
        ValueError: images of another rank; alpha is not more than 0.

    Reference: Yun et al., CutMix: regularization strategy to train strong classifiers with
    localizable features, 2019.

    >>> images, y = jnp.arange(4.0)[:, None, None] * jnp.ones((4, 8, 8)), jnp.arange(4)
    >>> mixed, soft = cutmix(jax.random.key(0), images, y, classes=4)
    >>> bool(jnp.allclose(soft @ jnp.arange(4.0), mixed.mean((1, 2))))
    True
    """
    y = _soft(y, classes, "cutmix")
    if images.ndim not in (3, 4):
        raise ValueError(
            f"cutmix: images have shape {images.shape}, wanted (B, H, W) or (B, H, W, C): write "
            "mixup for other inputs"
        )
    key, place = jax.random.split(key)
    weights, order = _drawn(key, len(images), alpha, "cutmix")
    with jax.named_scope("cutmix"):
        sides = jnp.sqrt(1 - weights)[:, None] * jnp.array([images.shape[1:3]], weights.dtype)
        low = square_centers(place, images) - (sides / 2).astype(int)
        inside = in_box(images, low, low + sides.astype(int))
        share = inside.mean(tuple(range(1, inside.ndim)), dtype=weights.dtype)
        mixed = jax.tree.map(lambda a: _mean(a, a[order], 1 - share), y)
        return jnp.where(inside, images[order], images), mixed


def _drawn(key: jax.Array, rows: int, alpha: Any, name: str) -> tuple[jax.Array, jax.Array]:
    """The weight of each example, float32 (rows,), and whom it is mixed with."""
    if not is_traced(alpha) and not alpha > 0:
        raise ValueError(f"{name}: alpha is {alpha}, wanted more than 0: leave {name} out for none")
    share, other = jax.random.split(key)
    some = jnp.asarray(alpha) > 0
    ordinary = jnp.where(some, alpha, 1.0)  # Beta(0, 0) gives NaN
    weights = jax.random.beta(share, ordinary, ordinary, (rows,), jnp.float32)
    weights = jnp.where(some, weights, jnp.ones_like(weights))
    return weights, jax.random.permutation(other, rows)


def _mean(one: jax.Array, other: jax.Array, weights: jax.Array) -> jax.Array:
    weights = weights.astype(one.dtype).reshape(-1, *(1 for _ in one.shape[1:]))
    mean = weights * one + (1 - weights) * other
    # 0 * NaN is NaN: an example of weight 0 has no part.
    return jnp.where(weights == 0, other, jnp.where(weights == 1, one, mean))


def _soft(y: Any, classes: int | None, name: str) -> Any:
    """Targets that can be mixed."""
    return jax.tree.map(lambda leaf: _soft_leaf(leaf, classes, name), y)


def _soft_leaf(y: jax.Array, classes: int | None, name: str) -> jax.Array:
    if jnp.issubdtype(y.dtype, jnp.floating):
        return y
    if classes is None:
        raise TypeError(
            f"{name}: y has dtype {y.dtype}, labels that have no mean: write "
            f"{name}(key, x, y, classes=10)"
        )
    labels = y if y.dtype.itemsize > 4 else y.astype(jnp.int32)  # uint8 cannot count to `classes`
    soft = jax.nn.one_hot(labels, classes)
    return jnp.where(((labels >= 0) & (labels < classes))[..., None], soft, jnp.nan)
