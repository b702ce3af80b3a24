"""Augmentation of images and spectrograms: against PIL, colorsys, and scipy, and by the formula."""

import colorsys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jaxnn import data
from jaxnn.data import geometry, image_transforms
from tests.fixtures import image_transforms as pil
from tests.fixtures.image_transforms import FACTOR, FILE

KEY = jax.random.key(0)
IMAGES: Any = np.random.default_rng(0).random((6, 7, 9, 3)).astype(np.float32)


def test_operations_as_pil():
    """PIL rounds the gray or smooth image to 8 bits, half a level, times FACTOR - 1; and cuts off
    the rest of the result, a level."""
    stored = dict(np.load(FILE))
    x = stored.pop("x").astype(np.float32) / 255
    stored = {name: a for name, a in stored.items() if name in image_transforms.OPERATIONS}
    assert len(stored) == 8
    strengths = dict.fromkeys(("brightness", "color", "contrast", "sharpness"), (FACTOR - 1) / 0.9)
    strengths |= {"posterize": 0.5, "solarize": 1 - 128 / 255}

    @jax.jit
    def run(x):
        limits = image_transforms.Limits(0.0, 0.0)
        amounts = {name: jnp.float32(strengths.get(name, 0)) for name in stored}
        return {
            name: image_transforms.OPERATIONS[name](x, amount, amount, limits)
            for name, amount in amounts.items()
        }

    for name, found in run(x).items():
        assert np.abs(np.asarray(found) * 255 - stored[name]).max() < 1.01 + (FACTOR - 1) / 2, name


def test_windows_perspective_and_gray_as_pil():
    stored = np.load(FILE)
    x = stored["x"].astype(np.float32) / 255
    corner, side = (jnp.array(pair) for pair in (pil.WINDOW[:2], pil.WINDOW[2:]))
    corners, ends = (jnp.array(a, jnp.float32) for a in (pil.CORNERS, pil.ENDS))

    @jax.jit
    def run(x):
        resized = geometry._resized(x[..., :1], corner, side, pil.SIZE)
        moved = geometry._projected(x[..., :1], corners, ends)
        return resized[..., 0], moved[..., 0], data.grayscale(x[None])[0]

    resized, moved, gray = run(x)
    np.testing.assert_allclose(resized, stored["resized"], atol=1e-5)
    inside = stored["perspective"] > 0  # PIL does not mix the edge with zeros
    inside[1:-1, 1:-1] &= (
        inside[2:, 1:-1] & inside[:-2, 1:-1] & inside[1:-1, 2:] & inside[1:-1, :-2]
    )
    inside[[0, -1]] = inside[:, [0, -1]] = False
    assert inside.sum() > 30
    np.testing.assert_allclose(moved[inside], stored["perspective"][inside], atol=1e-5)
    assert np.abs(gray * 255 - stored["grayscale"][..., None]).max() < 1.01


def test_blur_and_elastic_fields_as_scipy():
    found, flat = jax.jit(jax.vmap(geometry.blurred, (None, 0)))(IMAGES[0], jnp.array([0.8, 1e-3]))
    for i in range(3):
        expected = scipy.ndimage.gaussian_filter(IMAGES[0, ..., i], 0.8, mode="mirror")
        np.testing.assert_allclose(found[..., i], expected, atol=1e-5)
    np.testing.assert_allclose(flat, IMAGES[0], atol=1e-6)


def test_random_windows_have_the_area_and_the_ratio():
    """An image of its own rows and columns shows the window that was cut out."""
    y, x = np.mgrid[:64, :48].astype(np.float32)
    images = jnp.broadcast_to(jnp.stack([y, x], -1), (200, 64, 48, 2))
    run = jax.jit(lambda k: data.random_resized_crop(k, images, (16, 12), (0.1, 0.3), (0.5, 2.0)))
    found = np.asarray(run(KEY))
    height, width = (
        np.median(np.diff(found[..., i], axis=1 + i), (1, 2)) * (16, 12)[i] for i in range(2)
    )
    area, ratio = height * width / (64 * 48), width / height
    assert 0.09 < area.min() < 0.12 and 0.27 < area.max() < 0.31  # sides are whole numbers
    assert 0.45 < ratio.min() < 0.6 and 1.7 < ratio.max() < 2.2
    assert found.min() >= 0 and found[..., 0].max() > 60 and found[..., 1].max() > 44


def assert_changes_each_image(*names: str) -> None:
    """Equal images become different ones, in the same range."""
    same = jnp.broadcast_to(IMAGES[:1], IMAGES.shape)
    found = jax.jit(lambda key: {name: getattr(data, name)(key, same) for name in names})(KEY)
    for name, changed in found.items():
        changed = np.asarray(changed)
        assert changed.shape == IMAGES.shape, name
        assert changed.min() >= 0 and changed.max() <= 1 + 1e-6, name
        assert len({image.tobytes() for image in changed}) > 2, name


def test_random_changes_of_equal_images_differ():
    assert_changes_each_image("random_perspective", "elastic_transform", "gaussian_blur")


@pytest.mark.slow
def test_policies_of_equal_images_differ():
    assert_changes_each_image("trivial_augment", "aug_mix")


def test_functions_of_images_as_operations_of_their_parts():
    x = np.stack([IMAGES[0], IMAGES[1]])

    @jax.jit
    def run(x):
        some = data.random_apply(KEY, jnp.tile(x, (50, 1, 1, 1)), data.autocontrast, 0.3)
        return (
            some,
            [data.solarize(x, 0.4), data.posterize(x, 3), data.adjust_sharpness(x, 1.0)],
            data.autocontrast(x),
        )

    some, (solarized, posterized, sharp), stretched = run(x)
    np.testing.assert_allclose(solarized, np.where(x >= 0.4, 1 - x, x), atol=1e-6)
    np.testing.assert_array_equal(np.round(posterized * 255), np.round(x * 255) // 32 * 32)
    np.testing.assert_allclose(sharp, x, atol=1e-6)
    low, high = x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True)
    np.testing.assert_allclose(stretched, (x - low) / (high - low), atol=1e-5)
    tiled = [np.tile(a, (50, 1, 1, 1)) for a in (x, stretched)]
    changed = (np.asarray(some) == tiled[1]).all((1, 2, 3))
    assert 12 < changed.sum() < 48  # 30, and four standard deviations
    np.testing.assert_array_equal(some, np.where(changed[:, None, None, None], tiled[1], tiled[0]))


def test_hue_as_colorsys():
    found = jax.jit(image_transforms._with_hue)(IMAGES[0], jnp.float32(0.3))
    hues = [colorsys.rgb_to_hsv(*map(float, p)) for p in IMAGES[0].reshape(-1, 3)]
    expected = [colorsys.hsv_to_rgb((h + 0.3) % 1, s, v) for h, s, v in hues]
    np.testing.assert_allclose(found.reshape(-1, 3), expected, atol=1e-5)


def test_an_affine_map_as_scipy():
    """The inverse map of places, around the center: rotation and scale, then shear."""
    angle, shear, scale, down, right = 0.3, 0.2, 1.2, 1.5, -0.7
    found = jax.jit(geometry.warped)(IMAGES[0], angle, shear, scale, down, right)
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
    turned = geometry.warped(dot[0], jnp.pi / 2, 0.0, 1.0, 0.0, 0.0)[..., 0]
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
        (
            lambda: data.random_perspective(KEY, IMAGES, 2.0),
            "distortion must be a number from 0 to",
        ),
        (lambda: data.random_resized_crop(KEY, IMAGES, 0), r"write size=224 or size=\(height"),
        (lambda: data.gaussian_blur(KEY, IMAGES, (0.0, 1.0)), r"write sigma=\(0\.1, 2\.0\)"),
        (lambda: data.posterize(IMAGES, 9), "bits must be a number from 0 to 8, got 9"),
        (lambda: data.aug_mix(KEY, IMAGES, 11), "severity must be an int from 1 to 10"),
        (lambda: data.random_apply(KEY, IMAGES, data.equalize, 2), "probability must be a number"),
        (lambda: data.random_flip(KEY, IMAGES, 0), "axis must be an int from 1 to 2"),
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
