"""Augmentation of geometry and regions: affine maps, perspective, elastic maps, crops, erasing.

All are pure functions of a key and of images (B, H, W, C) of floats, for use inside the training
step. Each image has its own random numbers. `spec_augment` masks spectrograms.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from jaxnn.validation import Accepts, above, fraction, integer, number, tuple_of

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
    check_images(images, "random_affine")
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
    return jax.vmap(warped)(images, jnp.deg2rad(angle), jnp.deg2rad(sheared), size, down, right)


def random_perspective(
    key: jax.Array, images: jax.Array, distortion: Any = 0.5, probability: Any = 0.5
) -> jax.Array:
    """Change the perspective of some images, and fill with zeros.

    Each corner of the image moves inward, by distances along both axes that are uniform from 0 to
    distortion / 2 of the height or the width. Pixels are interpolated linearly.

    Args:
        key: A JAX key; equal keys give equal maps.
        images: (B, H, W, C), floats.
        distortion: Strength, from 0 to 1; may be traced. Default: 0.5.
        probability: Probability with which each image is changed. Default: 0.5.

    Returns:
        Images of the same shape and dtype.

    Raises:
        ValueError: Images have another rank or are not floats, or an argument is out of range.

    >>> random_perspective(jax.random.key(0), jnp.ones((2, 8, 8, 3))).shape
    (2, 8, 8, 3)
    """
    check_images(images, "random_perspective")
    fraction(distortion, "random_perspective.distortion")
    fraction(probability, "random_perspective.probability")
    moved, chosen = jax.random.split(key)
    (n, height, width), dtype = images.shape[:3], images.dtype
    sides = jnp.array([[height, width]], dtype)
    unit = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype)
    corners = unit * sides - 0.5
    inward = jnp.where(unit == 0, sides, -sides) * jnp.asarray(distortion / 2, dtype)
    shifts = jax.random.uniform(moved, (n, 4, 2), dtype) * inward[None]
    some = jax.random.bernoulli(chosen, probability, (n, 1, 1))
    ends = corners[None] + jnp.where(some, shifts, 0)
    return jax.vmap(_projected, (0, None, 0))(images, corners, ends)


def elastic_transform(
    key: jax.Array, images: jax.Array, alpha: Any = 20.0, sigma: Any = 5.0
) -> jax.Array:
    """Move the pixels of each image by a smooth random field, and fill with zeros.

    The field is alpha times noise that is uniform over [-1, 1] for each pixel and axis, smoothed by
    a Gaussian. Pixels are interpolated linearly.

    Args:
        key: A JAX key; equal keys give equal fields.
        images: (B, H, W, C), floats.
        alpha: Factor of the field, in pixels; may be traced. Default: 20.
        sigma: Standard deviation of the Gaussian in pixels, greater than 0; may be traced.
            Default: 5.

    Returns:
        Images of the same shape and dtype.

    Raises:
        ValueError: Images have another rank or are not floats, or an argument is out of range.

    Reference: Simard et al., Best practices for convolutional neural networks applied to visual
    document analysis, 2003.

    >>> elastic_transform(jax.random.key(0), jnp.ones((2, 8, 8, 3))).shape
    (2, 8, 8, 3)
    """
    check_images(images, "elastic_transform")
    number(0)(alpha, "elastic_transform.alpha")
    above(0)(sigma, "elastic_transform.sigma")
    (n, height, width), dtype = images.shape[:3], images.dtype
    noise = jax.random.uniform(key, (n, height, width, 2), dtype, -1.0, 1.0)
    field = jax.vmap(blurred, (0, None))(noise, jnp.asarray(sigma, dtype))
    field = field * jnp.asarray(alpha, dtype)
    y, x = _places(height, width, dtype)
    return jax.vmap(_sampled)(images, y[None] + field[..., 0], x[None] + field[..., 1])


def gaussian_blur(
    key: jax.Array, images: jax.Array, sigma: tuple[float, float] = (0.1, 2.0)
) -> jax.Array:
    """Smooth each image by a Gaussian, cut off at 4 sigma; images are mirrored at their edges.

    Args:
        key: A JAX key; equal keys give equal images.
        images: (B, H, W, C), floats.
        sigma: Smallest and largest standard deviation in pixels; it is uniform. Default: (0.1, 2).

    >>> gaussian_blur(jax.random.key(0), jnp.ones((2, 8, 8, 3))).shape
    (2, 8, 8, 3)
    """
    check_images(images, "gaussian_blur")
    _BOUNDS(sigma, "gaussian_blur.sigma", "write sigma=(0.1, 2.0)")
    return jax.vmap(blurred)(images, jax.random.uniform(key, (len(images),), images.dtype, *sigma))


def random_resized_crop(
    key: jax.Array,
    images: jax.Array,
    size: int | tuple[int, int],
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
    """Cut a random window out of each image, and resize it.

    The area of the window is uniform, its aspect ratio log-uniform, and its place uniform. A side
    longer than that of the image is shortened to it. Pixels are interpolated linearly, and averaged
    if the window is larger than `size`.

    Args:
        key: A JAX key; equal keys give equal windows.
        images: (B, H, W, C), floats.
        size: (height, width) of the results in pixels, or one int for both.
        area: Smallest and largest area of the window, as fractions of the image. Default:
            (0.08, 1).
        aspect: Smallest and largest ratio of the width to the height. Default: (3/4, 4/3).

    Returns:
        (B, height, width, C), of the same dtype.

    Raises:
        ValueError: Images have another rank or are not floats, or an argument is out of range.

    Reference: Szegedy et al., Going deeper with convolutions, 2015.

    >>> random_resized_crop(jax.random.key(0), jnp.ones((2, 32, 32, 3)), 24).shape
    (2, 24, 24, 3)
    """
    check_images(images, "random_resized_crop")
    for name, pair in (("area", area), ("aspect", aspect)):
        _BOUNDS(pair, f"random_resized_crop.{name}")
    height, width = size if isinstance(size, tuple) else (size, size)
    for side in (height, width):
        integer(1)(side, "random_resized_crop.size", "write size=224 or size=(height, width)")
    sized, placed = jax.random.split(key)
    inverse = (1 / aspect[1], 1 / aspect[0])
    sides, corners = _boxes(sized, placed, images, area, inverse)
    return jax.vmap(_resized, (0, 0, 0, None))(images, corners, sides, (height, width))


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
    check_images(images, "random_erasing")
    fraction(probability, "random_erasing.probability")
    for name, pair in (("area", area), ("aspect", aspect)):
        _BOUNDS(pair, f"random_erasing.{name}")
    (n, height, width), dtype = images.shape[:3], images.dtype
    chosen, sized, placed = jax.random.split(key, 3)
    sides, corners = _boxes(sized, placed, images, area, aspect)
    rows, columns = (
        (place >= corners[:, i, None]) & (place < (corners + sides)[:, i, None])
        for i, place in enumerate((jnp.arange(height)[None], jnp.arange(width)[None]))
    )
    some = jax.random.bernoulli(chosen, probability, (n, 1, 1))
    inside = (some & rows[:, :, None] & columns[:, None, :])[..., None]
    filler = jnp.broadcast_to(jnp.asarray(value, dtype), images.shape[-1:])
    return jnp.where(inside, filler.reshape(1, 1, 1, -1), images)


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


def check_images(images: Any, name: str, colors: bool = False) -> None:
    """Raise ValueError unless images are floats (B, H, W, C).

    Args:
        images: The images.
        name: Name of the function, for the error.
        colors: Whether there must be three channels. Default: False.
    """
    for accepts in (_COLORED if colors else _IMAGES, _FLOATS):
        accepts(images, f"{name}.images")


def blurred(image: jax.Array, sigma: jax.Array) -> jax.Array:
    """Return an image (H, W, C) smoothed by a Gaussian, which is cut off at 4 sigma.

    The image is mirrored at its edges.

    Args:
        image: (H, W, C).
        sigma: Standard deviation in pixels.
    """

    def weights(n: int) -> jax.Array:
        i, j = jnp.arange(n)[:, None], jnp.arange(n)[None]
        total = jnp.zeros((n, n), sigma.dtype)
        # Pixel j, and its images beyond the first and the last pixel.
        for there, place in ((j >= 0, j), (j > 0, -j), (j < n - 1, 2 * (n - 1) - j)):
            distance = jnp.abs(i - place).astype(sigma.dtype)
            near = there & (distance <= jnp.floor(4 * sigma + 0.5))
            total += jnp.where(near, jnp.exp(-0.5 * (distance / sigma) ** 2), 0)
        return total / jnp.sum(total, 1, keepdims=True)

    height, width = image.shape[:2]
    rows, columns = weights(height), weights(width)
    return jnp.einsum("ih,hwc,jw->ijc", rows, image, columns, precision="highest")


def warped(
    image: jax.Array, angle: Any, shear: Any, scale: Any, down: Any, right: Any
) -> jax.Array:
    """Rotate, shear, scale, and shift an image around its center.

    Args:
        image: (H, W, C).
        angle: Angle in radians, counterclockwise.
        shear: Angle of the shear along rows, in radians.
        scale: Factor.
        down: Pixels by which the image is shifted down.
        right: Pixels by which it is shifted to the right.
    """
    height, width = image.shape[:2]
    dtype = image.dtype
    y, x = _places(height, width, dtype)
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    # From places of the new image to those of the old one: the inverse map.
    y, x = y - down, x - right
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y, x = (cos * y + sin * x) / scale, (cos * x - sin * y) / scale
    x = x - jnp.tan(shear) * y
    return _sampled(image, y + (height - 1) / 2, x + (width - 1) / 2)


def _places(height: int, width: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Return the row and the column of each pixel."""
    y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    return y.astype(dtype), x.astype(dtype)


def _sampled(image: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    """Return the pixels at rows y and columns x, by linear interpolation, 0 outside."""
    return jax.vmap(lambda channel: map_coordinates(channel, [y, x], 1), -1, -1)(image)


def _projected(image: jax.Array, corners: jax.Array, ends: jax.Array) -> jax.Array:
    """Return an image whose `corners` (4, 2) are moved to `ends`, by a projective map."""
    height, width = image.shape[:2]
    # Places are divided by the size, because products of large ones lose digits.
    size = max(height, width)
    old, end = corners / size, ends / size
    new = jnp.concatenate([end, jnp.ones((4, 1), image.dtype)], 1)
    # From places of the new image to those of the old one, both (row, column):
    # old * (1 + new @ v) = M @ new + c is linear in M, c, and v.
    equations = jnp.block(
        [[new, 0 * new, -old[:, :1] * end], [0 * new, new, -old[:, 1:] * end]],
    )
    a = jnp.linalg.solve(equations, old.T.reshape(8))
    y, x = (place / size for place in _places(height, width, image.dtype))
    rows, columns = (a[i] * y + a[i + 1] * x + a[i + 2] for i in (0, 3))
    below = (a[6] * y + a[7] * x + 1) / size
    return _sampled(image, rows / below, columns / below)


def _boxes(
    sized: jax.Array, placed: jax.Array, images: jax.Array, area: Any, aspect: Any
) -> tuple[jax.Array, jax.Array]:
    """Return the sides and the first corners of random boxes in images, int32 (B, 2)."""
    (n, height, width), dtype = images.shape[:3], images.dtype
    sized, shaped = jax.random.split(sized)
    pixels = jax.random.uniform(sized, (n,), dtype, *area) * (height * width)
    low, high = (jnp.log(jnp.asarray(a, dtype)) for a in aspect)
    ratio = jnp.exp(jax.random.uniform(shaped, (n,), dtype, low, high))
    limits = jnp.array([[height, width]])
    sides = jnp.sqrt(jnp.stack([pixels * ratio, pixels / ratio], -1))
    sides = jnp.clip(jnp.round(sides).astype(jnp.int32), 1, limits)
    return sides, jax.random.randint(placed, (n, 2), 0, limits - sides + 1)


def _resized(
    image: jax.Array, corner: jax.Array, side: jax.Array, shape: tuple[int, int]
) -> jax.Array:
    """Return the box of an image that begins at `corner`, resized to `shape`."""

    def weights(axis: int) -> jax.Array:
        n, size = image.shape[axis], shape[axis]
        step = side[axis].astype(image.dtype) / size
        centers = (jnp.arange(size, dtype=image.dtype) + 0.5) * step - 0.5
        inside = jnp.arange(n) - corner[axis]
        distances = jnp.abs(centers[:, None] - inside[None].astype(image.dtype))
        near = jnp.maximum(1 - distances / jnp.maximum(step, 1), 0)
        near = jnp.where(((inside >= 0) & (inside < side[axis]))[None], near, 0)
        return near / jnp.sum(near, 1, keepdims=True)

    return jnp.einsum("ih,hwc,jw->ijc", weights(0), image, weights(1), precision="highest")
