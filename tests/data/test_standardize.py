"""Standardizing: against scikit-learn, its inverse, and the features that do not vary."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import jaxnn as nn
from jaxnn import data


def test_the_same_as_scikit_learns():
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    cancer = data.breast_cancer()
    scale = data.Standardizer.fit(cancer.train.x)
    reference = preprocessing.StandardScaler().fit(cancer.train.x.astype(np.float64))
    np.testing.assert_allclose(scale.mean, reference.mean_, rtol=1e-6)  # float32 holds 6e-8
    np.testing.assert_allclose(scale.std, reference.scale_, rtol=1e-6)
    # x and mean each rounded to float32 before the difference: 1e-7 of x / std, which is < 20.
    np.testing.assert_allclose(
        scale(cancer.test.x), reference.transform(cancer.test.x.astype(np.float64)), atol=5e-6
    )


@pytest.mark.parametrize("value", [0.0, 0.1, 7.0, 1e30, 1e-44])
def test_constant_features_become_zero(value):
    x = np.column_stack([np.full(30, value, np.float32), np.arange(30, dtype=np.float32)])
    scale = data.Standardizer.fit(x)
    assert scale.std[0] == 1
    assert (scale(x)[:, 0] == 0).all()
    assert np.isfinite(scale(x)).all()


def test_a_constant_whose_mean_rounds_is_constant_all_the_same():
    x = np.full((3, 1), 0.1)
    assert 0 < x.std(axis=0) < 1e-15  # numpy's own: the mean of three 0.1 is not 0.1
    scale = data.Standardizer.fit(x)
    assert scale.std == 1
    assert (np.abs(scale(x)) < 1e-8).all()  # the rounding of 0.1 to float32


def test_small_spread_about_a_large_mean():
    # One-pass variance gives 0 here in float32.
    x = (1000 + 0.1 * np.tile([-1.0, 1.0], 50))[:, None]
    assert data.Standardizer.fit(x.astype(np.float32)).std == pytest.approx(0.1, rel=1e-3)


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(
        np.float64, st.tuples(st.integers(2, 20), st.integers(1, 4)), elements=st.floats(-99, 99)
    )
)
def test_mean_zero_deviation_one_and_back(x):
    scale = data.Standardizer.fit(x)
    z = scale(x)
    assert np.isfinite(z).all()
    # The rounding of mean to float32 shifts z by 6e-8 * 99 / std.
    slack = 1e-6 + 1e-5 / scale.std
    assert (np.abs(z.mean(axis=0)) <= slack).all()
    varies = x.std(axis=0) > 1e-3
    assert (np.abs(z.std(axis=0) - 1)[varies] <= 1e-5).all()
    np.testing.assert_allclose(scale.inverse(z), x, rtol=1e-6, atol=1e-6)


def test_targets_and_predictions():
    y = np.array([10.0, 20.0, 30.0], np.float32)
    scale = data.Standardizer.fit(y)
    assert scale.mean.shape == scale.std.shape == ()
    predictions = jnp.zeros((5, 1))
    np.testing.assert_allclose(scale.inverse(predictions), np.full((5, 1), 20.0))


def test_works_on_jax_arrays_under_transforms_and_strict_promotion():
    x = np.array([[1.0, 2.0], [3.0, 6.0]], np.float32)
    scale = data.Standardizer.fit(x)
    with jax.numpy_rank_promotion("raise"):
        eager = scale(jnp.asarray(x))
        traced = jax.jit(lambda scale, x: scale(x))(scale, x)
        rows = jax.vmap(scale)(jnp.asarray(x))
    for found in (eager, traced, rows):
        assert isinstance(found, jax.Array)
        np.testing.assert_allclose(found, [[-1, -1], [1, 1]])


@pytest.mark.parametrize(
    ("given_type", "wanted"),
    [("uint8", "float32"), ("int64", "float32"), ("float16", "float16"), ("float64", "float64")],
)
def test_types(given_type, wanted):
    x = np.array([[1, 2], [3, 6]], given_type)
    scale = data.Standardizer.fit(x)
    assert scale.mean.dtype == scale.std.dtype == np.float32
    assert scale(x).dtype == wanted
    np.testing.assert_allclose(scale(x), [[-1, -1], [1, 1]])
    assert scale(jnp.asarray([[1, 2]], jnp.bfloat16)).dtype == jnp.bfloat16


def test_errors():
    scale = data.Standardizer.fit(np.ones((4, 3)))
    for shape in [(4, 2), (3, 4), (), (3, 1)]:
        with pytest.raises(ValueError) as error:
            scale(np.zeros(shape))
        passed = f"float64[{','.join(map(str, shape))}]"
        assert f"must be (..., 3), like the rows in fit, got {passed}" in str(error.value)
    with pytest.raises(ValueError, match=r"Standardizer\.fit\(x\) must have .* at least 1, got"):
        data.Standardizer.fit(np.zeros((0, 3)))
    with pytest.raises(
        ValueError, match=r"fit\(x\) must be finite, got nan at row 1, position \(0,\)"
    ):
        data.Standardizer.fit(np.array([[0.0], [np.nan]]))


def test_a_network_holds_the_scale_as_a_value():
    x = np.random.default_rng(0).normal(50, 10, (20, 3)).astype(np.float32)
    scale = data.Standardizer.fit(x)
    net, plain = nn.Sequential(scale.layer(), nn.Dense(2)), nn.Dense(2)
    assert net == pickle.loads(pickle.dumps(net))
    params = net.init(jax.random.key(0), x)
    z = pytest.importorskip("sklearn.preprocessing").StandardScaler().fit_transform(x)
    expected = plain.apply(params[1], z.astype(np.float32))
    # The mean of about 50 is rounded to float32, 4e-6, which is 4e-7 standard deviations.
    np.testing.assert_allclose(net.apply(params, x), expected, atol=5e-6)
