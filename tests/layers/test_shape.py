"""Flatten, Reshape, Parameter: against haiku and numpy."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.layers.agreement import KEY, normals

X = normals(0, 2, 3, 4, 5)


def haiku_of(make):
    return hk.without_apply_rng(hk.transform(lambda x: make()(x))).apply


@pytest.mark.parametrize("start", [1, 2, 3])
def test_flatten_as_haiku(start):
    peer = haiku_of(lambda: hk.Flatten(start))({}, X)
    np.testing.assert_array_equal(nn.Flatten(start).apply({}, X), peer)


def test_flatten_adds_an_axis_where_there_is_none():
    assert nn.Flatten(1).apply({}, jnp.ones(3)).shape == (3, 1)
    assert nn.Flatten(0).apply({}, jnp.ones(())).shape == (1,)
    assert nn.Flatten(0).apply({}, X).shape == (120,)
    assert nn.Flatten(1).apply({}, jnp.ones((0, 2, 3))).shape == (0, 6)


@pytest.mark.parametrize(
    ("shape", "start"), [((60,), 1), ((5, -1, 2), 1), ((-1,), 3), ((20, 1), 2), ((4, 5), 2)]
)
def test_reshape_as_haiku(shape, start):
    peer = haiku_of(lambda: hk.Reshape(shape, preserve_dims=start))({}, X)
    np.testing.assert_array_equal(nn.Reshape(shape, start).apply({}, X), peer)


def test_reshape_to_a_single_number_and_of_an_empty_batch():
    assert nn.Reshape((), 1).apply({}, jnp.ones((3, 1))).shape == (3,)
    assert nn.Reshape((2, 3)).apply({}, jnp.ones((0, 6))).shape == (0, 2, 3)
    assert nn.Reshape((2, -1)).apply({}, jnp.ones((0, 6))).shape == (0, 2, 3)


@pytest.mark.parametrize("net", [nn.Flatten(), nn.Reshape((2,))], ids=str)
def test_a_list_is_refused(net):
    with pytest.raises(
        TypeError, match=r"at 'a', .*expected an array of shape .*, got \[.*; use jnp.asarray"
    ):
        nn.Sequential(a=net).apply({"a": {}}, [1.0, 2.0])


def test_a_parameter_is_its_array():
    net = nn.LearnedArray((3, 4), nn.normal(1.0))
    w = normals(1, 3, 4)
    np.testing.assert_array_equal(net.apply({"w": w}), w)
    gradient = jax.grad(lambda p: (net.apply(p) ** 2).sum())({"w": w})["w"]
    np.testing.assert_allclose(gradient, 2 * np.asarray(w), rtol=1e-6)
    assert nn.LearnedArray(()).init(KEY)["w"].tolist() == 0.0
