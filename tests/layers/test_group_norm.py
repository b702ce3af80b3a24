"""Group, instance and local response norm, and norms over several axes: against flax, haiku and
equinox, and what they refuse; every norm on large numbers of half precision."""

import equinox as eqx
import flax.linen
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.layers.agreement import KEY, assert_agree, normals
from tests.near import assert_near

PARAMS = {"scale": normals(1, 6), "b": normals(2, 6)}


@pytest.mark.parametrize(
    ("net", "peer"),
    [
        (nn.GroupNorm(3, eps=1e-3), flax.linen.GroupNorm(3, epsilon=1e-3, use_fast_variance=False)),
        (nn.InstanceNorm(), flax.linen.InstanceNorm(epsilon=1e-5, use_fast_variance=False)),
    ],
    ids=["group", "instance"],
)
def test_as_flax(net, peer):
    def theirs(params, x):
        return peer.apply({"params": {"scale": params["scale"], "bias": params["b"]}}, x)

    assert_agree(net.apply, theirs, PARAMS, normals(0, 2, 3, 2, 6))


def test_group_norm_as_haiku_and_equinox():
    peer = hk.without_apply_rng(hk.transform(lambda x: hk.GroupNorm(3)(x)))

    def haiku(params, x):
        return peer.apply({"group_norm": {"scale": params["scale"], "offset": params["b"]}}, x)

    def equinox(params, x):
        given = params["scale"], params["b"]
        one = eqx.tree_at(lambda p: (p.weight, p.bias), eqx.nn.GroupNorm(3, 6), given)
        return jnp.moveaxis(jax.vmap(one)(jnp.moveaxis(x, -1, 1)), 1, -1)

    x = normals(0, 2, 3, 2, 6)
    assert_agree(nn.GroupNorm(3).apply, haiku, PARAMS, x)
    assert_agree(nn.GroupNorm(3).apply, equinox, PARAMS, x)


@pytest.mark.parametrize("net", [nn.LayerNorm, nn.RMSNorm])
def test_several_axes_as_flax(net):
    """Any axes, in any order, with parameters in the order of x."""
    kind = getattr(flax.linen, net.__name__)
    exact = {"use_fast_variance": False} if net is nn.LayerNorm else {}
    peer = kind(reduction_axes=(0, -1), feature_axes=(0, -1), epsilon=1e-5, **exact)
    params = {"scale": normals(1, 2, 4), "b": normals(2, 2, 4)}
    if net is nn.RMSNorm:
        params.pop("b")
    ours = net(eps=1e-5, axis=(-1, 0))
    assert jax.tree.map(jnp.shape, ours.init(KEY, jnp.ones((2, 3, 4)))) == jax.tree.map(
        jnp.shape, params
    )

    def theirs(params, x):
        return peer.apply({"params": {"bias" if k == "b" else k: p for k, p in params.items()}}, x)

    assert_agree(ours.apply, theirs, params, normals(0, 2, 3, 4))


@pytest.mark.parametrize("net", [nn.GroupNorm(2), nn.InstanceNorm(), nn.SqueezeExcitation(2)])
def test_any_number_of_axes_of_examples(net):
    """`spatial` says where the window starts; without it, after the first axis."""
    x = normals(0, 2, 3, 2, 2, 4)
    explicit = nn.replace(net, "spatial", 2)
    params, run = net.init(KEY, x[0]), jax.jit(explicit.apply)
    rows = jax.jit(lambda x: jnp.stack([net.apply(params, one) for one in x]))(x)
    assert_near(run(params, x), rows)
    assert_near(run(params, x[0, 0]), rows[0, 0])


def test_a_large_mean_keeps_the_digits():
    # A variance from the mean of squares is 0 here in float32.
    x = np.random.default_rng(0).normal(1000, 0.1, (2, 64, 4)).astype(np.float32)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    y = nn.InstanceNorm(scale=False, bias=False).apply({}, x)
    # Half a unit in the last place of 1000 is 3e-5, 3e-4 of the deviation; the mean goes through a
    # sum of 64 numbers, whose roundings add up to a few of these.
    np.testing.assert_allclose(y, expected, atol=2e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "net",
    [
        nn.LayerNorm(),
        nn.LayerNorm(axis=(-2, -1)),
        nn.RMSNorm(),
        nn.GroupNorm(2),
        nn.InstanceNorm(),
        nn.LocalResponseNorm(3),
        nn.BatchNorm(),
        nn.SpectralNorm(nn.LayerScale(nn.ones()), match="scale"),
        nn.WeightNorm(nn.LayerScale(nn.ones()), match="scale"),
        nn.Sequential(jax.nn.softmax),
    ],
    ids=str,
)
def test_numbers_of_1e4_in_half_precision(net, dtype):
    """As float64 computes them, and no NaN, forward and backward; 1e4 squared is beyond float16."""
    x = (1e4 * normals(0, 3, 2, 4)).astype(dtype)
    params, state = net.init(KEY, x), net.init_state(x)

    @jax.jit
    def output(params, x):
        return net.apply(params, x, state=state, train=True)[0]

    @jax.jit
    def with_gradients(params, x):
        y, pull = jax.vjp(output, params, x)
        return y, pull(jnp.ones_like(y))

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
        expected = output(wide, np.asarray(x, np.float64))
    y, gradients = with_gradients(params, x)
    assert y.dtype == dtype
    # Softmax subtracts in the type of x; all others round the result alone.
    rounding = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=rounding, atol=1e-5)
    for leaf in jax.tree.leaves(gradients):
        assert np.isfinite(np.asarray(leaf, np.float64)).all()


@pytest.mark.parametrize(
    ("net", "shape", "text"),
    [
        (
            nn.GroupNorm(3),
            (2, 5, 4),
            r"float32\[2,5,4\], 4, must be a multiple of 3",
        ),
        (nn.GroupNorm(2), (4,), r"expected an input of shape \(examples, ..., features\)"),
        (nn.GroupNorm(2, spatial=2), (3, 4), r"\(..., 2 window axes, features\)"),
        (
            nn.InstanceNorm(),
            (2, 4),
            r"a window to normalize each feature over, but float32\[2,4\] has none",
        ),
        (nn.LayerNorm(axis=(0, 2)), (2, 4), r"axis=\(0, 2\) must name distinct axes that float32"),
        (nn.RMSNorm(axis=(1, -1)), (2, 4), r"axis=\(1, -1\) must name distinct axes that"),
        (nn.LocalResponseNorm(), (), r"shape \(..., features\), got float32\[\]"),
    ],
    ids=str,
)
def test_inputs_that_do_not_fit(net, shape, text):
    with pytest.raises(ValueError, match=text):
        net.init(KEY, jnp.ones(shape))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.GroupNorm(0), "GroupNorm.groups must be an int >= 1, got 0"),
        (lambda: nn.GroupNorm(2, eps=-1.0), "GroupNorm.eps must be a number >= 0"),
        (
            lambda: nn.InstanceNorm(spatial=-1),
            "InstanceNorm.spatial must be None or the number of axes",
        ),
        (lambda: nn.LayerNorm(axis=()), r"LayerNorm.axis must be an axis or a tuple of axes"),
        (lambda: nn.LocalResponseNorm(0), "LocalResponseNorm.size must be an int >= 1"),
    ],
)
def test_fields_that_do_not_fit(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_traced_numbers():
    x = normals(0, 2, 3, 4)

    def run(number):
        return (
            nn.GroupNorm(2, False, False, number).apply({}, x),
            nn.LocalResponseNorm(3, number, number, number).apply({}, x),
        )

    assert_near(jax.jit(run)(0.5), run(0.5))
