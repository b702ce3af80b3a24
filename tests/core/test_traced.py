"""A layer built inside a trace may hold traced numbers: it works there, and is never compared."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.near import assert_near

KEY = jax.random.key(0)
X = jnp.ones((4, 8))
WRAPPERS = {
    "alone": lambda net: net,
    "Sequential": lambda net: nn.Sequential(nn.Dense(8), net),
    "Residual": nn.Residual,
    "Repeat": lambda net: nn.Repeat(net, 2),
    "Remat": nn.Remat,
    "Ensemble": lambda net: nn.Ensemble(net, 2),
    "Precision": nn.Precision,
    "capture": lambda net: nn.capture(nn.Sequential(net), "**"),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_many_rates_are_one_program(wrap):
    traces = []

    @jax.jit
    def run(rate):
        traces.append(1)
        net = wrap(nn.Dropout(rate))
        return net.apply(net.init(KEY, X), X, key=KEY, train=True)

    def expected(rate):
        net = wrap(nn.Dropout(rate))
        return net.apply(net.init(KEY, X), X, key=KEY, train=True)

    rates = [0.25, 0.5, 0.75]
    with jax.checking_leaks():
        found = [run(rate) for rate in rates]
    assert len(traces) == 1
    assert_near(found[1], expected(rates[1]))
    lanes = jax.vmap(run)(jnp.array(rates))
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *found)
    assert_near(lanes, stacked)


@pytest.mark.parametrize(
    "make",
    [
        lambda n: nn.LayerNorm(eps=n),
        lambda n: nn.RMSNorm(eps=n),
        lambda n: nn.BatchNorm(momentum=n, eps=n),
        lambda n: nn.Dense(3, b_init=nn.constant(n)),
        lambda n: nn.Dense(3, w_init=nn.normal(n)),
        lambda n: nn.Dense(3, w_init=nn.uniform(-n, n)),
        lambda n: nn.Dense(3, w_init=nn.truncated_normal(n)),
        lambda n: nn.Dense(3, w_init=nn.variance_scaling(n, "fan_in", "truncated_normal")),
        lambda n: nn.Repeat(nn.Dense(8, w_init=nn.orthogonal(n)), 2),
    ],
)
def test_every_number_may_be_traced(make):
    def run(number):
        net = make(number)
        params, state = net.init(KEY, X), net.init_state(X)
        return params, net.apply(params, X, state=state, train=True)

    found, expected = jax.jit(run)(0.25), run(0.25)
    assert_near(found, expected)


def test_the_rate_has_a_gradient():
    def mean(rate):
        return nn.Remat(nn.Dropout(rate)).apply({}, X, key=KEY, train=True).mean()

    assert np.isfinite(jax.grad(mean)(0.5))


def test_a_traced_layer_is_never_compared():
    @jax.jit
    def run(rate):
        net = nn.Sequential(nn.Dropout(rate))
        assert "traced" in repr(net)
        for compare in (hash, lambda n: n == nn.Sequential(nn.Dropout(rate)), lambda n: {n}):
            with pytest.raises(TypeError, match="cannot be compared or hashed"):
                compare(net)
        return net.apply(({},), X, key=KEY, train=True)

    run(0.5)


def test_sizes_are_never_traced():
    with pytest.raises(TypeError, match="traced"):
        jax.jit(lambda n: nn.Dense(n).init(KEY, X))(3)


def test_a_function_that_closes_over_a_tracer_is_not_kept():
    @jax.jit
    def run(scale):
        net = nn.Sequential(lambda x: scale * x, nn.Dense(3))
        return net.apply(net.init(KEY, X), X)

    with jax.checking_leaks():
        run(2.0)


def test_init_under_jit_with_a_key_from_outside():
    """A concrete key does not mean that numbers can be computed while tracing."""
    net = nn.Sequential(nn.Dense(3), nn.Dense(3))
    expected = net.init(KEY, X)
    assert_near(jax.jit(lambda: net.init(KEY, X))(), expected)
    params = jax.eval_shape(lambda: net.init(KEY, X))
    chex.assert_trees_all_equal_shapes_and_dtypes(params, expected)


def test_default_type_follows_the_setting_of_the_moment():
    """What is remembered for a layer and its shapes knows whether 64 bits are on."""
    net, x = nn.Dense(7), jnp.ones((2, 3), np.float32)
    assert net.init(KEY, x)["w"].dtype == np.float32
    with jax.enable_x64(True):
        assert net.init(KEY, x)["w"].dtype == np.float64
    assert net.init(KEY, x)["w"].dtype == np.float32
