"""Small blocks: LayerScale, GatedFeedForward, SqueezeExcitation, PatchEmbedding."""

import functools
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.layers.agreement import KEY, assert_agree, normals
from tests.near import assert_near


def test_layer_scale():
    x = normals(0, 3, 4)
    net = nn.LayerScale()
    np.testing.assert_allclose(net.apply(net.init(KEY, x), x), 1e-5 * x, rtol=1e-6)
    assert_agree(net.apply, lambda p, x: x * p["scale"], {"scale": normals(1, 4)}, x)


@pytest.mark.parametrize("activation", [jax.nn.silu, jax.nn.gelu, jax.nn.sigmoid])
@pytest.mark.parametrize("bias", [False, True])
def test_gated_feed_forward_as_flax_dense(activation, bias):
    """Shazeer's formula, from three of flax's Dense."""
    net, x = nn.GatedFeedForward(6, activation, bias), normals(0, 2, 3, 4)
    leaves, structure = jax.tree.flatten(net.init(KEY, x))
    params = structure.unflatten([normals(i, *leaf.shape) for i, leaf in enumerate(leaves)])

    def theirs(params, x):
        def dense(name, x):
            own = {"kernel": params[name]["w"]} | ({"bias": params[name]["b"]} if bias else {})
            peer = flax.linen.Dense(own["kernel"].shape[-1], use_bias=bias)
            return peer.apply({"params": own}, x)

        return dense("down", activation(dense("gate", x)) * dense("up", x))

    assert_agree(net.apply, theirs, params, x)


@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.silu])
def test_squeeze_excitation_by_the_formula(activation):
    net, x = nn.SqueezeExcitation(3, activation), normals(0, 2, 3, 2, 6)
    leaves, structure = jax.tree.flatten(net.init(KEY, x))
    params = structure.unflatten([normals(i, *leaf.shape) for i, leaf in enumerate(leaves)])
    assert params["reduce"]["w"].shape == (6, 2)

    def formula(params, x):
        z = jnp.mean(x, (1, 2))
        s = activation(z @ params["reduce"]["w"] + params["reduce"]["b"])
        s = jax.nn.sigmoid(s @ params["expand"]["w"] + params["expand"]["b"])
        return jnp.einsum("bhwc,bc->bhwc", x, s)

    assert_agree(net.apply, formula, params, x)


def test_squeeze_excitation_has_at_least_one_feature():
    params = nn.SqueezeExcitation().init(KEY, jnp.ones((1, 2, 4)))
    assert params["reduce"]["w"].shape == (4, 1)


@pytest.mark.parametrize(
    ("patch", "shape"), [(2, (3, 4, 6, 3)), ((2, 3), (4, 6, 2)), ((2, 1, 3), (1, 2, 2, 3, 2))]
)
def test_patch_embedding_as_a_strided_convolution(patch, shape):
    net, x = nn.PatchEmbedding(5, patch), normals(0, *shape)
    window = patch if isinstance(patch, tuple) else (patch, patch)
    params = {"w": normals(1, *window, shape[-1], 5), "b": normals(2, 5)}
    peer = flax.linen.Conv(5, window, strides=window, padding="VALID")

    def theirs(params, x):
        y: Any = peer.apply({"params": {"kernel": params["w"], "bias": params["b"]}}, x)
        return y.reshape(*y.shape[: -1 - len(window)], -1, 5)

    assert_agree(net.apply, theirs, params, x)
    ours = net.init(KEY, x)
    kernel: Any = peer.init(KEY, x)["params"]["kernel"]
    assert ours["w"].shape == kernel.shape


def test_patch_embedding_starts_with_the_variance_of_its_inputs():
    x = normals(0, 4, 32, 32, 3)
    net = nn.PatchEmbedding(64, 8)
    y = net.apply(net.init(KEY, x), x)
    # The standard deviation of 4,096 numbers has an error of 1.1 % at least; the weights' too.
    assert float(y.std()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_large_numbers_in_half_precision(dtype):
    """The mean of the squeeze is taken in float32: a sum of 1e4 is beyond float16."""
    x = jnp.full((1, 8, 8, 4), 1e4, dtype)
    net = nn.SqueezeExcitation(2)
    params = jax.tree.map(lambda a: 1e-4 * jnp.ones_like(a), net.init(KEY, x))
    apply = jax.jit(net.apply)
    y, exact = apply(params, x), apply(params, x.astype(np.float32))
    # The weights and the product are rounded to the half type.
    rounding = 2 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(y, np.float32), exact, rtol=rounding)


def test_weights_of_a_video_are_shared_over_its_frames():
    x = normals(0, 2, 3, 4, 4, 2)
    net = nn.PatchEmbedding(5, 2)
    params = net.init(KEY, x)
    assert_near(net.apply(params, x)[:, 1], net.apply(params, x[:, 1]))


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda: nn.GatedFeedForward(0), ValueError, "GatedFeedForward.hidden must be an int >= 1"),
        (
            lambda: nn.GatedFeedForward(4, nn.PReLU()),  # type: ignore[arg-type]
            TypeError,
            "GatedFeedForward.activation",
        ),
        (
            lambda: nn.SqueezeExcitation(4, "relu"),  # type: ignore[arg-type]
            TypeError,
            "SqueezeExcitation.activation must be a plain function such as jax.nn.gelu, got 'relu'",
        ),
        (lambda: nn.SqueezeExcitation(0), ValueError, "SqueezeExcitation.reduction must be an int"),
        (
            lambda: nn.PatchEmbedding(4, (2, 0)),
            ValueError,
            r"PatchEmbedding.patch must be an int >= 1, or a tuple of .* got \(2, 0\)",
        ),
        (lambda: nn.PatchEmbedding(4, ()), ValueError, "PatchEmbedding.patch must be an int >= 1"),
        (
            functools.partial(nn.PatchEmbedding(4, 3).init, KEY, jnp.ones((1, 6, 7, 3))),
            ValueError,
            r"the axes of float32\[1,6,7,3\], \(6, 7\), must be a multiple of \(3, 3\): pad",
        ),
        (
            functools.partial(nn.PatchEmbedding(4, 3).init, KEY, jnp.ones((6, 3))),
            ValueError,
            r"expected an input of shape \(..., 2 spatial axes, channels\)",
        ),
        (
            functools.partial(nn.LayerScale().init, KEY, jnp.ones(())),
            ValueError,
            r"expected an input of shape \(..., features\)",
        ),
    ],
)
def test_what_does_not_fit(make, kind, text):
    with pytest.raises(kind, match=text):
        make()
