"""LinearRecurrence: against a loop, the closed form, and itself over long sequences."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.functional.recurrence import decay, linear_recurrence
from tests.derivatives import check_derivatives
from tests.layers.agreement import KEY, normals
from tests.near import assert_near


def loop(params: Any, x: Any) -> Any:
    """The formula for one sequence (T, n), step by step, in complex128 numpy."""
    p: Any = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    x = np.asarray(x, np.float64)
    a = np.exp(-np.exp(p["log_rate"]) + 1j * np.exp(p["log_phase"]))
    into, out = (p[k]["re"] + 1j * p[k]["im"] for k in ("input", "output"))
    h, ys = np.zeros(len(a), complex), []
    for row in x:
        h = a * h + np.sqrt(1 - np.abs(a) ** 2) * (row @ into)
        ys.append((h @ out).real + p["skip"] * row)
    return np.array(ys, np.float32)


def test_a_loop():
    net, x = nn.LinearRecurrence(5, 0.3, 0.9), normals(0, 2, 7, 3)
    params = net.init(KEY, x)
    y = jax.jit(net.apply)(params, x)
    for row in range(2):
        assert_near(y[row], loop(params, x[row]))
    back = jax.jit(nn.LinearRecurrence(5, 0.3, 0.9, reverse=True).apply)(params, x[0])
    assert_near(back, loop(params, x[0][::-1])[::-1])


def test_the_closed_form():
    """An impulse dies as a**t, and a constant adds up to (1 - a**(t + 1)) / (1 - a)."""
    a, t = 0.9 * np.exp(0.3j), np.arange(50)
    many = jnp.full((50, 1), a, np.complex64)
    impulse, run = np.eye(50, 1).astype(np.complex64), jax.jit(linear_recurrence)
    np.testing.assert_allclose(run(many, impulse)[:, 0], a**t, rtol=2e-5)
    wanted = (1 - a ** (t + 1)) / (1 - a)
    np.testing.assert_allclose(run(many, np.ones_like(many))[:, 0], wanted, rtol=2e-5)
    # From a state of its own, of a known decay.
    h = np.full(1, 2.0, np.complex64)
    np.testing.assert_allclose(run(many, 0 * impulse, h)[:, 0], 2 * a ** (t + 1), rtol=2e-5)


def test_long_sequences_are_stable():
    """Twenty thousand steps, of decays down to 1e-7 a step, against the closed form."""
    length = 20_000
    rates, phases = np.array([1e-1, 1e-3, 1e-7]), np.array([1e-9, 1e-2, 1e-6])

    def last(log_rate: Any, log_phase: Any) -> Any:
        a, scale = decay(log_rate, log_phase)
        h = linear_recurrence(
            jnp.broadcast_to(a, (length, 3)),
            jnp.broadcast_to(scale.astype(a.dtype), (length, 3)),
        )
        return jnp.abs(h[-1]).sum(), h[-1]

    run = jax.jit(jax.value_and_grad(last, argnums=(0, 1), has_aux=True))
    logs = (jnp.asarray(np.log(n), np.float32) for n in (rates, phases))
    (_, h), gradients = run(*logs)
    a = np.exp(-rates + 1j * phases)
    wanted = np.sqrt(-np.expm1(-2 * rates)) * -np.expm1(length * np.log(a)) / -np.expm1(np.log(a))
    # The exponent of float32 is off by 1e-7, which the 2e4 steps of the sum multiply.
    np.testing.assert_allclose(h, wanted, rtol=2e-3)
    assert all(bool(np.isfinite(g).all()) for g in gradients)


def test_starts_in_its_ring():
    net = nn.LinearRecurrence(4000, 0.5, 0.9, max_phase=1.0)
    params = net.init(KEY, jnp.zeros((2, 1)))
    radius = np.exp(-np.exp(np.asarray(params["log_rate"], np.float64)))
    assert 0.5 <= radius.min() < 0.51 and 0.89 < radius.max() <= 0.9
    # Uniform by area: half of it within the root mean square of the radii; 4,000 draws.
    assert abs(np.mean(radius**2 < (0.25 + 0.81) / 2) - 0.5) < 0.03
    angle = np.exp(np.asarray(params["log_phase"]))
    assert abs(angle.mean() - 0.5) < 0.02 and angle.max() <= 1.0


def test_gradients():
    with jax.enable_x64(True):
        net, x = nn.LinearRecurrence(3, 0.3, 0.9), normals(0, 4, 2, dtype=np.float64)
        params = net.init(KEY, x)
        segment_ids = np.array([1, 1, 0, 2])

        def run(params, x):
            return net.apply(params, x, segment_ids=segment_ids)

        check_derivatives(run, params, x)


@pytest.mark.parametrize("reverse", [False, True])
def test_packed_rows_are_each_sequence_alone(reverse):
    net = nn.LinearRecurrence(3, reverse=reverse)
    segment_ids = jnp.array([[0, 4, 4, 0, 4, 0], [1, 1, 2, 2, 2, 0]])
    x = normals(0, 2, 6, 2)
    params = net.init(KEY, x)
    spoilt = jnp.where(segment_ids[..., None] == 0, jnp.nan, x)
    y = jax.jit(net.apply)(params, spoilt, segment_ids=segment_ids)

    @jax.jit
    def alone(params, x):
        expected = jnp.zeros_like(y)
        for row, at in [(0, [1, 2, 4]), (1, [0, 1]), (1, [2, 3, 4])]:
            places = np.array(at)
            expected = expected.at[row, places].set(net.apply(params, x[row, places]))
        return expected

    assert_near(y, alone(params, x))


def test_both_directions():
    net, x = nn.Bidirectional(nn.LinearRecurrence(3)), normals(0, 5, 2)
    params = net.init(KEY, x)
    ahead, back = (loop(params[k], y) for k, y in (("forward", x), ("backward", x[::-1])))
    assert_near(jax.jit(net.apply)(params, x), np.concatenate([ahead, back[::-1]], -1))


def test_refused():
    with pytest.raises(ValueError, match=r"min_radius must be below max_radius=0.5, got 0.9"):
        nn.LinearRecurrence(3, 0.9, 0.5)
    with pytest.raises(
        ValueError, match=r"LinearRecurrence.min_radius must be a number from 0 to 1, got"
    ):
        nn.LinearRecurrence(3, min_radius=cast(Any, "a"))
    with pytest.raises(
        ValueError, match=r"LinearRecurrence.max_phase must be a number > 0, got 0.0"
    ):
        nn.LinearRecurrence(3, max_phase=0.0)
    with pytest.raises(ValueError, match=r"so it cannot receive one in chunks"):
        nn.with_cache(nn.LinearRecurrence(3, reverse=True))
    net, x = nn.LinearRecurrence(3), jnp.ones((2, 4, 2))
    params = net.init(KEY, x)
    with pytest.raises(ValueError, match=r"a sequence of at least one step, got float32\[2,0,2\]"):
        net.apply(params, x[:, :0])
    with pytest.raises(ValueError, match=r"expected an input of shape \(\.\.\., T, features\)"):
        net.init(KEY, jnp.ones(3))
    with pytest.raises(ValueError, match=r"segment_ids must be of the shape"):
        net.apply(params, x, segment_ids=jnp.ones((2, 2), int))
    kept = nn.with_cache(net)
    with pytest.raises(ValueError, match=r"keeps a cache of 256 positions"):
        kept.apply(params, x, state=kept.init_state(x), train=True)


def test_a_new_sequence_forgets_what_is_not_finite():
    """Packed after one of NaN or inf, a sequence has the outputs that it has alone."""
    net, x = nn.LinearRecurrence(3), normals(0, 1, 6, 2)
    params, segment_ids = net.init(KEY, x), np.array([[1, 1, 1, 2, 2, 2]])
    cached = nn.with_cache(net, 6)

    @jax.jit
    def run(params, broken):
        whole = net.apply(params, broken, segment_ids=segment_ids)
        _, state = cached.apply(
            params, broken[:, :3], state=cached.init_state(x), segment_ids=segment_ids[:, :3]
        )
        y, _ = cached.apply(params, x[:, 3:], state=state, segment_ids=segment_ids[:, 3:])
        return whole[:, 3:], y

    alone = jax.jit(net.apply)(params, x[:, 3:])
    for bad in (np.nan, np.inf):
        broken = np.where(segment_ids[..., None] == 1, np.float32(bad), x)
        for found in run(params, broken):
            assert_near(found, alone)
