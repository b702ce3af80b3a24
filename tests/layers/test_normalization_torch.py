"""Every norm against torch: outputs and all gradients, with the weights of a written fixture."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.fixtures.layers import stored as layer_stored
from tests.fixtures.normalization import CASES, FILE
from tests.near import assert_near

STORED = np.load(FILE)


def stored(case: str) -> dict[str, Any]:
    names = [n for n in STORED.files if n.startswith(f"{case}/")]
    return {n.rpartition("/")[2]: jnp.asarray(STORED[n]) for n in names}


def agree(net: nn.Layer, params: Any, grads: Any, a: dict[str, Any], state: Any, train: bool):
    """torch's y and gradients; what is returned is the state after the call."""

    def run(params, x):
        return net.apply(params, x, state=state, train=train)

    def all_of(params, x, dy):
        y, pull, after = jax.vjp(run, params, x, has_aux=True)
        return y, pull(dy), after

    y, found, after = jax.jit(all_of)(params, a["x"], a["dy"])
    assert_near((y, found), (a["y"], (grads, a["dx"])))
    return after


@pytest.mark.parametrize("name", CASES)
def test_norms(name):
    net, a = CASES[name][0], stored(name)
    params = {k: a[k] for k in ("scale", "b") if k in a}
    grads = {k: a["d" + k] for k in params}
    state = net.init_state(a["x"])
    after = agree(net, params, grads, a, state, train=True)
    if isinstance(net, nn.BatchNorm):
        n = a["x"].size // a["mean"].size
        # torch's running variance is of the batch's divided by n - 1.
        old = net.momentum
        running = {"mean": a["mean"], "var": old + (a["var"] - old) * (n - 1) / n}
        assert_near(after, running)
        later = stored(f"{name}, inference") | {"dy": a["dy"]}
        own = {"mean": a["mean"], "var": a["var"]}

        @jax.jit
        def run(x, dy):
            y, pull = jax.vjp(lambda x: net.apply(params, x, state=own)[0], x)
            return y, *pull(dy)

        assert_near(run(later["x"], later["dy"]), (later["y"], later["dx"]))


LAYERS = {"dense": nn.Dense(3), "convolution": nn.Conv(4, 3, padding="valid")}


@pytest.mark.parametrize("name", LAYERS)
def test_spectral_norm_in_a_training_call(name):
    a = stored(f"spectral {name}")
    net = nn.SpectralNorm(LAYERS[name])
    params, grads = ({k: a[p + k] for k in ("w", "b")} for p in ("", "d"))
    chex.assert_trees_all_equal_shapes(net.init(jax.random.key(0), a["x"]), params)
    after = agree(net, params, grads, a, {"w": {"u": a["u"]}}, train=True)
    assert_near(after, {"w": {"u": a["after"]}})


@pytest.mark.parametrize("name", LAYERS)
def test_weight_norm(name):
    a = stored(f"weight {name}")
    net = nn.WeightNorm(LAYERS[name])
    params, grads = ({"w": {k: a[p + k] for k in "vg"}, "b": a[p + "b"]} for p in ("", "d"))
    chex.assert_trees_all_equal_shapes(net.init(jax.random.key(0), a["x"]), params)
    agree(net, params, grads, a, {}, train=True)


def gradients(net, params, x, dy, **options):
    """y, the gradients, and the new state, of one program."""

    @jax.jit
    def run(params, x, dy):
        y, pull, state = jax.vjp(lambda p, x: net.apply(p, x, **options), params, x, has_aux=True)
        return y, pull(dy), state

    return run(params, x, dy)


def test_running_statistics_of_instances():
    """torch's running variance is of variances divided by n - 1."""
    a = layer_stored("instance, running")
    net = nn.InstanceNorm(track_running_stats=True, momentum=0.7)
    params, n = {k: a[k] for k in ("scale", "b")}, a["x"].shape[1]
    y, slopes, state = gradients(
        net, params, a["x"], a["dy"], state=net.init_state(a["x"]), train=True
    )
    assert_near((y, slopes), (a["y"], ({k: a[f"d{k}"] for k in params}, a["dx"])))
    assert_near(state, {"mean": a["mean"], "var": 0.7 + (a["var"] - 0.7) * (n - 1) / n})
    given = {"mean": a["mean"], "var": a["var"]}
    later = jax.jit(lambda x: net.apply(params, x, state=given)[0])(a["x"])
    assert_near(later, a["later"])


def test_cumulative_statistics_of_batches():
    a = layer_stored("batch, cumulative")
    net = nn.BatchNorm(None, scale=False, bias=False)
    state, n = net.init_state(a["x"][0]), a["x"].shape[1]
    step, y = jax.jit(lambda x, s: net.apply({}, x, state=s, train=True)), None
    for part in a["x"]:
        y, state = step(part, state)
    assert_near(y, a["y"])
    assert_near(state, {"count": 3, "mean": a["mean"], "var": a["var"] * (n - 1) / n})


def test_batch_renormalization_as_keras():
    a = layer_stored("batch renorm")
    # The first running deviation is 1 in keras, and sqrt(1 + eps) here.
    net = nn.BatchNorm(0.7, eps=1e-6, renorm=True, r_max=1.5, d_max=0.4)
    params, state = {k: a[k] for k in ("scale", "b")}, net.init_state(a["x"][0])
    first, last = a["x"]
    _, state = net.apply(params, first, state=state, train=True)
    y, slopes, state = gradients(net, params, last, a["dy"], state=state, train=True)
    assert_near((y, slopes), (a["y"], ({k: a[f"d{k}"] for k in params}, a["dx"][1])))
    assert_near(state, {k: a[k] for k in ("mean", "var")})


def test_unit_norm():
    a = layer_stored("unit norm")
    net = nn.UnitNorm(1)

    @jax.jit
    def run(x, dy):
        y, pull = jax.vjp(lambda x: net.apply({}, x), x)
        return y, *pull(dy)

    assert_near(run(a["x"], a["dy"]), (a["y"], a["dx"]))
