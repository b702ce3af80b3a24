"""The laws that apply to every composition, on random ones.

A composition maps (3, 4) to (3, 4), so that any of its parts may be repeated or added.
"""

import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnn as nn
from tests.cases import Case, floats, host
from tests.near import assert_near

KEY = jax.random.key(11)
NAMES = vars(nn) | {"jax": jax, "functools": functools}


def mean(outputs):
    """Of the branches, by position or by name."""
    outputs = list(outputs.values()) if isinstance(outputs, dict) else outputs
    return sum(outputs) / len(outputs)


def average(net: nn.Layer) -> nn.Layer:
    """An ensemble's members as one value, so that it fits wherever a layer does."""
    return nn.Sequential(nn.Ensemble(net, 2), functools.partial(jnp.mean, axis=0))


def named(layers):
    return dict(zip("abc", layers, strict=False))


leaves = st.sampled_from(
    [nn.Dense(4), nn.LayerNorm(), nn.Dropout(0.5), nn.BatchNorm(), jnp.tanh, jax.nn.softplus]
)


def bigger(nets):
    several = st.lists(nets, min_size=1, max_size=3)
    return st.one_of(
        several.map(lambda layers: nn.Sequential(*layers)),
        several.map(lambda layers: nn.Sequential(**named(layers))),
        several.map(lambda layers: nn.Parallel(*layers, merge=mean)),
        several.map(lambda layers: nn.Parallel(**named(layers), merge=mean)),
        nets.map(nn.Residual),
        nets.map(nn.Remat),
        nets.map(lambda net: nn.Repeat(net, 2)),
        nets.map(lambda net: nn.Precision(net, "float32")),
        nets.map(average),
    )


networks = st.recursive(leaves, bigger, max_leaves=4).map(lambda net: nn.Sequential(net))
few = settings(max_examples=5, deadline=None, derandomize=True, database=None)


def outcome(net: nn.Layer):
    """Parameters, output, state and gradient in training, from one compiled program."""
    case = Case("", net, (floats(3, 4),))
    (x,), params, state = case.arrays(), case.init(KEY), case.state

    def loss(params):
        y, new = net.apply(params, x, state=state, key=KEY, train=True)
        return jnp.mean(jnp.square(y)), (y, new)

    return params, state, *jax.jit(jax.grad(loss, has_aux=True))(params)


def stack(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


@few
@given(networks)
def test_values(net):
    names = NAMES | {__name__.split(".")[0]: __import__(__name__.split(".")[0])}
    assert eval(repr(net), names) == net
    assert pickle.loads(pickle.dumps(net)) == net


@few
@given(networks)
def test_repeat_is_a_row(net):
    params, state, grads, (y, new) = outcome(nn.Sequential(*[net] * 2))
    stacked, state_, grads_, (y_, new_) = outcome(nn.Repeat(net, 2))
    chex.assert_trees_all_equal(stacked, stack(params))
    assert_near(y_, y)
    assert_near(grads_, stack(grads))
    if state:
        chex.assert_trees_all_equal(state_, stack(state.values()))
        assert_near(new_, stack(new.values()))


@few
@given(networks, st.sampled_from([nn.Remat, lambda net: nn.Precision(net, "float32")]))
def test_wrappers_that_change_nothing(net, wrap):
    params, state, *rest = outcome(net)
    params_, state_, *rest_ = outcome(wrap(net))
    chex.assert_trees_all_equal((params_, state_), (params, state))
    assert_near(rest_, rest)


@few
@given(networks)
def test_members_and_captures(net):
    case = Case("", net, (floats(3, 4),))
    ensemble = Case("", nn.capture(nn.Ensemble(net, 2), "**"), case.inputs)
    params, state = ensemble.init(KEY), ensemble.state
    (y, captured), new = ensemble.run(params, state, KEY, case.arrays())
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(captured))
    for i in range(2):
        below = nn.fold_in(KEY, i)
        mine, kept, out, after = jax.tree.map(lambda a, i=i: a[i], host((params, state, y, new)))
        chex.assert_trees_all_equal(mine, case.init(below))
        chex.assert_trees_all_equal(kept, case.state)
        assert_near((out, after), case.run(mine, kept, below, case.arrays()))
