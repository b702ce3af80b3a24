"""The moving average of the parameters, beside optax.ema and the closed form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train

NET = nn.Sequential(nn.BatchNorm(), nn.Dense(1))
TASK = train.Regression()
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
Y = X[:, 0]
KEY = jax.random.key(1)


def program_of(optimizer):
    return train.Supervised(NET, TASK, optimizer)


def begun(optimizer):
    return program_of(optimizer).init(KEY, (X, Y))


@pytest.mark.parametrize("decay", [0.9, 0.0, 0.9999])
def test_it_is_the_debiased_average_of_optax(decay):
    plain, optimizer = optax.sgd(0.1), train.with_ema(optax.sgd(0.1), decay=decay)
    ts, hand = begun(optimizer), begun(plain)
    ema = optax.ema(decay, debias=True)
    state = ema.init(hand.params)
    steps = [train.make_step(program_of(one)) for one in (optimizer, plain)]
    expected = hand.params
    for _ in range(4):
        ts, _ = steps[0](ts, (X, Y))
        hand, _ = steps[1](hand, (X, Y))
        expected, state = ema.update(hand.params, state)
    for a, b in zip(jax.tree.leaves(ts.params), jax.tree.leaves(hand.params), strict=True):
        np.testing.assert_array_equal(a, b)  # training itself is the same
    average = train.ema_params(ts)
    for a, b in zip(jax.tree.leaves(average.params), jax.tree.leaves(expected), strict=True):
        # 1 - 0.9999 has 3 digits left in float32, on both sides
        np.testing.assert_allclose(a, b, rtol=2e-3 if decay > 0.99 else 1e-5, atol=1e-6)
    assert average.state is ts.state


def test_it_begins_with_the_parameters():
    ts = begun(train.with_ema(optax.adam(0.1)))
    average = train.ema_params(ts)
    jax.tree.map(np.testing.assert_array_equal, average.params, ts.params)
    jax.tree.map(np.testing.assert_array_equal, train.evaluation_params(ts), ts.params)


def test_a_decay_is_data_and_half_precision_is_averaged_in_float32():
    params: Any = {"w": jnp.ones(2, jnp.bfloat16)}
    optimizer = train.with_ema(train.Optimizer(optax.sgd, learning_rate=2.0**-8), decay=0.5)
    assert jax.tree.leaves(optimizer) == [2.0**-8, 0.5]
    opt_state = optimizer.init(params)
    assert opt_state.average["w"].dtype == jnp.float32
    for _ in range(2):
        updates, opt_state = optimizer.update(params, opt_state, params)
        params = optax.apply_updates(params, updates)
    ts = begun(optax.sgd(1))._replace(params=params, opt_state=opt_state)
    assert train.ema_params(ts).params["w"].dtype == jnp.bfloat16
    # after 2 steps: p_1 / 3 + 2 p_2 / 3
    first = 1 - 2.0**-8
    np.testing.assert_allclose(
        opt_state.average["w"], first / 3 + 2 * np.float32(params["w"]) / 3, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: train.with_ema(optax.sgd(1), 1.0),
            r"with_ema.decay must be a number in \[0, 1\), got 1.0",
        ),
        (
            lambda: train.ema_params(begun(optax.adam(1e-3))),
            r"holds no average; write train.with_ema\(optimizer, decay=0.999\) around the whole",
        ),
        (
            lambda: train.with_ema(optax.sgd(1)).update(
                jnp.ones(1), train.with_ema(optax.sgd(1)).init(jnp.ones(1))
            ),
            r"needs the parameters: write optimizer.update\(gradients, opt_state, params\)",
        ),
    ],
)
def test_the_error_says_what_is_wrong(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize(
    ("decay", "broken", "expected"),
    [
        (0.5, [0], 2 / 3 * 5.0 + 1 / 3 * 3.0),  # the first parameters have no weight
        (0.0, [0, 1], 5.0),  # nor do any but the last
        (1.0, [0], 4.0),  # the limit: a plain mean
        (0.999999999, [0], 4.0),
    ],
)
def test_parameters_without_weight_have_no_part(decay, broken, expected):
    @jax.jit
    def run(decay: Any) -> Any:
        optimizer = train.with_ema(optax.sgd(1.0), decay)
        points = [jnp.nan if i in broken else p for i, p in enumerate((9.0, 3.0, 5.0))]
        state = optimizer.init(jnp.array(points[0]))
        for point in points[1:]:
            _, state = optimizer.update(jnp.array(0.0), state, jnp.array(point))
        return state.average

    np.testing.assert_allclose(run(jnp.float32(decay)), expected, rtol=1e-6)


def test_plain_parameters_have_no_average():
    with pytest.raises(TypeError, match=r"ema_params.ts must be a train.TrainState, got .* write "):
        train.ema_params({"w": jnp.ones(3)})  # type: ignore[arg-type]
