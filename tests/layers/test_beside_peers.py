"""Layers that have a counterpart in equinox or haiku, beside it on the same weights: what is not in
the files of the layers themselves."""

from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import pytest

import jaxnn as nn
from tests.layers.agreement import KEY, assert_agree, normals

X = normals(0, 3, 6, 4)


def haiku(make: Any) -> Any:
    """The apply of a haiku function, without a key."""
    return hk.without_apply_rng(hk.transform(make)).apply


@pytest.mark.parametrize("norm", ["haiku", "equinox"])
def test_rms_norm(norm):
    params = {"scale": normals(1, 4)}
    if norm == "haiku":
        module = haiku(lambda x: hk.RMSNorm(-1, eps=1e-6, name="norm")(x))
        assert_agree(nn.RMSNorm().apply, lambda p, x: module({"norm": p}, x), params, X)
        return

    def theirs(params, x):
        peer = eqx.nn.RMSNorm(4, eps=1e-6, use_bias=False)
        return jax.vmap(jax.vmap(eqx.tree_at(lambda p: p.weight, peer, params["scale"])))(x)

    assert_agree(nn.RMSNorm().apply, theirs, params, X)


def test_instance_norm():
    params = {"scale": normals(1, 4), "b": normals(2, 4)}
    module = haiku(lambda x: hk.InstanceNorm(True, True, eps=1e-5, name="norm")(x))

    def theirs(params, x):
        return module({"norm": {"scale": params["scale"], "offset": params["b"]}}, x)

    assert_agree(nn.InstanceNorm().apply, theirs, params, X)


def test_batch_norm():
    params = {"scale": normals(1, 4), "b": normals(2, 4)}
    module = hk.without_apply_rng(
        hk.transform_with_state(lambda x: hk.BatchNorm(True, True, 0.9, name="norm")(x, True))
    )
    _, state = module.init(KEY, X)
    net = nn.BatchNorm()

    def ours(params, x):
        return net.apply(params, x, state=net.init_state(x), train=True)[0]

    def theirs(params, x):
        scale, offset = (params[name].reshape(1, 1, 4) for name in ("scale", "b"))
        given = {"norm": {"scale": scale, "offset": offset}}
        return module.apply(given, state, x)[0]

    assert_agree(ours, theirs, params, X)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (nn.MaxPool(3, 2, 1), eqx.nn.MaxPool1d(3, 2, 1)),
        (nn.AvgPool(3, 2, 0), eqx.nn.AvgPool1d(3, 2, 0)),
        (nn.AdaptiveAvgPool(3), eqx.nn.AdaptiveAvgPool1d(3)),
        (nn.AdaptiveMaxPool(3), eqx.nn.AdaptiveMaxPool1d(3)),
    ],
    ids=repr,
)
def test_pooling_as_equinox(ours, theirs):
    assert_agree(lambda x: ours.apply({}, x), jax.vmap(lambda x: theirs(x.T).T), X)


def test_pooling_as_haiku():
    def theirs(x):
        window, stride = (1, 3, 1), (1, 2, 1)
        return hk.max_pool(x, window, stride, "VALID") + hk.avg_pool(x, window, stride, "VALID")

    def ours(x):
        return nn.MaxPool(3, 2).apply({}, x) + nn.AvgPool(3, 2).apply({}, x)

    assert_agree(ours, theirs, X)


def test_attention_as_haiku():
    """Haiku's has three inputs; query, key and value are from one here."""
    net = nn.MultiHeadAttention(2, head_dim=3, features=5)
    params = jax.tree.map(lambda a: normals(a.size, *a.shape), net.init(KEY, X))

    def run(x):
        return hk.MultiHeadAttention(
            2, 3, model_size=5, w_init=hk.initializers.VarianceScaling(), name="attention"
        )(x, x, x)

    module = haiku(run)

    def theirs(params, x):
        names = {"query": "query", "key": "key", "value": "value", "out": "linear"}
        return module({f"attention/{theirs}": params[our] for our, theirs in names.items()}, x)

    assert_agree(net.apply, theirs, params, X)


def test_simple_recurrence_as_haiku():
    def run(x):
        core = hk.VanillaRNN(3, name="core")
        return hk.dynamic_unroll(core, x, core.initial_state(3), time_major=False)[0]

    module = haiku(run)
    net = nn.Recurrent(nn.RNNCell(3, activation=jax.nn.relu))
    params = jax.tree.map(lambda a: normals(a.size, *a.shape), net.init(KEY, X))

    def theirs(params, x):
        there = {
            "core/linear": params["input"],
            "core/linear_1": params["recurrent"] | {"b": jnp.zeros(3)},
        }
        return module(there, x)

    assert_agree(net.apply, theirs, params, X)


def test_rotary_as_equinox():
    """Its pairs are halves of the features, as are ours by default."""
    q = normals(0, 6, 2, 8)
    peer = eqx.nn.RotaryPositionalEmbedding(8, theta=100.0)

    def ours(q):
        return nn.RotaryEmbedding(100.0).rotate(q, jnp.arange(6), 6)

    assert_agree(ours, jax.vmap(peer, 1, 1), q)


def test_embedding_as_haiku():
    ids = jnp.array([[1, 2], [0, 4]])
    module = haiku(lambda ids: hk.Embed(5, 3, name="embed")(ids))
    assert_agree(
        lambda p: nn.Embedding(5, 3).apply(p, ids),
        lambda p: module({"embed": {"embeddings": p["w"]}}, ids),
        {"w": normals(1, 5, 3)},
    )
