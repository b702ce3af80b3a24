"""The Python reference manual, character by character, by a small GPT.

Expected on the last fifth of the manual, which is not used in training, seed
0, Python 3.11.7:

    python -m experiments.python_gpt
        2.24 bits per character (2.26 in validation), 607,360 parameters, six
        epochs of 261,000 characters, about 95 seconds of CPU time; it prints a
        sample at the end

    python -m experiments.python_gpt sample runs/python_gpt-... --prompt "The "
        continues the prompt

The manual differs between versions of Python, and so does the result. On the
same characters a table of how often each character follows another needs 3.59
bits.

To train on another text, write `data.read_text("mine.txt")` in `load`.
"""

import dataclasses
import sys

import jax
import numpy as np

import jaxnn as nn
from jaxnn import data, train
from jaxnn.command import main
from jaxnn.experiment import SGD, AdamW, Command, Experiment, TrainedRun
from jaxnn.models import GPT
from jaxnn.sweep import Branch, Choice, LogUniform, Space, Uniform

# Characters of a window: the longest context, in training and in sampling.
LENGTH = 128


@dataclasses.dataclass(frozen=True)
class Config:
    """The configuration of a run."""

    model: GPT = GPT(layers=3, width=128, num_heads=4, length=LENGTH, positions="rotary")
    optimizer: AdamW | SGD = AdamW(learning_rate=3e-3, weight_decay=0.1)
    batch_size: int = 8
    """Windows of 128 characters per step."""
    epochs: int = 6
    """Passes over the training windows."""
    seed: int = 0
    """The root of all random numbers: parameters, order, dropout, the sample."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Options of the sampling."""

    prompt: str = "The with statement "
    """The text to continue, in printable ASCII."""
    characters: int = 400
    """Number of characters to add."""
    temperature: float = 0.8
    """Divides the logits: less than 1 prefers likely characters; 0 takes the likeliest."""
    top_k: int | None = None
    """The number of likeliest characters to draw from; all by default."""
    top_p: float | None = None
    """Draw from the smallest set of likeliest characters with this probability; all by default."""
    seed: int = 0
    """The seed of the draws."""


def load(config: Config) -> data.Dataset:
    """Windows of the manual, and the character that follows each of their characters."""
    return data.python_reference().windows(LENGTH)


def build(config: Config, manual: data.Dataset) -> train.Minimize:
    """The training program of a configuration."""
    steps = len(manual.train.y) // config.batch_size * config.epochs
    characters = len(manual.class_names)
    net, task = config.model.network(characters), train.NextToken(characters)
    return train.Supervised(net, task, config.optimizer.build(steps))


def written(trained: TrainedRun, options: Sample) -> str:
    """The prompt and its continuation by the network, half a window at a time."""
    vocabulary, half = trained.data.class_names, LENGTH // 2
    tokens = data.encode(options.prompt, vocabulary)
    length, key = len(tokens) + options.characters, jax.random.key(options.seed)
    net, params = nn.unstack_layers(trained.net, trained.params)  # a row decodes faster
    while len(tokens) < length:
        new = nn.generate(
            net,
            params,
            tokens[-half:],
            steps=half,
            key=jax.random.fold_in(key, len(tokens)),
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
        )
        tokens = np.concatenate([tokens, new.tokens])
    return data.decode(tokens[:length], vocabulary)


def sample(trained: TrainedRun, options: Sample) -> None:
    """Print a sample."""
    print(written(trained, options))


def finish(trained: TrainedRun) -> dict[str, bytes]:
    """Print a sample, and keep it in the run folder."""
    text = written(trained, Sample(seed=trained.config.seed))
    print(f"\nA sample:\n{text}")
    return {"sample.md": text.encode()}


SPACE = Space(
    Config,
    {
        "optimizer": Branch(
            AdamW={"learning_rate": LogUniform(3e-4, 1e-2), "weight_decay": LogUniform(1e-3, 1.0)},
        ),
        "model.dropout": Uniform(0.0, 0.3),
        "model.layers": Choice(2, 3, 4),
    },
)
EXPERIMENT = Experiment(
    "python_gpt",
    Config,
    data=load,
    program=build,
    space=SPACE,
    minimize="validation_bits",
    finish=finish,
    commands=(Command("sample", "continue a prompt with a trained network", Sample, sample),),
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
