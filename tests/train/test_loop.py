"""fit: equal to the loop written by hand, resumable, and traced once."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train
from jaxnn.data.order import epoch_order
from jaxnn.train.loop import TIMINGS

TASK = train.Classification(3)
NET = nn.Sequential(nn.Dense(8), jax.nn.relu, nn.Dropout(0.2), nn.Dense(3))
OPTIMIZER = optax.adam(1e-2)
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def examples():
    """Three clouds of points, 50 rows in all."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 50).astype(np.int32)
    x = np.eye(3, 4, dtype=np.float32)[y] * 3 + rng.normal(size=(50, 4)).astype(np.float32)
    return x, y


def digest(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_fit_equals_the_loop_written_by_hand(examples):
    x, y = examples
    ts, history = train.fit(NET, TASK, OPTIMIZER, (x, y), batch_size=16, epochs=3, key=KEY)

    hand = train.TrainState.create(NET, OPTIMIZER, KEY, x)
    step = train.make_step(NET, TASK, OPTIMIZER)
    for epoch in range(3):
        losses = []
        for rows in epoch_order(KEY, epoch, 50)[:48].reshape(3, 16):
            hand, metrics = step(hand, (x[rows], y[rows]))
            losses.append(float(metrics["loss"]))
        np.testing.assert_allclose(history[epoch]["loss"], np.mean(losses), rtol=1e-5)
    assert int(ts.step) == int(hand.step) == 9
    for ours, theirs in zip(jax.tree.leaves(ts), jax.tree.leaves(hand), strict=True):
        # A scan and a call are compiled apart: equal to the rounding of float32 over nine steps.
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_fit_learns_and_reports(examples):
    seen = []
    ts, history = train.fit(
        NET, TASK, OPTIMIZER, examples, validation=examples, batch_size=25, epochs=30, key=KEY,
        report=seen.append,
    )  # fmt: skip
    assert seen == history
    assert [record["epoch"] for record in history] == list(range(1, 31))
    assert history[-1]["step"] == 60
    assert set(history[0]) == {
        "epoch", "step", "loss", "accuracy", "validation_loss", "validation_accuracy", "seconds",
        "examples_per_second",
    }  # fmt: skip
    assert history[-1]["validation_accuracy"] > 0.9
    metrics = train.evaluate(NET, TASK, ts, examples)
    assert metrics["accuracy"] == pytest.approx(history[-1]["validation_accuracy"])
    predicted = train.predict(NET, TASK, ts, examples[0]).argmax(-1)
    assert np.mean(predicted == examples[1]) == pytest.approx(metrics["accuracy"])


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_run_that_goes_on_ends_as_one_that_never_stopped(examples, stop):
    def run(epochs, start=None):
        return train.fit(
            NET, TASK, OPTIMIZER, examples, batch_size=16, epochs=epochs, key=KEY, start=start
        )

    whole, whole_history = run(5)
    half, _ = run(stop)
    resumed, rest = run(5, start=half)
    assert digest(resumed) == digest(whole)
    without = [{k: v for k, v in r.items() if k not in TIMINGS} for r in whole_history[stop:]]
    assert [{k: v for k, v in r.items() if k not in TIMINGS} for r in rest] == without
    assert not half.step.is_deleted()


def test_a_run_goes_on_from_the_middle_of_an_epoch(examples):
    x, y = examples
    whole, _ = train.fit(NET, TASK, OPTIMIZER, examples, batch_size=16, epochs=2, key=KEY)
    ts = train.TrainState.create(NET, OPTIMIZER, KEY, x)
    step = train.make_step(NET, TASK, OPTIMIZER)
    ts, _ = step(ts, tuple(a[epoch_order(KEY, 0, 50)[:16]] for a in (x, y)))
    resumed, history = train.fit(
        NET, TASK, OPTIMIZER, examples, batch_size=16, epochs=2, key=KEY, start=ts
    )
    assert [record["step"] for record in history] == [3, 6]
    for ours, theirs in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)  # scan against call


def test_steps_per_dispatch_changes_nothing(examples):
    def run(steps_per_dispatch):
        return train.fit(
            NET, TASK, OPTIMIZER, examples, batch_size=8, epochs=2, key=KEY,
            steps_per_dispatch=steps_per_dispatch,
        )  # fmt: skip

    (one, history), (other, other_history) = run(None), run(4)
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    for a, b in zip(history, other_history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def test_an_epoch_visits_every_row_once_in_another_order():
    orders = [epoch_order(jax.random.key(seed), epoch, 100) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert order.dtype == np.int32
        assert sorted(order.tolist()) == list(range(100))
    for one, other in itertools.combinations(orders, 2):
        assert not np.array_equal(one, other)


def test_orders_are_uniform():
    """Each row comes first equally often: a chi-square test over 2,000 epochs, 10 rows."""
    firsts = [epoch_order(KEY, epoch, 10)[0] for epoch in range(2000)]
    counts = np.bincount(firsts, minlength=10)
    chi_square = np.sum((counts - 200) ** 2 / 200)
    assert chi_square < 27.9  # the 0.999 quantile at 9 degrees of freedom


TRACES: list[int] = []


def counted(x):
    """The identity, as a layer that counts how often it is traced."""
    TRACES.append(1)
    return x


def test_fit_traces_the_network_once_for_all_epochs_and_rates(examples):
    net = nn.Sequential(nn.Dense(3), counted)
    for rate in (1e-3, 1e-2):
        optimizer = train.Optimizer(optax.adam, learning_rate=rate)
        train.fit(net, TASK, optimizer, examples, batch_size=10, epochs=4, key=KEY)
    # init's abstract trace, and the compiled epoch
    assert len(TRACES) == 2


def test_augmentation_gets_a_key_of_its_own_each_step(examples):
    x, _ = examples
    start = train.TrainState.create(NET, OPTIMIZER, KEY, x)

    def noise(key, batch):
        return batch + jax.random.normal(key, batch.shape)

    runs = [
        train.fit(NET, TASK, OPTIMIZER, examples, batch_size=16, epochs=1, key=KEY, augment=a)[0]
        for a in (None, noise, noise)
    ]
    assert digest(runs[1]) == digest(runs[2]) != digest(runs[0])
    assert digest(start.params) != digest(runs[0].params)


def test_fit_keeps_the_state_of_the_network(examples):
    net = nn.Sequential(nn.Dense(8), nn.BatchNorm(), jax.nn.relu, nn.Dense(3))
    ts, history = train.fit(
        net, TASK, OPTIMIZER, examples, validation=examples, batch_size=25, epochs=30, key=KEY
    )
    assert history[-1]["validation_accuracy"] > 0.9
    assert float(jnp.abs(ts.state["1"]["mean"]).max()) > 0


@pytest.mark.parametrize("batch_size", [1, 7, 25, 50, 1024])
def test_evaluation_does_not_depend_on_the_batch_size(examples, batch_size):
    ts = train.TrainState.create(NET, OPTIMIZER, KEY, examples[0])
    outputs = np.asarray(NET.apply(ts.params, examples[0]), np.float64)
    shifted = outputs - outputs.max(1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    metrics = train.evaluate(NET, TASK, ts, examples, batch_size=batch_size)
    by_hand = -log_probs[np.arange(50), examples[1]].mean()
    assert metrics["loss"] == pytest.approx(by_hand, rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(np.mean(outputs.argmax(1) == examples[1]))
    predicted = train.predict(NET, TASK, ts, examples[0], batch_size=batch_size)
    np.testing.assert_allclose(predicted, np.exp(log_probs), rtol=1e-4, atol=1e-6)
