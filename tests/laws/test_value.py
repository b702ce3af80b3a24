"""Value: a layer equals, hashes, prints and pickles by what it is."""

import copy
import functools
import pickle

import chex
import jax
import numpy
import pytest

import jaxnn as nn
import tests
from tests.cases import CASES, KEY, Case, every

# What a reader of a printed network has imported.
NAMES = {**vars(nn), "jax": jax, "functools": functools, "numpy": numpy, "tests": tests}


@every
def test_printed_code_builds_the_value(case: Case):
    again = eval(repr(case.layer), dict(NAMES))
    assert again == case.layer
    assert hash(again) == hash(case.layer)
    assert repr(again) == repr(case.layer)
    chex.assert_trees_all_equal(again.init(KEY, *case.inputs), case.init())


@every
def test_pickles_and_copies(case: Case):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(case.layer, protocol)) == case.layer
    assert copy.copy(case.layer) == case.layer
    assert copy.deepcopy(case.layer) == case.layer


def test_different_cases_are_different_values():
    assert len({case.layer for case in CASES}) == len(CASES)


@every
def test_a_layer_is_a_pytree_without_leaves(case: Case):
    assert jax.tree.leaves(case.layer) == []
    assert jax.tree.map(lambda leaf: leaf, case.layer) is case.layer


@pytest.mark.parametrize("static", [False, True], ids=["argument", "static argument"])
@every
def test_equal_networks_share_one_program(case: Case, static: bool):
    """Built apart, passed as a plain argument or a static one; another seed costs nothing."""

    traces = []

    @functools.partial(jax.jit, static_argnums=0 if static else ())
    def run(layer, params, state, key, inputs):
        traces.append(layer)
        return layer.apply(params, *inputs, state=state, key=key, train=True)

    for seed, layer in enumerate([case.layer, pickle.loads(pickle.dumps(case.layer))]):
        key = jax.random.key(seed)
        # Traced without being compiled: the trace is what a second program would begin with.
        run.trace(layer, case.init(key), case.state, key, case.arrays())
    assert len(traces) == 1
