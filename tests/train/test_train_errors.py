"""Bad input to training: what came, what was wanted, where, and what to write."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train

NET = nn.Serial(nn.Dense(8), jax.nn.relu, nn.Dense(3))
TASK = train.Classification(3)
NOT_A_TASK: Any = abs
NOT_A_FACTORY: Any = 1e-3
X = np.zeros((20, 4), np.float32)
Y = np.arange(20, dtype=np.int32) % 3


def fit(net: Any = NET, task: Any = TASK, optimizer: Any = None, data: Any = (X, Y), **given: Any):
    options: Any = {"batch_size": 5, "epochs": 1, "key": jax.random.key(0), **given}
    return train.fit(net, task, optimizer or optax.adam(1e-3), data, **options)


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
            r"training data: y holds label 3 at row 2.*0 .. 2",
        ),
        (lambda: fit(data=(X, Y.astype(float))), TypeError, r"training data: y .*float"),
        (lambda: fit(data=(nan_at(7), Y)), ValueError, r"training data: x .*row 7"),
        (lambda: fit(data=(X[:0], Y[:0])), ValueError, r"training data: no rows"),
        (lambda: fit(data=(X, Y[:3])), ValueError, r"x has 20 rows and y has 3"),
        (lambda: fit(data=X), TypeError, r"training data: wanted a pair \(x, y\)"),
        (lambda: fit(validation=(X, Y - 1)), ValueError, r"validation data: y holds label -1"),
        (
            lambda: fit(batch_size=21),
            ValueError,
            r"batch_size is 21, but the training data have 20 rows; write batch_size=20 or less",
        ),
        (lambda: fit(batch_size=0), ValueError, r"batch_size is an int >= 1, got 0"),
        (
            lambda: fit(steps_per_dispatch=0),
            ValueError,
            r"steps_per_dispatch is an int >= 1, got 0",
        ),
        (lambda: fit(epochs=-1), ValueError, r"epochs is an int >= 0, got -1"),
        (lambda: fit(key=3), TypeError, r"a random key is wanted, got int 3; write jax.random.key"),
        (lambda: fit(net=nn.Dense), TypeError, r"the network is a layer, got <class"),
        (lambda: fit(task=train.Binary), TypeError, r"the task is a train.Task or a function"),
        (lambda: fit(task=nn.Dense(3)), TypeError, r"the task is no layer"),
        (lambda: fit(optimizer=optax.adam), TypeError, r"optimizer has init and update.*adam"),
        (
            lambda: fit(net=nn.Dense(4)),
            ValueError,
            r"needs 3 outputs .*, got float32\[5,4\]; end the network with nn.Dense\(3\)",
        ),
        (
            lambda: fit(task=lambda outputs, targets: outputs[:, 0]),
            ValueError,
            r"a loss is a scalar, got float32\[5\].*\.mean\(\)",
        ),
        (lambda: train.Classification(1), ValueError, r"at least 2 classes, got 1.*train.Binary"),
        (
            lambda: train.Classification(3)(jnp.zeros((2, 3)), jnp.zeros((2, 1), jnp.int32)),
            ValueError,
            r"needs targets of shape \(2,\) for outputs float32\[2,3\], got int32\[2,1\]",
        ),
        (
            lambda: train.Classification(3)(jnp.zeros((2, 3)), jnp.zeros(2)),
            TypeError,
            r"needs integer class labels, got float32\[2\]",
        ),
        (
            lambda: train.predict(NET, NOT_A_TASK, fit()[0], X),
            TypeError,
            r"predict needs a train.Task.*net.apply",
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


def test_a_start_of_another_network_is_refused():
    other = nn.Dense(3)
    start = train.TrainState.create(other, optax.adam(1e-3), jax.random.key(0), X)
    with pytest.raises(ValueError, match=r"the parameters are not those of this network"):
        fit(start=start)


def test_state_is_asked_for_by_name():
    net = nn.Serial(nn.BatchNorm(), nn.Dense(3))
    params = net.init(jax.random.key(0), X)
    with pytest.raises(ValueError, match=r"'0', BatchNorm\(\).*net.init_state"):
        net.apply(params, X, train=True)
