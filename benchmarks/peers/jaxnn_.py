"""jaxnn itself, behind the interface of its peers."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

import jaxnn as nn
from benchmarks.peers import LEARNING_RATE, STEADY
from benchmarks.peers.shapes import BLOCKS, HIDDEN, TOKENS, WIDTH, WORDS
from jaxnn import train


def steps(widths: Sequence[int]) -> dict[str, Callable[..., Any]]:
    """`train.make_step` of a program with a plain loss function."""
    made = program(widths)
    spec = jax.ShapeDtypeStruct((1, widths[0]), "float32"), jax.ShapeDtypeStruct((1,), "int32")
    state = made.init(jax.random.key(0), spec)
    compiled = train.make_step(made)

    def step(x: Any, y: Any) -> jax.Array:
        nonlocal state
        state, metrics = compiled(state, (x, y))
        return metrics["loss"]

    return {"jaxnn make_step": step}


def forwards(widths: Sequence[int]) -> dict[str, Callable[[Any], jax.Array]]:
    """`net.apply`."""
    net = _perceptron(widths)
    params = net.init(jax.random.key(0), jax.ShapeDtypeStruct((1, widths[0]), "float32"))
    return {"jaxnn": lambda x: net.apply(params, x)}


def epochs(
    widths: Sequence[int], x: np.ndarray, y: np.ndarray, batch: int
) -> dict[str, Callable[[], float]]:
    """`train.fit`; returns the seconds of an epoch after the first."""
    run = fitting(program(widths), (x, y), batch, STEADY)
    return {"jaxnn fit": run}


def fitting(
    program: train.Program,
    data: Any,
    batch: int,
    epochs: int,
    hooks: Sequence[Any] = (),
    **options: Any,
) -> Callable[[], float]:
    """A run over 1 + `epochs` epochs by `train.fit`, with the seconds of one after the first."""

    def run() -> float:
        times: list[float] = []
        clock = lambda event: times.append(time.perf_counter())  # noqa: E731
        train.fit(
            program, data, key=jax.random.key(0), batch_size=batch, epochs=1 + epochs,
            hooks=[clock, *hooks], **{"progress": False} | options,
        )  # fmt: skip
        return (times[-1] - times[0]) / epochs

    return run


def initializers() -> dict[str, Callable[[int], Any]]:
    """`net.init`, from shapes alone."""
    net, tokens = transformer(), jax.ShapeDtypeStruct(TOKENS, "int32")
    return {"jaxnn": lambda seed: net.init(jax.random.key(seed), tokens)}


def transformer() -> nn.Layer:
    """The network whose parameters are drawn."""
    return nn.Sequential(nn.Embedding(WORDS, WIDTH), *[block()] * BLOCKS, nn.Dense(WORDS))


def block() -> nn.Layer:
    """One of its blocks."""
    mlp = nn.Sequential(nn.Dense(HIDDEN), jax.nn.relu, nn.Dense(WIDTH))
    square = nn.Dense(WIDTH)
    return _Block(nn.LayerNorm(), square, square, square, square, nn.LayerNorm(), mlp)


def program(widths: Sequence[int]) -> train.Program:
    """The training of the perceptron."""
    return train.Supervised(_perceptron(widths), _loss, optax.adam(LEARNING_RATE))


def _perceptron(widths: Sequence[int]) -> nn.Layer:
    layers = itertools.chain.from_iterable((nn.Dense(width), jax.nn.relu) for width in widths[1:])
    return nn.Sequential(*list(layers)[:-1])


def _loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


class _Block(nn.Composite):
    norm1: nn.Layer
    queries: nn.Layer
    keys: nn.Layer
    values: nn.Layer
    output: nn.Layer
    norm2: nn.Layer
    mlp: nn.Layer

    def forward(self, x: jax.Array) -> jax.Array:
        h = self.norm1(x)
        x = x + self.output(self.queries(h) * self.keys(h) + self.values(h))
        return x + self.mlp(self.norm2(x))
