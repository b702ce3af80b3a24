"""Bad input to training: what came, what was wanted, where, and what to write."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train

NET = nn.Sequential(nn.Dense(8), jax.nn.relu, nn.Dense(3))
TASK = train.Classification(3)
NOT_A_FACTORY: Any = 1e-3
X = np.zeros((20, 4), np.float32)
Y = np.arange(20, dtype=np.int32) % 3


def fit(net: Any = NET, task: Any = TASK, optimizer: Any = None, data: Any = (X, Y), **given: Any):
    options: Any = {"batch_size": 5, "epochs": 1, "key": jax.random.key(0), "progress": False}
    program = train.Supervised(net, task, optimizer or optax.adam(1e-3))
    return train.fit(program, data, **options | given)


class Reporting(train.Classification):
    name: str = ""

    def metrics(self, outputs, targets):
        return {**super().metrics(outputs, targets), self.name: 1.0}


def nan_at(row):
    x = X.copy()
    x[row, 1] = np.nan
    return x


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: fit(data=(X, Y + 1)),
            ValueError,
            r"training data: the targets hold label 3 at row 2, but .* needs labels in \[0, 3\)",
        ),
        (lambda: fit(data=(X, Y.astype(float))), TypeError, r"integer class labels, got float32"),
        (lambda: fit(data=(nan_at(7), Y)), ValueError, r"training data: inputs .*row 7"),
        (lambda: fit(data=(X[:0], Y[:0])), ValueError, r"training data.*at least 1, got"),
        (
            lambda: fit(data=(X, Y[:3])),
            ValueError,
            r"got training data/0: 20, training data/1: 3; write jax.tree.map",
        ),
        (
            lambda: fit(task=lambda outputs, targets, key: 0.0),
            TypeError,
            r"Supervised.task must be .*, got <function <lambda>.*put what else a loss needs",
        ),
        *(
            (
                lambda name=name: fit(task=Reporting(3, name=name)),
                ValueError,
                "a metric under the name of another number in the records of a "
                rf"run: '{name}'; return it under another name",
            )
            for name in ("step", "epoch")
        ),
        (
            lambda: fit(task=Reporting(3, name="validation_loss"), validation=(X, Y)),
            ValueError,
            "the record already has a number of this name: validation_loss; give the second hook",
        ),
        (
            lambda: fit(task=Reporting(3, name="seconds"), hooks=[train.Throughput()]),
            ValueError,
            "already has a number of this name: seconds",
        ),
        (
            lambda: fit(state={"w": X}),
            TypeError,
            r"Minimize.state must be a train.TrainState, got \{.*\}; write state = ",
        ),
        (
            lambda: fit(validation=(X, Y - 1)),
            ValueError,
            r"validation data: the .* label -1 at row 0",
        ),
        (
            lambda: fit(batch_size=21),
            ValueError,
            r"batch_size must be an int from 1 to 20, got 21; .* write batch_size=20 or less",
        ),
        (lambda: fit(batch_size=0), ValueError, r"batch_size must be an int >= 1, got 0"),
        (lambda: fit(epochs=-1), ValueError, r"epochs must be an int >= 0, got -1"),
        (lambda: fit(key=3), TypeError, r"key must be a single random key, got int 3; write jax"),
        (lambda: fit(net=nn.Dense), TypeError, r"Supervised.net must be a layer, got <class"),
        (
            lambda: fit(task=train.BinaryClassification),
            TypeError,
            r"Supervised.task must be a train.Task or a function",
        ),
        (
            lambda: fit(task=nn.Dense(3)),
            TypeError,
            r"Supervised.task must be a train.Task or a function",
        ),
        (
            lambda: fit(optimizer=optax.adam),
            TypeError,
            r"Minimize.optimizer must be an optimizer, which has init and update, got .*adam",
        ),
        (
            lambda: fit(net=nn.Dense(4)),
            ValueError,
            r"needs outputs \(..., 3\) and targets \(...\), got outputs float32\[5,4\] for targets "
            r"int32\[5\]; end the network with nn.Dense\(3\)",
        ),
        (
            lambda: train.Classification(1),
            ValueError,
            r"Classification.number must be an int >= 2, got 1.*train.BinaryClassification",
        ),
        (
            lambda: train.Classification(3)(jnp.zeros((2, 3)), jnp.zeros((2, 1), jnp.int32)),
            ValueError,
            r"needs outputs \(..., 3\) and targets \(...\), got .* for targets int32\[2,1\]",
        ),
        (
            lambda: train.Classification(3)(jnp.zeros((2, 3)), jnp.zeros(2)),
            TypeError,
            r"must be integer class labels, got float32\[2\]",
        ),
        (
            lambda: train.predict(
                program := train.Supervised(NET, lambda outputs, targets: 0.0, optax.sgd(0.1)),
                program.init(jax.random.key(0), (X, Y)),
                X,
            ),
            TypeError,
            r"<lambda> has no predictions; write a train.Task, or net.apply",
        ),
        (
            lambda: train.Optimizer(NOT_A_FACTORY),
            TypeError,
            r"write Optimizer\(optax.adam, learning_rate",
        ),
    ],
)
def test_the_error_says_what_is_wrong(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_a_state_of_another_network_is_rejected():
    other = train.Supervised(nn.Dense(3), TASK, optax.adam(1e-3))
    with pytest.raises(ValueError, match=r"parameters"):
        fit(state=other.init(jax.random.key(0), (X, Y)))


def test_state_is_asked_for_by_name():
    net = nn.Sequential(nn.BatchNorm(), nn.Dense(3))
    params = net.init(jax.random.key(0), X)
    with pytest.raises(ValueError, match=r"'0', BatchNorm\(\).*net.init_state"):
        net.apply(params, X, train=True)


def test_a_state_whose_memory_a_step_took():
    program = train.Supervised(NET, TASK, optax.sgd(0.1))
    ts = program.init(jax.random.key(0), (X, Y))
    old = ts.params
    train.make_step(program)(ts, (X, Y))
    text = r"donated to a training step.*jax.tree.map\(jnp.copy, ts"
    with pytest.raises((ValueError, RuntimeError), match=text):  # JAX's type, by how it runs
        NET.apply(old, X)
