"""widen: more units, the same function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.cases import KEY
from tests.layers.agreement import applied, normals
from tests.near import assert_near

X = normals(0, 5, 3)
IMAGES = normals(1, 2, 4, 4, 3)


@pytest.mark.parametrize(
    ("net", "x", "path", "features"),
    [
        (nn.Sequential(nn.Dense(4), jax.nn.relu, nn.Dropout(0.5), nn.Dense(2)), X, "0/features", 7),
        (
            nn.Sequential(
                conv=nn.Conv(4, 3), act=nn.PReLU(), pool=nn.MaxPool(2), out=nn.Conv(2, 3)
            ),
            IMAGES,
            "conv/features",
            5,
        ),
        (
            nn.Sequential(blocks=nn.Repeat(nn.Residual(nn.GatedFeedForward(4)), 2)),
            X,
            "blocks/hidden",
            6,
        ),
        (
            nn.Sequential(nn.Dense(4), nn.Parallel(nn.Dense(2), nn.Dense(3), merge=jnp.hstack)),
            X,
            "0/features",
            6,
        ),
    ],
    ids=["Dense", "Conv", "Repeat", "Parallel"],
)
def test_the_same_function(net, x, path, features):
    params = net.init(KEY, x)
    params = jax.tree.map(lambda a: np.asarray(a) + np.float32(0.1), params)  # no bias is 0
    wide, more = nn.widen(net, params, path, features, KEY, x)
    assert wide == nn.replace(net, path, features)
    assert jax.tree.map(jnp.shape, more) == jax.tree.map(lambda p: p.shape, wide.spec(x))
    assert_near(jax.jit(wide.apply)(more, x), jax.jit(net.apply)(params, x))


def test_running_statistics_grow_along():
    net = nn.Sequential(nn.Dense(4), nn.BatchNorm(), jax.nn.relu, nn.Dense(2))
    params, state = net.init(KEY, X), net.init_state(X)
    _, state = applied(net, params, X, state=state, train=True)
    wide, more, grown = nn.widen(net, params, "0/features", 9, KEY, X, state=state)
    assert_near(applied(wide, more, X, state=grown)[0], applied(net, params, X, state=state)[0])
    assert_near(
        applied(wide, more, X, state=grown, train=True)[0],
        applied(net, params, X, state=state, train=True)[0],
    )


def test_training_tells_copies_apart():
    """Copies have equal inputs; their outputs count differently, so their gradients differ."""
    net = nn.Sequential(nn.Dense(1), jnp.tanh, nn.Dense(1))
    params = net.init(KEY, X)
    wide, more = nn.widen(net, params, "0/features", 3, KEY, X)
    np.testing.assert_array_equal(more[0]["w"], np.repeat(params[0]["w"], 3, 1))
    np.testing.assert_allclose(more[2]["w"].sum(), params[2]["w"][0, 0], rtol=1e-6)
    grads = jax.jit(jax.grad(lambda p: jnp.square(wide.apply(p, X)).sum()))(more)
    assert len(set(grads[0]["b"].tolist())) == 3


def test_refused():
    net = nn.Sequential(a=nn.Dense(4), norm=nn.LayerNorm(), b=nn.Dense(4), c=jax.nn.relu)
    params = net.init(KEY, X)

    def widen(path, features):
        return nn.widen(net, params, path, features, KEY, X)

    with pytest.raises(ValueError, match=r"outputs of the wider .* differ: .* but not LayerNorm"):
        widen("a/features", 6)
    with pytest.raises(ValueError, match=r"must grow, to 2 features, .* the changes are: 4 to 2"):
        widen("a/features", 2)
    with pytest.raises(
        ValueError, match=r"must grow, to 0.5 features, .* the changes are: nothing"
    ):
        widen("norm/eps", 0.5)
    with pytest.raises(ValueError, match=r"differ: float32.* instead of float32.*; widen a layer"):
        widen("b/features", 8)
    with pytest.raises(ValueError, match="there is no 'a/width'"):
        widen("a/width", 8)
    with pytest.raises(TypeError, match="widen expects a layer, got"):
        nn.widen(jax.nn.relu, params, "a", 3, KEY, X)  # type: ignore[arg-type]
