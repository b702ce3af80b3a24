"""Modules of flax as layers and networks as modules of flax: the same numbers, trained too."""

import functools
import pickle
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jaxnn as nn
from jaxnn import interop, train
from tests.cases import KEY
from tests.layers.agreement import normals
from tests.near import assert_near

X = normals(0, 6, 3)


@functools.partial(jax.jit, static_argnums=(0, 4))
def run(net, params, state, key, is_training):
    return net.apply(params, X, state=state, key=key, train=is_training)


class Module(linen.Module):
    """Parameters, statistics and random numbers."""

    features: int

    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.Dense(self.features)(x)
        x = linen.BatchNorm(use_running_average=not train)(x)
        return linen.Dropout(0.5, deterministic=not train)(x)


def test_a_linen_module():
    module = Module(4)
    net = interop.from_linen(module)
    variables = jax.jit(module.init, static_argnums=2)(KEY, X, False)
    params, state = jax.jit(net.init)(KEY, X), net.init_state(X)
    chex.assert_trees_all_close(params, variables["params"], rtol=1e-6)
    chex.assert_trees_all_equal(state, {"batch_stats": variables["batch_stats"]})

    @jax.jit
    def theirs(variables):
        kept = module.apply(variables, X, False)
        return kept, module.apply(variables, X, True, rngs={"params": KEY}, mutable=["batch_stats"])

    inferred, (expected, changed) = theirs(variables)
    assert_near(run(net, params, state, None, False)[0], inferred)
    assert_near(run(net, params, state, KEY, True), (expected, dict(changed)))
    assert net == interop.from_linen(Module(4)) and hash(net) == hash(interop.from_linen(Module(4)))
    assert net != interop.from_linen(Module(5))


def test_a_linen_module_in_a_network_is_trained():
    net = nn.Sequential(interop.from_linen(Module(4)), jax.nn.relu, nn.Dense(1))
    program = train.Supervised(net, lambda y, targets: jnp.mean((y - targets) ** 2), optax.sgd(0.1))
    ts, step = program.init(KEY, (X, X[:, :1])), train.make_step(program)
    before = jax.tree.map(np.asarray, (ts.params, ts.state))
    for _ in range(2):
        ts, _ = step(ts, (X, X[:, :1]))
    for one, other in zip(*map(jax.tree.leaves, (before, (ts.params, ts.state))), strict=True):
        assert (one != other).any()


def test_copies_of_a_linen_module():
    net = nn.Repeat(interop.from_linen(linen.Dense(3)), 2)
    params = net.init(KEY, X)
    assert jax.tree.map(jnp.shape, params) == {"bias": (2, 3), "kernel": (2, 3, 3)}
    kernel: Any = linen.Dense(3).init(nn.fold_in(KEY, 1), X)["params"]["kernel"]
    np.testing.assert_allclose(params["kernel"][1], kernel, rtol=1e-6)


class Model(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)])
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](self.dropout(self.norm(self.layers[0](x))))


def test_an_nnx_module():
    net = interop.from_nnx(Model)
    params, state = jax.jit(net.init)(KEY, X), net.init_state(X)
    theirs = Model(nnx.Rngs(KEY))
    assert jax.tree.map(jnp.shape, params["layers"]["1"]) == {"bias": (2,), "kernel": (4, 2)}
    assert_near(params["layers"]["0"]["kernel"], theirs.layers[0].kernel[...])
    theirs.eval()
    assert_near(run(net, params, state, None, False)[0], theirs(X))
    theirs = Model(nnx.Rngs(KEY))
    theirs.train()
    y, new = run(net, params, state, KEY, True)
    assert_near(y, theirs(X))
    assert_near(new["norm"]["mean"], theirs.norm.mean[...])
    linear = functools.partial(nnx.Linear, 3, 4)
    assert interop.from_nnx(linear) == interop.from_nnx(functools.partial(nnx.Linear, 3, 4))
    tuned = nn.Sequential(net, nn.Dense(1))
    weights = jax.jit(tuned.init)(KEY, X)

    def loss(weights):
        y, _ = tuned.apply(weights, X, state=tuned.init_state(X), key=KEY, train=True)
        return jnp.square(y).sum()

    assert all((g != 0).any() for g in jax.tree.leaves(jax.jit(jax.grad(loss))(weights)[1]))


def test_a_network_as_a_linen_module():
    net = nn.Sequential(nn.Dense(4), nn.BatchNorm(), nn.Dropout(0.5), nn.Dense(2))
    module = linen.Sequential([linen.Dense(3), interop.to_linen(net, name="net")])
    variables = jax.jit(module.init)(KEY, X)
    own = interop.to_linen(net)
    inside = jax.jit(own.init)(KEY, X)
    assert jax.tree.structure(inside["params"]["net"]) == jax.tree.structure(net.spec(X))
    y = own.apply(inside, X)
    params, state = inside["params"]["net"], inside["batch_stats"]["net"]
    assert_near(y, net.apply(params, X, state=state)[0])
    y, changed = own.apply(inside, X, train=True, rngs={"dropout": KEY}, mutable=["batch_stats"])
    assert (changed["batch_stats"]["net"]["1"]["mean"] != state["1"]["mean"]).all()
    grads = jax.jit(jax.grad(lambda v: jnp.sum(cast(Any, module.apply(v, X)))))(variables)
    assert jax.tree.structure(grads) == jax.tree.structure(variables)
    plain = interop.to_linen(nn.Dense(2))
    assert set(plain.init(KEY, X)) == {"params"}
    assert interop.to_linen(net) == interop.to_linen(net)
    assert pickle.loads(pickle.dumps(own)) == own


def test_there_and_back():
    net = nn.Sequential(nn.Dense(4), jnp.tanh)
    back = interop.from_linen(interop.to_linen(net))
    params = back.init(KEY, X)
    assert_near(back.apply(params, X), net.apply(params["net"], X))


def test_refused():
    with pytest.raises(TypeError, match=r"from_linen.module must be a flax.linen module, got 3"):
        interop.from_linen(3)
    with pytest.raises(TypeError, match=r"from_nnx.make must be a function that makes"):
        interop.from_nnx(cast(Any, nnx.Linear(2, 3, rngs=nnx.Rngs(0))))
    with pytest.raises(TypeError, match=r"make\(rngs=...\) must be an nnx.Module, got 3"):
        interop.from_nnx(lambda rngs: 3).init(KEY, X)
    with pytest.raises(TypeError, match=r"to_linen.net must be a layer, got 3"):
        interop.to_linen(cast(Any, 3))


class Codebook(linen.Module):
    """State that starts random, next to state that starts constant."""

    @linen.compact
    def __call__(self, x, train: bool = False):
        def codes():
            return jax.random.normal(self.make_rng("params"), (4, x.shape[-1]))

        kept = self.variable("book", "codes", codes)
        count = self.variable("book", "count", lambda: jnp.zeros(()))
        if train and not self.is_initializing():
            count.value = count.value + 1
        return linen.Dense(2)(x + kept.value.sum(0))


def test_state_that_starts_random():
    """It is drawn at the path of the layer, both from a module and for one."""
    net = nn.Sequential(interop.from_linen(Codebook()))
    params, state = net.init(KEY, X), net.init_state(X, key=KEY)
    theirs = Codebook().init(nn.fold_in(KEY, "0"), X)
    chex.assert_trees_all_close(state["0"], {"book": theirs["book"]}, rtol=1e-6)
    y, after = net.apply(params, X, state=state, key=KEY, train=True)
    assert after["0"]["book"]["count"] == 1
    assert_near(y, Codebook().apply({"params": params[0], **state["0"]}, X))
    with pytest.raises(
        ValueError, match=r"starts random, but no key was given: 0/book/codes; write"
    ):
        net.init_state(X)
    back = interop.to_linen(net).init(KEY, X)
    assert back["batch_stats"]["net"]["0"]["book"]["codes"].std() > 0.5
