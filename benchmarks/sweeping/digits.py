"""Ten classes of small digits by small networks: 100 steps of Adam, whose learning rate is sought.

`python -m benchmarks.sweeping.digits sweep` is what the benchmark `sweep` times.
"""

import dataclasses
import sys
from typing import Any, Literal

import jax
import optax

import jaxnn as nn
from benchmarks.sweeping.sizes import BATCH, EPOCHS, RATES, STEPS, WIDTHS
from jaxnn import data, train
from jaxnn.command import main
from jaxnn.experiment import Experiment
from jaxnn.sweep import LogUniform, Space

CLASSES = WIDTHS[-1]


def _perceptron(*widths: int) -> nn.Layer:
    hidden = [layer for width in widths for layer in (nn.Dense(width), jax.nn.relu)]
    return nn.Sequential(*hidden, nn.Dense(CLASSES))


NETWORKS = {
    "narrow": _perceptron(*WIDTHS[1:-1]),
    "wide": _perceptron(512, 512),
    "convolutional": nn.Sequential(
        nn.Reshape((8, 8, 1)),
        nn.Conv(8, (3, 3)),
        jax.nn.relu,
        nn.Conv(16, (3, 3), stride=2),
        jax.nn.relu,
        nn.Flatten(),
        nn.Dense(CLASSES),
    ),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """The configuration of a run."""

    network: Literal["narrow", "wide", "convolutional"] = "narrow"
    """64-32-32-10, 64-512-512-10, or two convolutions and a dense layer."""
    learning_rate: float = 1e-3
    """The step size of Adam."""
    batch_size: int = BATCH
    """Examples a step."""
    epochs: int = EPOCHS
    """Times every training example is seen."""
    seed: int = 0
    """Of all random numbers: parameters, order."""


def load(config: Config) -> Any:
    """Gray levels in [0, 1] of 8 x 8 pixels, and a class of ten for each: to train and validate."""
    x, y = data.digits().train_and_validation
    rows = BATCH * STEPS
    return (x[:rows], y[:rows]), (x[rows:], y[rows:])


def program(config: Config, data: Any) -> train.Program:
    """The training program of a configuration."""
    optimizer = train.Optimizer(optax.adam, learning_rate=config.learning_rate)
    return train.Supervised(NETWORKS[config.network], train.Classification(CLASSES), optimizer)


SPACE = Space(Config, {"learning_rate": LogUniform(*RATES)})
EXPERIMENT = Experiment("digits", Config, data=load, program=program, space=SPACE)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
