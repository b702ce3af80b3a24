"""Sums: the gradient of a parameter with many uses is summed in float32, whatever the type."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.cases import CASES, KEY, Case, distinct, host

COPIES = 4096
BOUND = 0.03

# Layers that normalize over the first axis, or whose first axis is not a batch: they are mapped.
MAPPED = ("Dense of a vector", "Dense on axes", "EmbeddingBag, packed", "LayerNorm on axes")
# `LearnedArray` returns its array: its uses are the caller's.
WITH_INPUTS = [case for case in CASES if case.inputs]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def all_gradients(layer, half, mapped, train, params, inputs, *more):
    """The gradients in float32 and in a half type, of one program."""
    return {
        "float32": gradients(layer, mapped, train, params, inputs, *more),
        half: gradients(nn.Precision(layer, half), mapped, train, params, inputs, *more),
        f"a network of {half}": gradients(
            layer, mapped, train, narrow(params, half), narrow(inputs, half), *more
        ),
    }


def gradients(layer, mapped, train, params, inputs, state, of_first, weights):
    """The gradient of sum(weights * y) over all copies of one example, or of its first copy.

    The weights are positive, so that sums do not cancel, and sum to numbers that float16 can hold.
    """

    def loss(params, count):
        def apply(inputs):
            return layer.apply(params, *inputs, state=state, key=KEY, train=train)[0]

        y = jax.vmap(apply)(inputs) if mapped else apply(inputs)

        def weighted(y, weights):
            tiles = [n // m for n, m in zip(y.shape[mapped:], weights.shape, strict=True)]
            weights = jnp.tile(weights, tiles)
            axis = 0 if mapped else next((i for i, n in enumerate(tiles) if n == COPIES), None)
            if axis is None:
                return jnp.sum(y.astype(jnp.float32) * weights)
            first = np.arange(y.shape[axis]) < y.shape[axis] // COPIES
            counts = jnp.where(first, 1, count).reshape([-1] + [1] * (y.ndim - 1 - axis))
            return jnp.sum(y.astype(jnp.float32) * weights * counts)

        return sum(jax.tree.leaves(jax.tree.map(weighted, y, weights)))

    return jax.grad(loss)(params, jnp.where(of_first, 0.0, 1.0))


def narrow(tree, dtype):
    return jax.tree.map(
        lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree
    )


@pytest.mark.parametrize("half", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
@distinct(WITH_INPUTS)
def test_the_gradient_of_many_copies_is_float32s(case: Case, half: str):
    """Under Precision, and in a network of the type itself.

    4,096 copies of one example: a sum in bfloat16 stops at 256 equal terms, one in float16 at
    2,048. What one copy is off by is allowed again: in a deep block its rounding alone may exceed
    the bound, as where the gradient is 0 but for rounding (the bias of keys, or one before a batch
    norm). Copies have the same masks in inference only.
    """
    params, one = host(case.init()), case.arrays()
    if not jax.tree.leaves(params):
        return
    mapped = case.name in MAPPED
    train = bool(case.state) and not case.draws
    inputs = jax.tree.map(lambda a: np.stack([a] * COPIES), host(one))
    if not mapped:
        inputs = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), inputs)
    state = case.state if mapped else case.layer.init_state(*inputs, key=KEY)
    shapes = jax.eval_shape(lambda *a: case.eager(a[0], case.state, KEY, a[1])[0], params, one)
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda a: rng.uniform(0.01, 0.03, a.shape).astype(np.float32), shapes)

    def found(of_first):
        got = all_gradients(
            case.layer, half, mapped, train, params, inputs, state, of_first, weights
        )
        return jax.tree.map(lambda a: np.asarray(a, np.float64), host(got))

    firsts, all_ = found(True), found(False)
    first, exact = firsts.pop("float32"), all_.pop("float32")
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(exact))
    for name in all_:
        for (path, a), b, a_first, b_first in zip(
            jax.tree_util.tree_leaves_with_path(exact),
            *map(jax.tree.leaves, (all_[name], first, firsts[name])),
            strict=True,
        ):
            scale = max(np.abs(a).max(), 0.01 * largest)
            error = np.abs(b - a) - COPIES * np.abs(b_first - a_first)
            assert (error <= BOUND * scale).all(), (name, path, error / scale)
