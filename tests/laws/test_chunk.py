"""Chunk: a cached causal network fed any split of a sequence equals the one full forward."""

import functools
from typing import Any

import chex
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnn as nn
from tests.cases import CASES, KEY, Case
from tests.near import assert_near

every_causal = pytest.mark.parametrize("case", [case for case in CASES if case.causal], ids=str)


@functools.partial(jax.jit, static_argnums=0)
def run(layer: nn.Layer, params: Any, x: jax.Array, state: Any, named: Any) -> Any:
    return layer.apply(params, x, state=state, **named)


def fed(layer: nn.Layer, params: Any, x: Any, split: Any, **named: Any) -> Any:
    """The outputs of `x` (..., T, n) and inputs by name (..., T), given in pieces."""
    start = jax.tree.map(lambda a: a[..., :1], named)
    state, outputs, begin = layer.init_state(x[..., :1, :], **start), [], 0
    for length in split:
        end = begin + length
        piece = jax.tree.map(lambda a, b=begin, e=end: a[..., b:e], named)
        y, state = run(layer, params, x[..., begin:end, :], state, piece)
        outputs.append(np.asarray(y))
        begin = end
    return np.concatenate(outputs, -2)


def sequence(case: Case, *batch: int, length: int = 7) -> Any:
    shape = (*batch, length, case.inputs[0].shape[-1])
    return np.random.default_rng(length).normal(size=shape).astype(np.float32)


def whole(case: Case, params: Any, x: Any, **named: Any) -> Any:
    return np.asarray(run(case.layer, params, x, None, named))


def takes_segments(case: Case) -> bool:
    return "segment_ids" in case.layer._takes("forward")


@every_causal
def test_the_same_parameters(case: Case):
    net = nn.with_cache(case.layer, 9)
    assert net != case.layer
    chex.assert_trees_all_equal(net.init(KEY, *case.inputs), case.init())


@every_causal
def test_any_split_is_the_whole(case: Case):
    """One by one, in a cache just long enough; and in pieces, in a longer one."""
    params, x = case.init(), sequence(case, 2)
    expected = whole(case, params, x)
    assert_near(fed(nn.with_cache(case.layer, 7), params, x, (1,) * 7), expected)
    if not takes_segments(case):  # else below
        assert_near(fed(nn.with_cache(case.layer, 9), params, x, (3, 1, 3)), expected)


@every_causal
def test_padding_and_packing(case: Case):
    """Whole rows, rows padded left, on both sides and between, and packed ones; each sequence that
    is shorter has 4 positions, and is run alone too."""
    if not takes_segments(case):
        return
    segment_ids = np.array(
        [
            [1, 1, 1, 1, 1, 1, 1],
            [0, 0, 0, 1, 1, 1, 1],
            [0, 3, 3, 3, 3, 0, 0],
            [2, 2, 2, 1, 1, 1, 1],
            [1, 1, 0, 0, 0, 1, 1],
        ]
    )
    params, x = case.init(), sequence(case, 5)
    full = whole(case, params, x, segment_ids=segment_ids)
    real = (segment_ids != 0)[..., None]
    broken = np.where(real, x, np.float32(np.nan))  # what is at padding has no effect
    found = fed(nn.with_cache(case.layer, 7), params, broken, (3, 1, 3), segment_ids=segment_ids)
    assert_near(np.where(real, found, 0), np.where(real, full, 0))
    short = [(1, [3, 4, 5, 6]), (2, [1, 2, 3, 4]), (3, [3, 4, 5, 6]), (4, [0, 1, 5, 6])]
    rows, places = np.array([r for r, _ in short])[:, None], np.array([p for _, p in short])
    assert_near(full[rows, places], whole(case, params, x[rows, places]))


@every_causal
def test_no_gradient_from_later_positions(case: Case):
    """d y_t / d x_s = 0 for s > t, and some of it is not for s <= t."""
    params, x = case.init(), sequence(case, length=5)
    features = jax.eval_shape(case.layer.apply, params, x).shape[-1]
    weights = np.random.default_rng(0).normal(size=features).astype(np.float32)

    def outputs(x: jax.Array) -> jax.Array:
        return case.layer.apply(params, x) @ weights

    jacobian = np.abs(jax.jit(jax.jacrev(outputs))(x)).sum(-1)  # (t, s)
    np.testing.assert_array_equal(np.triu(jacobian, 1), 0.0)
    assert (np.diagonal(jacobian) > 0).all()


@st.composite
def layers(draw: st.DrawFn) -> nn.Layer:
    window = draw(st.sampled_from([None, 1, 2, 3, 20]))
    attention = nn.MultiHeadAttention(2, causal=True, window=window)
    kinds = ["attention", "positions", "sinusoidal", "encoder", "convolution", "separable"]
    kind = draw(st.sampled_from([*kinds, "gru", "lstm", "linear"]))
    if kind == "attention":
        heads = draw(st.sampled_from([(4, 4), (4, 2), (4, 1)]))
        rotary, alibi = draw(
            st.sampled_from([(nn.RotaryEmbedding(), False), (None, True), (None, False)])
        )
        return nn.MultiHeadAttention(
            heads[0], 2, heads[1], causal=True, window=window, rotary=rotary, alibi=alibi
        )
    if kind in ("convolution", "separable"):
        size, dilation, groups = (draw(st.integers(1, most)) for most in (4, 3, 2))
        if kind == "convolution":
            return nn.Conv(2, size, 1, dilation, groups, "causal")
        return nn.SeparableConv(3, size, 1, dilation, "causal", multiplier=groups)
    return {
        "positions": nn.Sequential(nn.LearnedPositions(20), attention, nn.Dense(4)),
        "sinusoidal": nn.Sequential(nn.SinusoidalPositions(), attention),
        "encoder": nn.EncoderLayer(attention, nn.Dense(4), norm_first=draw(st.booleans())),
        "gru": nn.Recurrent(nn.GRUCell(3)),
        "lstm": nn.Recurrent(nn.LSTMCell(3)),
        "linear": nn.LinearRecurrence(3, 0.5, 0.9),
    }[kind]


@pytest.mark.parametrize("examples", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_random_layers_splits_caches_and_padding(examples: int):
    """Rows are padded on the left by random lengths; the window is shorter or longer than both the
    pieces and the cache."""

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(
        layer=layers(),
        batch=st.sampled_from([(), (1,), (3,), (2, 1)]),
        split=st.lists(st.integers(1, 4), min_size=1, max_size=4),
        spare=st.integers(0, 6),
        data=st.data(),
    )
    def check(layer, batch, split, spare, data):
        pieces_are_the_whole(layer, batch, split, spare, data)

    check()


def pieces_are_the_whole(layer, batch, split, spare, data):
    length = sum(split)
    padding = data.draw(st.lists(st.integers(0, length), min_size=8, max_size=8))
    padding = np.array(padding[: int(np.prod(batch, dtype=int))]).reshape(batch)
    segment_ids = (np.arange(length) >= padding[..., None]).astype(np.int32)
    x = np.random.default_rng(length).normal(size=(*batch, length, 4)).astype(np.float32)
    params = layer.init(KEY, x)
    full = np.asarray(run(layer, params, x, None, {"segment_ids": segment_ids}))
    found = fed(nn.with_cache(layer, length + spare), params, x, split, segment_ids=segment_ids)
    real = (segment_ids != 0)[..., None]
    assert_near(np.where(real, found, 0), np.where(real, full, 0))
    if not padding.any():
        assert_near(fed(nn.with_cache(layer, length + spare), params, x, split), full)
