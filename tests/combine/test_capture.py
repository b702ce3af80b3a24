"""capture: the same output, and the values at the paths that match, stacked under wrappers."""

import chex
import jax
import jax.numpy as jnp

import jaxnn as nn
from tests.near import assert_near

KEY = jax.random.key(0)
X = jnp.linspace(-1.0, 1.0, 8).reshape(2, 4)


def test_values_are_those_on_the_way():
    net = nn.Sequential(hidden=nn.Dense(3), act=jnp.tanh, out=nn.Sequential(nn.Dense(2), jnp.sin))
    params = net.init(KEY, X)
    hidden = nn.Dense(3).apply(params["hidden"], X)
    pairs = {
        "hidden": {"hidden"},
        "*": {"hidden", "act", "out"},
        "out/*": {"out/0", "out/1"},
        "**": {"hidden", "act", "out", "out/0", "out/1"},
        "nothing": set(),
    }
    for match, found in pairs.items():
        y, values = nn.capture(net, match).apply(params, X)
        assert (y == net.apply(params, X)).all()
        assert set(values) == found
        if "hidden" in found:
            assert (values["hidden"] == hidden).all()


def test_stacked_under_wrappers():
    block = nn.Sequential(dense=nn.Dense(4), tap=nn.Tap())
    net = nn.capture(nn.Ensemble(nn.Remat(nn.Repeat(nn.Remat(block), 3)), 2), "tap")
    params = net.init(KEY, X)
    y, values = net.apply(params, X)
    assert jax.tree.map(jnp.shape, values) == {"tap": (2, 3, 2, 4)}
    for member in range(2):
        x = X
        for copy in range(3):
            one = jax.tree.map(lambda a, m=member, c=copy: a[m, c], params["dense"])
            x = nn.Dense(4).apply(one, x)
            assert_near(values["tap"][member, copy], x)
        assert_near(y[member], x)


def test_a_captured_value_has_a_gradient():
    net = nn.capture(nn.Sequential(a=nn.Dense(3), tap=nn.Tap(), b=nn.Dense(2)), "tap")
    params = net.init(KEY, X)
    grads = jax.jit(jax.grad(lambda p: net.apply(p, X)[1]["tap"].sum()))(params)
    # d sum(x w + b) / db is the number of rows, and nothing flows to what comes after.
    assert (grads["a"]["b"] == len(X)).all()
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads["b"]))


def test_second_calls_and_methods_have_names_of_their_own():
    class Tied(nn.Composite):
        embed: nn.Layer
        body: nn.Layer

        def forward(self, ids):
            return self.embed.attend(self.body(self.body(self.embed(ids))))

    net = nn.capture(Tied(nn.Embedding(5, 3), nn.Dense(3)))
    ids = jnp.array([0, 1])
    y, values = net.apply(net.init(KEY, ids), ids)
    assert set(values) == {"embed", "embed.attend", "body", "body@1"}
    chex.assert_trees_all_equal(values["embed.attend"], y)


def test_capture_inside_capture():
    inner = nn.capture(nn.Sequential(a=jnp.sin, b=jnp.cos), "a")
    outer = nn.capture(nn.Sequential(net=inner, first=lambda pair: pair[0]), "net/b")
    y, values = outer.apply(outer.init(KEY, X), X)
    assert set(values) == {"net/b"}
    assert (values["net/b"] == jnp.cos(jnp.sin(X))).all()
    assert (y == jnp.cos(jnp.sin(X))).all()
