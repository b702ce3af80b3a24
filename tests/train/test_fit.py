"""fit: it learns, keeps state, counts traces, records, skips steps, and evaluates."""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train
from jaxnn.data.source import epoch_order

TASK = train.Classification(3)
NET = nn.Sequential(nn.Dense(8), jax.nn.relu, nn.Dropout(0.2), nn.Dense(3))
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def examples():
    """Three clouds of points, 50 rows in all."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 50).astype(np.int32)
    x = np.eye(3, 4, dtype=np.float32)[y] * 3 + rng.normal(size=(50, 4)).astype(np.float32)
    return x, y


def program_of(net: nn.Layer = NET, optimizer=None, **options):
    return train.Supervised(net, TASK, optimizer or optax.adam(1e-2), **options)


def fit(program, data, **options):
    options = {"batch_size": 16, "epochs": 4, "key": KEY, "progress": False} | options
    return train.fit(program, data, **options)


def test_fit_learns_and_reports(examples):
    seen, program = [], program_of()
    hooks = [train.Throughput(), lambda event: seen.append(dict(event.metrics))]
    state, history = fit(
        program, examples, validation=examples, batch_size=25, epochs=30, hooks=hooks
    )
    assert seen == history
    assert [record["epoch"] for record in history] == list(range(1, 31))
    assert history[-1]["step"] == 60
    assert set(history[0]) == {
        "epoch", "step", "loss", "accuracy", "validation_loss", "validation_accuracy", "seconds",
        "examples_per_second", "flops_per_second",
    }  # fmt: skip
    assert history[-1]["validation_accuracy"] > 0.9
    metrics = train.evaluate(program, state, examples)
    assert metrics["accuracy"] == pytest.approx(history[-1]["validation_accuracy"])
    predicted = train.predict(program, state, examples[0]).argmax(-1)
    assert np.mean(predicted == examples[1]) == pytest.approx(metrics["accuracy"])


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
    # By its name, since data that the code refers to belong to the program.
    vars(sys.modules[__name__])["TRACES"].append(1)
    return x


def test_fit_traces_the_network_once_for_all_epochs_and_rates(examples):
    net = nn.Sequential(nn.Dense(3), counted)
    for rate in (1e-3, 1e-2):
        fit(program_of(net, train.Optimizer(optax.adam, learning_rate=rate)), examples)
    # The abstract trace of init, and the compiled epoch.
    assert len(TRACES) == 2


def test_fit_keeps_the_state_of_the_network(examples):
    net = nn.Sequential(nn.Dense(8), nn.BatchNorm(), jax.nn.relu, nn.Dense(3))
    state, history = fit(program_of(net), examples, validation=examples, batch_size=25, epochs=30)
    assert history[-1]["validation_accuracy"] > 0.9
    assert float(np.abs(state.state["1"]["mean"]).max()) > 0


@pytest.mark.parametrize("batch_size", [1, 7, 25, 50, 1024])
def test_evaluation_does_not_depend_on_the_batch_size(examples, batch_size):
    program = program_of()
    state = program.init(KEY, examples)
    outputs = np.asarray(NET.apply(state.params, examples[0]), np.float64)
    shifted = outputs - outputs.max(1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    metrics = train.evaluate(program, state, examples, batch_size=batch_size)
    by_hand = -log_probs[np.arange(50), examples[1]].mean()
    assert metrics["loss"] == pytest.approx(by_hand, rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(np.mean(outputs.argmax(1) == examples[1]))
    predicted = train.predict(program, state, examples[0], batch_size=batch_size)
    np.testing.assert_allclose(predicted, np.exp(log_probs), rtol=1e-4, atol=1e-6)


def test_records_by_steps_have_the_means_since_the_last(examples):
    _, plain = fit(program_of(), examples, batch_size=8)
    _, fine = fit(program_of(), examples, batch_size=8, every=3)
    assert [record["step"] for record in fine] == list(range(3, 25, 3))
    assert [record["epoch"] for record in fine] == [1, 1, 2, 2, 3, 3, 4, 4]
    means = [(a["loss"] + b["loss"]) / 2 for a, b in zip(fine[::2], fine[1::2], strict=True)]
    np.testing.assert_allclose(means, [record["loss"] for record in plain], rtol=1e-12)


def test_the_averaged_parameters_are_validated(examples):
    program = program_of(optimizer=train.with_ema(optax.adam(1e-2), 0.9))
    state, history = fit(program, examples, validation=examples)
    averaged = state._replace(params=train.ema_params(state).params, opt_state=())
    wanted = train.evaluate(program, averaged, examples)
    np.testing.assert_allclose(history[-1]["validation_loss"], wanted["loss"], rtol=1e-6)


def test_precision_is_the_validations_too(examples):
    program = program_of(precision=nn.Precision(compute="bfloat16"))
    state, history = fit(program, examples, validation=examples)
    half = program_of(nn.Precision(NET, compute="bfloat16"))
    wanted = train.evaluate(half, state, examples)
    # One program in bfloat16 or another: 8 bits of mantissa.
    np.testing.assert_allclose(history[-1]["validation_loss"], wanted["loss"], rtol=1e-2)
    assert state.params[0]["w"].dtype == jnp.float32


LINEAR = nn.Sequential(first=nn.Dense(4), second=nn.Dense(3))


@pytest.mark.parametrize("steps_per_record", [1, 3])
def test_records_leave_out_the_steps_that_were_skipped(examples, steps_per_record):
    """Steps on a row that overflows are skipped; the records are those of the others."""
    x, y = examples
    x = np.where(np.arange(50)[:, None] == 7, 3e38, x).astype(np.float32)
    program = program_of(LINEAR, train.apply_if_finite(optax.sgd(0.1)))
    hooks = [train.Divergence(metric="skipped")]  # in place of the one that watches the loss
    state, history = fit(program, (x, y), every=steps_per_record, hooks=hooks)
    step, by_hand, losses = train.make_step(program), program.init(KEY, (x[:16], y[:16])), []
    for epoch in range(4):
        for rows in epoch_order(KEY, epoch, 50)[:48].reshape(3, 16):
            by_hand, metrics = step(by_hand, (x[rows], y[rows]))
            assert bool(metrics["skipped"]) == (7 in rows)
            losses.append(np.nan if 7 in rows else float(metrics["loss"]))
    jax.tree.map(np.testing.assert_array_equal, state, by_hand)
    several = np.reshape(losses, (-1, steps_per_record))
    skipped = np.isnan(several)
    assert 3 <= skipped.sum() <= 4
    pairs = zip(several, skipped, strict=True)
    means = np.array([np.nan if out.all() else part[~out].mean() for part, out in pairs])
    np.testing.assert_allclose([record["loss"] for record in history], means, rtol=1e-6)
    np.testing.assert_allclose(
        [record["skipped"] for record in history], skipped.mean(1), rtol=1e-6
    )


def test_a_run_that_diverges_is_stopped_and_names_what_is_not_finite(examples):
    with pytest.raises(train.Diverged) as caught:
        fit(program_of(LINEAR, optax.sgd(1e30)), examples)
    message = str(caught.value)
    assert "loss is nan after step 3: the run diverged; params/first/b of the state is" in message
    assert "clip the gradients by optax.clip_by_global_norm(1.0)" in message
    assert caught.value.history == []


def test_a_run_that_cannot_be_rolled_back_out_of_it_is_stopped(examples):
    x = np.full((50, 4), 3e38, np.float32)
    with (
        pytest.warns(RuntimeWarning, match="rolled back to the state of the last record, attempt"),
        pytest.raises(train.Diverged, match=r"loss is nan after step 12"),
    ):
        fit(program_of(LINEAR), (x, examples[1]), hooks=[train.Divergence(retries=3)])
