"""LearningRate: the rate of the last step, from the closed form of a schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train

KEY = jax.random.key(0)
X, Y = np.ones((32, 2), "f"), np.ones(32, "f")
OPTIONS = {"key": KEY, "epochs": 2, "batch_size": 8, "progress": False}
LINEAR = train.Linear(1.0, 0.0, steps=8)


def supervised(optimizer):
    return train.Supervised(nn.Dense(1), train.Regression(), optimizer)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (train.Optimizer(optax.sgd, learning_rate=0.5), [0.5, 0.5]),
        (train.Optimizer(optax.sgd, learning_rate=LINEAR), [1 - 3 / 8, 1 - 7 / 8]),
        (
            train.Optimizer(
                optax.chain, optax.clip(1.0), train.Optimizer(optax.sgd, learning_rate=LINEAR)
            ),
            [1 - 3 / 8, 1 - 7 / 8],
        ),
    ],
    ids=["number", "schedule", "inside a chain"],
)
def test_the_rate_of_the_last_step(optimizer, expected):
    _, history = train.fit(supervised(optimizer), (X, Y), hooks=[train.LearningRate()], **OPTIONS)
    assert [record["learning_rate"] for record in history] == expected


class Two(train.Program):
    """Two optimizers, and one in a program inside it."""

    optimizers: dict
    other: train.Program

    def init(self, key, batch):
        return jnp.float32(0)

    def step(self, state, batch):
        return state, {"loss": state}


def test_several_are_named_by_their_paths():
    sgd = [train.Optimizer(optax.sgd, learning_rate=rate) for rate in (0.1, 0.2, 0.3)]
    program = Two({"g": sgd[0], "d": sgd[1]}, supervised(sgd[2]))
    _, history = train.fit(program, key=KEY, steps=1, hooks=[train.LearningRate()], progress=False)
    assert {name: item for name, item in history[-1].items() if "rate" in name} == {
        "learning_rate/optimizers/g": 0.1,
        "learning_rate/optimizers/d": 0.2,
        "learning_rate/other/optimizer": 0.3,
    }


def test_the_count_of_updates_is_that_of_the_state():
    """A critic that is updated twice a step is twice as far in its schedule."""

    class Twice(train.Program):
        optimizer: train.Optimizer

        def init(self, key, batch):
            w = jnp.float32(1)
            return w, self.optimizer.init(w)

        def step(self, state, batch):
            w, kept = state
            for _ in range(2):
                updates, kept = self.optimizer.update(jnp.float32(1), kept, w)
                w = optax.apply_updates(w, updates)
            return (w, kept), {"loss": w}

    program = Twice(train.Optimizer(optax.sgd, learning_rate=LINEAR))
    state, history = train.fit(
        program, key=KEY, steps=3, every=1, hooks=[train.LearningRate()], progress=False
    )
    assert [one["learning_rate"] for one in history] == [1 - n / 8 for n in (1, 3, 5)]
    np.testing.assert_allclose(state[0], 1 - sum(1 - n / 8 for n in range(6)), rtol=1e-6)


def test_a_program_without_one_is_rejected():
    with pytest.raises(ValueError, match=r"finds no train.Optimizer with a learning_rate in Mini"):
        train.fit(supervised(optax.adam(1e-3)), (X, Y), hooks=[train.LearningRate()], **OPTIONS)
