"""Optimizers as data: nested numbers, chains, further arguments."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train
from jaxnn.experiment import SGD, AdamW
from jaxnn.train.optimizer import Fixed, as_pytree

X = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.25], [1.0, 0.0]], np.float32)
Y = np.array([1.0, -2.0, 0.5, 3.0], np.float32)
NET, TASK, KEY = nn.Dense(1), train.Regression(), jax.random.key(0)


def run(optimizer, steps=3, **options):
    ts = train.TrainState.create(NET, optimizer, KEY, X)
    step, metrics = train.make_step(NET, TASK, optimizer, **options), {}
    for _ in range(steps):
        ts, metrics = step(ts, (X, Y))
    return ts, metrics


def clipped(peak, norm):
    schedule = train.Warmup(2, train.Cosine(peak, 100))
    return train.Optimizer(
        optax.chain,
        train.Optimizer(optax.clip_by_global_norm, max_norm=norm),
        train.Optimizer(optax.adamw, learning_rate=schedule, weight_decay=1e-2, nesterov=True),
        optax.contrib.reduce_on_plateau(factor=0.5, patience=2),
    )


def test_numbers_inside_of_schedules_and_chains_are_data():
    optimizer = clipped(0.1, 1.0)
    assert jax.tree.leaves(optimizer) == [1.0, 2, 0.1, 100, 0.0, 1e-2]
    assert repr(optimizer).startswith(
        "Optimizer(optax.chain, Optimizer(optax.clip_by_global_norm, max_norm=1.0), "
        "Optimizer(optax.adamw, learning_rate=Warmup(steps=2, then=Cosine(peak=0.1, steps=100, "
    )
    assert jax.tree.structure(optimizer) != jax.tree.structure(clipped(0.1, 1.0))  # the plain one
    again = jax.tree.map(lambda number: number, optimizer)
    assert jax.tree.structure(again) == jax.tree.structure(optimizer)


def test_a_chain_as_data_is_the_chain_of_optax():
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 102)
    theirs = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-2, nesterov=True),
        optax.contrib.reduce_on_plateau(factor=0.5, patience=2),
    )  # fmt: skip
    ours, _ = run(clipped(0.1, 1.0))
    plain, _ = run(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)  # schedules round otherwise


TRACES: list[int] = []


def counted(x):
    """The identity, as a layer that counts how often it is traced."""
    TRACES.append(1)
    return x


def test_changed_numbers_of_a_chain_and_of_what_wraps_it_cost_no_trace():
    net = nn.Sequential(nn.Dense(1), counted)
    net.spec(X)
    TRACES.clear()

    def build(peak):
        inner = train.Optimizer(
            optax.chain,
            train.Optimizer(optax.clip_by_global_norm, max_norm=10 * peak),
            train.Optimizer(optax.adam, learning_rate=train.Cosine(peak, 10)),
        )
        return train.dynamic_loss_scale(
            train.with_ema(train.partition({"**/b": None, "**": inner}), decay=1 - peak),
            initial=8 / peak,
        )

    found = set()
    for peak in (0.1, 0.2):
        optimizer = build(peak)
        ts = train.TrainState.create(net, optimizer, KEY, X)
        step = train.make_step(net, TASK, optimizer)
        for _ in range(2):
            ts, _ = step(ts, (X, Y))
        found.add(float(ts.params[0]["w"][0, 0]))
    assert len(TRACES) == 1
    assert len(found) == 2


def test_a_plateau_is_told_the_loss():
    """The factor after each number of steps is that of optax, given the losses by hand."""
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=2, rtol=0.1)
    chain = optax.chain(optax.sgd(0.0), plateau)  # the loss stays where it is
    as_data = train.Optimizer(optax.chain, train.Optimizer(optax.sgd, learning_rate=0.0), plateau)
    by_hand: Any = plateau.init(1.0)
    scales = []
    loss = run(chain, 1)[1]["loss"]
    for _ in range(6):
        _, by_hand = plateau.update(1.0, by_hand, value=loss)
        scales.append(float(by_hand.scale))
    assert 1.0 in scales and 0.5 in scales
    for steps in (2, 4, 6):
        assert float(run(chain, steps)[0].opt_state[1].scale) == scales[steps - 1]
    assert float(run(as_data, 6)[0].opt_state[1].scale) == scales[-1]


def test_what_is_a_pytree_of_numbers_is_data_and_the_rest_is_fixed():
    plain = optax.adam(1e-3)
    assert as_pytree(plain) == Fixed(plain)
    assert as_pytree(as_pytree(plain)) == Fixed(plain)
    several = optax.MultiSteps(plain, 2)
    assert jax.tree.leaves(as_pytree(several)) == []

    @jax.tree_util.register_pytree_node_class
    class Own:
        def __init__(self, rate):
            self.rate = rate

        def init(self, params):
            return ()

        def update(self, gradients, opt_state, params):
            return jax.tree.map(lambda g: -self.rate * g, gradients), opt_state

        def tree_flatten(self):
            return (self.rate,), None

        @classmethod
        def tree_unflatten(cls, aux, numbers):
            return cls(*numbers)

    own = Own(0.1)
    assert as_pytree(own) is own
    for a, b in zip(
        jax.tree.leaves(run(own)[0].params), jax.tree.leaves(run(optax.sgd(0.1))[0].params),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(a, b)


def test_a_skipped_number_is_no_number():
    """Flags, text and None stay as they are."""
    optimizer = train.Optimizer(
        optax.adamw, learning_rate=1e-3, mask={"w": True, "b": False}, mu_dtype=None
    )
    assert jax.tree.leaves(optimizer) == [1e-3]
    params = {"w": jnp.ones(2), "b": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], -1e-3 * 1e-4, rtol=1e-6)
    np.testing.assert_allclose(updates["b"], 0.0)


def rank_two(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


RATES = (0.1, np.float32(0.1), jnp.float32(0.1), train.Warmup(2, train.Cosine(0.1, 100)))
VALUES = {
    "numbers": lambda rate: train.Optimizer(optax.adam, learning_rate=rate, nesterov=True),
    "a function": lambda rate: train.Optimizer(optax.adamw, learning_rate=rate, mask=rank_two),
    "a type": lambda rate: train.Optimizer(optax.adam, learning_rate=rate, mu_dtype=jnp.float32),
    "a tree": lambda rate: train.Optimizer(optax.adamw, learning_rate=rate, mask={"w": True}),
    "a chain": lambda rate: train.Optimizer(
        optax.chain,
        train.Optimizer(optax.clip_by_global_norm, max_norm=1.0),
        train.Optimizer(optax.sgd, learning_rate=rate),
    ),
    "averaged": lambda rate: train.with_ema(train.Optimizer(optax.sgd, learning_rate=rate)),
    "by_path": lambda rate: train.partition(
        {"**/b": None, "**": train.Optimizer(optax.sgd, learning_rate=rate)}
    ),
    "dynamic_loss_scale": lambda rate: train.dynamic_loss_scale(
        train.Optimizer(optax.sgd, learning_rate=rate)
    ),
    "apply_if_finite": lambda rate: train.apply_if_finite(
        train.Optimizer(optax.sgd, learning_rate=rate)
    ),
    "for_network": lambda rate: train.for_network(
        train.Optimizer(optax.sgd, learning_rate=rate), nn.Repeat(nn.Dense(2), 3), X
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_an_optimizer_equals_its_unpickled_copy(name):
    for rate in RATES:
        optimizer = VALUES[name](rate)
        copy = pickle.loads(pickle.dumps(optimizer))
        assert copy is not optimizer
        assert copy == optimizer == VALUES[name](rate)
        assert hash(copy) == hash(optimizer)
        assert jax.tree.structure(copy) == jax.tree.structure(optimizer)
    assert VALUES[name](0.1) != VALUES[name](0.2)
    assert VALUES[name](1.0) != VALUES[name](1)  # types count
    assert len({VALUES[name](0.1), VALUES[name](0.1), VALUES[name](0.2)}) == 2


def test_optimizers_that_differ_are_not_equal():
    one = train.Optimizer(optax.adam, learning_rate=0.1)
    assert one != train.Optimizer(optax.nadam, learning_rate=0.1)
    assert one != train.Optimizer(optax.adam, 0.1)
    assert one != train.Optimizer(optax.adam, learning_rate=0.1, nesterov=False)
    assert one != train.Optimizer(optax.adam, learning_rate=jnp.float32(0.1))
    assert one != "adam"
    flag, number = (train.Optimizer(optax.adam, learning_rate=0.1, nesterov=n) for n in (True, 1))
    assert flag != number
    with pytest.raises(TypeError, match="traced number"):
        jax.jit(lambda rate: train.Optimizer(optax.adam, learning_rate=rate) == one)(0.1)


def test_a_program_with_an_optimizer_equals_its_unpickled_copy():
    for config in (AdamW(), SGD()):
        built = config.build(100)
        assert pickle.loads(pickle.dumps(built)) == built == config.build(100)
