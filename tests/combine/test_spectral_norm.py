"""SpectralNorm: against numpy's singular values, flax and haiku, nested, and its state."""

from typing import Any

import chex
import flax.linen
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.layers.agreement import KEY, assert_agree, normals
from tests.near import assert_near

X = normals(0, 5, 4)
PARAMS = {"w": normals(1, 4, 3), "b": normals(2, 3)}
U = normals(3, 3)


def start(u: Any = U) -> Any:
    return {"w": {"u": u}}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_as_flax(steps, train):
    net = nn.SpectralNorm(nn.Dense(3), steps)
    peer = flax.linen.SpectralNorm(flax.linen.Dense(3), n_steps=steps)
    place = "layer_instance/kernel"

    def theirs(params, x):
        dense = {"kernel": params["w"], "bias": params["b"]}
        stats = {f"{place}/u": U[None], f"{place}/sigma": jnp.ones(())}
        given = {"params": {"layer_instance": dense}, "batch_stats": stats}
        return peer.apply(given, x, update_stats=train, mutable=["batch_stats"])

    def ours(params, x):
        return net.apply(params, x, state=start(), train=train)

    assert_agree(lambda *a: ours(*a)[0], lambda *a: theirs(*a)[0], PARAMS, X)
    found = jax.jit(theirs)(PARAMS, X)[1]["batch_stats"][f"{place}/u"]
    assert_near(jax.jit(ours)(PARAMS, X)[1], start(np.asarray(found)[0]))


def test_as_haiku():
    peer = hk.without_apply_rng(hk.transform_with_state(lambda w: hk.SpectralNorm()(w)))
    _, state = peer.init(KEY, PARAMS["w"])

    def theirs(w):
        given = jax.tree.map(lambda a: U[None] if a.ndim else a, state)
        return X @ peer.apply({}, given, w)[0]

    net = nn.SpectralNorm(nn.Dense(3, bias=False))
    assert_agree(
        lambda w: net.apply({"w": w}, X, state=start(), train=True)[0], theirs, PARAMS["w"]
    )


@pytest.mark.parametrize("layer", [nn.Dense(3), nn.Conv(3, 2)], ids=str)
def test_training_finds_the_largest_singular_value(layer):
    x = normals(0, 2, 5, 4)
    net = nn.SpectralNorm(layer)
    params, state = net.init(KEY, x), net.init_state(x)
    step = jax.jit(lambda state: net.apply(params, x, state=state, train=True)[1])
    for _ in range(100):
        state = step(state)
    w = np.asarray(params["w"], np.float64)
    sigma = np.linalg.svd(w.reshape(-1, 3), compute_uv=False)[0]
    y, after = net.apply(params, x, state=state)
    assert_near(y, layer.apply({**params, "w": jnp.asarray(w / sigma, jnp.float32)}, x))
    chex.assert_trees_all_equal(after, state)  # inference leaves it


@pytest.mark.parametrize(
    "w",
    [np.zeros((4, 3)), [[1, -1], [1, -1]], [[1, -1], [-1, 1]], [[3.0]]],
    ids=["zero", "rows", "both", "one"],
)
def test_weights_that_a_start_of_ones_would_miss(w):
    """Rows or columns that sum to 0, and a weight of 0, which stays 0 without a NaN."""
    w = jnp.asarray(w, jnp.float32)
    net = nn.SpectralNorm(nn.Dense(w.shape[-1], bias=False))
    x = jnp.eye(w.shape[0])

    @jax.jit
    def run(params, state):
        y, state = net.apply(params, x, state=state, train=True)
        return y, jax.grad(lambda p: net.apply(p, x, state=state, train=True)[0].sum())(params)

    y, grads = run({"w": w}, net.init_state(x))
    norm = np.linalg.norm(w, 2)
    assert_near(y, w / (norm or 1))  # all of rank 1: one round is enough
    chex.assert_tree_all_finite(grads)


def test_nested_with_other_wrappers():
    """Copies outside and inside are the same numbers as layers of their own."""
    x = normals(0, 2, 4)
    one = nn.SpectralNorm(nn.Dense(4))
    row = nn.Sequential(one, one, one)
    params, state = row.init(KEY, x), row.init_state(x)
    wanted = row.apply(params, x, state=state, train=True)
    state = jax.tree.map(lambda *a: jnp.stack(a), *state.values())
    params = jax.tree.map(lambda *a: jnp.stack(a), *params)
    for net in (
        nn.Repeat(one, 3),
        nn.SpectralNorm(nn.Repeat(nn.Dense(4), 3)),
        nn.Remat(nn.SpectralNorm(nn.Repeat(nn.Remat(nn.Dense(4)), 3))),
    ):
        chex.assert_trees_all_equal(net.init(KEY, x), params)
        chex.assert_trees_all_equal(net.init_state(x), state)
        y, after = jax.jit(lambda p, s, net=net: net.apply(p, x, state=s, train=True))(
            params, state
        )
        assert_near(y, wanted[0])
        assert_near(after, jax.tree.map(lambda *a: jnp.stack(a), *wanted[1].values()))


def test_the_state_stands_at_the_weight_beside_the_layers_own():
    net = nn.SpectralNorm(
        nn.Sequential(first=nn.Dense(3), norm=nn.BatchNorm(), last=nn.Dense(2)), match="last/w"
    )
    x = normals(0, 5, 4)
    params, state = net.init(KEY, x), net.init_state(x)
    shapes = jax.tree.map(jnp.shape, state)
    assert shapes == {"norm": {"mean": (3,), "var": (3,)}, "last": {"w": {"u": (2,)}}}
    _, after = net.apply(params, x, state=state, train=True)
    plain = net.wrapped.apply(params, x, state={"norm": state["norm"]}, train=True)[1]
    chex.assert_trees_all_equal(after["norm"], plain["norm"])
    assert np.linalg.norm(after["last"]["w"]["u"]) == pytest.approx(1)


def test_half_precision_keeps_a_float32_state():
    net = nn.Precision(nn.SpectralNorm(nn.Dense(3)), "bfloat16")
    y, after = net.apply(PARAMS, X, state=start(), train=True)
    exact, _ = net.wrapped.apply(PARAMS, X, state=start(), train=True)
    assert after["w"]["u"].dtype == jnp.float32
    # x, w, b and their sum are each rounded to 8 bits.
    chex.assert_trees_all_close(y, exact, atol=4 * float(jnp.finfo(jnp.bfloat16).eps))


def test_what_it_refuses():
    net = nn.SpectralNorm(nn.Sequential(a=nn.Dense(3)))
    params = net.init(KEY, X)
    with pytest.raises(ValueError, match=r"keeps state \(a/w/u\), but none was given: write state"):
        net.apply(params, X)
    with pytest.raises(ValueError, match=r"keeps state \(a/w/u\), but none was given: write state"):
        net.apply(params, X, state={"b": {}})
    with pytest.raises(ValueError, match=r"a/w/u: declared \(3,\), got \(4,\); write state"):
        net.apply(params, X, state={"a": start(jnp.ones(4))})
    with pytest.raises(
        ValueError, match=r"another SpectralNorm inside normalizes .* keeps: 'a/w/u'"
    ):
        nn.SpectralNorm(net).init(KEY, X)
    with pytest.raises(ValueError, match=r"SpectralNorm.steps must be an int >= 1, got 0"):
        nn.SpectralNorm(nn.Dense(3), 0)

    class Mapped(nn.Composite):
        child: nn.Layer

        def forward(self, x):
            return jax.vmap(self.child)(x)

    net = Mapped(nn.SpectralNorm(nn.Dense(3)))
    with pytest.raises(ValueError, match=r"keeps state, but is called inside your own transform"):
        net.apply({"child": PARAMS}, X, state={"child": start()}, train=True)
