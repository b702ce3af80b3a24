"""Ten classes of handwritten digits by a multilayer perceptron.

Expected on the 1,000 test digits, mean of seeds 0 to 4, on two CPU cores:

    python -m experiments.mnist_mlp
        accuracy 0.940 (0.935 to 0.947), 784-128-10, about 10 seconds

    python -m experiments.mnist_mlp --shift 2 --epochs 60 --model.dropout 0.2
        accuracy 0.972 (0.969 to 0.975), about 20 seconds

    python -m experiments.mnist_mlp sweep --trials 64
        trains 64 configurations of the space at the end of this file

Trained on 3,500 digits. The hyperparameters were chosen on the 500 validation digits, never on the
test digits. `--help` lists all options and commands.
"""

import dataclasses
import sys

import jax

from jaxnn import data, train
from jaxnn.command import main
from jaxnn.experiment import SGD, AdamW, Experiment
from jaxnn.models import MLP
from jaxnn.sweep import Branch, Choice, LogUniform, Space, Uniform

SHAPE = (28, 28)  # the data set has each image as a row of 784 numbers


# An experiment has four parts: a configuration, the data, a training program, and a search space.
# First the configuration: each field, also of a nested value, is an option of the command line,
# such as --epochs 5 or --model.width 256. `optimizer:adamw` chooses the other optimizer.
@dataclasses.dataclass(frozen=True)
class Config:
    """The configuration of a run."""

    model: MLP = MLP(width=128, depth=1, dropout=0.5)  # depth: the number of hidden layers
    optimizer: AdamW | SGD = SGD(learning_rate=0.1)
    batch_size: int = 64
    """Rows per step."""
    epochs: int = 30
    """Passes over the training rows."""
    seed: int = 0
    """The root of all random numbers: parameters, order, dropout, shifts."""
    shift: int = 0
    """The largest random shift of a training digit in each direction, in pixels; 0 for none."""


# Augmentation is a function of a key and a batch of inputs. A frozen dataclass, unlike a lambda, is
# equal to another with the same fields, so an interrupted run recognizes its own data.
@dataclasses.dataclass(frozen=True)
class Shift:
    """Random shifts of flat images, applied to each training batch."""

    pixels: int

    def __post_init__(self) -> None:
        """Raise ValueError for a shift that could remove a whole image."""
        if not 0 <= self.pixels < min(SHAPE):
            raise ValueError(f"shift is {self.pixels} pixels, expected 0 .. {min(SHAPE) - 1}")

    def __call__(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """x (rows, 784), each row shifted as an image."""
        return data.random_shift(key, x.reshape(-1, *SHAPE), self.pixels).reshape(x.shape)


# The data may depend on the configuration. For your own arrays, write
#     data.Dataset("name", data.Examples(x, y), data.Examples(...), data.Examples(...))
# The first rows are trained on, the second are evaluated after each epoch and compare
# configurations, and the third, the test rows, are evaluated once, at the end.
def load(config: Config) -> data.Dataset | data.Augmented:
    """5,000 digits in ten classes, gray levels in [0, 1]."""
    digits = data.mnist_5k()
    return data.Augmented(digits, Shift(config.shift)) if config.shift else digits


# The program defines the training: the network, the task (its loss, metrics, and predictions), and
# the optimizer. `config.model.network(outputs=10)` returns a plain value, in short
#     nn.Sequential(nn.Dense(128), jax.nn.relu, nn.Dropout(0.5), nn.Dense(10))
# and any other layer can take its place.
def build(config: Config, digits: data.Dataset) -> train.Minimize:
    """The training program of a configuration."""
    steps = len(digits.train.y) // config.batch_size * config.epochs
    net, task = config.model.network(outputs=10), train.Classification(10)
    return train.Supervised(net, task, config.optimizer.build(steps))


# The search space has a range for each field that a sweep varies. `Branch` has separate ranges for
# each kind of optimizer. Trials that differ in numbers only are trained together, in one compiled
# program; each width is compiled once.
SPACE = Space(
    Config,
    {
        "optimizer": Branch(
            SGD={"learning_rate": LogUniform(1e-2, 0.5), "momentum": Uniform(0.5, 0.98)},
            AdamW={"learning_rate": LogUniform(1e-4, 1e-1), "weight_decay": LogUniform(1e-6, 1e-1)},
        ),
        "model.dropout": Uniform(0.0, 0.6),
        "model.width": Choice(64, 128, 256),
    },
)
EXPERIMENT = Experiment(
    "mnist_mlp", Config, data=load, program=build, space=SPACE, maximize="validation_accuracy"
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
