"""A key keeps its generator, from `create` through steps, checkpoints, meshes, and orders."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import parallel, train
from jaxnn.core import paths
from jaxnn.data.source import epoch_order
from jaxnn.keys import as_key, kept_words
from jaxnn.train.gradient_step import step_key

KINDS = ["threefry2x32", "rbg", "unsafe_rbg"]
X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
Y = X[:, 0]
OPTIMIZER = optax.sgd(0.1)
NET = nn.Sequential(nn.Dropout(0.5), nn.Dense(1))


def words(key):
    return np.asarray(jax.random.key_data(key)).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_draws_what_jax_draws_from_the_key_given(kind):
    """Step i has `fold_in(key, i)`; the mask of dropout is drawn from it by its path."""
    key = jax.random.key(7, impl=kind)

    def loss(outputs, targets):
        return jnp.mean(outputs) + 0 * jnp.mean(targets)

    program = train.Supervised(NET, loss, OPTIMIZER)
    created = program.init(key, (X, Y))
    placement = parallel.Placement(parallel.mesh(data=1), parallel.FSDP)
    on_mesh = parallel.init(program, key, (X, Y), placement)
    for ts in (created, on_mesh):
        found = step_key(ts._replace(step=jnp.asarray(5)))
        assert jax.random.key_impl(found) == jax.random.key_impl(key)
        assert words(found) == words(jax.random.fold_in(key, 5))

    before = jax.tree.map(np.asarray, created)
    after, metrics = train.make_step(program)(created, (X, Y))
    assert words(step_key(after)) == words(jax.random.fold_in(key, 1))
    mask_key = paths.fold_in(jax.random.fold_in(key, 0), "0")
    kept = jax.random.bernoulli(mask_key, 0.5, X.shape)
    expected = np.where(kept, X / 0.5, 0) @ before.params[1]["w"] + before.params[1]["b"]
    np.testing.assert_allclose(metrics["loss"], expected.mean(), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_has_the_same_generator(kind, tmp_path):
    """And a run by another generator of the same words is refused: its numbers would be others."""
    program, kept = train.Supervised(NET, train.Regression(), OPTIMIZER), tmp_path / "run"

    def fit(epochs, *folders, kind=kind):
        key, hooks = jax.random.key(7, impl=kind), [train.Checkpoints(one) for one in folders]
        options = {"batch_size": 4, "epochs": epochs, "key": key, "progress": False}
        return train.fit(program, (X, Y), hooks=hooks, **options)[0]

    whole = fit(2)
    fit(1, kept)
    resumed = fit(2, kept)
    for a, b in zip(*map(jax.tree.leaves, (whole, resumed)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert jax.random.key_impl(step_key(resumed)) == kind
    if kind == "unsafe_rbg":
        with pytest.raises(ValueError, match=r"key: recorded unsafe_rbg uint32\[4\] .*, now rbg "):
            fit(3, kept, kind="rbg")


def test_a_raw_key_is_of_the_default_generator():
    """As to JAX: `jax.random.PRNGKey` gives four words by both of these."""
    assert jax.random.key_impl(as_key(np.zeros(4, np.uint32))) == "rbg"
    for kind in ("rbg", "unsafe_rbg"):
        with jax.default_prng_impl(kind):
            raw = jax.random.PRNGKey(3)
            key = as_key(raw)
            assert jax.random.key_impl(key) == kind
            assert (
                words(jax.random.fold_in(key, 1)) == np.asarray(jax.random.fold_in(raw, 1)).tolist()
            )
            program = train.Supervised(NET, train.Regression(), OPTIMIZER)
            ts = program.init(raw, (X, Y))
        assert jax.random.key_impl(step_key(ts)) == kind


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_an_epoch_is_that_of_the_words(kind):
    """Whether it is given the key or its words, as a state holds them."""
    key = jax.random.key(7, impl=kind)
    kept = np.asarray(kept_words(key))
    np.testing.assert_array_equal(epoch_order(key, 1, 100), epoch_order(kept, 1, 100))
