"""A real experiment that takes no time: digits by an MLP 64-32-32-10, 100 steps in four epochs."""

import dataclasses

import numpy as np
import optax

from jaxnn import data, train
from jaxnn.experiment import Problem, Program, Recipe
from jaxnn.models import MLP
from jaxnn.sweep import Choice, LogUniform, Space, Uniform

# 25 batches of 32 an epoch.
ROWS = 800


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
class Experiment:
    model: MLP = MLP(width=32, depth=2)  # noqa: RUF009, frozen
    optimizer: Descent = Descent()
    batch_size: int = 32
    epochs: int = 4
    seed: int = 0


def problem():
    digits = data.digits()
    few = data.Examples(digits.train.x[:ROWS], digits.train.y[:ROWS])
    digits = dataclasses.replace(digits, train=few)
    return Problem(digits, train.Classification(10), inputs=data.Standardizer.fit(digits.train.x))


def build(config, problem):
    """The program of this configuration, or of any other with these fields."""
    return Program(
        net=config.model.network(problem.task.outputs),
        task=problem.task,
        optimizer=config.optimizer.build(ROWS // config.batch_size * config.epochs),
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
    )


# Three numbers that are traced, and a static one: two groups.
SPACE = Space(
    Experiment,
    {
        "optimizer.learning_rate": LogUniform(1e-3, 0.3),
        "optimizer.momentum": Uniform(0.5, 0.95),
        "model.dropout": Uniform(0.0, 0.5),
        "model.width": Choice(16, 32),
    },
)
RECIPE = Recipe("quick", __doc__, Experiment, problem, build, SPACE)


def recipe(space, config: type = Experiment, **changes):
    """The experiment with another space, or with something else changed."""
    return dataclasses.replace(RECIPE, config=config, space=space, **changes)


def sampled(count, space=SPACE, seed=0):
    """So many random trials."""
    random = np.random.default_rng(seed)
    return [space.sample(random) for _ in range(count)]
