"""Pooling: against torch (outputs and gradients, by tests/fixtures/pooling.py), flax, and numpy."""

from typing import Any

import flax.linen.pooling
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.fixtures.pooling import CASES, FILE
from tests.layers.agreement import normals
from tests.near import assert_near

X = normals(0, 2, 5, 6, 3)
peer: Any = flax.linen.pooling


def test_as_torch():
    """All cases in one program, which compiles faster than many."""
    with np.load(FILE) as file:
        given = [{n: file[f"{i} {n}"] for n in ("x", "y", "dy", "dx")} for i in range(len(CASES))]

    @jax.jit
    def run(given):
        found = []
        for (layer, *_), a in zip(CASES.values(), given, strict=True):
            y, pull = jax.vjp(lambda x, layer=layer: layer.apply({}, x), a["x"])
            found.append((y, pull(a["dy"].reshape(y.shape))[0]))
        return found

    found = dict(zip(CASES, run(given), strict=True))
    assert_near(found, dict(zip(CASES, [(a["y"], a["dx"]) for a in given], strict=True)))


def test_as_flax():
    kernel, stride = (3, 4), (2, 3)
    paddings: list[tuple[Any, Any]] = [
        ("same", "SAME"),
        ((1, (0, 2)), [(1, 1), (0, 2)]),
        (((2, 0), "valid"), [(2, 0), (0, 0)]),
    ]

    @jax.jit
    def both(x):
        mine, theirs = [], []
        for padding, named in paddings:
            mine.append(nn.MaxPool(kernel, stride, padding).apply({}, x))
            theirs.append(peer.max_pool(x, kernel, stride, named))
            mine.append(nn.MinPool(kernel, stride, padding).apply({}, x))
            theirs.append(peer.min_pool(x, kernel, stride, named))
            for count in (True, False):
                mine.append(nn.AvgPool(kernel, stride, padding, count).apply({}, x))
                theirs.append(peer.avg_pool(x, kernel, stride, named, count))
        return mine, theirs

    assert_near(*both(X))


def test_any_number_of_batch_axes():
    for layer in (nn.MaxPool((2, 3)), nn.AvgPool((2, 3)), nn.AdaptiveAvgPool((2, 3))):
        inputs = (X, X[1], X[:, None], X[:0])

        @jax.jit
        def run(inputs, layer=layer):
            return [layer.apply({}, x) for x in inputs]

        y, one, more, none = run(inputs)
        np.testing.assert_array_equal(one, y[1])
        np.testing.assert_array_equal(more, y[:, None])
        assert none.shape == (0, *y.shape[1:])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "float16", "bfloat16"])
def test_padding_is_never_chosen(dtype):
    """Not even where all numbers are the least there are, or the most."""
    info = (jnp.finfo if "float" in dtype else jnp.iinfo)(dtype)
    for layer, number in ((nn.MaxPool(3, 2, 1), info.min), (nn.MinPool(3, 2, 1), info.max)):
        y = jax.jit(layer.apply)({}, jnp.full((4, 1), number, dtype))
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, np.full((2, 1), number, y.dtype))


def test_of_booleans_any_and_all():
    x = jnp.array([[False], [True], [True], [True], [False]])
    found = [
        nn.MaxPool(2, padding=((1, 0),)),
        nn.MinPool(2, padding=((1, 0),)),
        nn.AdaptiveMaxPool(2),
    ]
    expected = [[False, True, True], [False, True, False], [True, True]]
    for net, wanted in zip(found, expected, strict=True):
        assert net.apply({}, x)[:, 0].tolist() == wanted


def test_a_pair_is_the_padding_of_one_axis():
    """Over two axes it is an int for each."""
    x = jnp.array([[3.0], [1.0], [2.0]])
    for layer, expected in (
        (nn.MaxPool(2, 1, (1, 0)), [3, 3, 2]),
        (nn.MinPool(2, 1, (0, 1)), [1, 1, 2]),
        (nn.AvgPool(2, 1, (1, 0)), [1.5, 2, 1.5]),
    ):
        assert layer.apply({}, x)[:, 0].tolist() == expected
    assert nn.MaxPool((2, 2), 1, (1, 0)).apply({}, jnp.ones((3, 3, 1))).shape == (4, 2, 1)


def test_windows_of_any_size_by_hand():
    x = np.random.default_rng(0).integers(-50, 50, (40, 2))
    sizes = [(kernel, stride) for kernel in (2, 7, 9, 13, 16) for stride in (1, 4)]

    @jax.jit
    def run(x):
        return [
            [layer(kernel, stride).apply({}, x) for layer in (nn.MaxPool, nn.MinPool)]
            for kernel, stride in sizes
        ]

    for (kernel, stride), (most, least) in zip(sizes, run(x), strict=True):
        windows = [x[i : i + kernel] for i in range(0, 40 - kernel + 1, stride)]
        np.testing.assert_array_equal(most, [w.max(0) for w in windows])
        np.testing.assert_array_equal(least, [w.min(0) for w in windows])


def test_integers_have_floating_means():
    x = jnp.arange(6)[:, None]
    for layer, expected in (
        (nn.AvgPool(2), [0.5, 2.5, 4.5]),
        (nn.AdaptiveAvgPool(2), [1.0, 4.0]),
        (nn.LpPool(1, 3), [3.0, 12.0]),
        (nn.GlobalAvgPool(0), 2.5),
    ):
        y = jax.jit(layer.apply)({}, x)
        assert y.dtype == jnp.float32
        np.testing.assert_allclose(y[..., 0], expected, rtol=1e-6)


def test_sums_of_halves_are_taken_in_float32():
    """4,096 ones and as many threes: half precision counts to 2,048, bfloat16 to 256."""
    for dtype in ("float16", "bfloat16"):
        x = jnp.tile(jnp.array([1, 3], dtype), 4096)[:, None]
        for layer in (nn.AvgPool(8192), nn.AdaptiveAvgPool(1), nn.GlobalAvgPool(0)):
            y = jax.jit(layer.apply)({}, x)
            assert y.dtype == dtype and y.item() == 2.0
        root = jax.jit(nn.LpPool(2, 8192).apply)({}, x).item()
        assert root == pytest.approx((4096 * 10) ** 0.5, rel=4e-3)


def test_nan_and_infinity_stay_in_their_windows():
    x = jnp.array([np.nan, 1.0, 2.0, np.inf, 3.0, 4.0])[:, None]
    for layer, expected in (
        (nn.MaxPool(2), [np.nan, np.inf, 4.0]),
        (nn.MinPool(2), [np.nan, 2.0, 3.0]),
        (nn.AvgPool(2), [np.nan, np.inf, 3.5]),
        (nn.AdaptiveAvgPool(3), [np.nan, np.inf, 3.5]),
        (nn.AdaptiveMaxPool(3), [np.nan, np.inf, 4.0]),
    ):
        y = jax.jit(layer.apply)({}, x)
        np.testing.assert_array_equal(y[:, 0], expected)


def test_lp_has_no_gradient_where_the_sum_is_zero():
    """As torch says of its own; by the formula it would be 0 times infinity."""
    for p in (1.5, 2, 3.0):
        layer, x = nn.LpPool(p, 2), jnp.array([[0.0], [0.0], [3.0], [0.0]])
        y = jax.jit(layer.apply)({}, x)
        gradient = jax.jit(jax.grad(lambda x, layer=layer: layer.apply({}, x).sum()))(x)
        np.testing.assert_allclose(y[:, 0], [0.0, 3.0], rtol=1e-5)
        np.testing.assert_allclose(gradient[:, 0], [0, 0, 1, 0], rtol=1e-5)


def test_a_traced_power():
    x = jnp.abs(X)
    run = jax.jit(lambda p: nn.LpPool(p, (5, 6)).apply({}, x))
    np.testing.assert_allclose(run(2.5)[:, 0, 0], (x**2.5).sum((1, 2)) ** 0.4, rtol=1e-5)


@pytest.mark.parametrize("start", [0, 1, 2])
def test_global_is_over_all_axes_between(start):
    axes = tuple(range(start, 3))
    mean = jax.jit(nn.GlobalAvgPool(start).apply)({}, X)
    np.testing.assert_allclose(mean, np.mean(X, axes), rtol=1e-5, atol=1e-6)
    most = jax.jit(nn.GlobalMaxPool(start).apply)({}, X)
    np.testing.assert_array_equal(most, np.max(X, axes))


def test_the_first_of_equal_maxima_has_the_gradient():
    x = jnp.array([[1.0, 2.0, 2.0], [2.0, 0.0, 2.0], [2.0, 1.0, 2.0]])[None, :, :, None]
    for layer in (nn.GlobalMaxPool(), nn.MaxPool((3, 3)), nn.AdaptiveMaxPool((1, 1))):
        gradient = jax.jit(jax.grad(lambda x, layer=layer: layer.apply({}, x).sum()))(x)
        np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 1, 0], [0, 0, 0], [0, 0, 0]])


BAD: Any = 1

REFUSED = [
    (
        lambda: nn.MaxPool(0),
        "MaxPool.kernel_size must be an int >= 1, or a tuple with one for each of 1",
    ),
    (lambda: nn.MaxPool((2, 2, 2, 2)), "for each of 1 to 3 axes, got (2, 2, 2, 2)"),
    (
        lambda: nn.AvgPool((2, 2), stride=(1,)),
        "AvgPool.stride must be an int >= 1, or a tuple with one for each of the 2 axes of the "
        "kernel, got (1,)",
    ),
    (lambda: nn.MinPool(2, dilation=0), "MinPool.dilation must be an int >= 1"),
    (lambda: nn.MaxPool(2, padding="full"), "MaxPool.padding must be 'same', 'valid', an int >= 0"),
    (lambda: nn.AvgPool(2, padding=-1), "int, or a pair of ints for each of the 1 axes, got -1"),
    (lambda: nn.AvgPool(2, ceil_mode=BAD), "AvgPool.ceil_mode must be True or False, got 1"),
    (
        lambda: nn.LpPool(0, 2),
        "LpPool.p must be a number > 0, got 0; for the maximum, write MaxPool",
    ),
    (lambda: nn.AdaptiveMaxPool((0, 1)), "AdaptiveMaxPool.output_size must be an int >= 1"),
    (lambda: nn.GlobalAvgPool(-1), "GlobalAvgPool.start must be an int >= 0, got -1"),
    (
        lambda: nn.MaxPool((9, 2)).apply({}, X),
        "a window that spans 9 elements (kernel 9, dilation 1) does not fit axis -3 of an array "
        "(2, 5, 6, 3) padded by 0 before, 0 after; use a smaller kernel, or padding='same'",
    ),
    (lambda: nn.AvgPool(2).apply({}, jnp.ones((0, 1))), "does not fit axis -2 of an array"),
    (
        lambda: nn.Sequential(pool=nn.AvgPool(3, padding=3)).apply({"pool": {}}, X[0, 0]),
        "the padding of axis -2 of an array (6, 3) must be below 3, which a window spans, got 3; "
        "write padding=1 or less",
    ),
    (
        lambda: nn.MaxPool((2, 2)).apply({}, X[0, 0]),
        "expected an input of shape (..., height, width, features), got float32[6,3]",
    ),
    (
        lambda: nn.AdaptiveAvgPool(2).apply({}, X[:, 0, :0]),
        "axis -2 of an array to pool must be of at least 1 element, got float32[2,0,3]",
    ),
    (
        lambda: nn.GlobalMaxPool().apply({}, X[0, 0]),
        "expected an input of shape (*1 batch axes, *axes, features), got float32[6,3]",
    ),
    (
        lambda: nn.GlobalMaxPool().apply({}, X[:, :0]),
        "at least one element, got float32[2,0,6,3]",
    ),
    (
        lambda: jax.jit(lambda n: nn.MaxPool(n).apply({}, X))(2),
        "known before tracing: pass a Python number, for example by static_argnums of jax.jit",
    ),
]


@pytest.mark.parametrize(("call", "text"), REFUSED, ids=range(len(REFUSED)))
def test_refused(call, text):
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    assert text in str(error.value)
