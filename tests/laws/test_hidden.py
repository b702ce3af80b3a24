"""Hidden: whatever is behind a mask, NaN and inf included, changes no output and no gradient."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.models import GPT
from tests.cases import CASES, KEY, Case, floats, tokens
from tests.near import assert_near

LONG = (floats(2, 5, 4),)
NETS = [
    Case("Dense before attention", nn.Serial(nn.Dense(4), nn.LayerNorm(), nn.Attention(2)), LONG),
    Case("Attention, windows", nn.Attention(2, window=2), LONG),
    Case("Attention, alibi", nn.Attention(2, causal=True, alibi=True), LONG),
    Case("Attention, own", nn.Attention(2, implementation="own"), LONG),
    Case("Attention, xla", nn.Attention(2, implementation="xla"), LONG),
    Case("SinusoidalPositions", nn.SinusoidalPositions(), LONG),
    Case("LinearRecurrence, reversed", nn.LinearRecurrence(3, reverse=True), LONG),
    Case("DepthwiseConv", nn.DepthwiseConv(3), LONG),
    Case("Conv of frames", nn.Conv(3, 2), (floats(2, 3, 4, 2),)),
    Case("MixtureOfExperts, wide", nn.MixtureOfExperts(nn.Dense(4), 3, capacity=3.0), LONG),
    Case(
        "GPT",
        GPT(layers=2, width=8, heads=2, length=8).network(outputs=6),
        (tokens(2, 5),),
    ),
    Case(
        "GPT as LLaMA",
        GPT(
            layers=1, width=8, heads=2, positions="rotary", norm="rms", feed_forward="swiglu"
        ).network(outputs=6),
        (tokens(2, 5),),
    ),
]
BROKEN = [np.nan, np.inf, -np.inf]


def taking(name: str) -> Any:
    """The cases that take an input by name, and are not given it by position."""
    cases = []
    for case in CASES + NETS:
        given = case.layer._signature("forward").inputs[: len(case.inputs)]
        if name in case.layer._takes("forward") and name not in given:
            cases.append(case)
    return pytest.mark.parametrize("case", cases, ids=str)


@functools.partial(jax.jit, static_argnums=(0, 5))
def outcome(
    case: Case, params: Any, inputs: Any, named: Any, weights: Any, train: bool = False
) -> Any:
    """The outputs that count, the new state, and gradients by parameters and floating inputs.

    The loss is a sum of the outputs times `weights`, of those whose weight is not 0.
    """
    floating = {i: x for i, x in enumerate(inputs) if jnp.issubdtype(x.dtype, jnp.floating)}

    def loss(params: Any, floating: Any) -> Any:
        given = [floating.get(i, x) for i, x in enumerate(inputs)]
        y, state = case.layer.apply(params, *given, state=case.state, key=KEY, train=train, **named)
        counted = jnp.where(weights == 0, 0, y)
        return jnp.sum(counted * weights), (counted, state)

    gradients, (counted, state) = jax.grad(loss, (0, 1), has_aux=True)(params, floating)
    return counted, state, gradients


def output(case: Case, inputs: Any, named: Any) -> jax.ShapeDtypeStruct:
    params = jax.eval_shape(lambda: case.init())
    return jax.eval_shape(
        lambda p, x, n: case.layer.apply(p, *x, state=case.state, **n)[0], params, inputs, named
    )


def padded(case: Case) -> dict[str, np.ndarray]:
    """Segments by name, which make the last position of each row padding."""

    def ending(*shape: int) -> np.ndarray:
        segments = np.ones(shape, np.int32)
        segments[..., -1] = 0
        return segments

    named = {}
    if "memory_segments" in case.layer._takes("forward") and len(case.inputs) > 1:
        named["memory_segments"] = ending(*case.inputs[1].shape[:-1])
    shape = case.inputs[0].shape
    for axes in range(len(shape), 0, -1):
        named["segments"] = ending(*shape[:axes])
        try:
            output(case, case.inputs, named)
        except ValueError:
            continue
        return named
    raise AssertionError(f"{case} takes no segments")


def weights_for(case: Case, inputs: Any, named: Any, real: np.ndarray) -> np.ndarray:
    """Numbers of the shape of the output, with 0 at positions that are not real."""
    shape = output(case, inputs, named).shape
    weights = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    if shape[: real.ndim] == real.shape and len(shape) > real.ndim:
        weights = np.where(real.reshape(*real.shape, *(1,) * (len(shape) - real.ndim)), weights, 0)
    return weights


def behind(x: Any, real: np.ndarray, number: float) -> Any:
    """x with another number, or an invalid token, where it is not real."""
    if jnp.issubdtype(x.dtype, jnp.integer):
        number = -1 if np.isnan(number) else 1000
    real = real.reshape(*real.shape, *(1,) * (x.ndim - real.ndim))
    return jnp.where(real, x, jnp.asarray(number, x.dtype))


def marked(case: Case, inputs: Any, named: Any) -> list[Any]:
    """Each input with the segments that mark it, or None."""
    marks = [named["segments"], named.get("memory_segments"), None]
    return list(zip(inputs, marks, strict=False))


@taking("segments")
def test_padding(case: Case):
    """The outcome is that of the sequences without their padding."""
    params, inputs, named = case.init(), case.arrays(), padded(case)
    real = named["segments"] != 0
    weights = weights_for(case, inputs, named, real)
    for number in BROKEN[:2]:
        broken = [
            x if m is None else behind(x, m != 0, number) for x, m in marked(case, inputs, named)
        ]
        found = outcome(case, params, tuple(broken), named, weights)
        cut = [
            x if m is None else jnp.take(x, jnp.arange(m.shape[-1] - 1), m.ndim - 1)
            for x, m in marked(case, inputs, named)
        ]
        time = real.ndim - 1
        has_time = weights.shape[: real.ndim] == real.shape and weights.ndim > real.ndim
        short = weights.take(range(real.shape[-1] - 1), time) if has_time else weights
        y, _, (by_params, by_inputs) = outcome(case, params, tuple(cut), {}, short)
        assert_near(found[0].take(range(real.shape[-1] - 1), time) if has_time else found[0], y)
        assert_near(found[2][0], by_params)
        for i, gradient in by_inputs.items():
            whole = found[2][1][i]
            after = [(0, n - m) for n, m in zip(whole.shape, gradient.shape, strict=True)]
            assert_near(whole, jnp.pad(gradient, after))


@taking("segments")
def test_padding_in_training(case: Case):
    """Outputs, gradients and state are those with ordinary numbers at padding."""
    if case.modes == (False,):
        return
    params, inputs, named = case.init(), case.arrays(), padded(case)
    weights = weights_for(case, inputs, named, named["segments"] != 0)
    found = []
    for number in (2.0, np.nan):
        broken = [
            x if m is None else behind(x, m != 0, number) for x, m in marked(case, inputs, named)
        ]
        found.append(outcome(case, params, tuple(broken), named, weights, True))
    assert_near(*found)


@taking("mask")
@pytest.mark.parametrize("form", ["keys", "heads", "pairs", "bias", "none"])
def test_masks(case: Case, form: str):
    """The last position is hidden from all others; its own output has no weight in the loss."""
    params, inputs = case.init(), case.arrays()
    batch, length = inputs[0].shape[:2]
    real = np.arange(length) < length - 1
    seen = np.broadcast_to(real, (length, length))
    named: dict[str, Any] = {
        "keys": {"mask": np.broadcast_to(real, (batch, 1, 1, length))},
        "heads": {"mask": np.broadcast_to(real, (batch, 1, length, length))},
        "pairs": {"mask": seen | np.eye(length, dtype=bool)},  # it still looks at itself
        "bias": {"bias": np.where(seen, np.float32(0.5), -np.inf)},
        "none": {"mask": seen & real[:, None] & (np.arange(length) > 0)[:, None]},
    }[form]
    weights = weights_for(case, inputs, named, np.broadcast_to(real, (batch, length)))
    clean = outcome(case, params, inputs, named, weights)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(clean))
    for number in BROKEN:
        broken = (behind(inputs[0], np.broadcast_to(real, (batch, length)), number), *inputs[1:])
        assert_near(outcome(case, params, broken, named, weights), clean)
