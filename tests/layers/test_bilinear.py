"""Bilinear: by the formula; against torch in `test_convolution`."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.layers.agreement import KEY, normals

X, Z = normals(0, 2, 5, 3), normals(1, 2, 5, 4)
PARAMS = {"w": normals(2, 3, 4, 6), "b": normals(3, 6)}


def test_the_formula():
    wide = [np.asarray(a, np.float64) for a in (X, Z, PARAMS["w"], PARAMS["b"])]
    wanted = np.einsum("bti,btj,ijk->btk", *wide[:3]) + wide[3]
    y = nn.Bilinear(6).apply(PARAMS, X, Z)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)  # float32 sums of twelve terms
    y = nn.Bilinear(6, bias=False).apply({"w": PARAMS["w"]}, X[0, 0], Z[0, 0])
    np.testing.assert_allclose(y, wanted[0, 0] - wide[3], rtol=1e-5, atol=1e-5)


def test_the_inputs_may_be_integers_and_of_different_types():
    y = nn.Bilinear(6).apply(PARAMS, jnp.ones((2, 3), jnp.int32), jnp.ones((2, 4), jnp.bfloat16))
    assert y.dtype == jnp.float32
    wanted = np.asarray(PARAMS["w"]).sum((0, 1)) + PARAMS["b"]
    np.testing.assert_allclose(y[1], wanted, rtol=1e-5, atol=1e-5)


def test_the_variance_is_one_over_both_inputs():
    """So y has the variance of x and z."""
    w = nn.Bilinear(6).spec(X, Z)["w"]
    assert w.init.scale == 1 and w.init.fan(w.shape) == 12


def test_inputs_of_other_axes():
    text = "first one float32[2,5,3], must be of shape (2, 5, 4), got float32[5,4]; use jnp.bro"
    with pytest.raises(ValueError, match=re.escape(text)):
        nn.Bilinear(6).init(KEY, X, Z[0])
