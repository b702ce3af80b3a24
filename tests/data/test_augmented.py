"""Augmented data: the function is applied to each batch, whatever its structure."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import data
from tests.data.trees import KEY, X, Y, assert_equal


def unchanged(key, batch):
    return batch


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, key, batch):
        return batch


def noisy(key, batch):
    return {**batch, "x": batch["x"] + jax.random.normal(key, batch["x"].shape)}


def test_augmented_batches_are_those_of_the_function():
    tree = {"x": X, "mask": Y}
    augmented = data.Augmented(tree, noisy)
    accepted = data.as_source(augmented)
    assert isinstance(accepted, data.Augmented) and accepted.function is noisy
    assert_equal(accepted.source, tree)
    assert (
        repr(augmented)
        == f"Augmented({{x: float32[11,2], mask: int64[11]}}, {noisy.__module__}.noisy)"
    )
    found = jax.jit(augmented.augment)(KEY, tree)
    np.testing.assert_allclose(found["x"], X + jax.random.normal(KEY, X.shape), rtol=1e-6)
    assert found["mask"] is not None
    twice = data.Augmented(augmented, noisy)
    noise = sum(jax.random.normal(jax.random.fold_in(KEY, i), X.shape) for i in range(2))
    np.testing.assert_allclose(twice.augment(KEY, tree)["x"], X + noise, rtol=1e-6)
    assert twice.functions == (noisy, noisy)
    over = data.as_source(data.Augmented(lambda: [{"x": X}], noisy))
    assert isinstance(over, data.Augmented) and isinstance(over.source, data.Stream)
    assert data.fingerprint_of(augmented) != data.fingerprint_of(data.Augmented(tree, unchanged))
    assert len(data.fingerprint_of(twice)["augmentation"]) == 2


def test_functions_of_the_inputs_or_of_a_pair_apply_to_pairs():
    images = jax.random.normal(KEY, (4, 6, 6))
    labels, weights = jnp.arange(4), jnp.ones(4)
    flipped = data.random_flip(KEY, images)
    for batch in ((images, labels), data.Examples(images, labels), (images, labels, weights)):
        found = data.Augmented(batch, data.random_flip).augment(KEY, batch)
        assert_equal(found, type(batch)(*(flipped, *batch[1:])) if hasattr(batch, "_fields")
                     else (flipped, *batch[1:]))  # fmt: skip
    assert_equal(data.Augmented(images, data.random_flip).augment(KEY, images), flipped)
    mix = functools.partial(data.mixup, classes=4)
    found = data.Augmented((images, labels), mix).augment(KEY, (images, labels))
    assert_equal(found, data.mixup(KEY, images, labels, classes=4))
    several = data.Augmentation(data.random_flip, mix)
    found = data.Augmented((images, labels), several).augment(KEY, (images, labels))
    assert_equal(found, several(KEY, images, labels))
    with pytest.raises(TypeError, match=r"takes \(key, x, y\), but a batch is \(float32"):
        data.Augmented((images, labels, weights), mix).augment(KEY, (images, labels, weights))
    with pytest.raises(
        TypeError, match=r"must be a function of \(key, batch\), .* write data.random_flip"
    ):
        data.Augmented(X, lambda batch: batch)
    with pytest.raises(
        TypeError, match=r"must be hashable, .* write a function, or functools.part"
    ):
        data.Augmented(X, Unhashable())


def test_mixtures_of_pytrees_are_those_of_their_leaves():
    x = {"a": jnp.asarray(X), "b": jnp.asarray(X)[:, ::-1]}
    y = (jnp.asarray(Y), jnp.asarray(X))
    mixed, soft = data.mixup(KEY, x, y, classes=11)
    for name, leaf in x.items():
        assert_equal(mixed[name], data.mixup(KEY, leaf, y[1])[0])
    assert_equal(soft, tuple(data.mixup(KEY, x["a"], leaf, classes=11)[1] for leaf in y))
    images = jnp.zeros((11, 4, 4))
    _, soft = data.cutmix(KEY, images, y, classes=11)
    assert_equal(soft, tuple(data.cutmix(KEY, images, leaf, classes=11)[1] for leaf in y))
    with pytest.raises(TypeError, match=r"mixup.x/n must hold floats, got dtype int32"):
        data.mixup(KEY, {"n": jnp.arange(11)}, X)
