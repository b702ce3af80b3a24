"""Patches, unpooling, resizing, and further options of pooling: outputs and gradients of torch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.fixtures.layers import stored
from tests.layers.agreement import KEY
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


@pytest.mark.parametrize(
    ("layer", "inputs", "text"),
    [
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
