"""The Python reference manual, character by character, by a small GPT.

Expected on the last fifth of the manual, which is not used in training, seed 0, Python 3.11.7:

    python -m experiments.python_gpt
        2.24 bits per character (2.26 in validation), 607,360 parameters, six epochs of 261,000
        characters, about 95 seconds of CPU time; it prints a sample at the end

    python -m experiments.python_gpt sample runs/python_gpt-... --prompt "The for statement "
        continues the prompt

The manual differs between versions of Python, and so does the result. On the same characters a
table of how often each character follows another needs 3.59 bits.

To train on another text, write `data.read_text("mine.txt")` in `problem`.
"""

import dataclasses
import sys

import jax
import numpy as np

import jaxnn as nn
from jaxnn import data, train
from jaxnn.command import main
from jaxnn.experiment import SGD, AdamW, Command, Problem, Program, Recipe, run_length
from jaxnn.models import GPT
from jaxnn.sweep import Branch, Choice, LogUniform, Space, Uniform
from jaxnn.train.evaluation import Trained

# Characters of a window: the network never sees more at once, in training or when it writes.
LENGTH = 128


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a run depends on."""

    model: GPT = GPT(layers=3, width=128, num_heads=4, length=LENGTH, positions="rotary")
    optimizer: AdamW | SGD = AdamW(learning_rate=3e-3, weight_decay=0.1)
    batch_size: int = 8
    """Windows of 128 characters per step."""
    epochs: int = 6
    """Times every training window is seen."""
    seed: int = 0
    """Of all random numbers: parameters, order, dropout, the sample."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """How a text is sampled."""

    prompt: str = "The with statement "
    """The text to continue, in printable ASCII."""
    characters: int = 400
    """Number of characters to add."""
    temperature: float = 0.8
    """Below 1 likelier characters, above 1 rarer ones; 0 for the likeliest alone."""
    top_k: int | None = None
    """Draw among the likeliest of this number alone."""
    top_p: float | None = None
    """Draw among the fewest likeliest that have this share of the probability."""
    seed: int = 0
    """Of the draws."""


def problem() -> Problem:
    """Windows of the manual, and the character that follows each of their characters."""
    text = data.python_reference()
    return Problem(text.windows(LENGTH), train.NextToken(len(text.vocabulary)))


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


def written(problem: Problem, program: Program, trained: Trained, options: Sample) -> str:
    """The prompt, and what the network writes after it: half a window at a time."""
    vocabulary, half = problem.data.class_names, LENGTH // 2
    tokens = data.encode(options.prompt, vocabulary)
    length, key = len(tokens) + options.characters, jax.random.key(options.seed)
    net, params = nn.unstack_layers(program.net, trained.params)  # a row decodes faster
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


def sample(problem: Problem, program: Program, trained: Trained, options: Sample) -> None:
    """Print what the network writes."""
    print(written(problem, program, trained, options))


def finish(problem: Problem, program: Program, trained: Trained) -> dict[str, bytes]:
    """Print a sample, and keep it in the run folder."""
    text = written(problem, program, trained, Sample(seed=program.seed))
    print(f"\nA sample:\n{text}")
    return {"sample.md": text.encode()}


SPACE = Space(
    Experiment,
    {
        "optimizer": Branch(
            AdamW={"learning_rate": LogUniform(3e-4, 1e-2), "weight_decay": LogUniform(1e-3, 1.0)},
        ),
        "model.dropout": Uniform(0.0, 0.3),
        "model.layers": Choice(2, 3, 4),
    },
)
RECIPE = Recipe(
    "python_gpt",
    __doc__,
    Experiment,
    problem,
    build,
    SPACE,
    finish,
    (Command("sample", "write on from a prompt, by a saved run", Sample, sample),),
)

if __name__ == "__main__":
    sys.exit(main(RECIPE))
