"""Distillation: a small network learns from the outputs of a trained one.

Hinton et al., Distilling the knowledge in a neural network, 2015, section 3.
The teacher has seen shifted digits, and the student has not: it learns to
generalize from the teacher's outputs on the images as they are, without
labels. The same student that learns from labels is the comparison.
`nn.Inference` keeps the teacher, with its batch normalization and its dropout,
as it is.

    python -m experiments.gallery.distillation
    python -m experiments.gallery.distillation sweep --trials 16

Expected accuracy on the 1,000 test digits, in 30 seconds on two CPU cores:
teacher 0.968, student of the teacher 0.950, student of the labels 0.923. The
sweep trains its trials as lanes of one program, and compares them by the
validation accuracy.
"""

import dataclasses
import functools
import sys
from typing import Any

import jax
import optax

import jaxnn as nn
from jaxnn import command, data, train
from jaxnn.experiment import Experiment
from jaxnn.sweep import LogUniform, Uniform

DIGITS = train.Classification(10)
TEACHER = nn.Sequential(nn.Dense(800), nn.BatchNorm(), jax.nn.relu, nn.Dropout(0.5), nn.Dense(10))


class Distillation(nn.Composite):
    """The objective: the divergence of the student from the teacher, both at a temperature.

    `share` is the weight of the teacher, 1 - `share` that of the labels.
    """

    teacher: nn.Layer
    student: nn.Layer

    def forward(self, batch, *, temperature=1.0, share=1.0):
        """Loss and metrics of images and labels."""
        x, y = batch
        soft, found = self.teacher(x) / temperature, self.student(x)
        logs = jax.nn.log_softmax(found / temperature)
        loss = temperature**2 * optax.kl_divergence(logs, jax.nn.softmax(soft)).mean()
        labels = optax.softmax_cross_entropy_with_integer_labels(found, y).mean()
        return share * loss + (1 - share) * labels, {"accuracy": train.accuracy(found, y)}

    def predict(self, x):
        """Probabilities of the student."""
        return jax.nn.softmax(self.student(x))


def student(width: int) -> nn.Layer:
    """A small network."""
    return nn.Sequential(nn.Dense(width), jax.nn.relu, nn.Dense(10))


def supervised(net: nn.Layer, rate: float | train.Schedule = 1e-3) -> train.Minimize:
    """A network that learns from labels."""
    return train.Supervised(net, DIGITS, train.Optimizer(optax.adam, learning_rate=rate))


def program(
    teacher: nn.Layer,
    weights: train.Weights | None = None,
    width: int = 128,
    temperature: float = 4.0,
    share: float = 1.0,
    rate: float | train.Schedule = 1e-3,
) -> train.Minimize:
    """The distillation of a teacher, with its trained weights, into a student."""
    adam = train.Optimizer(optax.adam, learning_rate=rate)
    return train.Minimize(
        Distillation(nn.Inference(teacher), student(width)),
        adam,
        inputs={"temperature": temperature, "share": share},
        initial={} if weights is None else {"teacher": weights},
    )


def shifted(key: jax.Array, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Images (rows, 784) moved by up to two pixels."""
    return data.random_shift(key, x.reshape(-1, 28, 28), 2).reshape(x.shape), y


@functools.cache
def trained(epochs: int) -> tuple[train.Minimize, Any]:
    """The program of the teacher, and its state after training on shifted digits."""
    taught = supervised(TEACHER, train.Cosine(3e-3, steps=epochs * 31))
    rows = data.Augmented(data.mnist_5k().train_and_validation, shifted)
    options = {"key": jax.random.key(0), "epochs": epochs, "batch_size": 128}
    return taught, train.fit(taught, rows, **options)[0]


@dataclasses.dataclass(frozen=True)
class Config:
    """The configuration of a trial of a sweep."""

    temperature: float = 4.0
    share: float = 1.0
    rate: float = 3e-3
    width: int = 128
    epochs: int = 10
    teacher_epochs: int = 40
    seed: int = 0


def digits(config: Config) -> data.Dataset:
    """Digits, after the teacher has been trained, which cannot be done inside a trace."""
    trained(config.teacher_epochs)
    return data.mnist_5k()


def build(config: Config, digits: data.Dataset) -> train.Minimize:
    """The program of a configuration."""
    _, state = trained(config.teacher_epochs)
    numbers = {"temperature": config.temperature, "share": config.share, "rate": config.rate}
    return program(TEACHER, train.Weights(state.params, state.state), config.width, **numbers)


SPACE = {
    "temperature": LogUniform(1.0, 20.0),
    "share": Uniform(0.0, 1.0),
    "rate": LogUniform(1e-5, 1e-2),
}
EXPERIMENT = Experiment(
    "distillation", Config, data=digits, program=build, space=SPACE, maximize="validation_accuracy"
)


def main(epochs: int = 40) -> dict[str, float]:
    """Train a teacher, a student on its outputs, and a student on labels."""
    digits = data.mnist_5k()
    rows, rate = digits.train_and_validation, train.Cosine(3e-3, steps=epochs * 31)

    def accuracy(program):
        options = {"key": jax.random.key(0), "epochs": epochs, "batch_size": 128}
        state, _ = train.fit(program, rows, **options)
        return train.evaluate(program, state, digits.test)["accuracy"]

    taught, state = trained(epochs)
    weights = train.Weights(state.params, state.state)
    return {
        "teacher": train.evaluate(taught, state, digits.test)["accuracy"],
        "distilled": accuracy(program(TEACHER, weights, rate=rate)),
        "labels": accuracy(supervised(student(128), rate)),
    }


if __name__ == "__main__":
    sys.exit(command.main(EXPERIMENT)) if sys.argv[1:] else print(main())
