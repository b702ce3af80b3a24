"""Children are called as functions, by forward or by any other pure method."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import pytest

import jaxnn as nn
from tests.near import assert_near

KEY = jax.random.key(0)
X = jnp.linspace(-1.0, 1.0, 8).reshape(2, 4)
IDS = jnp.array([[0, 3, 1]])


class Tied(nn.Composite):
    embed: nn.Layer
    body: nn.Layer

    def forward(self, ids):
        return self.embed.attend(self.body(self.embed(ids)))


class Autoencoder(nn.Composite):
    encoder: nn.Layer
    decoder: nn.Layer

    def encode(self, x):
        return self.encoder(x)

    def decode(self, z):
        return self.decoder(z)

    def forward(self, x):
        return self.decode(self.encode(x))


class Around(nn.Composite):
    """Reaches the autoencoder by its two methods and never by forward."""

    inner: nn.Layer

    def forward(self, x):
        return self.inner.decode(self.inner.encode(x))


class Transposable(nn.Primitive):
    features: int

    def parameters(self, x):
        return {"w": nn.Param((x.shape[-1], self.features), nn.normal(1.0))}

    def forward(self, params, x):
        return x @ params["w"]

    def back(self, params, y):
        return y @ params["w"].T


def test_an_output_head_shares_the_table():
    net = Tied(nn.Embedding(5, 4), nn.Dense(4))
    params = net.init(KEY, IDS)
    table, dense = params["embed"]["w"], params["body"]
    hidden = table[IDS] @ dense["w"] + dense["b"]
    chex.assert_trees_all_close(net.apply(params, IDS), hidden @ table.T, rtol=1e-5)


@pytest.mark.parametrize("wrap", [lambda n: n, nn.Remat, lambda n: nn.Precision(n, "float32")])
def test_methods_by_name(wrap):
    net = wrap(Autoencoder(nn.Dense(3), nn.Dense(4)))
    params = net.init(KEY, X)
    z = net.apply(params, X, method="encode")
    assert z.shape == (2, 3)
    assert_near(net.apply(params, z, method="decode"), net.apply(params, X))
    with pytest.raises(ValueError, match="did you mean 'encode'"):
        net.apply(params, X, method="encoed")


@pytest.mark.parametrize("layer", [nn.Dense, lambda n: nn.Sequential(nn.Dense(n), nn.BatchNorm())])
@pytest.mark.parametrize("wrap", [lambda n: n, nn.Remat])
def test_methods_that_reach_different_children(layer, wrap):
    inner = Autoencoder(layer(3), layer(4))
    net = Around(wrap(inner))
    params, state = net.init(KEY, X), net.init_state(X)
    chex.assert_trees_all_equal(params["inner"], inner.init(nn.fold_in(KEY, "inner"), X))
    chex.assert_trees_all_equal(state.get("inner", {}), inner.init_state(X))
    found = net.apply(params, X, state=state, train=True)
    below = inner.apply(params["inner"], X, state=inner.init_state(X), train=True)
    assert_near(found[0], below[0])
    assert_near(found[1].get("inner", {}), below[1])


def test_a_method_uses_what_forward_declares():
    """Its inputs may have other shapes than those of forward."""

    class Both(nn.Composite):
        layer_: nn.Layer

        def forward(self, x):
            return self.layer_.back(self.layer_(x))

    net = Both(Transposable(3))
    params = net.init(KEY, X)
    w = params["layer_"]["w"]
    assert w.shape == (4, 3)
    chex.assert_trees_all_close(net.apply(params, X), X @ w @ w.T, rtol=1e-5)


def test_a_method_that_keeps_state_wants_it():
    class Counter(nn.Primitive):
        def variables(self):
            return {"n": nn.Variable(())}

        def forward(self, params, x, *, state):
            return x, {"n": state["n"] + 1}

        def twice(self, params, x, *, state):
            return x, {"n": state["n"] + 2}

    class Use(nn.Composite):
        counter: nn.Layer
        mapped: bool

        def forward(self, x):
            return jax.vmap(self.counter.twice)(x) if self.mapped else self.counter.twice(x)

    with pytest.raises(ValueError, match="init_state"):
        Counter().apply({}, X, method="twice")
    net = Use(Counter(), False)
    _, state = net.apply({"counter": {}}, X, state=net.init_state(X))
    assert state["counter"]["n"] == 2
    with pytest.raises(ValueError, match="your own transform"):
        Use(Counter(), True).apply({"counter": {}}, X, state=state)


def test_children_in_every_nesting():
    class Pair(NamedTuple):
        first: Any
        second: Any

    class Nest(nn.Composite):
        parts: tuple[nn.LayerLike | None, ...]
        table: dict[str, tuple[nn.LayerLike, ...]]
        pair: Any
        missing: nn.Layer | None = None
        rate: float = 0.5

        def forward(self, x):
            for part in self.parts:
                x = x if part is None else part(x)
            for row in self.table.values():
                for part in row:
                    x = part(x)
            assert self.missing is None
            return self.pair.second(self.pair.first(x)) * self.rate

    net = Nest(
        (None, nn.Dense(3), jnp.tanh), {"row": (nn.Dense(2), jnp.sin)}, Pair(nn.Dense(5), jnp.cos)
    )
    params = net.init(KEY, X)
    assert set(params) == {"parts", "table", "pair"}
    assert jax.tree.map(jnp.shape, params["parts"]) == ({}, {"b": (3,), "w": (4, 3)}, {})
    below = nn.fold_in(nn.fold_in(nn.fold_in(KEY, "table"), "row"), 0)
    found = params["table"]["row"][0]
    chex.assert_trees_all_equal(found, nn.Dense(2).init(below, jnp.ones((2, 3))))
    assert net.apply(params, X).shape == (2, 5)


def test_a_functional_pair_with_any_pytree():
    def draw(key, x):
        return [jax.random.normal(key, x["a"].shape), ({"s": jnp.ones(())},)]

    net = nn.layer(draw, lambda p, x: x["a"] * p[0] * p[1][0]["s"])
    inputs = {"a": X}
    params = nn.Sequential(first=net).init(KEY, inputs)["first"]
    assert_near(params, draw(nn.fold_in(KEY, "first"), inputs))
    chex.assert_trees_all_close(net.apply(params, inputs), X * params[0])
    bare = nn.layer(lambda key, x: jax.random.normal(key, (4,)), lambda p, x: x * p)
    assert_near(bare.init(KEY, X), jax.random.normal(KEY, (4,)))
    assert bare.apply(bare.init(KEY, X), X).shape == X.shape


def test_a_real_stax_network():
    from jax.example_libraries import stax

    init, apply = stax.serial(stax.Dense(8), stax.Relu, stax.Dropout(0.5, mode="test"))
    net = nn.Sequential(
        stax=nn.layer(lambda key, x: init(key, x.shape)[1], lambda p, x: apply(p, x, rng=KEY)),
        out=nn.Dense(2),
    )
    params = net.init(KEY, X)
    theirs = init(nn.fold_in(KEY, "stax"), X.shape)[1]
    assert_near(params["stax"], theirs)
    hidden = jnp.maximum(X @ theirs[0][0] + theirs[0][1], 0)
    expected = hidden @ params["out"]["w"] + params["out"]["b"]
    chex.assert_trees_all_close(net.apply(params, X), expected, rtol=1e-5, atol=1e-6)
