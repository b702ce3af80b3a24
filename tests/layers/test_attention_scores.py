"""Weights, separate values, other axes, functions as masks and scores, and other attentions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.fixtures.layers import stored
from tests.layers.agreement import KEY, normals
from tests.near import assert_near

X = normals(0, 2, 4, 6)


def test_separate_values_and_weights_as_torch():
    a = stored("values")
    names = {"query": "q", "key": "k", "value": "v", "out": "o"}
    params, slopes = (
        {n: {k: a[f"{d}{short}{k}"] for k in "wb"} for n, short in names.items()} for d in ("", "d")
    )
    net = nn.MultiHeadAttention(2)

    @jax.jit
    def run(params, x, memory, values, dy):
        y, pull = jax.vjp(net.apply, params, x, memory, values)
        both = net.apply(params, x, memory, values, method="with_weights")
        return y, pull(dy), *both

    inputs = ("x", "memory", "values")
    y, gradients, again, weights = run(params, *(a[k] for k in inputs), a["dy"])
    assert_near((y, gradients), (a["y"], (slopes, *(a[f"d{k}"] for k in inputs))))
    assert_near((again, weights), (a["y"], a["weights"]))


def test_weights_are_captured_in_a_network():
    """They are 0 where causality hides, sum to 1, and are those of a layer alone."""
    layer = nn.MultiHeadAttention(2, causal=True, value_dim=5)
    block = nn.Residual(layer)
    net = nn.Sequential(first=block, rest=nn.Repeat(nn.Sequential(attention=layer), 2))
    params = net.init(KEY, X)
    run = jax.jit(nn.capture(net, "**/*.weights").apply)
    y, maps = run(params, X)
    assert {k: a.shape for k, a in maps.items()} == {
        "first.weights": (2, 2, 4, 4),
        "rest/attention.weights": (2, 2, 2, 4, 4),
    }
    assert_near(y, jax.jit(net.apply)(params, X))
    for a in maps.values():
        assert_near(a.sum(-1), np.ones(a.shape[:-1], np.float32))
        assert not a[..., np.triu_indices(4, 1)[0], np.triu_indices(4, 1)[1]].any()


def test_several_axes_are_one_sequence_and_others_are_batch_axes():
    x = normals(1, 2, 3, 4, 6)
    plain, both, rows = (nn.MultiHeadAttention(2, axis=axis) for axis in (-2, (1, 2), 1))
    params = plain.init(KEY, x)

    @jax.jit
    def run(x):
        flat = plain.apply(params, x.reshape(2, 12, 6)).reshape(x.shape)
        moved = jnp.swapaxes(plain.apply(params, jnp.swapaxes(x, 1, 2)), 1, 2)
        return (both.apply(params, x), rows.apply(params, x)), (flat, moved)

    assert_near(*run(x))


def test_functions_of_positions_mask_and_change_scores():
    """With segments, positions count within each; chunks see what the whole sequence sees."""
    segment_ids: Any = jnp.array([[1, 1, 1, 2, 2, 2, 0]])
    position = np.array([0, 1, 2, 0, 1, 2, 0])
    x = normals(2, 1, 7, 6)
    away = position[:, None] - position
    score = nn.MultiHeadAttention(
        2,
        score_mod=lambda scores, query, key: scores - 0.3 * jnp.abs(query - key),
        mask_mod=nn.BlockMask(2),
    )
    plain = nn.MultiHeadAttention(2)
    params = plain.init(KEY, x)
    mask = position[:, None] // 2 == position // 2
    bias = jnp.asarray(-0.3 * np.abs(away), jnp.float32)
    causal = nn.MultiHeadAttention(2, causal=True, mask_mod=nn.BlockMask(2, before=1))
    cached = nn.with_cache(causal, length=8)

    @jax.jit
    def run(x):
        given: Any = {"segment_ids": segment_ids}
        whole, state = causal.apply(params, x), cached.init_state(x[:, :1])
        parts = []
        for part in (x[:, :3], x[:, 3:4], x[:, 4:]):
            y, state = cached.apply(params, part, state=state)
            parts.append(y)
        ours = score.apply(params, x, **given), whole
        wanted = plain.apply(params, x, mask=jnp.asarray(mask), bias=bias, **given)
        return ours, (wanted, jnp.concatenate(parts, 1))

    assert_near(*run(x))


def test_a_prefix_is_seen_whole_in_cached_decoding():
    """Equal to the whole sequence if the prefix comes in one call, with two sequences in a row."""
    net = nn.MultiHeadAttention(2, mask_mod=nn.PrefixMask(3))
    cached, x = nn.with_cache(net, 12), normals(2, 1, 9, 8)
    ids = jnp.array([[1, 1, 1, 1, 2, 2, 2, 2, 2]])
    params, place = net.init(KEY, x), np.arange(6)
    seen = jnp.asarray((place < 3) | (place <= place[:, None]))
    plain = nn.MultiHeadAttention(2)

    def fed(x, splits, **named):
        state, parts, start = cached.init_state(x[:, :1]), [], 0
        for end in splits:
            given = {k: a[:, start:end] for k, a in named.items()}
            y, state = cached.apply(params, x[:, start:end], state=state, **given)
            parts.append(y)
            start = end
        return jnp.concatenate(parts, 1)

    @jax.jit
    def run(x):
        x1 = x[:, :6]
        one = plain.apply(params, x1, mask=seen), net.apply(params, x1)
        found = fed(x1, (3, 6)), fed(x, (7, 9), segment_ids=ids)
        whole = net.apply(params, x, segment_ids=ids)
        return (one, found), (one[::-1], (one[0], whole)), fed(x1, (2,))

    found, wanted, early = run(x)
    assert_near(found, wanted)
    assert np.isnan(early).all()


@pytest.mark.slow  # operations are compiled one by one
def test_a_prefix_in_two_calls_raises_outside_of_jit():
    cached = nn.with_cache(nn.MultiHeadAttention(2, mask_mod=nn.PrefixMask(3)), 4)
    params, state = cached.init(KEY, X), cached.init_state(X)
    with pytest.raises(ValueError, match=r"PrefixMask\(3\) lets positions of this chunk see later"):
        cached.apply(params, X[:, :2], state=state)


def test_additive_attention_as_keras():
    a = stored("additive")
    eye, zero = jnp.eye(3), jnp.zeros(3)
    net = nn.AdditiveAttention(3)

    @jax.jit
    def run(x, memory, scale, dy):
        def f(x, memory, scale):
            params = {"query": {"w": eye}, "key": {"w": eye, "b": zero}}
            return net.apply(params | {"score": {"w": scale[:, None]}}, x, memory)

        y, pull = jax.vjp(f, x, memory, scale)
        return y, pull(dy)

    inputs = ("x", "memory", "scale")
    found = run(*(a[k] for k in inputs), a["dy"])
    assert_near(found, (a["y"], tuple(a[f"d{k}"] for k in inputs)))


def test_additive_attention_leaves_out_what_is_hidden():
    net, memory = nn.AdditiveAttention(3), normals(3, 2, 3, 5)
    params = net.init(KEY, X, memory)
    spoiled = memory.at[:, 1].set(jnp.nan)
    hidden = jnp.array([[1, 0, 1]] * 2)

    @jax.jit
    def run(memory, spoiled):
        short = net.apply(params, X, memory[:, ::2])
        return net.apply(params, X, spoiled, memory_segment_ids=hidden), short

    assert_near(*run(memory, spoiled))


@pytest.mark.parametrize("causal", [False, True])
def test_relative_positions_have_the_buckets_of_transformers(causal):
    net = nn.RelativePositionBias(1, num_buckets=16, max_distance=100, causal=causal)
    table = np.arange(16, dtype=np.float32)[:, None]
    run = jax.jit(lambda w: net.apply({"w": w}, jnp.zeros((201, 1)), jnp.zeros((201, 1))))
    bias = np.asarray(run(table))[0]
    found = [bias[max(0, -d), max(0, d)] for d in range(-200, 201)]
    np.testing.assert_array_equal(found, stored("buckets")["causal" if causal else "both"])


def test_wrong_inputs_are_reported():
    net = nn.MultiHeadAttention(2)
    with pytest.raises(ValueError, match="values need a memory of the same shape"):
        net.init(KEY, X, normals(0, 2, 3, 6), X)
    with pytest.raises(ValueError, match="keeps a cache of the axis -2 only"):
        nn.with_cache(nn.MultiHeadAttention(2, causal=True, axis=1)).init(KEY, X)
    with pytest.raises(ValueError, match="would leave out cached keys"):
        cached = nn.with_cache(nn.MultiHeadAttention(2, causal=True))
        cached.apply(cached.init(KEY, X), X, method="weights")
    with pytest.raises(ValueError, match=r"causal must be False with PrefixMask.*omit causal"):
        nn.MultiHeadAttention(2, causal=True, mask_mod=nn.PrefixMask(3))
    with pytest.raises(TypeError, match="mask_mod must be None or a plain function"):
        nn.MultiHeadAttention(2, mask_mod=nn.Dense(3))
    with pytest.raises(ValueError, match="num_buckets must be below max_distance=8, got 32"):
        nn.RelativePositionBias(2, max_distance=8)


def test_a_bias_may_be_a_function_of_positions():
    """It equals the array of all positions, restarts in packed sequences, and follows a cache."""
    layer = nn.RelativePositionBias(2, num_buckets=4, max_distance=6, causal=True)
    net, x = nn.MultiHeadAttention(2, causal=True), normals(7, 1, 6, 8)
    params, table = net.init(KEY, x), layer.init(KEY, x)
    table = {"w": 30 * table["w"]}

    @jax.jit
    def run(params, table, x):
        bias = layer.apply(table, x, method="by_position")
        cached = nn.with_cache(net, 6)
        state = cached.init_state(x, bias=bias)
        first, state = cached.apply(params, x[:, :4], state=state, bias=bias)
        second, _ = cached.apply(params, x[:, 4:], state=state, bias=bias)
        packed = net.apply(params, x, bias=bias, segment_ids=jnp.array([[1, 1, 1, 1, 2, 2]]))
        whole = net.apply(params, x, bias=bias)
        array = net.apply(params, x, bias=layer.apply(table, x))
        alone = net.apply(params, x[:, 4:], bias=bias)
        return whole, array, jnp.concatenate([first, second], 1), packed, alone

    whole, array, chunks, packed, alone = run(params, table, x)
    assert np.abs(whole - jax.jit(net.apply)(params, x)).max() > 0.01
    assert_near((whole, whole), (array, chunks))
    assert_near((packed[:, :4], packed[:, 4:]), (whole[:, :4], alone))
