"""jaxnn itself, behind the interface of its peers."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

import jaxnn as nn
from benchmarks.peers import LEARNING_RATE
from benchmarks.peers.shapes import BLOCKS, HIDDEN, TOKENS, WIDTH, WORDS
from jaxnn import train

# Epochs of one call of fit that are timed, after a first one that is not.
STEADY = 3


def steps(widths: Sequence[int]) -> dict[str, Callable[..., Any]]:
    """`train.make_step` with a plain loss function."""
    net, optimizer = _perceptron(widths), optax.adam(LEARNING_RATE)
    x = jax.ShapeDtypeStruct((1, widths[0]), "float32")
    state = train.TrainState.create(net, optimizer, jax.random.key(0), x)
    compiled = train.make_step(net, _loss, optimizer)

    def step(x: Any, y: Any) -> jax.Array:
        nonlocal state
        state, metrics = compiled(state, (x, y))
        return metrics["loss"]

    return {"jaxnn make_step": step}


def epochs(
    widths: Sequence[int], x: np.ndarray, y: np.ndarray, batch: int
) -> dict[str, Callable[[], float]]:
    """`train.fit`, which goes on from where it stopped; returns the seconds of a later epoch."""
    net, optimizer, key = _perceptron(widths), optax.adam(LEARNING_RATE), jax.random.key(0)
    state, done = None, 0

    def run() -> float:
        nonlocal state, done
        done += 1 + STEADY
        state, history = train.fit(
            net, _loss, optimizer, (x, y), key=key, batch_size=batch, epochs=done, start=state
        )
        times = [record["seconds"] for record in history]
        return (times[-1] - times[0]) / STEADY

    return {"jaxnn fit": run}


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
