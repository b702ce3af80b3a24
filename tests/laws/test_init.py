"""Init: shapes alone decide what is drawn, and every way to draw gives the same numbers."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.cases import KEY, Case, every, stacked, structural
from tests.near import assert_near


@every
def test_abstract_is_concrete(case: Case):
    """`spec`, `jax.eval_shape`, shapes and arrays as inputs: all agree."""
    params = case.layer.init(KEY, *case.arrays())
    abstract = jax.eval_shape(case.layer.init, KEY, *case.inputs)
    spec = case.layer.spec(*case.inputs)
    declared = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), spec)
    chex.assert_trees_all_equal(case.init(), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(declared, params)
    assert jax.tree.structure(params) == jax.tree.structure(declared)
    state = jax.eval_shape(lambda: case.layer.init_state(*case.inputs, key=KEY))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, case.state)


@structural
def test_under_jit_and_vmap(case: Case):
    """To rounding: a compiler folds constants of a draw that is part of a larger program."""
    keys = jax.random.split(KEY, 2)
    params = [case.init(key) for key in keys]
    mapped = jax.jit(jax.vmap(lambda key: case.layer.init(key, *case.arrays())))(keys)
    assert_near(mapped, stacked(params))


@structural
def test_an_old_style_key_is_the_typed_one(case: Case):
    old = jax.random.PRNGKey(3)
    chex.assert_trees_all_equal(case.init(old), case.init(jax.random.key(3)))
    words: Any = np.asarray(old)
    chex.assert_trees_all_equal(case.layer.init(words, *case.inputs), case.init(old))


def test_out_shardings():
    mesh = jax.make_mesh((1,), ("data",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    net, x = nn.Repeat(nn.Dense(4), 2), jnp.zeros((2, 4))
    init = jax.jit(lambda key: net.init(key, x), out_shardings=everywhere)
    params = init(KEY)
    assert all(leaf.sharding == everywhere for leaf in jax.tree.leaves(params))
    assert_near(params, net.init(KEY, x))


@pytest.mark.parametrize(
    ("impl", "jit"), [("threefry2x32", False), ("threefry2x32", True), ("rbg", False)]
)
def test_the_key_at_a_path_folds_segment_by_segment(impl: str, jit: bool):
    """`net.init(key)` gives child `name` what `child.init(fold_in(key, name))` gives."""
    key, x = jax.random.key(7, impl=impl), jnp.zeros((2, 4))
    inner = nn.Sequential(nn.Dense(4), nn.Residual(nn.Dense(4)))
    net = nn.Sequential(a=nn.Dense(4), b=nn.Repeat(inner, 2), c=nn.Ensemble(nn.Dense(3), 2))

    def init(key):
        return net.init(key, x)

    params = (jax.jit(init) if jit else init)(key)
    same = assert_near if jit else chex.assert_trees_all_equal
    below = nn.fold_in(key, "b")
    same(params["a"], nn.Dense(4).init(nn.fold_in(key, "a"), x))
    for i in range(2):
        found = jax.tree.map(lambda a, i=i: a[i], params)
        copy = nn.fold_in(below, i)
        same(found["b"], inner.init(copy, x))
        same(found["b"][1], nn.Dense(4).init(nn.fold_in(copy, 1), x))
        member = nn.fold_in(nn.fold_in(key, "c"), i)
        same(found["c"], nn.Dense(3).init(member, x))
