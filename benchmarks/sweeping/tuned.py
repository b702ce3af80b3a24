"""The experiment of the benchmarks `tuners` and `search`: digits by 64-w-w-10 and AdamW.

Swept are the width, which changes the program, and three numbers, which do not.
`python -m benchmarks.sweeping.tuned sweep` is what the benchmarks time.
"""

import dataclasses
import sys
from typing import Any

import jax
import optax

import jaxnn as nn
from benchmarks.sweeping.sizes import (
    BATCH,
    DECAYS,
    EPOCHS,
    MOMENTA,
    RATES,
    STEPS,
    TRIED_WIDTHS,
    WIDTHS,
)
from jaxnn import data, train
from jaxnn.command import main
from jaxnn.experiment import Experiment
from jaxnn.sweep import Choice, LogUniform, Space, Uniform

CLASSES = WIDTHS[-1]


@dataclasses.dataclass(frozen=True)
class Config:
    """The configuration of a run."""

    width: int = TRIED_WIDTHS[0]
    """Units of each of the two hidden layers."""
    learning_rate: float = 1e-3
    """The first step size of AdamW, which decays along half a cosine."""
    weight_decay: float = 1e-4
    """The decay of weights by AdamW, relative to the step size."""
    momentum: float = 0.9
    """The decay of the mean of gradients."""
    rows: int = BATCH * STEPS
    """Examples to train on; the others validate."""
    batch_size: int = BATCH
    """Examples a step."""
    epochs: int = EPOCHS
    """Times every training example is seen."""
    seed: int = 0
    """Of all random numbers: parameters, order."""


def load(config: Config) -> Any:
    """Small digits as in `digits`: to train and validate."""
    x, y = data.digits().train_and_validation
    return (x[: config.rows], y[: config.rows]), (x[config.rows :], y[config.rows :])


def program(config: Config, data: Any) -> train.Program:
    """The training program of a configuration."""
    hidden = [layer for _ in range(2) for layer in (nn.Dense(config.width), jax.nn.relu)]
    steps = config.rows // config.batch_size * config.epochs
    optimizer = train.Optimizer(
        optax.adamw,
        learning_rate=train.Cosine(config.learning_rate, steps),
        weight_decay=config.weight_decay,
        b1=config.momentum,
    )
    network = nn.Sequential(*hidden, nn.Dense(CLASSES))
    return train.Supervised(network, train.Classification(CLASSES), optimizer)


SPACE = Space(
    Config,
    {
        "width": Choice(*TRIED_WIDTHS),
        "learning_rate": LogUniform(*RATES),
        "weight_decay": LogUniform(*DECAYS),
        "momentum": Uniform(*MOMENTA),
    },
)
EXPERIMENT = Experiment(
    "tuned", Config, data=load, program=program, space=SPACE, minimize="validation_loss"
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
