"""What a run is told to do beside its steps: stop, record, trace, stream, and go on from NaN."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import data, train
from jaxnn.train import device
from jaxnn.train.loop import TIMINGS
from tests.train.resumable import NET, digest, examples

TASK = train.Classification(3)
KEY = jax.random.key(3)


def fit(given=None, net: nn.Layer = NET, optimizer=None, **options):
    x, y = examples()
    options = {"batch_size": 16, "epochs": 4, "key": KEY, "validation": (x, y)} | options
    return train.fit(
        net, TASK, optimizer or optax.adam(1e-2), (x, y) if given is None else given, **options
    )


def told(history):
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in history]


@pytest.fixture(scope="module")
def plain():
    return fit()


def test_early_stopping_is_a_function_of_the_history():
    rising = [{"loss": loss} for loss in (3.0, 1.0, 2.0, 0.95, 1.5, 0.94, 1.1)]
    stop = train.EarlyStopping("loss", patience=2, margin=0.1)
    reasons = [stop(rising[: n + 1]) for n in range(7)]
    assert reasons[:3] == [None] * 3
    assert reasons[3] == "loss has not become better than 1 for 2 records"
    assert train.EarlyStopping("loss", patience=1, maximize=True)(rising[:2])
    with pytest.raises(ValueError, match=r"watches 'los', which is not among.*did you mean 'loss'"):
        train.EarlyStopping("los")(rising)
    with pytest.raises(ValueError, match="patience is an int >= 1, got 0"):
        train.EarlyStopping(patience=0)


def test_a_run_stops_where_it_is_told(plain):
    ts, history = fit(stop=lambda history: "enough" if len(history) == 2 else None)
    assert told(history) == told(plain[1])[:2]
    assert int(ts.step) == 12


def test_records_by_steps_have_the_means_since_the_last(plain):
    # The same dispatches, so that the losses are equal to the bit.
    _, fine = fit(every=train.Every(steps=3))
    assert [record["step"] for record in fine] == list(range(3, 25, 3))
    assert [record["epoch"] for record in fine] == [1, 1, 2, 2, 3, 3, 4, 4]
    means = [(a["loss"] + b["loss"]) / 2 for a, b in zip(fine[::2], fine[1::2], strict=True)]
    # Sums of six float32 losses in another order.
    np.testing.assert_allclose(means, [record["loss"] for record in plain[1]], rtol=1e-5)


def test_callbacks_are_functions_of_the_state_and_the_record(plain):
    seen = []
    fit(callbacks=[lambda ts, record: seen.append((int(ts.step), record["step"]))])
    assert seen == [(6, 6), (12, 12), (18, 18), (24, 24)]


def test_the_learning_rate_of_the_last_step_is_recorded():
    optimizer = train.Optimizer(optax.sgd, learning_rate=train.Linear(0.1, 0.0, steps=24))
    _, history = fit(optimizer=train.with_ema(optimizer))
    rates = [record["learning_rate"] for record in history]
    np.testing.assert_allclose(rates, [0.1 * (1 - n / 24) for n in (5, 11, 17, 23)], rtol=1e-5)


def test_the_averaged_parameters_are_validated():
    x, y = examples()
    optimizer = train.with_ema(optax.adam(1e-2), 0.9)
    ts, history = fit(optimizer=optimizer)
    averaged = train.Weights(train.ema_params(ts).params, ts.state)
    wanted = train.evaluate(NET, TASK, averaged, (x, y))
    # The sum over 96 examples in another order.
    np.testing.assert_allclose(history[-1]["validation_loss"], wanted["loss"], rtol=1e-5)


@pytest.mark.parametrize("at_once", [1, 4])
def test_host_arrays_train_as_arrays_on_the_device(at_once):
    resident = fit(steps_per_dispatch=at_once)
    streamed = fit(data.HostArrays(*examples()), steps_per_dispatch=at_once)
    assert told(resident[1]) == told(streamed[1])
    assert digest(*resident) == digest(*streamed)
    assert "jaxnn-prefetch" not in {thread.name for thread in threading.enumerate()}


def test_a_stream_goes_on_where_it_was(tmp_path):
    source = data.HostArrays(*examples())
    whole = fit(source, steps_per_dispatch=4)
    kept = train.Checkpoints(str(tmp_path), train.Every(steps=5))
    fit(source, steps_per_dispatch=4, epochs=2, checkpoints=kept)
    again = fit(source, steps_per_dispatch=4, checkpoints=kept)
    # The end of two epochs was a record, as it is in the whole run.
    assert digest(*again) == digest(*whole)
    with pytest.raises(ValueError, match="where its source of data was then is not known: give"):
        fit(source, start=whole[0]._replace(step=jnp.asarray(6)))


def test_a_trace_of_chosen_steps_is_written(tmp_path, plain):
    _, history = fit(profile=train.Profile(str(tmp_path / "trace"), first=8, steps=2))
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))
    # The dispatches end elsewhere, so sums are in another order.
    np.testing.assert_allclose(history[-1]["loss"], plain[1][-1]["loss"], rtol=1e-4)


# Divergence


def diverging(at):
    """Data whose first batches are well; rows from `at` on have values that overflow."""
    x, y = examples()
    return np.where(np.arange(96)[:, None] >= at, 3e38, x).astype(np.float32), y


LINEAR = nn.Sequential(first=nn.Dense(4), second=nn.Dense(3))


def test_a_run_that_diverges_is_stopped_and_names_what_is_not_finite():
    with pytest.raises(train.Diverged) as caught:
        fit(net=LINEAR, optimizer=optax.sgd(1e30), validation=None)
    message = str(caught.value)
    assert "the training loss is nan after step 6: the run diverged; first/b is the" in message
    assert "clip the gradients by optax.clip_by_global_norm(1.0)" in message
    assert caught.value.history == []


def test_a_run_is_rolled_back_and_goes_on_with_other_batches():
    x, y = diverging(at=95)  # one of 96 rows
    with pytest.warns(RuntimeWarning) as warned:
        ts, history = fit((x, y), net=LINEAR, every=train.Every(steps=1), validation=None,
                          on_divergence="roll back")  # fmt: skip
    texts = [str(one.message) for one in warned]
    assert all("the first value that is not finite came in step" in text for text in texts)
    assert any("at first" in text or "at output" in text or "loss" in text for text in texts)
    assert all(np.isfinite(leaf).all() for leaf in map(np.asarray, jax.tree.leaves(ts.params)))
    assert len(history) == 24 - len(texts)
    assert all(np.isfinite(record["loss"]) for record in history)


def test_a_run_that_cannot_be_rolled_back_out_of_it_is_stopped():
    with (
        pytest.warns(RuntimeWarning, match="rolled back to the state of the last record, and on"),
        pytest.raises(train.Diverged, match=r"came in step 19, at (first|the gradient|the loss)"),
    ):
        fit((np.full((96, 8), 3e38, np.float32), examples()[1]), net=LINEAR, validation=None,
            on_divergence="roll back")  # fmt: skip


def test_steps_whose_gradients_are_not_finite_are_skipped():
    given = diverging(at=94)
    ts, history = fit(given, net=LINEAR, validation=None, on_divergence="skip")
    skipped = sum(record["skipped"] for record in history)
    assert 4 <= skipped <= 8  # two of 96 rows, in one or two batches an epoch
    assert all(np.isfinite(record["loss"]) for record in history)
    assert int(ts.opt_state.skipped) == skipped


def test_a_policy_that_there_is_not():
    with pytest.raises(ValueError, match="on_divergence is 'roll', wanted 'stop', 'skip' or"):
        fit(on_divergence="roll")


def test_precision_is_the_validations_too():
    ts, history = fit(precision=nn.Precision(compute="bfloat16"))
    half = nn.Precision(NET, compute="bfloat16")
    wanted = train.evaluate(half, TASK, ts, examples())
    # One program in bfloat16 or another: 8 bits of mantissa.
    np.testing.assert_allclose(history[-1]["validation_loss"], wanted["loss"], rtol=1e-2)
    assert ts.params[0]["w"].dtype == jnp.float32


def test_a_grain_pipeline_goes_on_where_it_was(tmp_path):
    grain = pytest.importorskip("grain")
    x, y = examples()
    pipeline = grain.MapDataset.source(list(zip(x, y, strict=True))).shuffle(seed=1)
    source = data.Grain(pipeline.batch(16))
    whole = fit(source)
    kept = train.Checkpoints(str(tmp_path), train.Every(steps=5))
    fit(source, epochs=2, checkpoints=kept)
    assert digest(*fit(source, checkpoints=kept)) == digest(*whole)
    assert whole[1][-1]["loss"] < whole[1][0]["loss"]


def test_rates_and_utilization_where_the_device_has_a_known_peak(monkeypatch):
    monkeypatch.setattr(device, "peak_flops", lambda kind: 1e12)
    _, history = fit(net=nn.Dense(3), epochs=1, optimizer=optax.sgd(0.1), validation=None)
    record = history[0]
    # A product forward and one for the weights' gradient: 2 * 16 rows * 8 * 3 each, and the rest.
    flops = record["flops_per_second"] / (record["examples_per_second"] / 16)
    assert 2 * 2 * 16 * 8 * 3 < flops < 2 * 2 * 2 * 16 * 8 * 3
    np.testing.assert_allclose(record["mfu"], record["flops_per_second"] / 1e12)
