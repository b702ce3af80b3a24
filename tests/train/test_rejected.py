"""What a run rejects before it could train on it, or report it as a number."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train

X = np.zeros((8, 3), np.float32)
Y = np.arange(8) % 4
NUMBER: Any = 3
PROGRAM = train.Supervised(nn.Dense(4), train.Classification(4), optax.sgd(0.1))


class Reporting(nn.Composite):
    """An objective that reports one metric."""

    net: nn.Layer
    metric: tuple

    def forward(self, batch):
        name, function = self.metric
        out = self.net(batch)
        return out.mean(), {name: function(out)}


def reported(name, function):
    program = train.Minimize(Reporting(nn.Dense(1), (name, function)), optax.sgd(0.1))
    state = jax.eval_shape(program.init, jax.random.key(0), X)
    jax.eval_shape(lambda state: program.evaluate(state, X, key=jax.random.key(0)), state)


def fit(data=(X, Y), **given):
    return train.fit(PROGRAM, data, key=jax.random.key(0), steps=0, progress=False, **given)


@pytest.mark.parametrize(
    ("name", "function", "text"),
    [
        (3, jnp.mean, "the name of a metric of Reporting must be a str .*, got 3"),
        (
            "loss",
            jnp.mean,
            "Reporting reports a metric under the name of another .*: 'loss'; return",
        ),
        ("skipped", jnp.mean, "another number in the records of a run: 'skipped'"),
        ("m", lambda out: None, "the metric 'm' of Reporting must be a real scalar, got None"),
        ("m", lambda out: {"a": out.mean()}, r"must be a real scalar, got {a: float32\[\]}"),
        ("m", lambda out: 1j * out.mean(), r"must be a real scalar, got complex64\[\]"),
        ("m", lambda out: jax.random.key(0), r"must be a real scalar, got key<fry>\[\]"),
        (
            "m",
            lambda out: train.Collected(np.median, out),
            "the arrays of the metric 'm' of Reporting must be a tuple of arrays, .*write "
            r"train.Collected\(function, \(predictions, targets\)\)",
        ),
        (
            "m",
            lambda out: train.Collected(np.median, (out.mean(),)),
            r"a tuple of arrays, each with one row per example, got \(float32\[\]\)",
        ),
    ],
)
def test_a_metric_that_cannot_be_combined(name, function, text):
    with pytest.raises((TypeError, ValueError), match=text):
        reported(name, function)


def test_the_function_of_collected_rows_returns_a_number():
    with pytest.raises(ValueError, match=r"of a train.Collected, must be a real scalar, got"):
        float(train.Collected(np.square, (np.ones(3),)))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: fit(hooks=train.EarlyStopping("loss")), r"hooks must be a list .*write hooks=\["),
        (lambda: fit(hooks=None), "hooks must be a list of hooks, got None"),
        (
            lambda: fit(hooks=[train.Checkpoints("a"), train.Checkpoints("a")]),
            r"write hooks=\[Checkpoints\(folder='a'\)\]$",
        ),
        (lambda: fit(placement="cpu"), "placement must be a parallel.Placement, got 'cpu'; write"),
        (
            lambda: train.make_step(PROGRAM, placement=None),
            "must be a parallel.Placement, got None",
        ),
        (
            lambda: jax.eval_shape(lambda s: PROGRAM.step(s, (X, Y)), 3),
            r"must be a train.TrainState, got int32\[\]; write state =",
        ),
        (lambda: train.Optimizer(optax.adam, rate=0.1), "write .*, which are learning_rate, b1"),
        (lambda: train.with_ema(0.9), "with_ema.optimizer must be an optimizer"),
        (
            lambda: train.Checkpoints(NUMBER),
            "Checkpoints.folder must be the path of a folder, got 3",
        ),
        (lambda: train.Constant(None), "Constant.value must be a number, got None"),
        (lambda: fit((jax.random.split(jax.random.key(0), 8), Y)), "write jax.random.key_data"),
        (lambda: train.Classification(4).measure(jnp.ones((2, 4)), None), "for targets None"),
    ],
)
def test_an_argument(call, text):
    with pytest.raises((TypeError, ValueError), match=text):
        call()


def test_arguments_of_a_program_are_checked_when_its_class_is_made():
    with pytest.raises(
        TypeError, match=r"must take \(self, state, batch, \*, key\), got .*write def"
    ):

        class _(train.Program):
            def evaluate(self, state, batch):  # type: ignore[override]
                return {}


def test_a_state_of_values_that_are_not_arrays():
    class Mode(train.Program):
        def init(self, key, batch):
            return {"mode": "train"}

        def step(self, state, batch):
            return state, {"loss": 0.0}

    with pytest.raises(TypeError, match="must be an array or a number, got 'train'; write it as a"):
        train.fit(Mode(), key=jax.random.key(0), steps=1, progress=False)


class Halve(train.Program):
    def init(self, key, batch):
        return jnp.float32(1)

    def step(self, state, batch):
        return state / 2, {"loss": state}

    def predict(self, state, inputs):
        return jnp.zeros(4)


def halved(hook, steps=1, *more):
    hooks = [hook, *more]
    return train.fit(Halve(), key=jax.random.key(0), steps=steps, hooks=hooks, progress=False)


@pytest.mark.parametrize(
    ("hook", "text"),
    [
        (lambda event: event.metrics["loss"] < 9, "must be None, a train.Stop, .*got True; write"),
        (lambda event: train.Stop, "must be None, a train.Stop, or a train.RollBack, got <class"),
        (lambda event: event.add({"a": jnp.ones(2)}), r"'a' .* must be a real scalar, got float32"),
        (lambda event: event.add({"a": "x"}), "'a' .* must be a real scalar, got 'x'"),
        (lambda event: setattr(event, "state", 0), "state"),
    ],
)
def test_what_a_function_of_an_event_does(hook, text):
    with pytest.raises((TypeError, ValueError, AttributeError), match=text):
        halved(hook)


def test_numbers_added_to_a_record_are_plain():
    _, history = halved(lambda event: event.add({"a": jnp.float32(2), "n": 3}))
    assert (history[-1]["a"], history[-1]["n"]) == (2.0, 3)
    assert {type(history[-1][name]) for name in "an"} == {float, int}


def test_predictions_have_the_rows_of_the_inputs():
    with pytest.raises(ValueError, match=r"must be of 3 rows, .*got float32\[4\]; write x\[None\]"):
        train.predict(Halve(), jnp.float32(1), np.ones(3, np.float32))


class Memory(train.Hook):
    """Counts in 64 bits, which JAX would shorten."""

    seen: list

    def begin(self, state):
        return {"sum": np.zeros(1), "count": np.full(1, 2**40)}

    def see(self, memory, event):
        self.seen.append(memory)
        return {"sum": memory["sum"] + 1 / 3, "count": memory["count"] + 1}, None


def test_a_memory_of_64_bits_is_resumed(tmp_path):
    hook, keep = Memory(), train.Checkpoints(tmp_path / "checkpoints")
    hook.seen = []
    halved(hook, 1, keep)
    halved(hook, 2, keep)
    last = hook.seen[-1]
    assert (last["sum"].dtype, last["sum"].item()) == (np.float64, 1 / 3)
    assert last["count"].item() == 2**40 + 1
