"""A real experiment that takes no time: digits by an MLP 64-32-32-10, 100 steps in four epochs."""

import dataclasses
import functools
from typing import Any

import numpy as np
import optax

from jaxnn import data, train
from jaxnn.experiment import Experiment
from jaxnn.models import MLP
from jaxnn.sweep import Choice, LogUniform, Space, Uniform

# 25 batches of 32 an epoch.
ROWS = 800
TASK = train.Classification(10)


@dataclasses.dataclass(frozen=True)
class Descent:
    """Gradient descent that takes any number for a learning rate, infinity too."""

    learning_rate: float = 0.1
    momentum: float = 0.9

    def build(self, steps):
        return train.Optimizer(
            optax.sgd, learning_rate=self.learning_rate, momentum=self.momentum, nesterov=False
        )


@dataclasses.dataclass(frozen=True)
class Config:
    model: MLP = MLP(width=32, depth=2)  # noqa: RUF009, frozen
    optimizer: Descent = Descent()
    batch_size: int = 32
    epochs: int = 4
    seed: int = 0


@functools.cache
def digits():
    """Standardized digits: some rows to train on, and those for validation."""
    read = data.digits()
    read = read.map(x=data.Standardizer.fit(read.train.x))
    return (read.train.x[:ROWS], read.train.y[:ROWS]), (*read.validation,)


def load(config):
    """The data of every configuration."""
    return digits()


def program(config, data, net=None, task: Any = TASK, optimizer=None):
    """The program of this configuration, or of any other with these fields."""
    steps = ROWS // config.batch_size * config.epochs
    return train.Supervised(
        config.model.network(10) if net is None else net,
        task,
        config.optimizer.build(steps) if optimizer is None else optimizer,
    )


# Three numbers that are traced, and a static one: two groups.
SPACE = Space(
    Config,
    {
        "optimizer.learning_rate": LogUniform(1e-3, 0.3),
        "optimizer.momentum": Uniform(0.5, 0.95),
        "model.dropout": Uniform(0.0, 0.5),
        "model.width": Choice(16, 32),
    },
)
EXPERIMENT = Experiment("quick", Config, data=load, program=program, space=SPACE)


def experiment(space, config: type = Config, **changes):
    """The experiment with another space, or with something else changed."""
    return dataclasses.replace(EXPERIMENT, config=config, space=space, **changes)


def sampled(count, space=SPACE, seed=0):
    """So many random trials."""
    random = np.random.default_rng(seed)
    return [space.sample(random) for _ in range(count)]


def check(space, values):
    """A trial has a value for each of its names, and each is in its range."""
    assert set(values) == {name for name in space.dimensions if space.active(name, values)}
    assert all(space.dimensions[name].has(value) for name, value in values.items())
