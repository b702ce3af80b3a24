"""A classifier of three of its inputs, by `train.Supervised`.

python -m tests.sweep.programs.supervised sweep
"""

import dataclasses
import sys

import jax
import numpy as np
import optax

import jaxnn as nn
from jaxnn import train
from jaxnn.command import main
from jaxnn.experiment import Experiment
from jaxnn.sweep import Choice, LogUniform, Uniform


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and for how long."""

    learning_rate: float = 1e-2
    dropout: float = 0.1
    width: int = 4
    fold: int = 0
    batch_size: int = 16
    epochs: int = 3
    seed: int = 0


def load(config):
    """One of three folds, held out, and the rest."""
    x = np.random.default_rng(0).normal(size=(120, 5)).astype(np.float32)
    y = (x[:, :3].sum(1) > 0).astype(np.int32)
    held = np.arange(120) % 3 == config.fold
    return (x[~held], y[~held]), (x[held], y[held])


def build(config, data):
    """The program of this configuration."""
    net = nn.Sequential(
        nn.Dense(config.width), jax.nn.relu, nn.Dropout(config.dropout), nn.Dense(2)
    )
    optimizer = train.Optimizer(optax.adam, learning_rate=config.learning_rate)
    return train.Supervised(net, train.Classification(2), optimizer)


SPACE = {
    "learning_rate": LogUniform(1e-3, 1e-1),
    "dropout": Uniform(0.0, 0.5),
    "fold": Choice(0, 1),
}
EXPERIMENT = Experiment("supervised", Config, data=load, program=build, space=SPACE)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
