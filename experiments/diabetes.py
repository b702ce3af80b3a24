"""Predict the progression of diabetes in a year from 10 measurements.

Expected on the 88 test patients, mean of seeds 0 to 4, on two CPU cores:

    python -m experiments.diabetes
        R2 0.484 (0.450 to 0.503), RMSE 57.2, about 10 seconds

Linear regression (scikit-learn) on the same split: R2 0.492, RMSE 56.8.
Trained on 310 patients. The hyperparameters were chosen on the 44 validation
patients and by five-fold cross-validation over those and the training
patients, never on the test patients.
"""

import dataclasses
import sys
from typing import Any

import jax

import jaxnn as nn
from jaxnn import data, train
from jaxnn.command import main
from jaxnn.experiment import SGD, AdamW, Experiment
from jaxnn.models import MLP
from jaxnn.sweep import Branch, Choice, LogUniform, Space, Uniform


@dataclasses.dataclass(frozen=True)
class Config:
    """The configuration of a run."""

    model: MLP = MLP(width=64, depth=1, dropout=0.5)
    optimizer: AdamW | SGD = SGD(learning_rate=0.01)
    batch_size: int = 32
    """Rows per step."""
    epochs: int = 30
    """Passes over the training rows."""
    seed: int = 0
    """The root of all random numbers: parameters, order, dropout."""


class Progression(train.Regression):
    """Regression with two more metrics."""

    def measure(
        self, outputs: jax.Array, targets: jax.Array, weights: jax.Array | None = None
    ) -> dict[str, Any]:
        """The loss, the mean absolute error, the root mean squared error, and R2."""
        found, predicted = super().measure(outputs, targets, weights), self.predict(outputs)
        more = {"rmse": train.rmse, "r2": train.r2}
        return found | {name: score(predicted, targets, weights) for name, score in more.items()}


def load(config: Config) -> data.Dataset:
    """442 patients, 10 measurements each, and the progression of the disease."""
    return data.diabetes()


def build(config: Config, patients: data.Dataset) -> train.Minimize:
    """The training program of a configuration.

    The network standardizes the measurements, and its outputs are standardized progressions.
    """
    x, y = patients.train
    steps = len(y) // config.batch_size * config.epochs
    net = nn.Sequential(scale=data.Standardizer.fit(x).layer(), mlp=config.model.network(outputs=1))
    task = Progression(mean=float(y.mean()), std=float(y.std()))
    return train.Supervised(net, task, config.optimizer.build(steps))


SPACE = Space(
    Config,
    {
        "optimizer": Branch(
            SGD={"learning_rate": LogUniform(1e-4, 0.1), "momentum": Uniform(0.5, 0.98)},
            AdamW={"learning_rate": LogUniform(1e-4, 1e-1), "weight_decay": LogUniform(1e-6, 1e-1)},
        ),
        "model.dropout": Uniform(0.0, 0.6),
        "model.width": Choice(16, 64, 256),
    },
)
EXPERIMENT = Experiment(
    "diabetes", Config, data=load, program=build, space=SPACE, maximize="validation_r2"
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
