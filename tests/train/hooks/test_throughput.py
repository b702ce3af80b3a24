"""Throughput: the time of the steps alone, and the operations that their jaxpr has."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import train
from jaxnn.train.hooks import measurement as throughput

KEY = jax.random.key(0)


class Product(train.Program):
    """A product of (8, 4) and (4, 3) a step: 2 * 8 * 4 * 3 operations, and none else."""

    def init(self, key, batch):
        return jnp.ones((4, 3))

    def step(self, state, batch):
        return state, {"out": (batch @ state)[0, 0]}

    def evaluate(self, state, batch, *, key):
        return {"out": (batch @ state)[0, 0]}


DATA = np.ones((32, 4), "f")
OPTIONS = {"key": KEY, "epochs": 3, "batch_size": 8, "progress": False}


def test_the_numbers_agree_with_each_other():
    began = time.perf_counter()
    _, history = train.fit(Product(), DATA, hooks=[train.Throughput()], **OPTIONS)
    took = time.perf_counter() - began
    for record in history:
        assert record["flops_per_second"] / record["examples_per_second"] == pytest.approx(
            2 * 8 * 4 * 3 / 8
        )
    seconds = [record["seconds"] for record in history]
    assert seconds == sorted(seconds)
    assert seconds[-1] < took


def test_the_time_of_other_hooks_and_of_the_caller_is_not_counted():
    def slow(event):
        time.sleep(0.2)

    hooks = [train.Throughput(), slow]
    given = {name: item for name, item in OPTIONS.items() if name != "progress"}
    rates = []
    for event in train.run(Product(), DATA, hooks=hooks, **given):
        time.sleep(0.2)
        rates.append(event.metrics["examples_per_second"])
    # Had the 0.4 s been counted, 32 rows would have been at most 80 a second.
    assert rates[-1] > 800


def test_a_program_without_data_has_steps_per_second():
    class Halve(train.Program):
        def init(self, key, batch):
            return jnp.float32(1)

        def step(self, state, batch):
            return state / 2, {"loss": state}

    _, history = train.fit(Halve(), key=KEY, steps=4, hooks=[train.Throughput()], progress=False)
    assert "steps_per_second" in history[-1]
    assert "examples_per_second" not in history[-1]


def test_the_utilization_is_that_of_the_peak(monkeypatch):
    monkeypatch.setattr(throughput, "peak_flops", lambda kind: 1e6)
    _, history = train.fit(Product(), DATA, hooks=[train.Throughput()], **OPTIONS)
    assert history[-1]["mfu"] == pytest.approx(history[-1]["flops_per_second"] / 1e6)


def test_the_timings_are_all_that_differs_between_equal_runs():
    hooks = [train.Throughput()]
    plain = train.fit(Product(), DATA, **OPTIONS)[1]
    timed = train.fit(Product(), DATA, hooks=hooks, **OPTIONS)[1]
    kept = [{n: item for n, item in one.items() if n not in train.TIMINGS} for one in timed]
    assert kept == plain
    assert timed != plain


def test_it_comes_before_the_validation():
    """`fit` puts it first; a run is asked to."""
    _, history = train.fit(Product(), DATA, validation=DATA, hooks=[train.Throughput()], **OPTIONS)
    assert list(history[-1])[:4] == ["epoch", "step", "out", "seconds"]
    hooks = [train.Evaluate(DATA), train.Throughput()]
    with pytest.raises(ValueError, match=r"train.Throughput has to come first.*write hooks=\[Thr"):
        train.run(Product(), DATA, key=KEY, epochs=1, hooks=hooks)
