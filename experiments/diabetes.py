"""The progression of diabetes in a year: a number from 10 measurements of a patient.

Expected on the 88 test patients, mean of seeds 0 to 4, on two CPU cores:

    python -m experiments.diabetes
        R2 0.486 (0.469 to 0.510), RMSE 57.1, about 10 seconds

Linear regression (scikit-learn) on the same split: R2 0.492, RMSE 56.8; more is not in these data.
Trained on 310 patients; the numbers were chosen on the 44 validation patients and by five-fold
cross-validation over those and the training patients, never on the test patients.
"""

import dataclasses
import sys

from jaxnn import data, train
from jaxnn.command import main
from jaxnn.experiment import SGD, AdamW, Problem, Program, Recipe, run_length
from jaxnn.models import MLP
from jaxnn.sweep import Branch, Choice, LogUniform, Space, Uniform


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a run depends on."""

    model: MLP = MLP(width=64, depth=1, dropout=0.5)
    optimizer: AdamW | SGD = SGD(learning_rate=0.01)
    batch_size: int = 32
    """Examples a step."""
    epochs: int = 30
    """Times every training example is seen."""
    seed: int = 0
    """Of all random numbers: parameters, order, dropout."""


def problem() -> Problem:
    """442 patients, measurements and target standardized by the training examples."""
    diabetes = data.diabetes()
    return Problem(
        diabetes,
        train.Regression(),
        inputs=data.Standardizer.fit(diabetes.train.x),
        targets=data.Standardizer.fit(diabetes.train.y),
        quantity="disease progression",
    )


def build(config: Experiment, problem: Problem) -> Program:
    """The training program of a configuration."""
    steps = run_length(len(problem.data.train.x), config.batch_size, config.epochs)
    return Program(
        net=config.model.network(problem.task.outputs),
        task=problem.task,
        optimizer=config.optimizer.build(steps),
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
    )


SPACE = Space(
    Experiment,
    {
        "optimizer": Branch(
            SGD={"learning_rate": LogUniform(1e-4, 0.1), "momentum": Uniform(0.5, 0.98)},
            AdamW={"learning_rate": LogUniform(1e-4, 1e-1), "weight_decay": LogUniform(1e-6, 1e-1)},
        ),
        "model.dropout": Uniform(0.0, 0.6),
        "model.width": Choice(16, 64, 256),
    },
)
RECIPE = Recipe("diabetes", __doc__, Experiment, problem, build, SPACE)

if __name__ == "__main__":
    sys.exit(main(RECIPE))
