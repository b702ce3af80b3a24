"""WeightNorm: what it leaves alone, what it reparametrizes, and against flax."""

import chex
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.layers.agreement import KEY, assert_agree, normals
from tests.near import assert_near


def test_as_flax():
    peer = flax.linen.WeightNorm(flax.linen.Dense(3))

    def theirs(params, x):
        dense = {"kernel": params["w"]["v"], "bias": params["b"]}
        lengths = {"layer_instance/kernel/scale": params["w"]["g"]}
        return peer.apply({"params": {"layer_instance": dense, **lengths}}, x)

    params = {"w": {"v": normals(1, 4, 3), "g": normals(2, 3)}, "b": normals(3, 3)}
    assert_agree(nn.WeightNorm(nn.Dense(3)).apply, theirs, params, normals(0, 5, 4))


def test_it_starts_as_the_layer_itself():
    """Through wrappers outside and inside; parameters stack, paths stay."""
    key, x = jax.random.key(3), normals(0, 2, 4)
    inside = nn.Sequential(nn.Dense(4), nn.Repeat(nn.Sequential(nn.Dense(4), jnp.tanh), 2))
    for plain, net in [
        (inside, nn.WeightNorm(inside)),
        (nn.Repeat(inside, 2), nn.Repeat(nn.WeightNorm(inside), 2)),
        (nn.Ensemble(inside, 2), nn.WeightNorm(nn.Ensemble(inside, 2))),
    ]:
        params = net.init(key, x)
        assert_near(jax.jit(net.apply)(params, x), jax.jit(plain.apply)(plain.init(key, x), x))
        direction = params[1][0]["w"]
        assert direction["v"].shape[:-2] == direction["g"].shape[:-1]
        chex.assert_trees_all_equal(direction["v"], plain.init(key, x)[1][0]["w"])


def test_only_what_fits():
    net = nn.WeightNorm(nn.Sequential(a=nn.Dense(3), b=nn.Dense(2)), match="b/w")
    params = net.init(KEY, jnp.ones((1, 4)))
    assert set(params["b"]["w"]) == {"v", "g"} and params["a"]["w"].shape == (4, 3)


def test_a_direction_of_zero_gives_zero_and_no_nan():
    net = nn.WeightNorm(nn.Dense(3, w_init=nn.zeros()))
    x = jnp.ones((2, 4))
    params = net.init(KEY, x)
    grads = jax.grad(lambda p: net.apply(p, x).sum())(params)
    assert not np.any(net.apply(params, x))
    chex.assert_tree_all_finite(grads)


def test_other_methods_and_state_go_through():
    table = nn.WeightNorm(nn.Embedding(5, 3))
    params = table.init(KEY, jnp.array([0]))
    whole = table.apply(params, jnp.arange(5))
    x = normals(0, 2, 3)
    assert_near(table.apply(params, x, method="attend"), x @ whole.T)
    net, x = nn.WeightNorm(nn.Sequential(nn.Dense(3), nn.BatchNorm())), normals(0, 4, 2)
    plain = nn.Sequential(nn.Dense(3), nn.BatchNorm())
    found = net.apply(net.init(KEY, x), x, state=net.init_state(x), train=True)
    wanted = plain.apply(plain.init(KEY, x), x, state=plain.init_state(x), train=True)
    assert_near(found, wanted)


@pytest.mark.parametrize("wrap", [nn.WeightNorm, nn.SpectralNorm])
def test_what_it_refuses(wrap):
    x = jnp.ones((2, 4))
    name = wrap.__name__
    with pytest.raises(
        ValueError, match=rf"{name}.match must match .* got '\*\*/w', which matches none"
    ):
        wrap(nn.LayerNorm()).init(KEY, x)
    with pytest.raises(ValueError, match=r"parameters are \{\}"):
        wrap(jax.nn.relu).init(KEY, x)
    with pytest.raises(
        ValueError, match=r"of at least 1 axes, got 'alpha', which matches \{'alpha': \(\)\}"
    ):
        wrap(nn.PReLU(), match="alpha").init(KEY, x)
    with pytest.raises(
        TypeError, match=rf"{name}.match must be a path pattern such as '\*\*/w', got 3"
    ):
        wrap(nn.Dense(3), match=3)
    with pytest.raises(TypeError, match=f"{name}.inner must be a layer or a function, got 3"):
        wrap(3)


def test_plain_parameters_are_told_what_is_wanted():
    net, x = nn.WeightNorm(nn.Dense(3)), jnp.ones((2, 4))
    with pytest.raises(ValueError, match=r"w: declared a dict \['g', 'v'\], got float32\[4,3\]"):
        net.apply(nn.Dense(3).init(KEY, x), x)
