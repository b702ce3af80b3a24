"""Malignant or benign: 30 measurements of a tumour, one sigmoid output.

Expected on the 113 test tumours, mean of seeds 0 to 4, on two CPU cores:

    python -m experiments.breast_cancer
        accuracy 0.958 (0.956 to 0.965), about 10 seconds

Logistic regression (scikit-learn) on the same split: 0.956. Trained on 399 tumours; the numbers
were chosen on the 57 validation tumours, never on the test tumours.
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

    model: MLP = MLP(width=32, depth=1, dropout=0.5)
    optimizer: AdamW | SGD = AdamW(learning_rate=3e-3, weight_decay=1e-2)
    batch_size: int = 32
    """Examples a step."""
    epochs: int = 30
    """Times every training example is seen."""
    seed: int = 0
    """Of all random numbers: parameters, order, dropout."""


def problem() -> Problem:
    """569 tumours, measurements standardized by the training examples: is it benign?"""
    cancer = data.breast_cancer()
    return Problem(
        cancer, train.BinaryClassification(), inputs=data.Standardizer.fit(cancer.train.x)
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
            SGD={"learning_rate": LogUniform(1e-3, 0.5), "momentum": Uniform(0.5, 0.98)},
            AdamW={"learning_rate": LogUniform(1e-4, 1e-1), "weight_decay": LogUniform(1e-6, 1e-1)},
        ),
        "model.dropout": Uniform(0.0, 0.6),
        "model.width": Choice(8, 32, 128),
    },
)
RECIPE = Recipe("breast_cancer", __doc__, Experiment, problem, build, SPACE)

if __name__ == "__main__":
    sys.exit(main(RECIPE))
