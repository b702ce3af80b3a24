"""Weights over the positions and channels of an image, which torch has in another order."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn import interop
from jaxnn.interop import axes, orders
from tests.converted import assert_same, fixture, outputs

AUTOENCODER = nn.Sequential(
    conv=nn.Conv(3, (3, 3), padding=1),
    relu=jax.nn.relu,
    flatten=nn.Flatten(),
    norm=nn.BatchNorm(),
    prelu=nn.PReLU(axis=-1),
    encode=nn.Dense(5),
    tanh=jnp.tanh,
    decode=nn.Dense(24),
    image=nn.Reshape((4, 2, 3)),
    transpose=nn.ConvTranspose(2, (2, 2), padding=0),
)


def test_a_flattened_image_of_torch_is_stated_or_rejected():
    weights, (x,), y = fixture("autoencoder")
    with pytest.raises(ValueError) as caught:
        interop.from_torch(AUTOENCODER, weights, x)
    lines = str(caught.value).splitlines()[1:-1]
    assert [line.split()[0] for line in lines] == ["norm:", "prelu:", "encode:", "decode:"]
    assert lines[2] == (
        "  encode: w has axis 0 over 4 positions x 2 positions x 3 channels of an image, which the "
        'source may have in another order; write names={"encode": ("encode", '
        "interop.channels_first(3, 4, 2))} if the source flattens (C, H, W), "
        "interop.channels_last(4, 2, 3) if its channels are last"
    )
    first = interop.channels_first(3, 4, 2)
    names = {path: (path, first) for path in ("norm", "prelu", "encode", "decode")}
    found = interop.from_torch(AUTOENCODER, weights, x, names=names)
    assert_same(outputs(AUTOENCODER, found, x), y)


class Square(nn.Composite):
    norm: nn.Layer
    rms: nn.Layer
    shift: nn.Layer

    def forward(self, x):
        return self.rms(self.norm(x)) + self.shift()


def test_weights_over_axes_of_one_size():
    whole = (-3, -2, -1)
    net = Square(nn.LayerNorm(axis=whole), nn.RMSNorm(axis=whole), nn.LearnedArray((3, 3, 3)))
    weights, (x,), y = fixture("square")
    with pytest.raises(ValueError) as caught:
        interop.from_torch(net, weights, x)
    for line in ("norm: scale", "rms: scale", "shift: w"):
        assert f"{line} has axes 0 to 2 over 3 positions x 3 positions x 3 channels" in str(
            caught.value
        )
    first = interop.channels_first(3, 3, 3)
    names = {path: (path, first) for path in ("norm", "rms", "shift")}
    assert_same(outputs(net, interop.from_torch(net, weights, x, names=names), x), y)


def test_the_shape_of_an_array_shows_its_order():
    net, x = nn.Sequential(nn.LayerNorm(axis=(-3, -2, -1), bias=False)), np.zeros((1, 4, 5, 3), "f")
    ours = np.arange(60.0).reshape(4, 5, 3)
    found = interop.from_torch(net, {"0.weight": ours}, x)
    np.testing.assert_array_equal(found.params[0]["scale"], ours)
    theirs = {"0.weight": np.moveaxis(ours, -1, 0)}
    with pytest.raises(ValueError) as caught:
        interop.from_torch(net, theirs, x)
    assert (
        'params/0/scale: wanted (4, 5, 3), got (3, 4, 5); write names={"0": ("0", '
        "interop.channels_first(3, 4, 5))}"
    ) in str(caught.value)
    names = {"0": ("0", interop.channels_first(3, 4, 5))}
    found = interop.from_torch(net, theirs, x, names=names)
    np.testing.assert_array_equal(found.params[0]["scale"], ours)


class Series(nn.Composite):
    embed: nn.Layer
    plain: nn.Layer
    conv: nn.Layer
    out: nn.Layer

    def forward(self, tokens):
        x = self.embed(tokens)
        x = self.conv(self.plain(x.reshape(len(x), -1))[..., None])
        return self.out(jax.vmap(jnp.ravel)(x))


def test_tokens_are_flattened_alike_and_channels_in_time_are_not():
    """Reshapes inside a forward count as much as nn.Flatten does."""
    net = Series(nn.Embedding(5, 2), nn.Dense(6), nn.Conv(3, 3, padding="valid"), nn.Dense(2))
    weights, (x,), y = fixture("series")
    with pytest.raises(ValueError) as caught:
        interop.from_torch(net, weights, x)
    wrong = "do not fit this network: out: w has axis 0 over 4 positions x 3 channels"
    assert wrong in str(caught.value)
    names = {"out": ("out", interop.channels_first(3, 4))}
    assert_same(outputs(net, interop.from_torch(net, weights, x, names=names), x), y)


IMAGE = np.zeros((2, 4, 6, 3), "f")


class Joined(nn.Composite):
    """Features of an image next to others, and a part of them."""

    a: nn.Layer
    c: nn.Layer
    first: int = 0

    def forward(self, x):
        flat = self.a(x).reshape(len(x), -1)
        return self.c(jnp.concatenate([flat[:, self.first :], x[:, 0, 0]], -1))


class Cut(nn.Composite):
    """An image made of a part of the features."""

    c: nn.Layer
    a: nn.Layer

    def forward(self, x):
        flat, rest = jnp.split(self.c(x), [24], -1)
        return self.a(flat.reshape(-1, 4, 3, 2)), rest


MIXED = {
    "joined": (Joined(nn.Conv(2, (3, 3)), nn.Dense(2)), IMAGE),
    "a part": (Joined(nn.Conv(2, (3, 3)), nn.Dense(2), first=5), IMAGE),
    "cut": (Cut(nn.Dense(30), nn.Conv(2, (3, 3))), np.zeros((2, 3), "f")),
    "flatten": (nn.Sequential(a=nn.Conv(2, (3, 3)), b=nn.Flatten(), c=nn.Dense(2)), IMAGE),
    "raw image": (nn.Sequential(b=nn.Flatten(), c=nn.Dense(2)), IMAGE),
    "axes": (nn.Sequential(c=nn.Dense(2, axis=(-3, -2, -1))), IMAGE),
    "einsum": (nn.Sequential(c=nn.Einsum("nhwc,hwco->no", (3, 3, 3, 2))), IMAGE[:, :3, :3]),
    "pool": (
        nn.Sequential(a=nn.AdaptiveAvgPool((2, 2)), b=nn.Flatten(), c=nn.Dense(2)),
        IMAGE,
    ),
    "shuffle": (nn.Sequential(a=nn.PixelUnshuffle((2, 2)), b=nn.Flatten(), c=nn.Dense(2)), IMAGE),
    "patches": (nn.Sequential(a=nn.PatchEmbedding(5, 2), b=nn.Flatten(), c=nn.Dense(2)), IMAGE),
    "rows": (
        nn.Sequential(a=nn.Conv(2, (3, 3)), b=nn.Reshape((4, 12)), c=nn.Recurrent(nn.LSTMCell(2))),
        IMAGE,
    ),
    "norm": (nn.Sequential(a=nn.BatchNorm(), b=nn.Flatten(), c=nn.Dense(2)), IMAGE[0]),
    "decoder": (
        nn.Sequential(c=nn.Dense(24), a=nn.Reshape((4, 3, 2)), b=nn.Conv(2, (3, 3))),
        np.zeros((2, 3), "f"),
    ),
    "residual": (
        nn.Sequential(
            a=nn.Conv(2, (3, 3)), b=nn.Flatten(), c=nn.Repeat(nn.Residual(nn.Dense(48)), 2)
        ),
        IMAGE,
    ),
}


class Transposing(nn.Composite):
    a: nn.Layer
    c: nn.Layer

    def forward(self, x):
        x = jnp.moveaxis(self.a(x), -1, 1)
        return self.c(x.reshape(len(x), -1))


TOKENS = np.zeros((2, 6), np.int32)
ALIKE = {
    "channels joined": (
        nn.Sequential(
            a=nn.Parallel(
                nn.Conv(2, (3, 3)), nn.Conv(3, (3, 3)), merge=lambda y: jnp.concatenate(y, -1)
            ),
            b=nn.GlobalAvgPool(),
            c=nn.Dense(2),
        ),
        IMAGE,
    ),
    "tokens": (nn.Sequential(a=nn.Embedding(5, 4), b=nn.Flatten(), c=nn.Dense(2)), TOKENS),
    "one channel": (nn.Sequential(b=nn.Flatten(), c=nn.Dense(2)), IMAGE[..., :1]),
    "sequence": (nn.Sequential(b=nn.Flatten(), c=nn.Dense(2)), IMAGE[0]),
    "global": (
        nn.Sequential(a=nn.Conv(2, (3, 3)), b=nn.GlobalAvgPool(), c=nn.Dense(2)),
        IMAGE,
    ),
    "one place": (
        nn.Sequential(a=nn.AdaptiveAvgPool((1, 1)), b=nn.Flatten(), c=nn.Dense(2)),
        IMAGE,
    ),
    "pointwise": (nn.Sequential(a=nn.Conv(2, (3, 3)), c=nn.Dense(2)), IMAGE),
    "height and width": (nn.Sequential(a=nn.Conv(2, (3, 3)), c=nn.LayerNorm(axis=(1, 2))), IMAGE),
    "channels first here": (Transposing(nn.Conv(2, (3, 3)), nn.Dense(2)), IMAGE),
    "hidden units of rows": (
        nn.Sequential(
            a=nn.Conv(1, (3, 3)),
            b=nn.Reshape((4, 6)),
            r=nn.Recurrent(nn.LSTMCell(2)),
            f=nn.Flatten(),
            c=nn.Dense(2),
        ),
        IMAGE,
    ),
}


def runs_of(net: Any, x: Any) -> list[Any]:
    """The axes of the layer `c` that torch may have in another order."""
    trace = axes.traced(net, (x,), {}, net.spec(x), net.init_state(x))
    stack = [layer for path, layer in nn.layers(net) if path == ("c",)]
    layer, copies = stack[-1], sum(isinstance(one, nn.Repeat) for one in stack)
    found = [
        run
        for path, factors in trace.factors.items()
        if path[:2] == ("params", "c")
        for run in orders.runs(layer, factors[copies:])
    ]
    return found


@pytest.mark.parametrize("case", MIXED)
def test_a_layer_over_positions_and_channels_is_found(case):
    assert runs_of(*MIXED[case])


@pytest.mark.parametrize("case", ALIKE)
def test_a_layer_that_is_alike_in_both_is_accepted(case):
    assert not runs_of(*ALIKE[case])


def test_a_part_of_a_flattened_image_needs_a_converter():
    net = Joined(nn.Conv(2, (1, 1)), nn.Dense(1, bias=False))
    x = np.zeros((1, 2, 1, 3), "f")
    weights = {"a.weight": np.ones((2, 3, 1, 1)), "a.bias": np.zeros(2)}
    weights |= {"c.weight": np.arange(7.0).reshape(1, 7)}
    with pytest.raises(ValueError) as caught:
        interop.from_torch(net, weights, x)
    assert (
        "c: w has axis 0 partly over the positions and channels of an image, which the source may "
        'have in another order; write names={"c": ("c", your converter)}'
    ) in str(caught.value)

    def convert(layer: Any, source: Any) -> Any:
        w = source("weight").T
        return {
            "w": np.concatenate([np.moveaxis(w[:4].reshape(2, 2, 1), 0, 1).reshape(4, 1), w[4:]])
        }

    found = interop.from_torch(net, weights, x, names={"c": ("c", convert)})
    assert found.params["c"]["w"][:, 0].tolist() == [0, 2, 1, 3, 4, 5, 6]
    with pytest.raises(
        ValueError, match="do not fit the network: a converter at 'b', which is not"
    ):
        flat = nn.Sequential(b=nn.Flatten(), c=nn.Dense(2))
        interop.from_torch(flat, weights, x, names={"b": ("c", interop.channels_first(3, 2))})


def test_what_is_stated_is_checked():
    net = nn.Sequential(nn.Conv(2, 1), nn.Flatten(), nn.Dense(1))
    weights = {
        "0.weight": np.ones((2, 1, 1)),
        "0.bias": np.zeros(2),
        "2.weight": np.arange(6.0).reshape(1, 6),
        "2.bias": np.zeros(1),
    }
    x = np.zeros((1, 3, 1), "f")
    last = interop.from_torch(net, weights, x, names={"2": ("2", interop.channels_last(3, 2))})
    assert last.params[2]["w"][:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match=r"channels_first\(3, 2\) is stated, but an array has"):
        interop.from_torch(net, weights, x, names={"2": ("2", interop.channels_first(3, 2))})
    with pytest.raises(
        ValueError, match=r"channels_first\(C, H, W\) must be the channels and at least one size"
    ):
        interop.channels_first(3)
    with pytest.raises(
        ValueError, match=r"channels_last\(H, W, C\) must be the channels and at least one size"
    ):
        interop.channels_last(3, 0)


def test_stacked_layers_behind_a_flattened_image():
    """A residual stream keeps the order of the image that begins it: both axes of each weight."""
    rng = np.random.default_rng(0)
    net = nn.Sequential(
        conv=nn.Conv(2, 1),
        flatten=nn.Flatten(),
        blocks=nn.Repeat(nn.Residual(nn.Dense(6)), 2),
        head=nn.Dense(3),
    )
    weights = {"conv.weight": rng.normal(size=(2, 1, 1)), "conv.bias": rng.normal(size=2)}
    for i in range(2):
        weights |= {f"blocks.{i}.weight": rng.normal(size=(6, 6))}
        weights |= {f"blocks.{i}.bias": rng.normal(size=6)}
    weights |= {"head.weight": rng.normal(size=(3, 6)), "head.bias": rng.normal(size=3)}
    x = rng.normal(size=(2, 3, 1))
    y = (x @ weights["conv.weight"][:, :, 0].T + weights["conv.bias"]).swapaxes(1, 2).reshape(2, 6)
    for i in range(2):
        y = y + y @ weights[f"blocks.{i}.weight"].T + weights[f"blocks.{i}.bias"]
    y = y @ weights["head.weight"].T + weights["head.bias"]
    with pytest.raises(ValueError) as caught:
        interop.from_torch(net, weights, x, names={"blocks": "blocks.*"})
    assert 'names={"blocks": ("blocks.*", interop.channels_first(2, 3))}' in str(caught.value)
    first = interop.channels_first(2, 3)
    names = {"blocks": ("blocks.*", first), "head": ("head", first)}
    found = interop.from_torch(net, weights, x, names=names)
    assert_same(outputs(net, found, x.astype("f")), y)


def test_keras_with_channels_first_is_stated():
    net, x = (
        nn.Sequential(c=nn.LayerNorm(axis=(-3, -2, -1), bias=False)),
        np.zeros((1, 2, 2, 2), "f"),
    )
    theirs = np.arange(8.0).reshape(2, 2, 2)
    names = {"c": ("c", interop.channels_first(2, 2, 2))}
    found = interop.from_keras(net, {"c/gamma": theirs}, x, names=names)
    np.testing.assert_array_equal(found.params["c"]["scale"], np.moveaxis(theirs, 0, -1))


def test_an_order_that_the_trace_does_not_show_may_be_stated():
    """A sequence that the source takes as (C, T), though nothing here says so."""
    net, x = nn.Sequential(nn.Flatten(), nn.Dense(1, bias=False)), np.zeros((1, 3, 2), "f")
    weights = {"1.weight": np.arange(6.0).reshape(1, 6)}
    names = {"1": ("1", interop.channels_first(2, 3))}
    found = interop.from_torch(net, weights, x, names=names)
    assert found.params[1]["w"][:, 0].tolist() == [0, 3, 1, 4, 2, 5]
    with pytest.raises(ValueError, match=r"channels_first\(5, 3\) is stated, but no array"):
        interop.from_torch(net, weights, x, names={"1": ("1", interop.channels_first(5, 3))})
