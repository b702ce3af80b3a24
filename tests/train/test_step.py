"""One training step: optimizers against a hand computation, traces, donation, state and keys."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train

X = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.25]], np.float32)
Y = np.array([1.0, -2.0, 0.5], np.float32)


def mean_squared(outputs, targets):
    return jnp.mean((outputs[..., 0] - targets) ** 2)


def gradient(w, b):
    """By hand: d/dw mean((xw + b - y)^2) = 2/n x.T (xw + b - y)."""
    error = X @ w + b - Y
    return 2 / len(Y) * X.T @ error, 2 / len(Y) * error.sum()


def gradient_descent(p, g, memory, count):
    return p - 0.1 * g, memory


def momentum(p, g, memory, count):
    memory = 0.9 * memory + g
    return p - 0.1 * memory, memory


def adam(p, g, memory, count):
    m, v = memory if isinstance(memory, tuple) else (0.0 * g, 0.0 * g)
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    step = (m / (1 - 0.9**count)) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8)
    return p - 0.1 * step, (m, v)


@pytest.mark.parametrize(
    ("optimizer", "by_hand"),
    [
        (optax.sgd(0.1), gradient_descent),
        (optax.sgd(0.1, momentum=0.9), momentum),
        (optax.adam(0.1), adam),
        (train.Optimizer(optax.adam, learning_rate=0.1), adam),
    ],
    ids=["gradient descent", "momentum", "adam", "adam as data"],
)
def test_optimizers_equal_a_hand_computation(optimizer, by_hand):
    net = nn.Dense(1)
    ts = train.TrainState.create(net, optimizer, jax.random.key(1), X)
    w, b = np.asarray(ts.params["w"])[:, 0].astype(float), 0.0
    step = train.make_step(net, mean_squared, optimizer)
    memory_w, memory_b = 0.0, 0.0
    for count in range(1, 6):
        ts, metrics = step(ts, (X, Y))
        np.testing.assert_allclose(metrics["loss"], np.mean((X @ w + b - Y) ** 2), rtol=1e-4)
        grad_w, grad_b = gradient(w, b)
        w, memory_w = by_hand(w, grad_w, memory_w, count)
        b, memory_b = by_hand(b, grad_b, memory_b, count)
        # float32 against float64 by hand: 1 - 0.999**count alone has a relative error of 6e-5
        np.testing.assert_allclose(ts.params["w"][:, 0], w, atol=3e-5)
        np.testing.assert_allclose(ts.params["b"][0], b, atol=3e-5)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adamw(1e-3),
        optax.lion(1e-3),
        optax.rmsprop(1e-3),
        optax.chain(
            optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-3, 9))
        ),
        optax.MultiSteps(optax.sgd(0.1), 2),
        optax.inject_hyperparams(optax.adam)(learning_rate=1e-3),
    ],
    ids=["adamw", "lion", "rmsprop", "chain", "multi steps", "injected"],
)
def test_every_optax_optimizer_works_unchanged(optimizer):
    net = nn.Sequential(nn.Dense(3), jnp.tanh, nn.Dense(1))
    ts = train.TrainState.create(net, optimizer, jax.random.key(0), X)
    step = train.make_step(net, train.Regression(), optimizer)
    metrics = {}
    for _ in range(3):
        ts, metrics = step(ts, (X, Y))
    assert int(ts.step) == 3
    assert set(metrics) == {"loss", "mae"}


TRACES: list[int] = []


def counted(x):
    """The identity, as a layer that counts how often it is traced."""
    TRACES.append(1)
    return x


def test_a_second_step_and_an_equal_network_cost_no_trace():
    net, twin = (nn.Sequential(nn.Dense(1), counted) for _ in range(2))
    optimizer = optax.adam(1e-3)
    ts = train.TrainState.create(net, optimizer, jax.random.key(0), X)
    TRACES.clear()
    for network in (net, twin, net):
        step = train.make_step(network, train.Regression(), optimizer)
        for _ in range(2):
            ts, _ = step(ts, (X, Y))
    assert len(TRACES) == 1


def test_a_changed_learning_rate_or_seed_costs_no_trace():
    net = nn.Sequential(nn.Dense(4), nn.Dropout(0.5), nn.Dense(1), counted)
    losses = set()
    task = train.Regression()
    net.spec(X)
    TRACES.clear()
    for seed, rate in [(0, 1e-3), (0, 0.3), (7, 0.3)]:
        optimizer = train.Optimizer(optax.adamw, learning_rate=rate, weight_decay=0.1 * rate)
        ts = train.TrainState.create(net, optimizer, jax.random.key(seed), X)
        step = train.make_step(net, task, optimizer)
        ts, _ = step(ts, (X, Y))
        ts, metrics = step(ts, (X, Y))
        losses.add(float(metrics["loss"]))
    assert len(TRACES) == 1
    assert len(losses) == 3


def test_a_traced_dropout_rate_and_learning_rate_are_one_program():
    @chex.assert_max_traces(n=1)
    def run(rate, learning_rate, seed):
        net = nn.Sequential(nn.Dense(4), nn.Dropout(rate), nn.Dense(1))
        optimizer = optax.adam(learning_rate)
        key = jax.random.key(seed)
        ts = train.TrainState.create(net, optimizer, key, X)
        ts, metrics = train.make_step(net, train.Regression(), optimizer)(ts, (X, Y))
        return metrics["loss"]

    jitted = jax.jit(run)
    losses = [float(jitted(r, lr, s)) for r, lr, s in [(0.0, 0.1, 0), (0.5, 0.2, 0), (0.5, 0.2, 1)]]
    assert len(set(losses)) == 3


def test_the_step_takes_the_memory_of_its_state_and_leaves_the_key():
    key = jax.random.key(0)
    net, optimizer = nn.Dense(1), optax.adam(0.1)
    ts = train.TrainState.create(net, optimizer, key, X)
    new, _ = train.make_step(net, train.Regression(), optimizer)(ts, (X, Y))
    assert ts.params["w"].is_deleted()
    assert not new.params["w"].is_deleted()
    jax.random.normal(key)  # still the caller's


def test_the_key_of_step_i_is_the_root_folded_by_i():
    """Dropout in step i draws as the network applied by hand at fold_in(key, i)."""
    net = nn.Sequential(nn.Dropout(0.5))
    optimizer = optax.sgd(0.0)
    key = jax.random.key(3)
    ts = train.TrainState.create(net, optimizer, key, X)
    step = train.make_step(net, lambda outputs, targets: jnp.sum(outputs * targets), optimizer)
    weights = np.arange(1, 7, dtype=np.float32).reshape(3, 2)
    for i in range(3):
        ts, metrics = step(ts, (X, weights))
        by_hand = net.apply(({},), X, key=jax.random.fold_in(key, i), train=True)
        np.testing.assert_allclose(metrics["loss"], jnp.sum(by_hand * weights), rtol=1e-6)


def test_the_state_of_the_network_is_threaded():
    net = nn.Sequential(nn.BatchNorm(momentum=0.5), nn.Dense(1))
    optimizer = optax.sgd(0.1)
    ts = train.TrainState.create(net, optimizer, jax.random.key(0), X)
    step = train.make_step(net, train.Regression(), optimizer)
    for _ in range(2):
        ts, _ = step(ts, (X, Y))
    # 0 -> m/2 -> 3m/4, from the formula
    np.testing.assert_allclose(ts.state["0"]["mean"], 0.75 * X.mean(0), rtol=1e-6)


def test_the_step_is_the_same_under_vmap_as_alone():
    net, task = nn.Dense(1), train.Regression()
    optimizer = optax.sgd(0.1)

    def losses(seed):
        ts = train.TrainState.create(net, optimizer, jax.random.key(seed), X)
        step = train.make_step(net, task, optimizer)
        _, metrics = step(step(ts, (X, Y))[0], (X, Y))
        return metrics["loss"]

    alone = [losses(seed) for seed in range(3)]
    lanes = jax.jit(jax.vmap(losses))(jnp.arange(3))
    np.testing.assert_allclose(lanes, jnp.stack(alone), rtol=1e-5)


def test_optimizer_prints_and_is_a_pytree_of_its_numbers():
    optimizer = train.Optimizer(optax.adamw, learning_rate=0.5, nesterov=True)
    assert repr(optimizer) == "Optimizer(optax.adamw, learning_rate=0.5, nesterov=True)"
    assert jax.tree.leaves(optimizer) == [0.5]
    doubled = jax.tree.map(lambda number: 2 * number, optimizer)
    assert doubled.numbers == {"learning_rate": 1.0}
    assert doubled.arguments == {"learning_rate": 1.0, "nesterov": True}


def test_gradients_flow_to_an_optimizers_numbers():
    """One step of descent: d loss(p - lr g) / d lr = -g . grad(p - lr g), in one dimension."""

    def after(rate):
        optimizer = train.Optimizer(optax.sgd, learning_rate=rate)
        p = jnp.array(2.0)
        updates, _ = optimizer.update(2 * p, optimizer.init(p), p)
        return (p + updates) ** 2

    np.testing.assert_allclose(jax.grad(after)(0.1), -4.0 * 2 * (2.0 - 0.4), rtol=1e-6)
