"""Shifted images against a plain loop over pixels, and the distribution of the shifts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnn.data import random_shift


def shifted_by_loop(image, down, right):
    out = np.zeros_like(image)
    height, width = image.shape[:2]
    for i in range(height):
        for j in range(width):
            if 0 <= i - down < height and 0 <= j - right < width:
                out[i, j] = image[i - down, j - right]
    return out


def shift_of(image, out, pixels):
    """The one (down, right) that turns image into out."""
    reach = range(-pixels, pixels + 1)
    found = [
        (down, right)
        for down in reach
        for right in reach
        if np.array_equal(shifted_by_loop(image, down, right), out)
    ]
    assert len(found) == 1
    return found[0]


@settings(max_examples=15, deadline=None)
@given(
    shape=st.sampled_from([(4, 5, 7), (3, 6, 4, 2)]),
    pixels=st.integers(0, 3),
    seed=st.integers(0, 9),
    kind=st.sampled_from([np.float32, np.uint8]),
)
def test_every_image_is_a_loops_shift_of_itself(shape, pixels, seed, kind):
    # Distinct values: one shift at most explains each result.
    images = np.arange(1, np.prod(shape) + 1).reshape(shape).astype(kind)
    out = np.asarray(random_shift(jax.random.key(seed), jnp.asarray(images), pixels))
    assert out.shape == shape and out.dtype == kind
    for image, result in zip(images, out, strict=True):
        shift_of(image, result, pixels)


def test_shifts_are_uniform_and_independent():
    image = np.arange(1, 26, dtype=np.float32).reshape(5, 5)
    out = random_shift(jax.random.key(0), jnp.tile(image, (2500, 1, 1)), 2)
    # The center pixel, 13, tells the shift; it stays in sight for shifts of up to 2.
    where = np.argwhere(np.asarray(out) == 13)
    assert len(where) == 2500
    counts = np.zeros((5, 5))
    np.add.at(counts, (where[:, 1], where[:, 2]), 1)
    # 25 cells of 100 expected: chi-squared with 24 degrees of freedom, 0.999 quantile 51.2.
    assert ((counts - 100) ** 2 / 100).sum() < 51.2


def test_pure_under_jit_vmap_and_scan():
    images = jnp.arange(1.0, 3 * 36 + 1).reshape(3, 6, 6)
    keys = jax.random.split(jax.random.key(1), 4)
    eager = [random_shift(key, images, 2) for key in keys]
    jitted = jax.jit(random_shift, static_argnames="pixels")
    with jax.numpy_rank_promotion("raise"), jax.checking_leaks():
        for key, wanted in zip(keys, eager, strict=True):
            np.testing.assert_array_equal(jitted(key, images, pixels=2), wanted)
        shift = partial(random_shift, images=images, pixels=2)
        np.testing.assert_array_equal(jax.vmap(shift)(keys), jnp.stack(eager))
        _, scanned = jax.lax.scan(lambda c, key: (c, shift(key)), None, keys)
        np.testing.assert_array_equal(scanned, jnp.stack(eager))


def test_the_gradient_is_the_shift_back():
    images = jnp.ones((2, 4, 4))
    key = jax.random.key(3)
    gradient = jax.grad(lambda x: random_shift(key, x, 1).sum())(images)
    # A pixel counts once if it is still in sight: as many as there are ones left.
    assert gradient.sum() == random_shift(key, images, 1).sum()


def test_numpy_images():
    images = np.ones((2, 4, 4), np.float32)
    assert isinstance(random_shift(jax.random.key(0), jnp.asarray(images), 0), jax.Array)
    np.testing.assert_array_equal(random_shift(jax.random.key(0), images, 0), images)  # pyright: ignore[reportArgumentType]


def test_errors():
    key, images = jax.random.key(0), jnp.zeros((2, 4, 5))
    for pixels in (-1, 4):
        with pytest.raises(
            ValueError, match=rf"pixels must be an int from 0 to 3, got {pixels}; im"
        ):
            random_shift(key, images, pixels)
    with pytest.raises(
        ValueError, match=r"must be \(B, H, W\) .*, got float32\[2,784\].*reshape\(-1, H, W"
    ):
        random_shift(key, jnp.zeros((2, 784)), 1)
    for pixels in (1.0, True):
        with pytest.raises(ValueError, match="must be an int from 0 to 3"):
            random_shift(key, images, pixels)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"random_shift.pixels is the traced number"):
        jax.jit(random_shift)(key, images, 2)
