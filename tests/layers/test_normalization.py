"""LayerNorm, RMSNorm, BatchNorm: against flax and equinox on the same weights, and float64 numpy.

flax is asked for two-pass variances, which these layers take too.
"""

import functools
import os
import subprocess
import sys
from typing import Any

import chex
import equinox as eqx
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.layers.agreement import KEY, applied, assert_agree, normals, outputs_and_gradients
from tests.near import assert_near

FLAGS = [(True, True), (True, False), (False, True), (False, False)]


def weights(n: int, scale: bool = True, bias: bool = True) -> dict[str, jax.Array]:
    params = {"scale": normals(1, n), "b": normals(2, n)}
    return {k: p for k, p in params.items() if {"scale": scale, "b": bias}[k]}


def as_flax(params: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {"bias" if name == "b" else name: p for name, p in params.items()}


def reference(
    x: Any, axis: int, eps: float, scale: Any = 1.0, b: Any = 0.0, *, mean: bool = True
) -> Any:
    """The formula in float64 numpy."""
    x = np.asarray(x, np.float64)
    centered = x - x.mean(axis, keepdims=True) if mean else x
    scale, b = np.asarray(scale, np.float64), np.asarray(b, np.float64)
    return centered / np.sqrt((centered**2).mean(axis, keepdims=True) + eps) * scale + b


# ---- layer and root mean square ----


@pytest.mark.parametrize(("shape", "eps"), [((8,), 1e-5), ((3, 8), 0.3), ((2, 1, 3, 8), 1e-5)])
@pytest.mark.parametrize(("scale", "bias"), FLAGS)
def test_layer_norm_as_flax(shape, eps, scale, bias):
    peer = flax.linen.LayerNorm(eps, use_scale=scale, use_bias=bias, use_fast_variance=False)
    assert_agree(
        nn.LayerNorm(scale, bias, eps).apply,
        lambda params, x: peer.apply({"params": as_flax(params)}, x),
        weights(8, scale, bias),
        normals(0, *shape),
    )


def test_layer_norm_as_equinox():
    def theirs(params, x):
        peer = eqx.nn.LayerNorm(8, eps=1e-5)
        weight_and_bias = params["scale"], params["b"]
        return jax.vmap(eqx.tree_at(lambda p: (p.weight, p.bias), peer, weight_and_bias))(x)

    assert_agree(nn.LayerNorm().apply, theirs, weights(8), normals(0, 5, 8))


@pytest.mark.parametrize(("shape", "eps"), [((8,), 1e-6), ((3, 8), 0.3), ((2, 1, 3, 8), 1e-6)])
@pytest.mark.parametrize("scale", [True, False])
def test_rms_norm_as_flax(shape, eps, scale):
    peer = flax.linen.RMSNorm(eps, use_scale=scale)
    assert_agree(
        nn.RMSNorm(scale, eps).apply,
        lambda params, x: peer.apply({"params": params}, x),
        weights(8, scale, False),
        normals(0, *shape),
    )


def test_small_spread_about_a_large_mean():
    # A variance from the mean of squares is 0 here in float32.
    x = np.random.default_rng(0).normal(1000, 0.1, (4, 512)).astype(np.float32)
    # The mean rounds to 3e-5 (half a unit in the last place of 1000), 3e-4 of the deviation.
    expected = reference(x, -1, 1e-5)
    np.testing.assert_allclose(applied(nn.LayerNorm(False, False), {}, x), expected, atol=4e-4)
    net = nn.BatchNorm(scale=False, bias=False)
    y, _ = applied(net, {}, x.T, state=net.init_state(x.T), train=True)
    np.testing.assert_allclose(y, expected.T, atol=4e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("size", [1.0, 1e4])  # the square of 1e4 is beyond float16
def test_half_precision_rounds_once(dtype, size):
    x = (size * np.asarray(normals(0, 5, 64))).astype(dtype)
    params = weights(64)
    # Rounding the result once costs half a unit; float32 before it hardly counts.
    close = functools.partial(
        np.testing.assert_allclose, rtol=0.51 * float(jnp.finfo(dtype).eps), atol=1e-5
    )
    y = applied(nn.LayerNorm(), params, x)
    assert y.dtype == x.dtype
    expected = reference(x, -1, 1e-5, params["scale"], params["b"])
    close(np.asarray(y, np.float64), expected)
    y = applied(nn.RMSNorm(), {"scale": params["scale"]}, x)
    assert y.dtype == x.dtype
    expected = reference(x, -1, 1e-6, params["scale"], mean=False)
    close(np.asarray(y, np.float64), expected)
    net = nn.BatchNorm()
    y, state = applied(net, params, x, state=net.init_state(x), train=True)
    assert y.dtype == x.dtype and state["mean"].dtype == state["var"].dtype == jnp.float32
    expected = reference(x, 0, 1e-5, params["scale"], params["b"])
    close(np.asarray(y, np.float64), expected)
    wide = np.asarray(x, np.float64)
    np.testing.assert_allclose(state["mean"], 0.1 * wide.mean(0), rtol=1e-5, atol=1e-6 * size)
    np.testing.assert_allclose(state["var"], 0.9 + 0.1 * wide.var(0), rtol=1e-5)


@pytest.mark.parametrize("net", [nn.LayerNorm(), nn.RMSNorm(), nn.BatchNorm()], ids=str)
@pytest.mark.parametrize("train", [False, True])
def test_integers_become_floating(net, train):
    x = np.arange(12, dtype=np.int32).reshape(3, 4)
    params, state = net.init(KEY, x), net.init_state(x)
    y, _ = applied(net, params, x, state=state, train=train)
    wanted, _ = applied(net, params, x.astype(np.float32), state=state, train=train)
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, wanted)


def test_float64_stays_float64_in_inference():
    with jax.enable_x64(True):
        x = normals(0, 5, 3, dtype=np.float64) + 1000
        net = nn.BatchNorm(scale=False, bias=False)
        y, _ = net.apply({}, x, state=net.init_state(x))
        np.testing.assert_allclose(y, np.asarray(x) / np.sqrt(1 + 1e-5), rtol=1e-14)


def test_traced_eps():
    x = normals(0, 5, 8)
    run = jax.jit(lambda eps: nn.LayerNorm(False, False, eps).apply({}, x))
    np.testing.assert_allclose(run(0.5), reference(x, -1, 0.5), atol=1e-5)


# ---- batch ----


@pytest.mark.parametrize(
    ("shape", "axis", "scale", "bias"),
    [
        ((6, 3), -1, True, True),
        ((6, 3), 1, True, False),
        ((6, 3), 0, False, True),
        ((2, 4, 5, 3), -1, True, True),
        ((2, 3, 4, 5), 1, True, True),
        ((2, 3, 4, 5), -3, False, False),
        ((3,), 0, True, True),
    ],
    ids=str,
)
def test_batch_norm_as_flax_over_several_steps(shape, axis, scale, bias):
    net = nn.BatchNorm(0.8, scale, bias, 1e-3, axis)
    peer = flax.linen.BatchNorm(
        axis=axis,
        momentum=0.8,
        epsilon=1e-3,
        use_scale=scale,
        use_bias=bias,
        use_fast_variance=False,
    )

    def ours(params, state, x):
        return net.apply(params, x, state=state, train=True)

    def theirs(params, state, x):
        variables = {"params": as_flax(params), "batch_stats": state}
        y, new = peer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
        return y, new["batch_stats"]

    def infer(params, state, x):
        return net.apply(params, x, state=state)

    def peers_infer(params, state, x):
        variables = {"params": as_flax(params), "batch_stats": state}
        return peer.apply(variables, x, use_running_average=True), state

    @functools.partial(jax.jit, static_argnums=0)
    def run(f, params, state, x):
        def output(params, x):
            return f(params, state, x)[0]

        return outputs_and_gradients(output, params, x), f(params, state, x)[1]

    n = shape[axis]
    params, state = weights(n, scale, bias), {"mean": jnp.zeros(n), "var": jnp.ones(n)}
    chex.assert_trees_all_equal(net.init_state(normals(0, *shape)), state)
    peers = state
    for step in range(4):
        x = 2 * normals(step, *shape) + 3
        y, state = run(ours, params, state, x)
        peers_y, peers = run(theirs, params, peers, x)
        assert_near((y, state), (peers_y, peers))
    x = normals(7, *shape)
    assert_near(run(infer, params, state, x), run(peers_infer, params, peers, x))
    chex.assert_trees_all_equal(run(infer, params, state, x)[1], state)


def test_running_statistics_by_hand():
    x = jnp.array([[1.0], [5.0]])  # mean 3, variance 4 (divided by n)
    net = nn.BatchNorm(momentum=0.75)
    _, state = net.apply(net.init(KEY, x), x, state=net.init_state(x), train=True)
    assert jax.tree.map(lambda a: a.item(), state) == pytest.approx({"mean": 0.75, "var": 1.75})


def test_over_lanes_as_flax_over_the_whole_batch():
    lanes, whole = normals(0, 4, 6, 3), normals(0, 4, 6, 3).reshape(24, 3)
    params = weights(3)
    net = nn.BatchNorm(axis_name="lane")
    peer = flax.linen.BatchNorm(use_running_average=False, momentum=0.9, use_fast_variance=False)
    start = net.init_state(whole)

    def ours(params, x):
        def one(x):
            return net.apply(params, x, state=start, train=True)[0]

        return jax.vmap(one, axis_name="lane")(x.reshape(4, 6, 3)).reshape(24, 3)

    def theirs(params, x):
        variables = {"params": as_flax(params), "batch_stats": start}
        return peer.apply(variables, x, mutable=["batch_stats"])[0]

    assert_agree(ours, theirs, params, whole)

    def step(x):
        return net.apply(params, x, state=start, train=True)[1]

    states = jax.jit(jax.vmap(step, axis_name="lane"))(lanes)
    wide = np.asarray(whole, np.float64)
    expected = {"mean": 0.1 * wide.mean(0), "var": 0.9 + 0.1 * wide.var(0)}
    assert_near(states, jax.tree.map(lambda a: np.tile(a, (4, 1)).astype(np.float32), expected))


ON_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
import jaxnn as nn
assert jax.device_count() == 4
x = jnp.asarray(np.random.default_rng(0).normal(3, 2, (8, 3)), np.float32)
net = nn.BatchNorm(axis_name="data")
params, state = net.init(jax.random.key(0), x), net.init_state(x)
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
step = lambda x: net.apply(params, x, state=state, train=True)
y, new = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=P("data"), out_specs=(P("data"), P())))(x)
print(np.asarray(y).tolist(), np.asarray(new["mean"]).tolist(), np.asarray(new["var"]).tolist())
"""


def test_over_devices():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", ON_DEVICES]
    run = subprocess.run(command, env=os.environ | flags, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    y, mean, var = eval(run.stdout.replace("] [", "], ["))
    x = np.random.default_rng(0).normal(3, 2, (8, 3))
    np.testing.assert_allclose(y, reference(x, 0, 1e-5), atol=1e-5)
    np.testing.assert_allclose(mean, 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(var, 0.9 + 0.1 * x.var(0), rtol=1e-5)


def test_traced_momentum():
    x = jnp.array([[1.0], [5.0]])

    def run(momentum):
        net = nn.BatchNorm(momentum)
        return net.apply(net.init(KEY, x), x, state=net.init_state(x), train=True)[1]

    state = jax.jit(run)(0.75)
    np.testing.assert_allclose([state["mean"][0], state["var"][0]], [0.75, 1.75], rtol=1e-6)


def test_an_empty_batch_is_refused_in_training():
    x = jnp.ones((0, 3))
    net = nn.BatchNorm()
    assert net.apply(net.init(KEY, x), x, state=net.init_state(x))[0].shape == (0, 3)
    with pytest.raises(ValueError, match=r"a batch of at least one .*, got float32\[0,3\]"):
        net.apply(net.init(KEY, x), x, state=net.init_state(x), train=True)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_statistics_of_weight_zero_have_no_part(momentum):
    """Running statistics at momentum 0 and the batch's at 1, of NaN."""
    ordinary, broken = jnp.array([[1.0], [3.0]]), jnp.array([[jnp.nan], [jnp.inf]])
    state = {"mean": jnp.array([5.0]), "var": jnp.array([7.0])}
    if momentum == 0:
        x, state, expected = ordinary, jax.tree.map(lambda a: a * jnp.nan, state), (2.0, 1.0)
    else:
        x, expected = broken, (5.0, 7.0)
    net = nn.BatchNorm(momentum, scale=False, bias=False)
    _, new = net.apply({}, x, state=state, train=True)
    assert (new["mean"].item(), new["var"].item()) == expected
