"""Augmentation of images and spectrograms: against PIL, colorsys, and scipy, and by the formula."""

import colorsys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jaxnn import data
from jaxnn.data import image_transforms
from tests.fixtures.image_transforms import FACTOR, FILE

KEY = jax.random.key(0)
IMAGES: Any = np.random.default_rng(0).random((6, 7, 9, 3)).astype(np.float32)


def test_operations_as_pil():
    """PIL rounds the gray or smooth image to 8 bits, half a level, times FACTOR - 1; and cuts off
    the rest of the result, a level."""
    stored = dict(np.load(FILE))
    x = stored.pop("x").astype(np.float32) / 255
    strengths = dict.fromkeys(("brightness", "color", "contrast", "sharpness"), (FACTOR - 1) / 0.9)
    strengths |= {"posterize": 0.5, "solarize": 1 - 128 / 255}

    @jax.jit
    def run(x):
        sign = jnp.float32(1)
        return {
            name: image_transforms._OPERATIONS[name](x, jnp.float32(strengths.get(name, 0)), sign)
            for name in stored
        }

    for name, found in run(x).items():
        assert np.abs(np.asarray(found) * 255 - stored[name]).max() < 1.01 + (FACTOR - 1) / 2, name


def test_hue_as_colorsys():
    found = jax.jit(image_transforms._with_hue)(IMAGES[0], jnp.float32(0.3))
    hues = [colorsys.rgb_to_hsv(*map(float, p)) for p in IMAGES[0].reshape(-1, 3)]
    expected = [colorsys.hsv_to_rgb((h + 0.3) % 1, s, v) for h, s, v in hues]
    np.testing.assert_allclose(found.reshape(-1, 3), expected, atol=1e-5)


def test_an_affine_map_as_scipy():
    """The inverse map of places, around the center: rotation and scale, then shear."""
    angle, shear, scale, down, right = 0.3, 0.2, 1.2, 1.5, -0.7
    found = jax.jit(image_transforms._warped)(IMAGES[0], angle, shear, scale, down, right)
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / scale
    matrix = np.array([[1, 0], [-np.tan(shear), 1]]) @ turned
    center = np.array([3.0, 4.0])
    offset: Any = center - matrix @ (center + np.array([down, right]))
    for i in range(3):
        expected = scipy.ndimage.affine_transform(
            IMAGES[0, ..., i], matrix, offset, order=1, mode="constant"
        )
        inside = np.abs(expected) > 0
        np.testing.assert_allclose(found[..., i][inside], expected[inside], atol=1e-5)


def test_positive_angles_are_counterclockwise():
    dot = jnp.zeros((1, 5, 5, 1)).at[0, 2, 4].set(1.0)  # to the right of the center
    turned = image_transforms._warped(dot[0], jnp.pi / 2, 0.0, 1.0, 0.0, 0.0)[..., 0]
    assert turned[0, 2] == pytest.approx(1.0, abs=1e-5)


def test_erased_rectangles_have_the_area_and_the_ratio():
    images = jnp.ones((200, 32, 32, 2))
    erased = jax.jit(lambda k: data.random_erasing(k, images, 0.5, (0.1, 0.2), (0.5, 2.0), 7.0))(
        KEY
    )
    hidden = np.asarray(erased[..., 0] == 7)
    some = hidden.any((1, 2))
    assert 60 < some.sum() < 140  # 100, and six standard deviations
    np.testing.assert_array_equal(erased[..., 1] == 7, hidden)
    sides = np.stack([hidden.any(2).sum(1), hidden.any(1).sum(1)], -1)[some]
    np.testing.assert_array_equal(hidden.sum((1, 2))[some], sides.prod(-1))  # whole rectangles
    area = sides.prod(-1) / 32**2
    ratio = sides[:, 0] / sides[:, 1]
    assert 0.08 < area.min() < 0.12 and 0.18 < area.max() < 0.22  # sides are whole numbers
    assert 0.4 < ratio.min() < 0.6 and 1.7 < ratio.max() < 2.3


def test_spectrograms_lose_ranges_of_times_and_frequencies():
    run = jax.jit(lambda k: data.spec_augment(k, jnp.ones((40, 30, 20)), 1, 6, 2, 4))
    kept = np.asarray(run(KEY)) != 0
    times, frequencies = kept.any(2), kept.any(1)
    np.testing.assert_array_equal(kept, times[:, :, None] & frequencies[:, None])
    lost = (~times).sum(1)
    assert lost.max() == 6 and lost.min() == 0
    starts = np.diff(np.pad((~times).astype(int), ((0, 0), (1, 0))), axis=1) == 1
    assert (starts.sum(1) <= 1).all() and 4 < (~frequencies).sum(1).max() <= 8


def test_nothing_is_changed_without_strength_and_rows_are_independent():
    @jax.jit
    def run(key):
        return {
            "jitter": data.color_jitter(key, IMAGES),
            "affine": data.random_affine(key, IMAGES),
            "erasing": data.random_erasing(key, IMAGES, 0.0),
            "masks": data.spec_augment(key, IMAGES[..., 0], 0, 3, 2, 0),
        }

    for name, found in run(KEY).items():
        expected = IMAGES[..., 0] if name == "masks" else IMAGES
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=name)
    same = jnp.broadcast_to(IMAGES[:1], IMAGES.shape)
    found = np.asarray(jax.jit(data.rand_augment)(KEY, same))
    assert found.shape == IMAGES.shape and found.min() >= 0 and found.max() <= 1
    assert len({image.tobytes() for image in found}) > 3
    jittered = np.asarray(jax.jit(lambda k: data.color_jitter(k, same, 0.5, 0.5, 0.5, 0.2))(KEY))
    assert len({image.tobytes() for image in jittered}) == 6


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: data.color_jitter(KEY, IMAGES[..., :1]), r"images must be \(B, H, W, 3\), got"),
        (lambda: data.rand_augment(KEY, jnp.zeros((1, 4, 4, 3), jnp.uint8)), "must be floats, got"),
        (lambda: data.color_jitter(KEY, IMAGES, hue=0.7), r"hue must be a number from 0 to 0\.5"),
        (lambda: data.random_affine(KEY, IMAGES, scale=(0, 1)), r"write scale=\(0\.9, 1\.1\)"),
        (lambda: data.spec_augment(KEY, IMAGES), r"spectrograms must be \(B, T, F\)"),
        (
            lambda: data.spec_augment(KEY, IMAGES[..., 0], time_width=8),
            "time_width must be an int from 0 to 7, the size of time, got 8",
        ),
    ],
)
def test_wrong_arguments_are_reported(call, text):
    with pytest.raises(ValueError, match=text):
        call()
