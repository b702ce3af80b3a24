"""Checkpoints as a hook: signals, several runs in threads, and the memory that a run takes."""

import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import train
from jaxnn.data import HostArrays

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def interrupts():
    """SIGINT as in a shell: a process in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Halve(train.Program):
    rate: float = 0.5

    def init(self, key, batch):
        return {"x": jnp.float32(1)}

    def step(self, state, batch):
        return {"x": state["x"] * self.rate}, {"loss": state["x"]}


def test_runs_in_threads_keep_their_checkpoints(tmp_path):
    """Three at once: each is saved and resumed as if it were alone."""
    rates, results = (0.5, 0.25, 2.0), {}

    def fit(rate, steps):
        hooks = [train.Checkpoints(str(tmp_path / str(rate)), train.Every(steps=2), keep=2)]
        state, history = train.fit(
            Halve(rate), key=KEY, steps=steps, every=1, hooks=hooks, progress=False
        )
        results[rate, steps] = float(state["x"]), len(history)

    began = time.perf_counter()
    for steps in (6, 10):
        threads = [threading.Thread(target=fit, args=(rate, steps)) for rate in rates]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {(rate, n): (rate**n, n) for rate in rates for n in (6, 10)}
    assert time.perf_counter() - began < 60
    for rate in rates:
        saved = sorted(int(n.name) for n in (tmp_path / str(rate)).iterdir() if n.name.isdigit())
        assert saved == [8, 10]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops_after_the_dispatch(tmp_path, number):
    def kill(event):
        if event.step == 20:
            os.kill(os.getpid(), number)

    hooks = [kill, train.Checkpoints(str(tmp_path))]
    given = {"key": KEY, "steps": 60, "every": 10, "progress": False}
    with pytest.raises(train.Interrupted, match=r"stopped after step [23]0 of 60; the checkpoint"):
        train.fit(Halve(), hooks=hooks, **given)
    state, history = train.fit(Halve(), hooks=hooks[1:], **given)
    assert [one["step"] for one in history] == [10, 20, 30, 40, 50, 60]
    assert float(state["x"]) == 0.5**60


def test_a_second_signal_acts_as_usual(tmp_path):
    def kill(event):
        if event.step == 20:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    hooks = [kill, train.Checkpoints(str(tmp_path))]
    with pytest.raises(KeyboardInterrupt) as found:
        train.fit(Halve(), key=KEY, steps=60, every=10, hooks=hooks, progress=False)
    assert not isinstance(found.value, train.Interrupted)


def test_without_checkpoints_a_signal_leaves_whole_lines(tmp_path):
    file = tmp_path / "metrics.jsonl"

    def kill(event):
        if event.step == 20:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train.fit(
            Halve(), key=KEY, steps=60, every=10, hooks=[kill, train.Log(file)], progress=False
        )
    assert [record["step"] for record in train.JsonLines(file).records()] == [10]


class Slow(train.Program):
    """A step of 100 products of (512, 512), which is 27 GFLOP."""

    def init(self, key, batch):
        return jnp.eye(512)

    def step(self, state, batch):
        state = jax.lax.fori_loop(0, 100, lambda _, a: a @ a, state)
        return state, {"loss": state[0, 0]}


def test_a_signal_does_not_wait_for_a_thousand_slow_steps(tmp_path):
    timer = threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    began = time.perf_counter()
    timer.start()
    with pytest.raises(train.Interrupted):
        train.fit(
            Slow(), key=KEY, steps=20_000, progress=False, hooks=[train.Checkpoints(str(tmp_path))]
        )
    assert time.perf_counter() - began < 20  # all of the steps take an hour


class Large(train.Program):
    """A state of 4 MB."""

    def init(self, key, batch):
        return {"a": jnp.zeros((1000, 1000)), "n": jnp.int32(0)}

    def step(self, state, batch):
        return {"a": state["a"] + batch.sum(), "n": state["n"] + 1}, {"loss": state["a"][0, 0]}


SIZE = 4_000_000


def held(folder, retries=0, state=None, steps=8):
    """How many copies of the state there are at the events of a run, beyond those before it."""
    data = np.zeros((8, 4), "f")
    hooks = [
        train.Divergence(retries=retries),
        train.Checkpoints(str(folder), train.Every(steps=2)),
    ]
    before = sum(array.nbytes for array in jax.live_arrays())
    events = train.run(
        Large(), data, key=KEY, steps=steps, batch_size=4, every=2, hooks=hooks, state=state
    )
    copies = []
    for event in events:
        jax.block_until_ready(event.state)
        copies.append((sum(array.nbytes for array in jax.live_arrays()) - before) / SIZE)
    return copies


@pytest.mark.parametrize(("retries", "copies"), [(0, 1), (2, 2)])
def test_a_run_holds_one_copy_of_its_state_or_two(tmp_path, retries, copies):
    found = held(tmp_path / "a", retries)
    assert len(found) == 4
    assert max(found) < copies + 0.1
    found = held(tmp_path / "a", retries, steps=12)  # it is resumed
    assert len(found) == 2
    assert max(found) < copies + 0.1
    given = Large().init(KEY, None)
    assert max(held(tmp_path / "b", retries, given)) < copies + 0.1
    assert float(given["a"][0, 0]) == 0  # the caller's is not donated


def test_a_run_reads_one_batch_ahead():
    """One waits, and none of those that were used is kept."""

    class Sum(train.Program):
        def init(self, key, batch):
            return jnp.float32(0)

        def step(self, state, batch):
            return state + batch[0].sum(), {"loss": state}

    source = HostArrays(np.ones((32, 100_000), "f"), np.zeros(32, "f"))
    size, copies = 4 * 4 * 100_000, []
    before = sum(array.nbytes for array in jax.live_arrays())
    for event in train.run(Sum(), source, key=KEY, epochs=2, batch_size=4, every=2):
        event.metrics.plain()
        time.sleep(0.05)
        copies.append((sum(array.nbytes for array in jax.live_arrays()) - before) / size)
    assert max(copies) < 1.1
