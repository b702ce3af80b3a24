"""Pure: a layer is a function of what it is given, whichever way JAX runs it."""

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import chex
import jax
import numpy as np
import pytest

import jaxnn as nn
from tests.cases import CASES, KEY, Case, distinct, every, stacked, structural
from tests.near import assert_near


@every
def test_numpy_and_earlier_calls_change_nothing(case: Case):
    changes_nothing(case, case.modes[-1], case.run)


@structural
def test_jit_changes_nothing(case: Case):
    """Without jit each operation is compiled separately: other cases are compared at night."""
    changes_nothing(case, case.modes[-1], case.eager)


@pytest.mark.slow
@every
def test_jit_changes_nothing_in_inference(case: Case):
    changes_nothing(case, False, case.eager)


def changes_nothing(case: Case, train: bool, call: Any):
    """The same call from one program, from numpy arrays, and after other calls."""
    given = (case.init(), case.state, KEY, case.arrays())
    expected = call(*given, train=train)
    assert_near(case.run(*given, train=train), expected)
    case.run(case.init(jax.random.key(1)), case.state, KEY, case.arrays(seed=1), train=train)
    params, state, inputs = jax.tree.map(np.asarray, (given[0], given[1], given[3]))
    chex.assert_trees_all_equal(call(params, state, KEY, inputs, train=train), expected)
    chex.assert_trees_all_equal(case.layer.init(KEY, *inputs), given[0])


@contextlib.contextmanager
def checking_leaks() -> Iterator[None]:
    """As JAX's, which looks for tracers among all that there is; here, among what is new."""
    gc.freeze()
    with jax.checking_leaks():
        yield


def test_a_leak_is_found():
    held = []

    def leak(x):
        held.append(x)
        return x

    with checking_leaks(), pytest.raises(Exception, match="Leaked trace"):
        jax.jit(leak).trace(1.0)


@every
def test_one_trace_no_leak_no_promotion(case: Case):
    """A loop that feeds the state back traces once, though parameters and inputs change."""
    for train in case.modes:
        traced_once(case, train)


def traced_once(case: Case, train: bool):
    traces = []

    @jax.jit
    def step(params, state, key, inputs):
        traces.append(1)
        return case.eager(params, state, key, inputs, train)[1]

    state = case.state
    for seed in range(2):
        key = jax.random.key(seed)
        given = case.init(key), state, key, case.arrays(seed=seed)
        with (
            checking_leaks(),
            jax.numpy_dtype_promotion("strict"),
            jax.numpy_rank_promotion("raise"),
        ):
            jax.eval_shape(case.layer.init, key, *given[-1])
            step.trace(*given)  # traced as a call would, without the cost of compiling
        state = case.run(*given, train=train)[1]
    assert len(traces) == 1


@distinct(CASES)
def test_vmap_is_a_loop(case: Case):
    """Over parameters, state, keys and inputs at once."""
    train = case.modes[-1]
    keys = jax.random.split(KEY, 2)
    lanes = [(case.init(key), case.state, case.arrays(seed=i)) for i, key in enumerate(keys)]

    @jax.jit
    @jax.vmap
    def mapped(key, lane):
        params, state, inputs = lane
        return case.eager(params, state, key, inputs, train=train)

    looped = [
        case.run(p, s, key, x, train=train) for key, (p, s, x) in zip(keys, lanes, strict=True)
    ]
    assert_near(mapped(keys, stacked(lanes)), stacked(looped))


@every
def test_state_in_state_out(case: Case):
    """Inference leaves the state as it is; training changes it, except inside of nn.Inference."""
    for train in case.modes:
        state_out(case, train)


def state_out(case: Case, train: bool):
    params, inputs = case.init(), case.arrays()
    y, state = case.run(params, case.state, KEY, inputs, train=train)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, case.state)
    if not train or isinstance(case.layer, nn.Inference):
        chex.assert_trees_all_equal(state, case.state)
    elif case.state:
        leaves = map(jax.tree.leaves, (state, case.state))
        changed = [(a != b).any() for a, b in zip(*leaves, strict=True)]
        assert all(changed)
    if not case.state:
        alone = jax.eval_shape(lambda *x: case.layer.apply(params, *x), *inputs)
        chex.assert_trees_all_equal_shapes_and_dtypes(alone, y)
