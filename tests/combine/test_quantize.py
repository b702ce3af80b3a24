"""int8 weights: the bound of the rounding, the bytes, every kind of layer, and its laws."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.combine.precision import KINDS, Quantized
from jaxnn.models import GPT
from tests.cases import host

KEY = jax.random.key(0)


def normals(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


LAYERS = {
    "Dense": (nn.Dense(5), normals(3, 8), (0,)),
    "Dense to heads": (nn.Dense((2, 3)), normals(3, 8), (0,)),
    "Dense on axes": (nn.Dense(5, axis=(-2, -1)), normals(3, 2, 4), (0, 1)),
    "Einsum": (nn.Einsum("...hn,nhd->...hd", (8, 2, 3)), normals(3, 2, 8), (0,)),
    "Bilinear": (nn.Bilinear(4), (normals(3, 2), normals(3, 5)), (0, 1)),
    "Conv": (nn.Conv(4, (3, 3), groups=2), normals(2, 5, 5, 4), (0, 1, 2)),
    "DepthwiseConv": (nn.DepthwiseConv((3,)), normals(2, 6, 4), (0, 1)),
    "ConvTranspose": (nn.ConvTranspose(4, (2, 2), stride=2), normals(2, 3, 3, 4), (0, 1, 2)),
    "PatchEmbedding": (nn.PatchEmbedding(6, (2, 2)), normals(2, 4, 4, 3), None),
    "Embedding": (nn.Embedding(9, 4), np.array([[1, 8], [0, 3]]), (1,)),
    "EmbeddingBag": (nn.EmbeddingBag(9, 4), np.array([[1, 8], [0, 3]]), (1,)),
    "MultiHeadAttention": (nn.MultiHeadAttention(2, causal=True), normals(2, 5, 8), (0,)),
    "GatedFeedForward": (nn.GatedFeedForward(6, bias=True), normals(3, 4), (0,)),
}


def leaves(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


@pytest.mark.parametrize("name", LAYERS)
def test_weights_are_within_half_a_step_and_the_rest_is_as_it_was(name):
    layer, inputs, axes = LAYERS[name]
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    params = host(layer.init(KEY, *inputs))
    networks = []

    @jax.jit
    def quantized(params):
        net, numbers = nn.quantize(layer, params)
        networks.append(net)
        return numbers

    numbers = host(quantized(params))
    (small,) = networks
    assert small == Quantized(layer)
    found = leaves(numbers)
    rounded = dict(leaves(params))
    for path, w in leaves(params).items():
        if path.endswith("['w']"):
            q, scale = found.pop(f"{path}['q']"), found.pop(f"{path}['scale']")
            assert (q.dtype, scale.dtype) == (jnp.int8, jnp.float32)
            # half a step, and the rounding of the quotient and the product
            assert np.all(np.abs(w - scale * q) <= scale / 2 * (1 + 1e-5) + 1e-7)
            assert np.all(np.max(np.abs(q), tuple(i for i in range(w.ndim))) == 127)
            if axes is not None:
                assert scale.shape == tuple(1 if i in axes else n for i, n in enumerate(w.shape))
            rounded[path] = scale * q.astype(np.float32)
        else:
            np.testing.assert_array_equal(found.pop(path), w)
    assert not found
    # The layer is the layer of those weights, and its init is what quantize makes of init.
    same = jax.tree.unflatten(jax.tree.structure(params), list(rounded.values()))
    y, z = (jax.jit(net.apply)(p, *inputs) for net, p in ((small, numbers), (layer, same)))
    np.testing.assert_allclose(y, z, rtol=1e-5, atol=1e-6)  # q * scale inside of a product or not
    for (path, a), b in zip(
        leaves(host(small.init(KEY, *inputs))).items(), leaves(numbers).values(), strict=True
    ):
        assert a.dtype == b.dtype, path
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1 if a.dtype == jnp.int8 else 1e-7)


def test_every_kind_is_tested():
    assert {type(layer) for layer, *_ in LAYERS.values()} == set(KINDS)


def byte_count(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def test_a_gpt_in_a_quarter_of_the_memory():
    net = GPT(layers=2, width=32, num_heads=2, feed_forward="swiglu").network(64)
    tokens = np.arange(10, dtype=np.int32)[None]
    params = host(net.init(KEY, tokens))
    small, numbers = nn.quantize(net, params)
    numbers = host(numbers)
    weights = [w for path, w in leaves(params).items() if path.endswith("['w']")]
    tables = [leaves(params)["['positions']['w']"]]
    assert byte_count(numbers) < 0.5 * byte_count(params)
    scales = byte_count([s for path, s in leaves(numbers).items() if path.endswith("['scale']")])
    assert byte_count([q for path, q in leaves(numbers).items() if path.endswith("['q']")]) == (
        sum(w.size for w in weights) - sum(w.size for w in tables)
    )
    assert scales < 0.05 * byte_count(params)
    y, z = jax.jit(net.apply)(params, tokens), jax.jit(small.apply)(numbers, tokens)
    # Each weight is off by up to 1/254 of the largest of its column.
    assert np.abs(y - z).max() < 0.05 * np.abs(y).max()
    # A copy of a stack is quantized as it would be alone.
    block = jax.tree.map(lambda a: a[1], numbers["blocks"])
    alone = nn.quantize(net.blocks.wrapped, jax.tree.map(lambda a: a[1], params["blocks"]))[1]
    for a, b in zip(jax.tree.leaves(block), jax.tree.leaves(alone), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_nests_with_cached_and_with_precision():
    net = nn.Sequential(nn.MultiHeadAttention(2, causal=True), nn.Residual(nn.Dense(8)))
    x = normals(6, 8)
    small, numbers = nn.quantize(net, net.init(KEY, x))
    whole = jax.jit(small.apply)(numbers, x)
    one_by_one = nn.with_cache(small, 8)
    step = jax.jit(one_by_one.apply)
    state, rows = one_by_one.init_state(x), []
    for t in range(6):
        y, state = step(numbers, x[t : t + 1], state=state)
        rows.append(y)
    np.testing.assert_allclose(jnp.concatenate(rows), whole, rtol=1e-4, atol=1e-5)
    half = jax.jit(nn.Precision(small, "bfloat16").apply)(numbers, x)
    np.testing.assert_allclose(half, whole, atol=0.1)  # some ten roundings of 2**-9
    inside, others = nn.quantize(nn.Precision(net, "bfloat16"), net.init(KEY, x))
    np.testing.assert_array_equal(jax.jit(inside.apply)(others, x), half)


def test_state_goes_through_and_weights_that_are_computed_stay():
    x = normals(8, 4)
    net = nn.Sequential(nn.BatchNorm(), nn.Ensemble(nn.Dense(3), 2))
    params, state = net.init(KEY, x), net.init_state(x)
    small, numbers = nn.quantize(net, params)
    assert numbers[1]["w"]["q"].shape == (2, 4, 3)
    assert numbers[1]["w"]["scale"].shape == (2, 1, 3)
    (y, _), (z, _) = (
        jax.jit(one.apply)(p, x, state=state) for one, p in ((net, params), (small, numbers))
    )
    np.testing.assert_allclose(z, y, atol=0.02 * float(jnp.abs(y).max()))
    kept = nn.Sequential(nn.Dense(4), nn.WeightNorm(nn.Dense(3)))
    _, numbers = nn.quantize(kept, params := kept.init(KEY, x))
    for a, b in zip(jax.tree.leaves(numbers[1:]), jax.tree.leaves(params[1:]), strict=True):
        np.testing.assert_array_equal(a, b)


NO_NET: Any = jnp.tanh
NET, X = nn.Sequential(nn.Dense(3), jnp.tanh), normals(2, 4)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: nn.quantize(nn.LayerNorm(), nn.LayerNorm().init(KEY, X)),
            ValueError,
            r"no layer of LayerNorm\(\) can be quantized; these can: MultiHeadAttention, ",
        ),
        (lambda: nn.quantize(NO_NET, {}), TypeError, r"quantize.net must be a layer, got .*tanh"),
        (
            lambda: nn.quantize(NET, NET.init(KEY, X))[0].apply(NET.init(KEY, X), X),
            ValueError,
            r"0/w: declared a dict \['q', 'scale'\], got .*float32\[4,3\]",
        ),
        (
            lambda: nn.quantize(NET, NET.init(KEY, X))[0].apply(
                nn.quantize(NET, NET.init(KEY, X))[1], X, train=True
            ),
            ValueError,
            r"at '0'.*has int8 weights, which is for inference only: train the network that",
        ),
        (
            lambda: Quantized(nn.LayerNorm()),
            TypeError,
            r"Quantized.inner must be one of .*LayerNorm\(\)",
        ),
    ],
)
def test_the_error_says_what_is_wrong(make, error, text):
    with pytest.raises(error, match=text):
        make()
