"""Weight and spectral normalization of torch and flax, as nn.WeightNorm and nn.SpectralNorm."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import linen, nnx

import jaxnn as nn
from jaxnn import interop
from tests.converted import assert_same, fixture, outputs


def network(weight: Any, spectral: Any) -> nn.Layer:
    return nn.Sequential(
        layers=nn.Sequential(
            weight(nn.Conv(3, (3, 3), padding=1)),
            weight(nn.Conv(4, (3, 3), padding=1)),
            weight(nn.ConvTranspose(3, (2, 2), padding=0)),
            spectral(nn.Conv(4, (3, 3), padding=1)),
            spectral(nn.ConvTranspose(3, (2, 2), padding=0)),
        ),
        whole=weight(nn.Dense(3)),
    )


def plain(layer: nn.Layer) -> nn.Layer:
    return layer


@pytest.mark.parametrize("wrapped", [True, False])
def test_both_forms_of_torch(wrapped):
    """Into the wrappers, or into layers without, which then hold the normalized weights."""
    net = network(nn.WeightNorm, nn.SpectralNorm) if wrapped else network(plain, plain)
    weights, (x,), y = fixture("normalized")
    found = interop.from_torch(net, weights, x)
    assert_same(outputs(net, found, x), y)
    if wrapped:
        v = found.params["layers"][0]["w"]["v"]
        np.testing.assert_array_equal(
            np.moveaxis(np.asarray(v), (-1, -2), (0, 1)), weights["layers.0.weight_v"]
        )
        g = found.params["layers"][0]["w"]["g"]
        np.testing.assert_allclose(g, weights["layers.0.weight_g"].ravel(), rtol=1e-6)


def test_several_rounds_of_power_iteration():
    net = network(nn.WeightNorm, lambda layer: nn.SpectralNorm(layer, steps=3))
    weights, (x,), y = fixture("normalized")
    assert_same(outputs(net, interop.from_torch(net, weights, x), x), y)


def test_vectors_of_another_weight_are_rejected():
    net, x = nn.Sequential(nn.SpectralNorm(nn.Dense(3, bias=False))), np.ones((1, 3), "f")
    one = np.eye(3, dtype="f")[0]
    weights = {"0.weight_orig": np.diag([3.0, 2.0, 1.0]), "0.weight_u": one}
    with pytest.raises(ValueError, match="run the source once in training mode and save it again"):
        interop.from_torch(net, weights | {"0.weight_v": np.roll(one, 1) + 0.1 * one}, x)


def test_a_plain_weight_is_not_a_normalized_one():
    x, weights = np.ones((1, 3), "f"), {"0.weight": np.eye(3), "0.bias": np.zeros(3)}
    for wrap, name in ((nn.WeightNorm, "WeightNorm"), (nn.SpectralNorm, "SpectralNorm")):
        with pytest.raises(ValueError, match=f"0: w is inside {name}.*network without {name}"):
            interop.from_torch(nn.Sequential(wrap(nn.Dense(3))), weights, x)


def test_a_flattened_image_behind_a_normalized_weight():
    net = nn.Sequential(nn.Conv(2, 1), nn.Flatten(), nn.WeightNorm(nn.Dense(1, bias=False)))
    v = np.arange(1.0, 7.0).reshape(1, 6)
    weights = {"0.weight": np.ones((2, 1, 1)), "0.bias": np.zeros(2)}
    weights |= {"2.weight_g": np.full((1, 1), 2.0), "2.weight_v": v}
    x = np.zeros((1, 3, 1), "f")
    with pytest.raises(ValueError, match=r"2: w/v has axis 0 over 3 positions x 2 channels"):
        interop.from_torch(net, weights, x)
    names = {"2": ("2", interop.channels_first(2, 3))}
    found = interop.from_torch(net, weights, x, names=names).params[2]["w"]
    assert found["v"][:, 0].tolist() == [1, 4, 2, 5, 3, 6]
    np.testing.assert_allclose(found["g"], [2.0], rtol=1e-6)


class Normalized(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.WeightNorm(linen.Dense(4))(x)
        x = linen.WeightNorm(linen.Dense(3), feature_axes=None)(x)
        return linen.SpectralNorm(linen.Dense(2))(x, update_stats=False)


def randomized(tree: Any) -> Any:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: rng.normal(size=a.shape).astype("f"), tree)


def test_linen():
    x = randomized(np.zeros((2, 5)))
    variables = randomized(jax.eval_shape(Normalized().init, jax.random.key(0), x))
    y = Normalized().apply(variables, x)
    net = nn.Sequential(
        Dense_0=nn.WeightNorm(nn.Dense(4)),
        Dense_1=nn.WeightNorm(nn.Dense(3)),
        Dense_2=nn.SpectralNorm(nn.Dense(2)),
    )
    assert_same(outputs(net, interop.from_flax(net, variables, x), x), y)
    net = nn.Sequential(
        Dense_0=nn.Dense(4), Dense_1=nn.Dense(3), Dense_2=nn.SpectralNorm(nn.Dense(2))
    )
    assert_same(outputs(net, interop.from_flax(net, variables, x), x), y)
    net = nn.Sequential(Dense_0=nn.Dense(4), Dense_1=nn.Dense(3), Dense_2=nn.Dense(2))
    with pytest.raises(ValueError, match=r"Dense_2/kernel is divided by its largest singular"):
        interop.from_flax(net, variables, x)


class Held(linen.Module):
    """Wrappers that are attributes, each with its layer as a child."""

    def setup(self):
        self.weight = linen.WeightNorm(linen.Dense(4))
        self.spectral = linen.SpectralNorm(linen.Dense(3))

    def __call__(self, x):
        return self.spectral(self.weight(x), update_stats=False)


def test_linen_wrappers_in_setup():
    x = randomized(np.zeros((2, 5)))
    variables = randomized(jax.eval_shape(Held().init, jax.random.key(0), x))
    y = Held().apply(variables, x)
    names = {"weight": "weight/layer_instance", "spectral": "spectral/layer_instance"}
    for first in (nn.WeightNorm(nn.Dense(4)), nn.Dense(4)):
        net = nn.Sequential(weight=first, spectral=nn.SpectralNorm(nn.Dense(3)))
        assert_same(outputs(net, interop.from_flax(net, variables, x, names=names), x), y)


def test_nnx():
    rngs = nnx.Rngs(0)
    first = nnx.WeightNorm(nnx.Linear(5, 4, rngs=rngs), rngs=rngs)
    second = nnx.SpectralNorm(nnx.Linear(4, 3, rngs=rngs), rngs=rngs)
    x = randomized(np.zeros((2, 5)))
    variables = {
        name: randomized(nnx.to_pure_dict(nnx.state(module)))
        for name, module in (("a", first), ("b", second))
    }
    for name, module in (("a", first), ("b", second)):
        state = nnx.state(module)
        nnx.replace_by_pure_dict(state, variables[name])
        nnx.update(module, state)
    net = nn.Sequential(a=nn.WeightNorm(nn.Dense(4)), b=nn.SpectralNorm(nn.Dense(3)))
    names = {"a": "a/layer_instance", "b": "b/layer_instance"}
    found = interop.from_flax(net, variables, x, names=names)
    y = second(first(x), update_stats=False)
    assert_same(outputs(net, found, x), y)
