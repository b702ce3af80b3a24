"""Patches, unpooling, resizing, and further options of pooling: outputs and gradients of torch."""

import functools
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.functional.pooling import fractional_max_pool
from tests.fixtures.layers import stored
from tests.layers.agreement import KEY, assert_agree, normals
from tests.near import assert_near

MODES: dict[str, Any] = {
    "nearest": "nearest_floor",
    "nearest-exact": "nearest",
    "bilinear": "linear",
    "bicubic": "bicubic",
}
GIVEN = {"factor": {"factor": (1.5, 2.3)}, "size": {"size": (7, 3)}}
WINDOW: dict[str, Any] = {"kernel_size": (3, 2), "stride": (2, 1), "padding": 1, "dilation": (1, 2)}
CASES: dict[str, Any] = {
    f"resize {mode} {given} {corners}": nn.Upsample(**options, method=method, align_corners=corners)
    for mode, method in MODES.items()
    for given, options in GIVEN.items()
    for corners in (False, True)[: 1 + (mode[0] == "b")]
} | {
    "unfold": nn.Unfold(**WINDOW),
    "fold": nn.Fold((5, 5), **WINDOW),
    "divisor": nn.AvgPool((2, 2), 2, (1, 1), divisor_override=3),
    "padded lp": nn.LpPool(2, 3, 2, 1),
    "adaptive": nn.AdaptiveAvgPool((3, None)),
    "shuffle": nn.ChannelShuffle(3),
    "pad constant": nn.Pad(((1, 0), (2, 1)), value=1.5),
    "pad reflect": nn.Pad(((1, 0), (2, 1)), "reflect"),
    "pad replicate": nn.Pad(((1, 0), (2, 1)), "replicate"),
    "pad circular": nn.Pad(((1, 0), (2, 1)), "circular"),
    "pad, cut": nn.Pad(((0, -2), (-1, 1)), value=-2.0),
}


@functools.cache
def results() -> dict[str, Any]:
    """Outputs and gradients of all cases from one program."""
    arrays = {name: stored(name) for name in CASES}

    def run(arrays: Any) -> Any:
        found = {}
        for name, a in arrays.items():
            y, pull = jax.vjp(lambda x, layer=CASES[name]: layer.apply({}, x), a["x"])
            found[name] = y, *pull(a["dy"])
        return found

    return jax.jit(run)(arrays)


@pytest.mark.parametrize("name", CASES)
def test_as_torch(name):
    a = stored(name)
    assert_near(results()[name], (a["y"], a["dx"]))


def test_maxima_are_put_back_as_in_torch():
    a = stored("unpool")
    pool, unpool = nn.MaxPool((2, 2), 2, (1, 0), return_indices=True), nn.MaxUnpool((6, 5))

    @jax.jit
    def run(x, dy):
        def f(x):
            y, indices = pool.apply({}, x)
            return unpool.apply({}, y, indices), indices

        y, pull, indices = jax.vjp(f, x, has_aux=True)
        return (y, *pull(dy)), indices

    found, indices = run(a["x"], a["dy"])
    assert_near(found, (a["y"], a["dx"]))
    np.testing.assert_array_equal(indices, a["indices"])


def test_fractional_pooling_as_torch():
    """With torch's random numbers, and windows of the drawn numbers in training."""
    a = stored("fractional")
    net = nn.FractionalMaxPool((3, 2), (3, 4), return_indices=True)

    @jax.jit
    def run(x, dy):
        y, pull, indices = jax.vjp(
            lambda x: fractional_max_pool(x, (3, 2), (3, 4), a["samples"]), x, has_aux=True
        )
        middle = fractional_max_pool(x, (3, 2), (3, 4), jnp.full((2, 2, 2), 0.5))
        drawn = fractional_max_pool(x, (3, 2), (3, 4), jax.random.uniform(KEY, (2, 2, 2)))
        given = (middle, drawn), (net.apply({}, x), net.apply({}, x, key=KEY, train=True))
        return (y, *pull(dy)), indices, given

    found, indices, (wanted, given) = run(a["x"], a["dy"])
    assert_near(found, (a["y"], a["dx"]))
    np.testing.assert_array_equal(indices, a["indices"])
    jax.tree.map(np.testing.assert_array_equal, given, wanted)


@pytest.mark.parametrize("options", [{}, {"stride": (2, 1), "padding": (1, 0)}], ids=str)
def test_locally_connected_as_flax(options):
    net, x = nn.LocallyConnected(2, (3, 2), **options), normals(0, 2, 5, 4, 3)
    pads = [(p, p) for p in options.get("padding", (0, 0))]
    strides = options.get("stride", (1, 1))
    peer = flax.linen.ConvLocal(2, (3, 2), strides=strides, padding=pads)
    params = net.init(KEY, x)
    params = params | {"b": normals(1, *params["b"].shape)}

    def theirs(params, x):
        # flax has the input channel before the position in the window.
        kernel = jnp.moveaxis(params["w"], -2, 2).reshape(*params["b"].shape[:2], -1, 2)
        return peer.apply({"params": {"kernel": kernel, "bias": params["b"]}}, x)

    assert_agree(net.apply, theirs, params, x)
    assert nn.he_normal().sized((3, 2, 3, 2)) == net.spec(x)["w"].init


@pytest.mark.parametrize(
    ("layer", "inputs", "text"),
    [
        (nn.Pad(3, "reflect"), (jnp.ones((3, 1)),), "adds at most 2 elements on each side"),
        (nn.Pad(-2), (jnp.ones((3, 1)),), "Pad.padding must be at most 3 elements to remove"),
        (
            nn.FractionalMaxPool(3, output_ratio=0.9),
            (jnp.ones((5, 1)),),
            "must be of at least 6 elements, for 4 windows of 3",
        ),
        (nn.Fold(4, 2), (jnp.ones((2, 2)),), r"the windows of Fold.* must be of shape \(3, 2\)"),
        (nn.Fold(4, 2), (jnp.ones((3, 3)),), "must be a multiple of 2: change kernel_size"),
        (nn.MaxUnpool((4,)), (jnp.ones((2, 1)), jnp.ones(2, int)), "write y, indices = nn.MaxPool"),
        (nn.ChannelShuffle(3), (jnp.ones(4),), "must be a multiple of 3: change groups"),
        (nn.Upsample((0.2,)), (jnp.ones((4, 1)),), "must be an int >= 1, got 0; change factor"),
    ],
)
def test_wrong_inputs_are_reported(layer, inputs, text):
    with pytest.raises(ValueError, match=text):
        layer.init(KEY, *inputs)


def test_fields_that_do_not_fit():
    with pytest.raises(ValueError, match="FractionalMaxPool must be one of output_size and"):
        nn.FractionalMaxPool(2)
    with pytest.raises(ValueError, match=r"for 2 axes, got \(\(3,\), None\)"):
        nn.FractionalMaxPool((2, 2), (3,))
    with pytest.raises(ValueError, match=r"Pad.padding must be an int, or a tuple .* got \(\)"):
        nn.Pad(())
