"""PReLU: against flax, equinox, and the formula in numpy."""

import equinox as eqx
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.layers.agreement import KEY, assert_agree, normals

X = normals(0, 5, 4).at[0, 0].set(0.0)


@pytest.mark.parametrize("alpha", [0.25, -0.5, 1.7])
def test_as_flax(alpha):
    peer = flax.linen.PReLU()

    def theirs(params, x):
        return peer.apply({"params": {"negative_slope": params["alpha"]}}, x)

    assert_agree(nn.PReLU().apply, theirs, {"alpha": jnp.float32(alpha)}, X)


def test_one_slope_a_feature_as_equinox():
    def theirs(params, x):
        peer = eqx.nn.PReLU()
        return eqx.tree_at(lambda p: p.negative_slope, peer, params["alpha"])(x)

    net = nn.PReLU(per_feature=True)
    assert_agree(net.apply, theirs, {"alpha": normals(1, 4)}, normals(0, 2, 3, 4))
    # At zero the slope is 1 or alpha; here, as in the formula, 1.
    np.testing.assert_array_equal(
        jax.grad(lambda x: net.apply({"alpha": normals(1, 4)}, x).sum())(jnp.zeros(4)), np.ones(4)
    )


def test_the_first_slope_is_a_quarter_and_integers_become_floating():
    net = nn.PReLU()
    y = net.apply(net.init(KEY, X), jnp.array([-2, 0, 3]))
    assert y.dtype == jnp.float32 and y.tolist() == [-0.5, 0.0, 3.0]
    assert net.apply(net.init(KEY, X), X.astype(jnp.bfloat16)).dtype == jnp.bfloat16
