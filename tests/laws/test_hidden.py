"""Hidden: whatever is behind a mask, NaN and inf included, changes no output and no gradient."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.models import GPT
from tests.cases import CASES, KEY, Case, distinct, floats, tokens
from tests.near import assert_near

LONG = (floats(2, 5, 4),)
NETS = [
    Case(
        "Dense before attention",
        nn.Sequential(nn.Dense(4), nn.LayerNorm(), nn.MultiHeadAttention(2)),
        LONG,
    ),
    Case("Attention, xla", nn.MultiHeadAttention(2, implementation="xla"), LONG),
    Case("LinearRecurrence, reversed", nn.LinearRecurrence(3, reverse=True), LONG),
    Case("DepthwiseConv", nn.DepthwiseConv(3), LONG),
    Case("BatchNorm after Conv", nn.Sequential(nn.Conv(3, 2), nn.BatchNorm()), LONG),
    Case("Conv of frames", nn.Conv(3, 2), (floats(2, 3, 4, 2),)),
    Case(
        "GPT",
        GPT(layers=2, width=8, num_heads=2, length=8).network(outputs=6),
        (tokens(2, 5),),
        True,
    ),
]


# The first axis of their outputs is that of the members of an ensemble, not of the input.
MEMBERS_FIRST = ("Ensemble of BatchNorm", "wrappers nested")


def taking(name: str) -> Any:
    """The cases that take an input by name, and are not given it by position."""
    cases = []
    for case in CASES + NETS:
        given = case.layer._signature("forward").inputs[: len(case.inputs)]
        takes = name in case.layer._takes("forward") and name not in given
        if takes and case.name not in MEMBERS_FIRST:
            cases.append(case)
    return distinct(cases)


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
    params = case.init()
    return jax.eval_shape(
        lambda p, x, n: case.layer.apply(p, *x, state=case.state, **n)[0], params, inputs, named
    )


def padded(case: Case) -> dict[str, np.ndarray]:
    """Segments by name, which make the last position of each row padding."""

    def ending(*shape: int) -> np.ndarray:
        segment_ids = np.ones(shape, np.int32)
        segment_ids[..., -1] = 0
        return segment_ids

    named, _ = {}, case.state  # made outside of any trace
    x, *others = case.inputs
    if "memory_segment_ids" in case.layer._takes("forward") and others:
        named["memory_segment_ids"] = ending(*others[0].shape[:-1])
    shape: tuple[int, ...] = x.shape
    for axes in range(len(shape) - (x.dtype != np.int32), 0, -1):  # but for the features
        named["segment_ids"] = ending(*shape[:axes])
        try:
            output(case, case.inputs, named)
        except ValueError:
            continue
        return named
    raise AssertionError(f"{case} takes no segment_ids")


def weights_for(shape: tuple[int, ...], real: np.ndarray) -> np.ndarray:
    """Numbers of the shape of an output, with 0 at positions that are not real, if it has any."""
    weights = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    return np.where(along(real, shape), weights, 0) if has_positions(shape, real) else weights


def has_positions(shape: tuple[int, ...], real: np.ndarray) -> bool:
    return len(shape) > real.ndim and shape[: real.ndim] == real.shape


def along(real: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return real.reshape(*real.shape, *(1,) * (len(shape) - real.ndim))


def without_last(x: Any, axis: int) -> Any:
    return np.asarray(x).take(np.arange(x.shape[axis] - 1), axis)


def with_behind(inputs: Any, named: Any, number: float) -> tuple[Any, ...]:
    """Inputs with another number, or an invalid token, at padding."""
    found = []
    for x, segment_ids in zip(inputs, marked(inputs, named), strict=True):
        if segment_ids is not None:
            there = (-1 if np.isnan(number) else 99) if x.dtype == np.int32 else number
            x = np.where(along(segment_ids != 0, x.shape), x, np.asarray(there, x.dtype))
        found.append(x)
    return tuple(found)


def marked(inputs: Any, named: Any) -> list[Any]:
    """The segment_ids that mark each input, or None."""
    return [named.get("segment_ids"), named.get("memory_segment_ids"), None][: len(inputs)]


@taking("segment_ids")
def test_padding(case: Case):
    """The outcome is that of the sequences without their padding."""
    params, inputs, named = case.init(), case.arrays(), padded(case)
    real = named["segment_ids"] != 0
    time, shape = real.ndim - 1, output(case, inputs, named).shape
    weights = weights_for(shape, real)
    short = tuple(
        x if m is None else without_last(x, m.ndim - 1)
        for x, m in zip(inputs, marked(inputs, named), strict=True)
    )
    each = has_positions(shape, real)
    y, _, (by_params, by_inputs) = outcome(
        case, params, short, {}, without_last(weights, time) if each else weights
    )
    for number in (np.nan, np.inf):
        broken = with_behind(inputs, named, number)
        z, _, (again, by_broken) = outcome(case, params, broken, named, weights)
        assert_near(without_last(z, time) if each else z, y)
        assert_near(again, by_params)
        for i, gradient in by_inputs.items():
            more = [(0, n - m) for n, m in zip(inputs[i].shape, gradient.shape, strict=True)]
            assert_near(by_broken[i], np.pad(gradient, more))


@taking("segment_ids")
def test_padding_in_training(case: Case):
    """Outputs, gradients and state are those with ordinary numbers at padding."""
    if case.modes == (False,):
        return
    params, inputs, named = case.init(), case.arrays(), padded(case)
    weights = weights_for(output(case, inputs, named).shape, named["segment_ids"] != 0)
    one, other = (
        outcome(case, params, with_behind(inputs, named, number), named, weights, True)
        for number in (2.0, np.nan)
    )
    assert_near(one, other)


@taking("mask")
def test_masks(case: Case):
    """The last position is hidden from all others; its own output has no weight in the loss."""
    if case in NETS and not isinstance(case.layer, nn.MultiHeadAttention):
        return  # a mask hides keys from an attention, which says nothing to layers before it
    params, inputs = case.init(), case.arrays()
    batch, length = inputs[0].shape[:2]
    real = np.arange(length) < length - 1
    seen = np.broadcast_to(real, (batch, 1, length, length))
    some = real[:, None] & (np.arange(length) > 0)[:, None]
    weights = weights_for((batch, length, 4), np.broadcast_to(real, (batch, length)))
    for named in (
        {"mask": seen},
        {"mask": seen | np.eye(length, dtype=bool)},  # the last one still looks at itself
        {"mask": seen & some},  # some look at nothing
        {"bias": np.where(seen, np.float32(0.5), -np.inf)},
    ):
        clean = outcome(case, params, inputs, named, weights)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(clean))
        for number in (np.nan, np.inf, -np.inf):
            broken = np.where(real[:, None], inputs[0], np.float32(number))
            found = outcome(case, params, (broken, *inputs[1:]), named, weights)
            assert_near(found, clean)


@pytest.mark.parametrize("case", [case for case in CASES + NETS if case.causal], ids=str)
def test_later_positions(case: Case):
    """Outputs are those of the sequence that ends before a position of NaN, or an invalid token."""
    params, (x,) = case.init(), case.arrays()
    time = 1 if x.dtype == np.int32 else x.ndim - 2
    short = without_last(x, time)
    y = case.run(params, case.layer.init_state(short, key=KEY), KEY, (short,), False)[0]
    for number in (np.nan, np.inf):
        other = (-1 if np.isnan(number) else 99) if x.dtype == np.int32 else number
        last = np.arange(x.shape[time]) == x.shape[time] - 1
        broken = np.where(along(last, x.shape[time:]), np.asarray(other, x.dtype), x)
        z = case.run(params, case.state, KEY, (broken,), False)[0]
        assert_near(without_last(z, time), y)


@pytest.mark.parametrize(
    "options", [{"causal": True}, {"window": 2}, {"causal": True, "window": 2}]
)
@pytest.mark.parametrize("implementation", [None, "xla"])
def test_positions_outside_of_what_attention_looks_at(options: Any, implementation: Any):
    """Positions that look at NaN give NaN; the others are those of an explicit mask."""
    net = nn.MultiHeadAttention(2, **options, implementation=implementation)
    plain = nn.MultiHeadAttention(2, implementation=implementation)
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    params = net.init(KEY, x)
    away = np.subtract.outer(np.arange(5), np.arange(5))
    mask = (away >= 0 if "causal" in options else True) & (abs(away) < options.get("window", 5))
    wanted, run = jax.jit(plain.apply)(params, x, mask=mask), jax.jit(net.apply)
    for at, number in ((0, np.nan), (2, np.inf), (4, -np.inf)):
        broken, sees = x.copy(), mask[:, at]
        broken[:, at] = number
        z = run(params, broken)
        assert_near(np.where(sees[:, None], 0, z), np.where(sees[:, None], 0, wanted))
        np.testing.assert_array_equal(np.isnan(z).all(-1), np.broadcast_to(sees, (2, 5)))
