"""Conv, DepthwiseConv, SeparableConv, ConvTranspose: against torch's outputs and gradients, flax,
equinox and haiku on the same weights, and the formulas.

The file of torch's results holds those of PixelShuffle, Upsample and Bilinear too.
"""

import re
from typing import Any

import equinox as eqx
import flax.linen
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.functional.convolution import convolution, transposed_convolution
from tests.fixtures.convolution import CASES, FILE
from tests.layers.agreement import KEY, assert_agree, normals
from tests.near import assert_near

TORCH = dict(np.load(FILE))


# ---- torch, from the file ----


@pytest.mark.parametrize("name", CASES)
def test_as_torch(name: str):
    """Outputs, and the gradients of inputs and parameters for torch's cotangent."""
    found = {k.split("/")[1]: a for k, a in TORCH.items() if k.startswith(f"{name}/")}
    layer = CASES[name][0]
    params = {k: found[k] for k in "wb" if k in found}
    inputs = [found[k] for k in "xz" if k in found]

    @jax.jit
    def run(params, inputs, dy):
        y, pull = jax.vjp(lambda p, x: layer.apply(p, *x), params, inputs)
        return y, *pull(dy)

    gradients = {k: found[f"d{k}"] for k in params}, [found[f"d{k}"] for k in "xz" if k in found]
    assert_near(run(params, inputs, found["dy"]), (found["y"], *gradients))


def test_lengths_as_torch():
    for size, kernel, stride, dilation, padding, extra, length in TORCH["lengths"].tolist():
        net = nn.ConvTranspose(1, kernel, stride, dilation, 1, padding, extra)
        x = jax.ShapeDtypeStruct((1, size, 1), np.float32)
        y = jax.eval_shape(lambda x, net=net: net.apply(net.init(KEY, x), x), x)
        assert y.shape == (1, length, 1)


# ---- peers, on the same weights ----


def weights(*shape: int) -> dict[str, jax.Array]:
    return {"w": normals(1, *shape), "b": normals(2, shape[-1])}


PEERS = {
    "same, stride 2": (nn.Conv(4, (3, 2), stride=2), {"strides": 2}),
    "valid, dilated": (nn.Conv(4, (3, 2), 1, (2, 1), 1, "valid"), {"kernel_dilation": (2, 1)}),
    "circular, dilated": (nn.Conv(4, (3, 2), 2, 2, 1, "circular"), {"kernel_dilation": 2}),
    "reflect, grouped": (nn.Conv(4, (3, 2), 1, 1, 2, "reflect"), {"feature_group_count": 2}),
    "pairs": (nn.Conv(4, (3, 2), 1, 1, 1, ((0, 2), (1, 0))), {"padding": ((0, 2), (1, 0))}),
}


@pytest.mark.parametrize("name", PEERS)
def test_as_flax(name: str):
    net, options = PEERS[name]
    options = {"padding": str(net.padding).upper(), "strides": net.stride} | options
    peer = flax.linen.Conv(4, (3, 2), **options)

    def theirs(params, x):
        return peer.apply({"params": {"kernel": params["w"], "bias": params["b"]}}, x)

    assert_agree(net.apply, theirs, weights(3, 2, 4 // net.groups, 4), normals(0, 2, 5, 4, 4))


def test_causal_as_flax():
    peer = flax.linen.Conv(4, (3,), kernel_dilation=2, padding="CAUSAL")

    def theirs(params, x):
        return peer.apply({"params": {"kernel": params["w"], "bias": params["b"]}}, x)

    net = nn.Conv(4, 3, dilation=2, padding="causal")
    assert_agree(net.apply, theirs, weights(3, 3, 4), normals(0, 2, 6, 3))


def test_as_equinox():
    def make() -> eqx.nn.Conv3d:
        return eqx.nn.Conv3d(4, 2, (2, 1, 3), stride=(1, 2, 1), padding=1, groups=2, key=KEY)

    def theirs(params, x):
        peer = eqx.filter_eval_shape(make)  # its own numbers are not needed
        given = jnp.moveaxis(params["w"], (-1, -2), (0, 1)), params["b"].reshape(2, 1, 1, 1)
        module = eqx.tree_at(lambda p: (p.weight, p.bias), peer, given)
        return jnp.moveaxis(module(jnp.moveaxis(x, -1, 0)), 0, -1)

    net = nn.Conv(2, (2, 1, 3), stride=(1, 2, 1), padding=1, groups=2)
    assert_agree(net.apply, theirs, weights(2, 1, 3, 2, 2), normals(0, 3, 3, 2, 4))


def test_transposed_as_flax():
    """linen's, which turns the kernel over where it is asked to."""
    peer = flax.linen.ConvTranspose(
        4, (3, 2), strides=(2, 1), padding="VALID", transpose_kernel=True
    )

    def theirs(params, x):
        kernel = jnp.swapaxes(params["w"], -1, -2)
        return peer.apply({"params": {"kernel": kernel, "bias": params["b"]}}, x)

    net = nn.ConvTranspose(4, (3, 2), stride=(2, 1), padding="valid")
    assert_agree(net.apply, theirs, weights(3, 2, 3, 4), normals(0, 2, 4, 3, 3))


def test_transposed_with_a_stride_longer_than_the_window_as_flax():
    peer = flax.linen.ConvTranspose(4, (2,), strides=(3,), padding="VALID", transpose_kernel=True)

    def theirs(params, x):
        kernel = jnp.swapaxes(params["w"], -1, -2)
        return peer.apply({"params": {"kernel": kernel, "bias": params["b"]}}, x)

    net = nn.ConvTranspose(4, 2, stride=3, padding="valid", output_padding="stride")
    assert_agree(net.apply, theirs, weights(2, 3, 4), normals(0, 2, 3, 3))


def test_transposed_as_equinox():
    def make() -> eqx.nn.ConvTranspose2d:
        return eqx.nn.ConvTranspose2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), key=KEY)

    def theirs(params, x):
        peer = eqx.filter_eval_shape(make)
        turned = jnp.flip(params["w"], (0, 1))
        given = jnp.moveaxis(turned, (-1, -2), (0, 1)), params["b"].reshape(4, 1, 1)
        module = eqx.tree_at(lambda p: (p.weight, p.bias), peer, given)
        return jnp.moveaxis(module(jnp.moveaxis(x, -1, 0)), 0, -1)

    net = nn.ConvTranspose(4, (3, 2), stride=(2, 1), padding=(1, 0))
    assert_agree(net.apply, theirs, weights(3, 2, 3, 4), normals(0, 4, 3, 3))


def test_depthwise_and_separable_as_haiku():
    def forward(x):
        x = hk.DepthwiseConv2D(2, (3, 2), name="depthwise", with_bias=False)(x)
        return hk.Conv2D(4, 1, name="pointwise")(x)

    peer = hk.without_apply_rng(hk.transform(forward))
    net = nn.SeparableConv(4, (3, 2), multiplier=2)
    params = {"depthwise": {"w": normals(3, 3, 2, 1, 6)}, "pointwise": weights(1, 1, 6, 4)}
    assert_agree(net.apply, peer.apply, params, normals(0, 2, 4, 3, 3))


# ---- formulas ----


def test_the_formula_of_a_convolution():
    """A sum of shifted products, grouped, dilated and strided, in float64 numpy."""
    x, w = normals(0, 9, 4), normals(1, 3, 2, 6)
    y = convolution(x, w, stride=2, dilation=2, groups=2, padding="valid")
    wide, kernel = np.asarray(x, np.float64), np.asarray(w, np.float64)
    wanted = np.zeros((3, 6))
    for t in range(3):
        for i in range(3):
            for group in range(2):
                channels, features = (
                    slice(2 * group, 2 * group + 2),
                    slice(3 * group, 3 * group + 3),
                )
                wanted[t, features] += wide[2 * t + 2 * i, channels] @ kernel[i, :, features]
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)  # float32 sums of six terms


@pytest.mark.parametrize(("size", "kernel", "stride"), [(4, 3, 2), (5, 4, 2), (3, 2, 3), (4, 5, 1)])
def test_same_is_the_transpose_of_the_convolution(size: int, kernel: int, stride: int):
    w, x = normals(1, kernel, 2, 3), normals(0, size, 3)

    def forward(z):
        return convolution(z, w, stride=stride)

    (wanted,) = jax.linear_transpose(forward, jnp.zeros((size * stride, 2)))(x)
    assert_near(transposed_convolution(x, w.swapaxes(1, 2), stride=stride), wanted)


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 5, 3), (2, 0, 5, 3)])
def test_any_number_of_batch_axes(shape: tuple[int, ...]):
    params, x = weights(3, 3, 2), normals(0, *shape)
    for net in (nn.Conv(2, 3), nn.ConvTranspose(2, 3)):
        y = net.apply(params, x)
        assert y.shape == (*shape[:-1], 2)
        one_batch = net.apply(params, x.reshape(-1, 5, 3))
        assert_near(y.reshape(-1, 5, 2), one_batch)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("net", [nn.Conv(4, 3), nn.ConvTranspose(4, 3)], ids=str)
def test_it_computes_in_the_type_of_its_input(net: nn.Layer, dtype: str):
    """In that type alone, with float32 parameters: no product in a wider one."""
    x = normals(0, 2, 5, 3).astype(dtype)
    jaxpr = jax.make_jaxpr(net.apply)(weights(3, 3, 4), x).jaxpr
    (found,) = [e for e in jaxpr.eqns if e.primitive.name == "conv_general_dilated"]
    types = [v.aval.dtype.name for v in (*found.invars, *found.outvars, *jaxpr.outvars)]
    assert types == [dtype] * 4


def test_integers_take_the_type_of_the_parameters():
    x = jnp.arange(10, dtype=jnp.int32).reshape(5, 2)
    y = nn.Conv(4, 3).apply(weights(3, 2, 4), x)
    assert y.dtype == jnp.float32
    assert_near(y, nn.Conv(4, 3).apply(weights(3, 2, 4), x.astype(np.float32)))


@pytest.mark.parametrize(
    ("net", "shape", "layout"),
    [
        (nn.Conv(4, 3, stride=2), (2, 5, 3), "NWC WIO"),
        (nn.Conv(4, (3, 3)), (2, 5, 4, 3), "NHWC HWIO"),
        (nn.Conv(4, (1, 2, 3), padding=1, dilation=2), (1, 4, 4, 4, 3), "NDHWC DHWIO"),
    ],
    ids=str,
)
def test_it_is_the_plain_convolution_of_xla(net: nn.Conv, shape: tuple[int, ...], layout: str):
    """No transpose, reshape or padding of its own: the convolution and the sum with the bias."""
    x = normals(0, *shape)
    jaxpr = jax.make_jaxpr(net.apply)(net.init(KEY, x), x).jaxpr
    names = [e.primitive.name for e in jaxpr.eqns]
    assert names in (
        ["conv_general_dilated", "reshape", "add"],
        ["conv_general_dilated", "broadcast_in_dim", "add"],
    )
    image, kernel = layout.split()
    wanted = jax.lax.conv_dimension_numbers(shape, shape, (image, kernel, image))
    assert jaxpr.eqns[0].params["dimension_numbers"] == wanted


@pytest.mark.parametrize(
    ("net", "fan"),
    [
        (nn.Conv(8, (3, 2)), 3 * 2 * 8),
        (nn.Conv(8, (3, 2), groups=4), 3 * 2 * 2),
        (nn.DepthwiseConv((3, 2), 3), 3 * 2),
    ],
    ids=str,
)
def test_the_fan_of_a_kernel_is_its_window(net: nn.Layer, fan: int):
    w: Any = net.spec(jax.ShapeDtypeStruct((1, 4, 4, 8), np.float32))
    assert w["w"].init.fan(w["w"].shape) == fan


# ---- causal, and piece by piece ----


def test_explicit_padding_may_be_causal():
    """The law of chunks runs over "causal" itself."""
    whole = nn.DepthwiseConv(3, 2, padding=((2, 0),))
    net, x = (
        nn.with_cache(whole, 1),
        normals(0, 2, 5, 3),
    )  # it keeps what it needs, whatever the length
    params = whole.init(KEY, x)

    @jax.jit
    def both(params, x):
        start, state = net.apply(params, x[:, :1], state=net.init_state(x))
        end, _ = net.apply(params, x[:, 1:], state=state)
        return jnp.concatenate([start, end], 1), whole.apply(params, x)

    assert_near(*both(params, x))


def test_a_cache_keeps_what_the_next_output_sees():
    net = nn.Conv(4, 3, dilation=2, padding="causal", cache=1)
    x = jax.ShapeDtypeStruct((5, 1, 3), "bfloat16")
    assert jax.tree.map(lambda s: (s.shape, s.dtype.name), net.init_state(x)) == {
        "inputs": ((5, 4, 3), "bfloat16"),
        "segment_ids": ((5, 4), "int32"),
    }
    assert nn.Conv(4, 1, cache=1).init_state(x) == {}
    assert nn.Conv(4, (3, 3), cache=1).init_state(jnp.ones((4, 4, 3))) == {}


# ---- packed and padded sequences ----

SEGMENTS = jnp.array([[0, 4, 4, 0, 4, 0], [1, 1, 2, 2, 2, 1], [0, 0, 0, 0, 0, 0]])
ALONE = [(0, [1, 2, 4]), (1, [0, 1]), (1, [2, 3, 4]), (1, [5])]  # rows, and positions in them


@pytest.mark.parametrize(
    "net",
    [
        nn.Conv(4, 3, groups=2),
        nn.Conv(3, 3, dilation=2, padding="causal"),
        nn.Conv(3, 4, padding=(((0, 3),))),
        nn.DepthwiseConv(2, 2, padding=((1, 0),)),
        nn.SeparableConv(3, 7, dilation=2, padding=6),
        nn.Conv(3, 1, padding="circular"),
    ],
    ids=str,
)
def test_packed_rows_are_each_sequence_alone(net: nn.Layer):
    """Outputs and gradients, whatever stands in the padding."""
    x = normals(0, 3, 6, 2)
    params = jax.tree.map(lambda p: p + 0.5, net.init(KEY, x))  # biases too
    spoilt = jnp.where(SEGMENTS[..., None] == 0, jnp.nan, x)

    def packed(params: Any, x: Any) -> Any:
        return net.apply(params, x, segment_ids=SEGMENTS)

    def alone(params: Any, x: Any) -> Any:
        y = jnp.zeros((3, 6, jax.eval_shape(net.apply, params, x).shape[-1]))
        for row, at in ALONE:
            y = y.at[row, jnp.array(at)].set(net.apply(params, x[row, jnp.array(at)]))
        return y

    dy = normals(1, *jax.eval_shape(alone, params, x).shape)
    found, expected = (
        jax.jit(lambda p, x, f=f: (f(p, x), jax.vjp(f, p, x)[1](dy)))(params, given)
        for f, given in ((packed, spoilt), (alone, x))
    )
    assert_near(found, expected)


def test_a_piece_without_segments_goes_on_in_the_last_one():
    whole = nn.Sequential(nn.Conv(3, 3, padding="causal"), nn.SeparableConv(2, 2, padding="causal"))
    net, x = nn.with_cache(whole, 1), normals(0, 2, 6, 3)
    params = whole.init(KEY, x)

    @jax.jit
    def run(first: jax.Array) -> Any:
        y0, state = net.apply(params, x[:, :2], state=net.init_state(x), segment_ids=first)
        y1, state = net.apply(params, x[:, 2:3], state=state)
        y2, _ = net.apply(params, x[:, 3:], state=state)
        segment_ids = jnp.concatenate([first, jnp.array([[2] * 4, [-2] * 4])], 1)
        return jnp.concatenate([y0, y1, y2], 1), whole.apply(params, x, segment_ids=segment_ids)

    assert_near(*run(jnp.array([[1, 2], [-2, 0]])))

    @jax.jit
    def begun_without(then: jax.Array) -> Any:
        """At the start it is segment 1."""
        _, state = net.apply(params, x[:, :2], state=net.init_state(x))
        y, _ = net.apply(params, x[:, 2:], state=state, segment_ids=then)
        return y, jnp.stack([whole.apply(params, x)[0, 2:], whole.apply(params, x[1, 2:])])

    assert_near(*begun_without(jnp.array([[1] * 4, [2] * 4])))


def test_segments_pass_by_a_convolution_over_more_axes():
    """Of frames, whose axes in front are batch."""
    net = nn.Sequential(nn.Conv(2, (2, 1)), nn.Recurrent(nn.ConvLSTMCell(2, (1, 1))))
    frames, segment_ids = normals(0, 3, 2, 2, 1), jnp.array([1, 1, 2])
    params = net.init(KEY, frames)
    apply = jax.jit(net.apply)
    y = apply(params, frames, segment_ids=segment_ids)
    assert_near(y[2:], apply(params, frames[2:]))


@pytest.mark.parametrize(
    "net",
    [nn.Conv(4, 3, stride=2), nn.DepthwiseConv(3), nn.SeparableConv(4, 3, padding="circular")],
    ids=str,
)
def test_segments_of_frames_pass_by_a_convolution_along_each(net: nn.Layer):
    """With a batch axis or without one: each frame (L, C) is convolved alone, padding as zeros."""
    x = normals(0, 2, 6, 5, 2)
    real = (SEGMENTS[:2] != 0)[..., None, None]
    params = net.init(KEY, x)

    @jax.jit
    def run(params: Any, x: Any) -> Any:
        frames = jnp.where(real, x, 0)
        alone = jax.vmap(jax.vmap(lambda frame: net.apply(params, frame)))(frames)
        packed = net.apply(params, x, segment_ids=SEGMENTS[:2])
        return alone, packed, net.apply(params, x[0], segment_ids=SEGMENTS[0])

    alone, packed, one = run(params, x)
    assert_near((packed, one), (alone, alone[0]))


def test_segments_of_another_axis():
    """Of videos (..., T, H, W, C); and of frames where the convolution keeps a cache along them."""
    net, x = nn.Conv(4, 3, padding="causal"), normals(0, 2, 6, 3, 5, 2)
    text = "mark an axis of float32[2,6,3,5,2] that is not convolved; write kernel_size=(1, 3)"
    params = net.init(KEY, x)
    fails(f"segment_ids (2, 6) {text}", lambda: net.apply(params, x, segment_ids=SEGMENTS[:2]))
    kept, frames = nn.with_cache(net, 8), x[:, :, 0]
    state = kept.init_state(frames)
    fails(
        "kernel_size=(1, 3), which takes none and keeps no cache",
        lambda: kept.apply(params, frames, state=state, segment_ids=SEGMENTS[:2]),
    )
    video = nn.Sequential(nn.Conv(4, (1, 3)), nn.Recurrent(nn.ConvLSTMCell(2, (1, 1))))
    shape = jax.eval_shape(lambda: video.apply(video.init(KEY, x), x, segment_ids=SEGMENTS[:2]))
    assert shape.shape == (2, 6, 3, 5, 2)


@pytest.mark.parametrize(
    ("net", "text"),
    [
        (
            nn.Conv(4, 3, stride=2),
            "segment_ids require stride 1 and zero padding that keeps the le",
        ),
        (nn.Conv(4, 3, padding="valid"), "padding='valid'; write padding='same' or 'causal'"),
        (nn.Conv(4, 3, padding=2), "that keeps the length; got stride=1, padding=2"),
        (nn.DepthwiseConv(3, padding="circular"), "zero padding that keeps the length"),
        (nn.SeparableConv(4, 3, stride=(2,)), "at 'depthwise', DepthwiseConv"),
    ],
    ids=str,
)
def test_segments_that_cannot_be(net: nn.Layer, text: str):
    x = normals(0, 2, 6, 2)
    params = net.init(KEY, x)
    fails(text, lambda: net.apply(params, x, segment_ids=SEGMENTS[:2]))


def test_segments_that_do_not_fit():
    x = normals(0, 2, 6, 6, 2)
    for net in (nn.Conv(4, (3, 3)), nn.DepthwiseConv((3, 3)), nn.SeparableConv(4, (3, 3))):
        params = net.init(KEY, x)
        fails(
            "no layer of the network takes an input 'segment_ids'",
            lambda net=net, params=params: net.apply(params, x, segment_ids=SEGMENTS[:2]),
            TypeError,
        )
    net = nn.Conv(4, 3)
    params = net.init(KEY, x[0])
    fails(
        "segment_ids must be of the shape (..., T) of the sequence, (6, 6), got int32[3,6]",
        lambda: net.apply(params, x[0], segment_ids=SEGMENTS),
    )
    for floating in (x[0, ..., 0], x[0, :, 0, 0]):
        fails(
            "segment_ids must be integers",
            lambda floating=floating: net.apply(params, x[0], segment_ids=floating),
            TypeError,
        )


# ---- bad input ----


def fails(text: str, run: Any, kind: Any = ValueError) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        run()


IMAGE = jnp.ones((2, 4, 4, 6))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: nn.Conv(6, (3, 3), groups=4),
            "Conv.groups must be a divisor of features=6, got 4",
        ),
        (lambda: nn.Conv(6, 3, padding="some"), "Conv.padding must be 'same', 'valid', 'causal', "),
        (lambda: nn.Conv(6, (3, 3), padding=(1, 2, 3)), "each of the 2 axes, got (1, 2, 3)"),
        (lambda: nn.Conv(6, 3, padding=-1), "an int >= 0"),
        (lambda: nn.Conv(6, (3, 3), padding="causal"), "padding=('causal', 'same')"),
        (
            lambda: nn.ConvTranspose(6, 3, padding="causal"),
            "padding must be 'same', 'valid', an int",
        ),
        (lambda: nn.Conv(6, (3,) * 4), "with one for each of 1 to 3 axes, got (3, 3, 3, 3)"),
        (lambda: nn.Conv(6, 0), "a tuple with one for each of 1 to 3 axes, got 0"),
        (
            lambda: nn.Conv(6, (3, 0)),
            "Conv.kernel_size must be an int >= 1, or a tuple with one for",
        ),
        (lambda: nn.Conv(6, 3, stride=(1, 2)), "the 1 axes of the kernel, got (1, 2)"),
        (lambda: nn.Conv(6, 3, cache=2), "can keep a cache only if it is causal, over one axis"),
        (lambda: nn.Conv(6, 3, 2, padding="causal", cache=2), "with stride 1; got"),
        (lambda: nn.ConvTranspose(6, 3, 2, output_padding=2), "below the stride or the dilation"),
    ],
)
def test_a_layer_that_cannot_be(make: Any, text: str):
    fails(text, make)


@pytest.mark.parametrize(
    ("net", "x", "text"),
    [
        (
            nn.Conv(4, (3, 3), groups=4),
            IMAGE,
            "float32[2,4,4,6], 6, must be a multiple of 4",
        ),
        (nn.Conv(4, (5, 1), padding="valid"), IMAGE, "a window that spans 5 elements (kernel 5, "),
        (
            nn.Conv(4, 2, dilation=4, padding="valid"),
            IMAGE,
            "does not fit axis 2 of an array (2, 4, 4, 6)",
        ),
        (
            nn.Conv(4, (3, 3)),
            jnp.ones((4, 4)),
            "expected an input of shape (..., height, width, chan",
        ),
        (
            nn.Conv(4, 3, padding=1),
            jnp.ones((2, 0, 3)),
            "axis 1 of an array (2, 0, 3) padded by 1 before",
        ),
        (
            nn.Conv(4, 9, padding="reflect"),
            jnp.ones((4, 1)),
            "at most 3 elements on each side of an axis of 4, but 4 are needed",
        ),
        (
            nn.Conv(4, 11, padding="circular"),
            jnp.ones((4, 1)),
            "at most 4 elements on each side of an axis of 4",
        ),
        (nn.ConvTranspose(6, 3, groups=3), jnp.ones((4, 4)), "must be a multiple of 3: write"),
        (nn.ConvTranspose(4, 2, padding=4), jnp.ones((4, 1)), "would become -3 elements long: 4 b"),
    ],
    ids=str,
)
def test_an_input_that_cannot_be(net: nn.Layer, x: jax.Array, text: str):
    fails(text, lambda: net.init(KEY, x))
    fails("at 'here', ", lambda: nn.Sequential(here=net).init(KEY, x))


def test_a_cached_layer_is_not_trained():
    net, x = nn.Conv(4, 3, padding="causal", cache=8), jnp.ones((2, 1, 3))
    fails(
        "Conv keeps a cache of 8 positions, which is for inference",
        lambda: net.apply(net.init(KEY, x), x, state=net.init_state(x), train=True),
    )


def test_a_traced_size():
    fails(
        "Conv.stride is the traced number",
        lambda: jax.jit(lambda s: nn.Conv(4, 3, stride=s).init(KEY, jnp.ones((4, 3))))(2),
        TypeError,
    )
