"""Augmentation of colors, geometry, and regions: color jitter, affine maps, RandAugment, erasing.

All are pure functions of a key and of images (B, H, W, C) of floats in [0, 1], for use inside the
training step. Each image has its own random numbers. `spec_augment` masks spectrograms.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from jaxnn.validation import Accepts, above, fraction, integer, number, positive, tuple_of

GRAY = (0.299, 0.587, 0.114)  # luma of red, green, and blue, as in PIL
_IMAGES = Accepts(
    "(B, H, W, C)",
    lambda images: images.ndim == 4,
    hint="write images[..., None] for one channel",
    abstract=True,
)
_COLORED = _IMAGES.such(
    what="(B, H, W, 3)", test=lambda images: images.ndim == 4 and images.shape[-1] == 3
)
_FLOATS = Accepts(
    "floats",
    lambda images: jnp.issubdtype(images.dtype, jnp.floating),
    hint="write images / np.float32(255)",
    abstract=True,
)
_SPECTROGRAMS = Accepts(
    "(B, T, F)", lambda spectrograms: spectrograms.ndim == 3, hint="write x[..., 0]", abstract=True
)
_BOUNDS = tuple_of(above(0), "a pair (low, high) of numbers > 0", (2,))


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
    _check_images(images, "color_jitter", colors=True)
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


def random_affine(
    key: jax.Array,
    images: jax.Array,
    degrees: Any = 0.0,
    translate: tuple[Any, Any] = (0.0, 0.0),
    scale: tuple[float, float] = (1.0, 1.0),
    shear: Any = 0.0,
) -> jax.Array:
    """Rotate, shear, scale, and shift each image around its center, and fill with zeros.

    Pixels are interpolated linearly.

    Args:
        key: A JAX key; equal keys give equal maps.
        images: (B, H, W, C), floats.
        degrees: The angle is uniform over [-degrees, degrees]; positive angles are
            counterclockwise. Default: 0.
        translate: Largest shifts down and to the right, as fractions of the height and the width.
            Default: (0, 0).
        scale: Smallest and largest factor. Default: (1, 1).
        shear: The angle of the shear along rows is uniform over [-shear, shear] degrees. Default:
            0.

    Returns:
        Images of the same shape and dtype.

    Raises:
        ValueError: Images have another rank or are not floats, or an argument is out of range.

    >>> random_affine(jax.random.key(0), jnp.ones((2, 8, 8, 3)), degrees=15, scale=(0.9, 1.1)).shape
    (2, 8, 8, 3)
    """
    _check_images(images, "random_affine")
    number(0)(degrees, "random_affine.degrees")
    number(0)(shear, "random_affine.shear")
    tuple_of(fraction, "a pair of fractions", (2,))(translate, "random_affine.translate")
    _BOUNDS(scale, "random_affine.scale", "write scale=(0.9, 1.1)")
    keys = jax.random.split(key, 5)
    n, dtype = (len(images),), images.dtype

    def uniform(i: int, low: Any, high: Any) -> jax.Array:
        return jax.random.uniform(keys[i], n, dtype, low, high)

    angle, sheared = uniform(0, -degrees, degrees), uniform(1, -shear, shear)
    size = uniform(2, *scale)
    down, right = (uniform(3 + i, -t, t) * images.shape[1 + i] for i, t in enumerate(translate))
    return jax.vmap(_warped)(images, jnp.deg2rad(angle), jnp.deg2rad(sheared), size, down, right)


def random_erasing(
    key: jax.Array,
    images: jax.Array,
    probability: Any = 0.5,
    area: tuple[float, float] = (0.02, 0.33),
    aspect: tuple[float, float] = (0.3, 3.3),
    value: Any = 0.0,
) -> jax.Array:
    """Erase a rectangle of some images, at a random place.

    The area is uniform, and the aspect ratio is log-uniform. A side longer than that of the image
    is shortened to it.

    Args:
        key: A JAX key; equal keys give equal rectangles.
        images: (B, H, W, C), floats.
        probability: Probability with which each image is changed. Default: 0.5.
        area: Smallest and largest area, as fractions of the image. Default: (0.02, 0.33).
        aspect: Smallest and largest ratio of height to width. Default: (0.3, 3.3).
        value: Number that fills the rectangle, or one for each channel. Default: 0.

    Returns:
        Images of the same shape and dtype.

    Raises:
        ValueError: Images have another rank or are not floats, or an argument is out of range.

    Reference: Zhong et al., Random erasing data augmentation, 2017.

    >>> erased = random_erasing(jax.random.key(0), jnp.ones((1, 8, 8, 1)), 1.0, area=(0.25, 0.25))
    >>> 0 < int(erased.sum()) < 64
    True
    """
    _check_images(images, "random_erasing")
    fraction(probability, "random_erasing.probability")
    for name, pair in (("area", area), ("aspect", aspect)):
        _BOUNDS(pair, f"random_erasing.{name}")
    chosen, sized, shaped, placed = jax.random.split(key, 4)
    (n, height, width), dtype = images.shape[:3], images.dtype
    pixels = jax.random.uniform(sized, (n,), dtype, *area) * (height * width)
    low, high = (jnp.log(jnp.asarray(a, dtype)) for a in aspect)
    ratio = jnp.exp(jax.random.uniform(shaped, (n,), dtype, low, high))
    limits = jnp.array([[height, width]])
    sides = jnp.sqrt(jnp.stack([pixels * ratio, pixels / ratio], -1))
    sides = jnp.clip(jnp.round(sides).astype(jnp.int32), 1, limits)
    corners = jax.random.randint(placed, (n, 2), 0, limits - sides + 1)
    rows, columns = (
        (place >= corners[:, i, None]) & (place < (corners + sides)[:, i, None])
        for i, place in enumerate((jnp.arange(height)[None], jnp.arange(width)[None]))
    )
    some = jax.random.bernoulli(chosen, probability, (n, 1, 1))
    inside = (some & rows[:, :, None] & columns[:, None, :])[..., None]
    filler = jnp.broadcast_to(jnp.asarray(value, dtype), images.shape[-1:])
    return jnp.where(inside, filler.reshape(1, 1, 1, -1), images)


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
    _check_images(images, "rand_augment", colors=True)
    positive(operations, "rand_augment.operations")
    number(0, 30)(magnitude, "rand_augment.magnitude")
    strength = jnp.asarray(magnitude, images.dtype) / 30

    def augmented(key: jax.Array, image: jax.Array) -> jax.Array:
        which, signed = jax.random.split(key)
        sign = jnp.where(jax.random.bernoulli(signed), 1, -1).astype(image.dtype)
        choice = jax.random.randint(which, (), 0, len(_OPERATIONS))
        return jax.lax.switch(choice, list(_OPERATIONS.values()), image, strength, sign)

    for own in jax.random.split(key, operations):
        images = jax.vmap(augmented)(jax.random.split(own, len(images)), images)
    return images


def spec_augment(
    key: jax.Array,
    spectrograms: jax.Array,
    time_masks: int = 2,
    time_width: int = 40,
    frequency_masks: int = 2,
    frequency_width: int = 15,
) -> jax.Array:
    """SpecAugment: set random ranges of times and of frequencies of each spectrogram to zero.

    The width of a range is uniform over 0 .. its largest width, and its start is uniform over the
    places that fit. Ranges may overlap. Spectrograms should have mean 0.

    Args:
        key: A JAX key; equal keys give equal ranges.
        spectrograms: (B, T, F), floats.
        time_masks: Number of ranges of times. Default: 2.
        time_width: Largest width of a range of times, at most T. Default: 40.
        frequency_masks: Number of ranges of frequencies. Default: 2.
        frequency_width: Largest width of a range of frequencies, at most F. Default: 15.

    Returns:
        Spectrograms of the same shape and dtype.

    Raises:
        ValueError: Spectrograms have another rank, or a range is wider than they are.

    Reference: Park et al., SpecAugment: a simple data augmentation method for automatic speech
    recognition, 2019.

    >>> spec_augment(jax.random.key(0), jnp.ones((2, 100, 80))).shape
    (2, 100, 80)
    """
    _SPECTROGRAMS(spectrograms, "spec_augment.spectrograms")
    given = (
        (1, time_masks, time_width, "time"),
        (2, frequency_masks, frequency_width, "frequency"),
    )
    for own, (axis, count, width, name) in zip(jax.random.split(key, 2), given, strict=True):
        size = spectrograms.shape[axis]
        what = f"an int from 0 to {size}, the size of {name}"
        integer(0, size).such(what=what)(width, f"spec_augment.{name}_width")
        widths, places = jax.random.split(own)
        shape = (len(spectrograms), count, 1)
        length = jax.random.randint(widths, shape, 0, width + 1)
        start = jax.random.randint(places, shape, 0, size - length + 1)
        step = jnp.arange(size)[None, None]
        hidden = ((step >= start) & (step < start + length)).any(1)
        hidden = jnp.expand_dims(hidden, 3 - axis)
        spectrograms = jnp.where(hidden, jnp.zeros((), spectrograms.dtype), spectrograms)
    return spectrograms


def _check_images(images: Any, name: str, colors: bool = False) -> None:
    """Raise ValueError unless images are floats (B, H, W, C), with three channels for colors."""
    for accepts in (_COLORED if colors else _IMAGES, _FLOATS):
        accepts(images, f"{name}.images")


# ---- one image (H, W, C) ----


def _blended(image: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
    """Return factor * image + (1 - factor) * other, clipped to [0, 1]."""
    return jnp.clip(factor * image + (1 - factor) * other, 0, 1)


def _gray(image: jax.Array) -> jax.Array:
    """Return the luma of each pixel, (H, W, 1)."""
    weights = jnp.asarray(GRAY, image.dtype).reshape(1, 1, 3)
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


def _warped(
    image: jax.Array, angle: Any, shear: Any, scale: Any, down: Any, right: Any
) -> jax.Array:
    """Rotate, shear, scale, and shift around the center; angles are in radians."""
    height, width = image.shape[:2]
    dtype = image.dtype
    y, x = jnp.meshgrid(
        *(jnp.arange(n, dtype=dtype) - (n - 1) / 2 for n in (height, width)), indexing="ij"
    )
    # From places of the new image to those of the old one: the inverse map.
    y, x = y - down, x - right
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y, x = (cos * y + sin * x) / scale, (cos * x - sin * y) / scale
    x = x - jnp.tan(shear) * y
    places = [y + (height - 1) / 2, x + (width - 1) / 2]
    return jax.vmap(lambda c: map_coordinates(c, places, 1), -1, -1)(image)


def _sheared_columns(image: jax.Array, amount: jax.Array) -> jax.Array:
    turned = _warped(jnp.swapaxes(image, 0, 1), 0.0, jnp.arctan(amount), 1.0, 0.0, 0.0)
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


Operation = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
# Of an image, a strength in [0, 1], and a sign.
_OPERATIONS: dict[str, Operation] = {
    "identity": lambda x, m, s: x,
    "shear rows": lambda x, m, s: _warped(x, 0.0, jnp.arctan(0.3 * m * s), 1.0, 0.0, 0.0),
    "shear columns": lambda x, m, s: _sheared_columns(x, 0.3 * m * s),
    "shift down": lambda x, m, s: _warped(x, 0.0, 0.0, 1.0, m * s * 150 / 331 * x.shape[0], 0.0),
    "shift right": lambda x, m, s: _warped(x, 0.0, 0.0, 1.0, 0.0, m * s * 150 / 331 * x.shape[1]),
    "rotate": lambda x, m, s: _warped(x, jnp.deg2rad(30 * m * s), 0.0, 1.0, 0.0, 0.0),
    "brightness": lambda x, m, s: _with_brightness(x, 1 + 0.9 * m * s),
    "color": lambda x, m, s: _with_saturation(x, 1 + 0.9 * m * s),
    "contrast": lambda x, m, s: _with_contrast(x, 1 + 0.9 * m * s),
    "sharpness": lambda x, m, s: _with_sharpness(x, 1 + 0.9 * m * s),
    "posterize": lambda x, m, s: _posterized(x, 8 - jnp.round(4 * m)),
    "solarize": lambda x, m, s: jnp.where(x >= 1 - m, 1 - x, x),
    "autocontrast": lambda x, m, s: _autocontrast(x),
    "equalize": lambda x, m, s: _equalized(x),
}
