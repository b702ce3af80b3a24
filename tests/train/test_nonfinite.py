"""Loss scale and skipped steps: the rule by hand, float16 that would vanish, nothing changed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train

KEY = jax.random.key(0)
X = np.array([[1.0, 2.0], [3.0, -1.0]], np.float32)
Y = np.array([1.0, -2.0], np.float32)
NAN = np.full_like(X, np.nan)
NET = nn.Sequential(nn.BatchNorm(), nn.Dense(1))
TASK = train.Regression()


def program_of(optimizer, net: nn.Layer = NET, **options):
    return train.Supervised(net, TASK, optimizer, **options)


def begun(optimizer, net: nn.Layer = NET):
    return program_of(optimizer, net).init(KEY, (X, Y))


def skipping(opt_state):
    """The state that counts the skipped steps."""
    return opt_state if hasattr(opt_state, "skipped") else opt_state.inner


def digest(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_the_factor_grows_after_good_steps_and_halves_after_a_bad_one():
    optimizer = train.dynamic_loss_scale(optax.sgd(0.1), initial=8.0, period=3)
    params, good, bad = jnp.ones(2), jnp.ones(2), jnp.array([1.0, jnp.inf])
    state, scales = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for gradient in [good] * 3 + [good] * 2 + [bad] + [good] * 3 + [bad] * 5:
        updates, state = update(gradient, state)
        scales.append(float(state.scale))
        np.testing.assert_allclose(updates, -0.1 * gradient if gradient is good else 0)
    assert scales == [8, 8, 16, 16, 16, 8, 8, 8, 16, 8, 4, 2, 1, 1]
    assert int(state.inner.skipped) == 6


def test_the_factor_stays_finite():
    optimizer = train.dynamic_loss_scale(optax.sgd(0.1), initial=2.0**127, period=1)
    _, state = optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
    assert float(state.scale) == 2.0**127


@pytest.mark.parametrize("optimizer", [optax.adam(0.1), optax.chain(optax.clip(1.0), optax.sgd(1))])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_scaled_step_is_the_plain_one(optimizer, accumulate):
    """A factor of a power of two changes no digit of float32."""
    net = nn.Sequential(nn.Dense(4), jnp.tanh, nn.Dense(1))
    found = []
    for one in (optimizer, train.dynamic_loss_scale(optimizer, initial=1024.0)):
        ts, metrics = begun(one, net), {}
        step = train.make_step(program_of(one, net, accumulate=accumulate, log_norms="**"))
        for _ in range(3):
            ts, metrics = step(ts, (X, Y))
        found.append((ts.params, metrics))
    (params, metrics), (scaled, others) = found
    assert digest(scaled) == digest(params)
    assert (float(others.pop("loss_scale")), float(others.pop("skipped"))) == (1024.0, 0.0)
    assert digest(others) == digest(metrics)


def test_gradients_that_vanish_in_float16_do_not_when_scaled():
    """d loss / d w = 1e-3 * 1e-6 * x is below 6e-8, the smallest number of float16."""
    net, policy = nn.Dense(1, bias=False, w_init=nn.zeros()), nn.Precision(compute="float16")

    def loss(outputs, targets):
        return 1e-9 * jnp.sum(outputs)

    x, moved = np.ones((1, 1), np.float32), []
    for optimizer in (optax.sgd(1e9), train.dynamic_loss_scale(optax.sgd(1e9), initial=2.0**15)):
        program = train.Supervised(net, loss, optimizer, precision=policy)
        ts, _ = train.make_step(program)(program.init(KEY, (x, x)), (x, x))
        moved.append(float(ts.params["w"][0, 0]))
    assert moved[0] == 0.0
    assert moved[1] == pytest.approx(-1.0, rel=1e-2)  # 3e-5 has 9 bits below 2**-14 in float16


@pytest.mark.parametrize("wrap", [train.apply_if_finite, train.dynamic_loss_scale])
def test_a_step_that_is_not_finite_changes_nothing_but_the_count(wrap):
    optimizer = wrap(train.with_ema(train.Optimizer(optax.adam, learning_rate=0.1), decay=0.9))
    step = train.make_step(program_of(optimizer))
    ts, metrics = step(begun(optimizer), (X, Y))
    assert float(metrics["skipped"]) == 0.0
    before = jax.tree.map(np.asarray, ts)
    ts, metrics = step(ts, (NAN, Y))
    assert float(metrics["skipped"]) == 1.0
    assert np.isnan(float(metrics["loss"]))
    assert int(ts.step) == 2
    assert digest((ts.params, ts.state)) == digest((before.params, before.state))
    kept, old = (skipping(state.opt_state) for state in (ts, before))
    assert digest(kept.inner) == digest(old.inner)
    assert (int(kept.skipped), bool(kept.finite)) == (1, False)
    ts, metrics = step(ts, (X, Y))
    assert float(metrics["skipped"]) == 0.0
    assert digest(ts.params) != digest(before.params)


def test_a_run_with_a_bad_batch_is_the_run_without_it():
    """As `optax.apply_if_finite`, on a network whose draws and state do not tell steps apart."""
    net = nn.Dense(1)

    def run(optimizer, batches):
        ts = begun(optimizer, net)
        step = train.make_step(program_of(optimizer, net))
        for batch in batches:
            ts, _ = step(ts, batch)
        return digest(ts.params)

    batches = [(X, Y), (NAN, Y), (X, Y + 1)]
    skipping = run(train.apply_if_finite(optax.adam(0.1)), batches)
    assert skipping == run(train.apply_if_finite(optax.adam(0.1)), [batches[0], batches[2]])
    assert skipping == run(optax.apply_if_finite(optax.adam(0.1), 9), batches)


def test_what_skips_already_is_returned_as_it_is():
    scaled = train.dynamic_loss_scale(optax.adam(1e-3))
    for optimizer in (scaled, train.apply_if_finite(optax.adam(1e-3))):
        assert train.apply_if_finite(optimizer) is optimizer


PARAMS = jnp.ones(2)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: train.apply_if_finite(
                train.with_ema(train.dynamic_loss_scale(optax.sgd(1)))
            ).init(PARAMS),
            r"skip steps inside of another one must be 0, got 1; .*loss_scale around the whole ",
        ),
        (
            lambda: train.make_step(program_of(TWICE))(begun(TWICE), (X, Y)),
            r"loss scales of the optimizer must be 0 or 1, got 2; write train.dynamic_loss_scale",
        ),
        (
            lambda: train.dynamic_loss_scale(optax.sgd(1), 0.5),
            r"dynamic_loss_scale.initial must be .* >= 1, got 0.5",
        ),
        (
            lambda: train.dynamic_loss_scale(optax.sgd(1), period=0),
            r"dynamic_loss_scale.period must be .* >= 1, got 0",
        ),
        (
            lambda: train.dynamic_loss_scale(optax.sgd(1), factor=1),
            r"dynamic_loss_scale.factor must be .* > 1, got 1",
        ),
    ],
)
def test_the_error_says_what_is_wrong(make, text):
    with pytest.raises(ValueError, match=text):
        make()


TWICE = train.partition(
    {"**/w": train.dynamic_loss_scale(optax.sgd(1)), "**": train.dynamic_loss_scale(optax.sgd(1))}
)
