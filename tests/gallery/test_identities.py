"""What programs of experiments/gallery equal in closed form."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gallery import federated, seq2seq, sweep_dqn, uncertainty
from experiments.gallery._lanes import lanes
from jaxnn import train

KEY = jax.random.key(0)


def test_a_round_of_one_step_each_is_a_step_on_the_union_of_all_images():
    """McMahan et al., 2017, section 2: FedAvg with one step on all rows is FedSGD."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 8, 5)).astype("f"), rng.integers(10, size=(3, 8))
    rounds = federated.program(4, epochs=1, batch_size=8)
    union = x.reshape(24, 5), y.reshape(24)

    @jax.jit
    def run():
        state = rounds.init(KEY, (x, y))
        wanted, _ = rounds.client.step(state, union)
        return *rounds.step(state, (x, y)), wanted, rounds.evaluate(state, union, key=KEY)

    found, metrics, wanted, evaluated = run()
    for a, b in zip(*map(jax.tree.leaves, (found.params, wanted.params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # a mean of means in float32
    np.testing.assert_allclose(float(metrics["loss"]), float(evaluated["loss"]), rtol=1e-5)


def test_a_beam_that_holds_every_sequence_finds_the_most_probable_one(monkeypatch):
    monkeypatch.setattr(seq2seq, "LENGTH", 1)
    net = seq2seq.network(4, 1)
    (source, target), _ = seq2seq.data(4)
    params = jax.jit(net.init)(KEY, source, target)
    params = jax.tree.map(lambda leaf: 3 * np.asarray(leaf), params)  # far from uniform
    tokens = range(seq2seq.TOKENS)
    every = np.array(list(itertools.product(tokens, tokens)))
    before = np.pad(every[:, :1], ((0, 0), (1, 0)), constant_values=seq2seq.BEGIN)
    found, scores = seq2seq.beam_search(net, params, source, len(every))

    @jax.jit
    def log_probabilities(row):
        logits = net.apply(params, jnp.broadcast_to(row, (len(every), 1)), before)
        return jnp.take_along_axis(jax.nn.log_softmax(logits), every[..., None], -1).sum((1, 2))

    for i, row in enumerate(source):
        logs = log_probabilities(row)
        assert tuple(found[i]) == tuple(every[logs.argmax()])
        np.testing.assert_allclose(scores[i], logs.max(), rtol=1e-4)


def test_laplace_of_a_linear_network_is_bayesian_linear_regression():
    """Bishop, Pattern recognition and machine learning, 2006, equations 3.53 to 3.59."""
    rng = np.random.default_rng(0)
    x, y, new = rng.normal(size=(12, 3)), rng.normal(size=12), rng.normal(size=(5, 3))
    program = uncertainty.program((), noise=0.5, prior=0.8, rows=12.0)
    options = {"key": KEY, "steps": 30, "batch_size": 12, "progress": False}
    state, _ = train.fit(program, (x.astype("f"), y.astype("f")), **options)
    net, params = program.objective.net, state.params["net"]
    laplace = jax.jit(functools.partial(uncertainty.laplace, net, noise=0.5, prior=0.8))
    mean, std = laplace(params, x, new)
    design, wanted = (np.concatenate([np.ones((len(a), 1)), a], 1) for a in (x, new))
    covariance = np.linalg.inv(design.T @ design / 0.5**2 + np.eye(4) / 0.8**2)
    # L-BFGS stops where float32 gradients vanish.
    np.testing.assert_allclose(mean, wanted @ covariance @ design.T @ y / 0.5**2, atol=1e-3)
    variance = np.einsum("ni,ij,nj->n", wanted, covariance, wanted) + 0.5**2
    np.testing.assert_allclose(std, np.sqrt(variance), rtol=1e-4)


def test_a_lane_is_the_program_of_its_numbers():
    config = dataclasses.replace(sweep_dqn.Config(), width=4)
    grid = {"learning_rate": [1e-3, 1e-2], "discount": [0.5, 0.9]}
    program, numbers = lanes(sweep_dqn.build, config, grid)
    first = jax.jit(lambda program: program.step(program.init(KEY, None), None))
    state, metrics = first(program)
    for lane, row in enumerate(numbers):
        wanted, number = first(sweep_dqn.build(dataclasses.replace(config, **row)))
        np.testing.assert_allclose(metrics[f"loss {lane}"], number["loss"], rtol=1e-5)
        pairs = zip(*map(jax.tree.leaves, (state["params"], wanted["params"])), strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(a[lane], b, rtol=1e-4, atol=1e-6)


def test_the_cliff_is_the_one_of_sutton_and_barto():
    """Thirteen steps along the edge end at the goal; a step into the cliff returns to the start."""
    environment = jax.jit(sweep_dqn.environment)
    s, total, end = jnp.array(sweep_dqn.START), 0.0, False
    for action in [0, *[1] * 11, 2]:
        s, reward, end = environment(s, jnp.array(action))
        total += float(reward)
    assert (int(s), bool(end), total) == (sweep_dqn.GOAL, True, -13.0)
    fallen = environment(jnp.array(sweep_dqn.START), jnp.array(1))
    assert tuple(map(float, fallen)) == (sweep_dqn.START, -100.0, 0.0)
