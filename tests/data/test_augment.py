"""Augmentation against loops over pixels, closed forms and the distributions of the papers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import train
from jaxnn.data import Augmentation, cutmix, cutout, mixup, random_crop, random_flip, random_shift

KEY = jax.random.key(0)
# No two pixels of the batch are equal, so that each tells where it comes from.
IMAGES: Any = np.arange(1, 6 * 5 * 7 + 1, dtype=np.float32).reshape(6, 5, 7)
LABELS: Any = np.array([0, 1, 2, 0, 1, 2], np.int32)


def run(function, *arrays, **options):
    """Call an augmentation as one program, whose results are NumPy arrays."""
    return jax.tree.map(np.asarray, jax.jit(functools.partial(function, **options))(KEY, *arrays))


@pytest.mark.parametrize("channels", [(), (2,)])
def test_a_crop_is_a_window_of_its_image(channels):
    shape = (6, 5, 7, *channels)
    images = np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)
    out = run(random_crop, images, size=(3, 4))
    assert out.shape == (6, 3, 4, *channels)
    for image, found in zip(images, out, strict=True):
        windows = [image[i : i + 3, j : j + 4] for i in range(3) for j in range(4)]
        assert sum(bool((window == found).all()) for window in windows) == 1


def test_crops_are_uniform():
    image = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    out = run(random_crop, np.tile(image, (900, 1, 1)), size=2)
    counts = np.bincount(out[:, 0, 0].astype(int), minlength=16)
    counts = counts.reshape(4, 4)[:3, :3]
    assert counts.sum() == 900
    # 9 places of 100 expected: chi-squared with 8 degrees of freedom, 0.999 quantile 26.1.
    assert ((counts - 100) ** 2 / 100).sum() < 26.1


def test_a_flip_mirrors_half_of_the_images():
    images = np.tile(IMAGES[:1], (400, 1, 1))
    out = run(random_flip, images)
    mirrored = (out == images[:, :, ::-1]).all((1, 2))
    assert ((out == images).all((1, 2)) != mirrored).all()
    assert abs(mirrored.sum() - 200) < 3.3 * 10  # binomial: standard deviation 10, 0.999


def test_cutout_takes_the_papers_square():
    """A square around a center that is uniform over the pixels, cut off at the edge."""
    out = run(cutout, np.ones((600, 5, 5, 2), np.float32), size=3)
    assert (out[..., 0] == out[..., 1]).all()
    squares = {}
    for row in range(5):
        for column in range(5):
            left = np.ones((5, 5))
            left[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 0
            squares[left.tobytes()] = 0
    assert len(squares) == 25
    for image in out[..., 0]:
        squares[image.astype(float).tobytes()] += 1  # KeyError for any other
    # 25 squares of 24 expected: chi-squared with 24 degrees of freedom, 0.999 quantile 51.2.
    assert sum((count - 24) ** 2 / 24 for count in squares.values()) < 51.2
    assert run(cutout, np.ones((2, 4, 4), np.uint8), size=2).dtype == np.uint8
    images = np.ones((64, 9, 9), np.float32)
    even = run(cutout, images, size=4)
    assert (1 - even).sum((1, 2)).max() == 16
    np.testing.assert_array_equal(even, jax.jit(cutout)(KEY, images, 4))  # a traced size


def test_mixup_is_the_mean_of_a_pair():
    """With x = one-hot of the row, x' holds the weights: a row and its partner, which sum to 1."""
    numbers = np.arange(50, dtype=np.float32)
    x, y = run(mixup, np.eye(50, dtype=np.float32), numbers, alpha=0.7)
    # Sums of two float32 products, and of 50 numbers of which 48 are zero.
    np.testing.assert_allclose(x.sum(1), 1, rtol=3e-7)
    np.testing.assert_allclose(y, x @ numbers, rtol=1e-6)
    own = np.diag(x)
    assert ((x > 0).sum(1) <= 2).all()
    partners = (x - np.diag(own)).argmax(1)[own < 1].tolist()
    assert len(partners) == len(set(partners))  # a permutation: each row is used once


def test_the_weights_are_those_of_a_beta_distribution():
    x = np.tile(np.array([[1], [0]], np.float32), (4000, 1))
    mixed, _ = run(mixup, x, x[:, 0], alpha=0.4)
    inner = mixed[(mixed > 0) & (mixed < 1)]
    # A one mixed with a zero has the weight itself, or one minus it, which is as often: its mean is
    # 1/2 and its variance 1 / (4 (2 alpha + 1)) = 0.139. Of some 4000 the mean's deviation is 0.006
    # and that of the variance less: 4 deviations each.
    assert abs(float(inner.mean()) - 0.5) < 0.024
    assert abs(float(inner.var()) - 1 / (4 * 1.8)) < 0.008


def test_labels_become_probabilities():
    given = LABELS, np.eye(3, dtype=np.float32)[LABELS]
    for mix in (mixup, cutmix):
        _, (soft, same) = run(mix, IMAGES, given, classes=3)
        np.testing.assert_allclose(soft, same, rtol=1e-6)
        np.testing.assert_allclose(soft.sum(1), 1, rtol=3e-7)


@pytest.mark.parametrize("channels", [(), (2,)])
def test_cutmix_takes_a_box_of_one_other_image(channels):
    rows = 40
    numbered = np.arange(rows, dtype=np.float32).reshape(-1, 1, 1, *(1 for _ in channels))
    images = np.broadcast_to(numbered, (rows, 8, 6, *channels))
    out, y = run(cutmix, images, np.eye(rows, dtype=np.float32))
    boxes = 0
    for row, (image, soft) in enumerate(zip(out, y, strict=True)):
        others = set(np.unique(image).astype(int)) - {row}
        assert len(others) <= 1
        inside = image.reshape(8, 6, -1)[..., 0] != row
        # The targets' shares are those of the pixels, counted.
        np.testing.assert_allclose(soft[row], 1 - inside.mean(), rtol=1e-6)
        if others:
            np.testing.assert_allclose(soft[others.pop()], inside.mean(), rtol=1e-6)
            high, wide = inside.any(1).sum(), inside.any(0).sum()
            assert inside.sum() == high * wide  # a box
            boxes += 1
    assert boxes > rows / 2


def test_cutmix_has_uniform_areas_before_the_edge_cuts_them():
    """A box of share 1 - w around a uniform center keeps, of each side r, r - r^2 / 4 in the mean.

    With u = 1 - w uniform and r = sqrt(u), the mean share inside is the mean of (r - r^2 / 4)^2 =
    u - u^1.5 / 2 + u^2 / 16, which is 1/2 - 1/5 + 1/48 = 0.3208.
    """
    rows = 2000
    images = np.tile(np.arange(rows, dtype=np.float32).reshape(-1, 1, 1), (1, 32, 32))
    out, _ = run(cutmix, images, np.zeros(rows, np.float32))
    share = float((out != images).mean())
    # Deviation of the mean of 2000 shares: 0.25 / sqrt(2000) = 0.006; whole pixels take off less
    # than a pixel of 32 a side, 0.02 in the mean of the product.
    assert 0.3208 - 0.018 - 0.02 < share < 0.3208 + 0.018


def test_pure_under_jit_vmap_and_strict_promotion():
    keys = jax.random.split(KEY, 2)
    for function in (
        functools.partial(random_crop, images=IMAGES, size=3),
        functools.partial(random_flip, images=IMAGES),
        functools.partial(cutout, images=IMAGES, size=2),
        functools.partial(mixup, x=IMAGES, y=LABELS, classes=3),
        functools.partial(cutmix, images=IMAGES, y=LABELS, classes=3),
    ):
        with jax.numpy_rank_promotion("raise"), jax.checking_leaks():
            together = jax.tree.map(np.asarray, jax.jit(jax.vmap(function))(keys))
        alone = jax.jit(function)
        for index, key in enumerate(keys):
            one = jax.tree.map(lambda leaf, i=index: leaf[i], together)
            # Fused into one program, the weights' logarithms and exponentials round otherwise.
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, alone(key))


def test_alpha_may_be_traced():
    traced = jax.jit(lambda alpha: mixup(KEY, IMAGES, LABELS, alpha=alpha, classes=3)[0])
    plain = mixup(KEY, IMAGES, LABELS, alpha=0.3, classes=3)[0]
    np.testing.assert_allclose(traced(0.3), plain, rtol=1e-6)  # as above


def test_in_turn_is_by_hand():
    parts = (functools.partial(random_shift, pixels=1), functools.partial(mixup, classes=3))
    augment = Augmentation(*parts)
    x, y = augment(KEY, IMAGES, LABELS)
    by_hand = random_shift(jax.random.fold_in(KEY, 0), IMAGES, 1)
    by_hand, soft = mixup(jax.random.fold_in(KEY, 1), by_hand, LABELS, classes=3)
    np.testing.assert_array_equal(x, by_hand)
    np.testing.assert_array_equal(y, soft)
    again = Augmentation(
        functools.partial(random_shift, pixels=1), functools.partial(mixup, classes=3)
    )
    assert augment == again and hash(augment) == hash(again)
    assert augment != Augmentation(*parts[:1])
    _, y = Augmentation(random_flip)(KEY, IMAGES, LABELS)
    assert y is LABELS


def test_training_on_probabilities():
    """The loss of soft targets is the mean of the losses of the labels, by their probabilities."""
    task = train.Classification(3)
    loss = jax.jit(task)
    logits = np.array([[0.3, -1.0, 2.0], [0.1, 0.2, 0.3]], np.float32)
    soft = np.array([[0.7, 0.0, 0.3], [0.2, 0.5, 0.3]], np.float32)
    each = np.array([loss(logits[i], np.array(c)) for i in range(2) for c in range(3)])
    wanted = (each.reshape(2, 3) * soft).sum(1).mean()
    np.testing.assert_allclose(loss(logits, soft), wanted, rtol=1e-6)  # float32 sums of six
    hard = np.eye(3, dtype=np.float32)[[2, 1]]
    np.testing.assert_allclose(loss(logits, hard), loss(logits, np.array([2, 1])), rtol=1e-6)
    assert float(jax.jit(task.metrics)(logits, hard)["accuracy"]) == 0.5
    with pytest.raises(TypeError, match="must be integer class labels"):
        task(logits, jnp.zeros(2))
    with pytest.raises(ValueError, match=r"needs outputs \(..., 3\) and targets \(...\)"):
        task(logits, jnp.zeros((2, 4)))


def test_errors():
    for function in (
        functools.partial(random_crop, size=2),
        random_flip,
        functools.partial(cutout, size=2),
    ):
        with pytest.raises(
            ValueError, match=r"must be \(B, H, W\) or \(B, H, W, C\), got float.*\[2,784"
        ):
            function(KEY, jnp.zeros((2, 784)))
    with pytest.raises(ValueError, match=r"from 1 to 5, got 6; images have 5 x 7 pixels"):
        random_crop(KEY, IMAGES, 6)
    with pytest.raises(ValueError, match=r"random_crop.size must be an int from 1 to 5, got 2.0"):
        random_crop(KEY, IMAGES, 2.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"cutout.size must be a number >= 1, got 0"):
        cutout(KEY, IMAGES, 0)
    with pytest.raises(
        ValueError, match=r"mixup.alpha must be a number > 0, got 0; leave mixup out"
    ):
        mixup(KEY, IMAGES, LABELS, alpha=0, classes=3)
    with pytest.raises(
        TypeError, match=r"cutmix.y must hold floats, got dtype int32; write cutmix"
    ):
        cutmix(KEY, IMAGES, LABELS)
    with pytest.raises(TypeError, match=r"mixup.x must hold floats, got dtype int32"):
        mixup(KEY, LABELS, LABELS, classes=3)
    with pytest.raises(ValueError, match=r"cutmix.images must be \(B, H, W\) or .*, got int32"):
        cutmix(KEY, LABELS, LABELS, classes=3)
    with pytest.raises(
        TypeError, match=r"parts\[0\] must be a function of .*, or \(key, x, y\), got 3"
    ):
        Augmentation(3)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_examples_without_weight_have_no_part(mix):
    """A traced alpha of 0 mixes nothing, and 1e-6 draws weights of 0 and 1: NaN spreads to none."""
    images = jnp.ones((6, 2, 2)).at[2].set(jnp.nan).at[4].set(jnp.inf)
    y = jnp.arange(6.0)
    run = jax.jit(lambda alpha: mix(KEY, images, y, alpha=alpha))
    for mixed, same in zip(run(0.0), (images, y), strict=True):
        np.testing.assert_array_equal(mixed, same)
    if mix is mixup:  # of another image, cutmix takes what lies inside of the box
        mixed, found = run(1e-6)
        assert set(found.tolist()) <= set(y.tolist())
        np.testing.assert_array_equal(mixed, images[found.astype(int)])
