"""Schedules beside optax's and the papers' formulas, with numbers that are data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn import train

STEPS = np.arange(0, 131)
PAIRS = {
    "constant": (train.Constant(0.3), optax.constant_schedule(0.3)),
    "linear": (train.Linear(0.3, 0.1, 90), optax.linear_schedule(0.3, 0.1, 90)),
    "cosine": (train.Cosine(0.3, 90, 0.06), optax.cosine_decay_schedule(0.3, 90, alpha=0.2)),
    "one cycle": (
        train.OneCycle(0.3, 100, 0.2),
        optax.cosine_onecycle_schedule(100, 0.3, pct_start=0.2),
    ),
    "one cycle, peak between steps": (
        train.OneCycle(0.3, 7, 0.25),
        optax.cosine_onecycle_schedule(7, 0.3, pct_start=0.25),
    ),
    "one cycle, other factors": (
        train.OneCycle(0.3, 10, 0.33, 5.0, 20.0),
        optax.cosine_onecycle_schedule(10, 0.3, 0.33, 5.0, 20.0),
    ),
    "piecewise": (
        train.Piecewise((0.3, 0.03, 0.06), (20, 50)),
        optax.piecewise_constant_schedule(0.3, {20: 0.1, 50: 2.0}),
    ),
    "warm-up, cosine": (
        train.Warmup(20, train.Cosine(0.3, 80, 0.03)),
        optax.warmup_cosine_decay_schedule(0.0, 0.3, 20, 100, 0.03),
    ),
    "warm-up, constant": (
        train.Warmup(20, train.Constant(0.3)),
        optax.warmup_constant_schedule(0.0, 0.3, 20),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_as_optax(name):
    ours, theirs = PAIRS[name]
    expected = jax.jit(jax.vmap(lambda step: jnp.asarray(theirs(step), jnp.float32)))(STEPS)
    found = jax.jit(jax.vmap(lambda schedule, step: jnp.asarray(schedule(step)), (None, 0)))
    # float32: a cosine of up to pi has an absolute error of some 1e-7, times the peak
    np.testing.assert_allclose(found(ours, STEPS), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(ours(37), float(theirs(37)), rtol=1e-5)


def test_inverse_square_root_after_warm_up_is_that_of_the_first_transformer():
    """Equation 3 of Attention is all you need, d = 512 and 4,000 steps of warm-up."""
    steps = np.array([1.0, 10, 3999, 4000, 4001, 100_000])
    expected = 512**-0.5 * np.minimum(steps**-0.5, steps * 4000**-1.5)
    ours = train.Warmup(4000, train.InverseSquareRoot((512 * 4000) ** -0.5, 4000))
    np.testing.assert_allclose([ours(step) for step in steps], expected, rtol=1e-6)


SCHEDULES: list[Any] = [*(ours for ours, _ in PAIRS.values()), train.InverseSquareRoot(0.3, 20)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_a_value_and_a_pytree_of_its_numbers(schedule):
    assert eval(repr(schedule), dict(vars(train))) == schedule
    assert hash(eval(repr(schedule), dict(vars(train)))) == hash(schedule)
    doubled = jax.tree.map(lambda number: 2 * number, schedule)
    assert type(doubled) is type(schedule)
    assert doubled != schedule
    # All numbers traced, and differentiable: the numbers of the peak scale the result.
    slope = jax.jit(jax.grad(lambda s: jnp.asarray(s(30.0), jnp.float32)))(
        jax.tree.map(float, schedule)
    )
    assert np.isfinite(jax.tree.leaves(slope)).all()
    assert any(np.abs(jax.tree.leaves(slope)) > 0)


def test_a_changed_schedule_compiles_nothing_anew():
    traces = []

    @jax.jit
    def rate(optimizer, step):
        traces.append(1)
        return optimizer.numbers["learning_rate"](step)

    for peak, steps in ((0.1, 10), (0.2, 20)):
        schedule = train.Warmup(5, train.Cosine(peak, steps))
        optimizer = train.Optimizer(optax.adam, learning_rate=schedule)
        np.testing.assert_allclose(rate(optimizer, 5), peak, rtol=1e-6)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: train.Cosine(0.1, 0), ValueError, r"Cosine.steps must be a number > 0, got 0"),
        (
            lambda: train.OneCycle(0.1, 9, 1.5),
            ValueError,
            r"OneCycle.warmup must be .* < 1, got 1.5",
        ),
        (
            lambda: train.Warmup(10, 0.1),  # type: ignore[arg-type]
            TypeError,
            r"Warmup.then must be a schedule, got 0.1; write Warmup\(500, train.Constant",
        ),
        (
            lambda: train.Piecewise((0.1,), (10,)),
            ValueError,
            r"one fewer than values, got \(10,\) for 1 values; write Piecewise",
        ),
        (
            lambda: train.Piecewise((3, 2, 1), (10, 5)),
            ValueError,
            r"Piecewise.boundaries must be increasing steps, .* got \(10, 5\) for 3 values",
        ),
        (
            lambda: train.Piecewise([3, 2], (10,)),  # type: ignore[arg-type]
            TypeError,
            r"Piecewise.values must be a tuple of numbers, got \[3, 2\]",
        ),
    ],
)
def test_the_error_says_what_is_wrong(make, error, text):
    with pytest.raises(error, match=text):
        make()
