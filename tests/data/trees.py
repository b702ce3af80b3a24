"""Pytrees of rows, drawn by hypothesis, and their batches in an order, by NumPy indexing."""

import collections

import jax
import numpy as np
from hypothesis import strategies as st

from jaxnn import data

KEY = jax.random.key(3)
WORDS = np.asarray(jax.random.key_data(KEY))
X, Y = np.arange(22.0, dtype=np.float32).reshape(11, 2), np.arange(11)
Tokens = collections.namedtuple("Tokens", "ids mask")


def arrays(rows):
    kinds = st.sampled_from([np.float32, np.int32, np.bool_])
    shapes = st.lists(st.integers(1, 3), max_size=2)

    def made(kind, shape):
        count = rows * int(np.prod(shape))
        return (np.arange(count).reshape(rows, *shape) % 5).astype(kind)

    return st.builds(made, kinds, shapes)


def trees(rows):
    def inside(leaf):
        several = st.lists(leaf, min_size=1, max_size=3)
        named = st.dictionaries(st.sampled_from("abc"), leaf, min_size=1, max_size=3)
        return st.one_of(several.map(tuple), several, named, st.builds(Tokens, leaf, leaf))

    return st.recursive(arrays(rows), inside, max_leaves=5).filter(
        lambda t: not isinstance(t, list)
    )


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def take(tree, rows):
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def expected_batches(tree, rows, size, count):
    """What epoch after epoch gives, by hand."""
    steps = rows // size
    orders = [data.epoch_order(WORDS, epoch, rows) for epoch in range(count // steps + 1)]
    return [
        take(tree, orders[i // steps][i % steps * size : (i % steps + 1) * size])
        for i in range(count)
    ]
