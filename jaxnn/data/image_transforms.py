"""Augmentation of colors, and policies of several changes: RandAugment, TrivialAugment, AugMix.

All are pure functions of images (B, H, W, C) of floats in [0, 1], for use inside the training step;
those with a key have separate random numbers for each image. `random_apply` makes any of them
random.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.data.geometry import check_images, warped
from jaxnn.validation import above, fraction, integer, number, positive

GRAY = (0.299, 0.587, 0.114)  # luma of red, green, and blue, as in PIL


def color_jitter(
    key: jax.Array,
    images: jax.Array,
    brightness: Any = 0.0,
    contrast: Any = 0.0,
    saturation: Any = 0.0,
    hue: Any = 0.0,
) -> jax.Array:
    """Change brightness, contrast, saturation, and hue of each image, in this order.

    A factor f of brightness, contrast, or saturation is uniform over [max(0, 1 - a), 1 + a] for
    amount a. Each change is f * image + (1 - f) * other, clipped to [0, 1]. The other image is
    black for brightness, the mean gray level for contrast, and the gray image for saturation. The
    shift of the hue is uniform over [-hue, hue]. These are the changes of torchvision's
    ColorJitter.

    Args:
        key: A JAX key; equal keys give equal changes.
        images: (B, H, W, 3), floats in [0, 1].
        brightness: Amount of brightness, a number >= 0; may be traced. Default: 0.
        contrast: Amount of contrast, likewise. Default: 0.
        saturation: Amount of saturation, likewise. Default: 0.
        hue: Largest shift of the hue, in [0, 0.5], as a fraction of the color circle. Default: 0.

    Returns:
        Images of the same shape and dtype.

    Raises:
        ValueError: Images have another shape or are not floats, or an amount is out of range.

    >>> images = jnp.full((2, 4, 4, 3), 0.5)
    >>> color_jitter(jax.random.key(0), images, 0.4, 0.4, 0.4, 0.1).shape
    (2, 4, 4, 3)
    """
    check_images(images, "color_jitter", colors=True)
    amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    for name, amount in amounts.items():
        number(0)(amount, f"color_jitter.{name}")
    number(0, 0.5)(hue, "color_jitter.hue")
    *keys, hue_key = jax.random.split(key, 4)
    for own, amount, change in zip(keys, amounts.values(), _ENHANCEMENTS.values(), strict=True):
        low, shape = jnp.maximum(1.0 - amount, 0.0), (len(images),)
        factors = jax.random.uniform(own, shape, images.dtype, low, 1.0 + amount)
        images = jax.vmap(change)(images, factors)
    shifts = jax.random.uniform(hue_key, (len(images),), images.dtype, -hue, hue)
    return jax.vmap(_with_hue)(images, shifts)


def random_apply(
    key: jax.Array, images: jax.Array, function: Callable[..., Any], probability: Any = 0.5
) -> jax.Array:
    """Apply a function to some images, each with the same probability.

    Args:
        key: A JAX key; equal keys choose the same images.
        images: (B, ...), any dtype.
        function: A function of images that keeps their shape and type, such as `data.grayscale`.
        probability: Probability with which each image is changed, from 0 to 1; may be traced.
            Default: 0.5.

    Returns:
        Images of the same shape and dtype.

    Raises:
        ValueError: The probability is out of range.

    >>> images = jnp.full((8, 2, 2, 3), 0.25)
    >>> inverted = random_apply(jax.random.key(0), images, lambda x: 1 - x)
    >>> sorted(set(inverted[:, 0, 0, 0].tolist()))
    [0.25, 0.75]
    """
    fraction(probability, "random_apply.probability")
    some = jax.random.bernoulli(key, probability, (len(images),))
    return jnp.where(some.reshape(-1, *(1 for _ in images.shape[1:])), function(images), images)


def grayscale(images: jax.Array) -> jax.Array:
    """Return gray images, with equal channels: `0.299 red + 0.587 green + 0.114 blue`.

    Args:
        images: (B, H, W, 3), floats.

    >>> round(float(grayscale(jnp.array([[[[1.0, 0.0, 0.0]]]]))[0, 0, 0, 2]), 3)
    0.299
    """
    check_images(images, "grayscale", colors=True)
    return jnp.broadcast_to(_gray(images), images.shape)


def solarize(images: jax.Array, threshold: Any = 0.5) -> jax.Array:
    """Invert bright pixels: `1 - x` if `x >= threshold`, else x.

    Args:
        images: (B, H, W, C), floats in [0, 1].
        threshold: Smallest inverted value; may be traced. Default: 0.5.

    >>> solarize(jnp.array([0.25, 0.75]).reshape(1, 1, 2, 1)).ravel().tolist()
    [0.25, 0.25]
    """
    check_images(images, "solarize")
    return jnp.where(images >= jnp.asarray(threshold, images.dtype), 1 - images, images)


def posterize(images: jax.Array, bits: Any = 4) -> jax.Array:
    """Keep the highest bits of each value, of 8.

    Args:
        images: (B, H, W, C), floats in [0, 1].
        bits: Number of bits that are kept, from 0 to 8; may be traced. Default: 4.

    >>> (posterize(jnp.array([100, 200]).reshape(1, 1, 2, 1) / 255, 1) * 255).ravel().tolist()
    [0.0, 128.0]
    """
    check_images(images, "posterize")
    number(0, 8)(bits, "posterize.bits")
    return _posterized(images, jnp.asarray(bits, images.dtype))


def autocontrast(images: jax.Array) -> jax.Array:
    """Stretch the values of each channel of each image to [0, 1].

    Args:
        images: (B, H, W, C), floats in [0, 1].

    >>> autocontrast(jnp.array([0.25, 0.5, 0.75]).reshape(1, 1, 3, 1)).ravel().tolist()
    [0.0, 0.5, 1.0]
    """
    check_images(images, "autocontrast")
    return jax.vmap(_autocontrast)(images)


def equalize(images: jax.Array) -> jax.Array:
    """Make the histogram of each channel of each image as even as possible, by 256 levels.

    Args:
        images: (B, H, W, C), floats in [0, 1].

    >>> equalize(jnp.array([0.5, 0.6]).reshape(1, 1, 2, 1)).shape
    (1, 1, 2, 1)
    """
    check_images(images, "equalize")
    return jax.vmap(_equalized)(images)


def adjust_sharpness(images: jax.Array, factor: Any) -> jax.Array:
    """Blend images with smoothed ones: `factor * x + (1 - factor) * smooth(x)`, in [0, 1].

    Args:
        images: (B, H, W, C), floats in [0, 1].
        factor: 0 for smooth images, 1 for no change, 2 for sharp ones; may be traced.

    >>> adjust_sharpness(jnp.ones((1, 4, 4, 3)), 2.0).shape
    (1, 4, 4, 3)
    """
    check_images(images, "adjust_sharpness")
    number(0)(factor, "adjust_sharpness.factor")
    return jax.vmap(_with_sharpness, (0, None))(images, jnp.asarray(factor, images.dtype))


def rand_augment(
    key: jax.Array, images: jax.Array, operations: int = 2, magnitude: Any = 9
) -> jax.Array:
    """RandAugment: apply random operations of the same magnitude to each image.

    The operations are identity, shear and translation along both axes, rotation, brightness, color,
    contrast, sharpness, posterize, solarize, autocontrast, and equalize, with the ranges of
    torchvision's RandAugment. Those with a direction have a random sign.

    Args:
        key: A JAX key; equal keys give equal images.
        images: (B, H, W, 3), floats in [0, 1].
        operations: Number of operations applied in sequence to each image. Default: 2.
        magnitude: Strength of all of them, from 0 to 30; may be traced. Default: 9.

    Returns:
        Images of the same shape and dtype.

    Raises:
        ValueError: Images have another shape or are not floats, or an argument is out of range.

    Reference: Cubuk et al., RandAugment: practical automated data augmentation with a reduced
    search space, 2019.

    >>> jax.eval_shape(rand_augment, jax.random.key(0), jnp.full((2, 8, 8, 3), 0.5)).shape
    (2, 8, 8, 3)
    """
    check_images(images, "rand_augment", colors=True)
    positive(operations, "rand_augment.operations")
    number(0, 30)(magnitude, "rand_augment.magnitude")
    changes, (height, width) = list(OPERATIONS.values()), images.shape[1:3]
    limits = Limits(down=150 / 331 * height, right=150 / 331 * width)
    strengths = jnp.full(len(images), jnp.asarray(magnitude, images.dtype) / 30)
    for own in jax.random.split(key, operations):
        images = _one_of(own, images, changes, strengths, limits)
    return images


def trivial_augment(key: jax.Array, images: jax.Array) -> jax.Array:
    """TrivialAugment: apply one random operation of random magnitude to each image.

    The operations are those of `rand_augment`, with the wide ranges of the paper: 0.99 for shear
    and colors, 32 pixels, 135 degrees, and 2 bits.

    Args:
        key: A JAX key; equal keys give equal images.
        images: (B, H, W, 3), floats in [0, 1].

    Reference: Mueller and Hutter, TrivialAugment: tuning-free yet state-of-the-art data
    augmentation, 2021.

    >>> jax.eval_shape(trivial_augment, jax.random.key(0), jnp.full((2, 8, 8, 3), 0.5)).shape
    (2, 8, 8, 3)
    """
    check_images(images, "trivial_augment", colors=True)
    chosen, sized = jax.random.split(key)
    strengths = jax.random.uniform(sized, (len(images),), images.dtype)
    return _one_of(chosen, images, list(OPERATIONS.values()), strengths, WIDE)


def aug_mix(
    key: jax.Array, images: jax.Array, severity: int = 3, chains: int = 3, alpha: Any = 1.0
) -> jax.Array:
    """AugMix: mix each image with a mean of differently augmented ones.

    Each of the `chains` applies 1 to 3 operations of `rand_augment` one by one, not brightness,
    color, contrast, and sharpness. The weights of the mean are drawn from Dirichlet(alpha), and the
    weight of the image itself from Beta(alpha, alpha).

    Args:
        key: A JAX key; equal keys give equal images.
        images: (B, H, W, 3), floats in [0, 1].
        severity: Largest magnitude of the operations, from 1 to 10. Default: 3.
        chains: Number of chains. Default: 3.
        alpha: Parameter of the distributions, greater than 0; may be traced. Default: 1.

    Reference: Hendrycks et al., AugMix: a simple data processing method to improve robustness and
    uncertainty, 2020.

    >>> jax.eval_shape(aug_mix, jax.random.key(0), jnp.full((2, 8, 8, 3), 0.5)).shape
    (2, 8, 8, 3)
    """
    check_images(images, "aug_mix", colors=True)
    integer(1, 10)(severity, "aug_mix.severity")
    positive(chains, "aug_mix.chains")
    above(0)(alpha, "aug_mix.alpha")
    left_out = ("identity", "brightness", "color", "contrast", "sharpness")
    changes = [change for name, change in OPERATIONS.items() if name not in left_out]
    (n, height, width), dtype = images.shape[:3], images.dtype
    limits = Limits(down=height / 3, right=width / 3)
    mixed, weighed, counted, chosen = jax.random.split(key, 4)
    weights = jax.random.dirichlet(mixed, jnp.full(chains, alpha, dtype), (n,), dtype)
    lengths = jax.random.randint(counted, (chains, n, 1, 1, 1), 1, 4)

    def changed(images: jax.Array, given: Any) -> tuple[jax.Array, None]:
        (own, sized), some = jax.random.split(given[0]), given[1]
        strengths = jax.random.uniform(sized, (n,), dtype, 0.01, severity / 10)
        return jnp.where(some, _one_of(own, images, changes, strengths, limits), images), None

    def added(total: jax.Array, given: Any) -> tuple[jax.Array, None]:
        own, length, weight = given
        steps = jax.random.split(own, 3), jnp.arange(3)[:, None, None, None, None] < length[None]
        return total + weight.reshape(-1, 1, 1, 1) * jax.lax.scan(changed, images, steps)[0], None

    each = jax.random.split(chosen, chains), lengths, weights.T
    total, _ = jax.lax.scan(added, jnp.zeros_like(images), each)
    own = jax.random.beta(weighed, alpha, alpha, (n, 1, 1, 1), dtype)
    return own * images + (1 - own) * total


def _one_of(
    key: jax.Array, images: jax.Array, changes: list[Any], strengths: jax.Array, limits: Any
) -> jax.Array:
    """Apply one of the operations to each image, with a random sign."""

    def augmented(key: jax.Array, image: jax.Array, strength: jax.Array) -> jax.Array:
        which, signed = jax.random.split(key)
        sign = jnp.where(jax.random.bernoulli(signed), 1, -1).astype(image.dtype)
        choice = jax.random.randint(which, (), 0, len(changes))
        branches = [lambda *a, change=change: change(*a, limits) for change in changes]
        return jax.lax.switch(choice, branches, image, strength, strength * sign)

    return jax.vmap(augmented)(jax.random.split(key, len(images)), images, strengths)


# ---- one image (H, W, C) ----


def _blended(image: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
    """Return factor * image + (1 - factor) * other, clipped to [0, 1]."""
    return jnp.clip(factor * image + (1 - factor) * other, 0, 1)


def _gray(image: jax.Array) -> jax.Array:
    """Return the luma of each pixel, (..., 1)."""
    weights = jnp.asarray(GRAY, image.dtype).reshape((1,) * (image.ndim - 1) + (3,))
    return jnp.sum(image * weights, -1, keepdims=True)


def _with_brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
    return jnp.clip(image * factor, 0, 1)


def _with_contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    return _blended(image, jnp.mean(_gray(image), keepdims=True), factor)


def _with_saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
    return _blended(image, _gray(image), factor)


_ENHANCEMENTS = {
    "brightness": _with_brightness,
    "contrast": _with_contrast,
    "saturation": _with_saturation,
}


def _with_sharpness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Blend with the smoothed image; the pixels of the edge stay."""
    inner = sum(
        (5 if i == j == 1 else 1) * image[i : i + image.shape[0] - 2, j : j + image.shape[1] - 2]
        for i in range(3)
        for j in range(3)
    )
    smooth = image.at[1:-1, 1:-1].set(inner / jnp.asarray(13, image.dtype))
    return _blended(image, smooth, factor)


def _with_hue(image: jax.Array, shift: jax.Array) -> jax.Array:
    """Shift the hue by a fraction of its circle."""
    high, low = jnp.max(image, -1), jnp.min(image, -1)
    spread = high - low
    safe = jnp.where(spread == 0, 1, spread)
    r, g, b = (image[..., i] for i in range(3))
    sector = jnp.where(
        high == r, (g - b) / safe, jnp.where(high == g, 2 + (b - r) / safe, 4 + (r - g) / safe)
    )
    turned = sector + 6 * shift
    # Channel with offset n: high - spread * clip(min(k, 4 - k), 0, 1), k = (n + sector) mod 6.
    k = (jnp.array([5, 3, 1], image.dtype).reshape(1, 1, 3) + turned[..., None]) % 6
    part = jnp.clip(jnp.minimum(k, 4 - k), 0, 1)
    return jnp.where(shift == 0, image, high[..., None] - spread[..., None] * part)


def _sheared_columns(image: jax.Array, amount: jax.Array) -> jax.Array:
    turned = warped(jnp.swapaxes(image, 0, 1), 0.0, jnp.arctan(amount), 1.0, 0.0, 0.0)
    return jnp.swapaxes(turned, 0, 1)


def _posterized(image: jax.Array, bits: jax.Array) -> jax.Array:
    """Keep the highest bits of 8."""
    step = 2.0 ** (8 - bits)
    levels = jnp.floor(jnp.round(image * 255) / step) * step
    return (levels / 255).astype(image.dtype)


def _autocontrast(image: jax.Array) -> jax.Array:
    """Stretch each channel to [0, 1]."""
    low, high = (f(image, (0, 1), keepdims=True) for f in (jnp.min, jnp.max))
    flat = high == low
    return jnp.where(flat, image, (image - low) / jnp.where(flat, 1, high - low))


def _equalized(image: jax.Array) -> jax.Array:
    """Make the histogram of each channel, of 256 levels, as even as possible, as PIL does."""

    def channel(values: jax.Array) -> jax.Array:
        levels = jnp.round(values * 255).astype(jnp.int32)
        counts = jnp.bincount(levels.ravel(), length=256)
        before = jnp.cumsum(counts) - counts
        last = jnp.max(jnp.where(counts > 0, jnp.arange(256), 0))
        step = (counts.sum() - counts[last]) // 255
        table = jnp.clip((before + step // 2) // jnp.maximum(step, 1), 0, 255)
        return jnp.where(step == 0, values, (table[levels] / 255).astype(values.dtype))

    return jax.vmap(channel, -1, -1)(image)


class Limits(NamedTuple):
    """The changes of operations at strength 1: shifts in pixels, and bits that are removed."""

    down: float
    right: float
    shear: float = 0.3
    degrees: float = 30.0
    factor: float = 0.9
    bits: int = 4


WIDE = Limits(down=32.0, right=32.0, shear=0.99, degrees=135.0, factor=0.99, bits=6)

# Operations on an image, with a strength m in [0, 1], the same with a random sign, and limits.
Operation = Callable[[jax.Array, jax.Array, jax.Array, Limits], jax.Array]
OPERATIONS: dict[str, Operation] = {
    "identity": lambda x, m, s, to: x,
    "shear rows": lambda x, m, s, to: warped(x, 0.0, jnp.arctan(to.shear * s), 1.0, 0.0, 0.0),
    "shear columns": lambda x, m, s, to: _sheared_columns(x, to.shear * s),
    "shift down": lambda x, m, s, to: warped(x, 0.0, 0.0, 1.0, to.down * s, 0.0),
    "shift right": lambda x, m, s, to: warped(x, 0.0, 0.0, 1.0, 0.0, to.right * s),
    "rotate": lambda x, m, s, to: warped(x, jnp.deg2rad(to.degrees * s), 0.0, 1.0, 0.0, 0.0),
    "brightness": lambda x, m, s, to: _with_brightness(x, 1 + to.factor * s),
    "color": lambda x, m, s, to: _with_saturation(x, 1 + to.factor * s),
    "contrast": lambda x, m, s, to: _with_contrast(x, 1 + to.factor * s),
    "sharpness": lambda x, m, s, to: _with_sharpness(x, 1 + to.factor * s),
    "posterize": lambda x, m, s, to: _posterized(x, 8 - jnp.round(to.bits * m)),
    "solarize": lambda x, m, s, to: jnp.where(x >= 1 - m, 1 - x, x),
    "autocontrast": lambda x, m, s, to: _autocontrast(x),
    "equalize": lambda x, m, s, to: _equalized(x),
}
