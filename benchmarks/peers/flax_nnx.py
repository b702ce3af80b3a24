"""Flax nnx: as its basics write a training step, and the two ways its performance guide adds."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from benchmarks import by_step
from benchmarks.peers import LEARNING_RATE
from benchmarks.peers.shapes import BLOCKS, HIDDEN, WIDTH, WORDS


def steps(widths: Sequence[int]) -> dict[str, Callable[..., Any]]:
    """`nnx.jit`, `nnx.cached_partial`, and the functional loop of `nnx.split` and `nnx.merge`."""
    return {
        "flax nnx.jit": _jit(widths),
        "flax nnx.cached_partial": _cached(widths),
        "flax nnx, functional": _functional(widths),
    }


def programs(
    widths: Sequence[int], data: tuple[Any, Any], held: tuple[Any, Any], batch: int, epochs: int
) -> dict[str, Callable[[float], float]]:
    """A model, an optimizer and a compiled step for each learning rate."""

    def train(learning_rate: float) -> float:
        model, optimizer = _model(widths, learning_rate)
        step = nnx.jit(_train)
        epoch = by_step.epoch(lambda x, y: step(model, optimizer, x, y), *data, batch)
        for _ in range(epochs):
            epoch()
        return float(_evaluated(model, *held))

    return {"flax nnx": train}


def forwards(widths: Sequence[int]) -> dict[str, Callable[[Any], jax.Array]]:
    """The model as a function."""
    return {"flax nnx": _model(widths)[0]}


def initializers() -> dict[str, Callable[[int], Any]]:
    """Building the module draws its parameters."""
    return {"flax nnx": lambda seed: nnx.state(_Transformer(nnx.Rngs(seed)))}


def _model(
    widths: Sequence[int], learning_rate: float = LEARNING_RATE
) -> tuple[nnx.Module, nnx.Optimizer]:
    rngs = nnx.Rngs(0)
    layers: list[Any] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nnx.Linear(inputs, outputs, rngs=rngs), nnx.relu]
    model = nnx.Sequential(*layers[:-1])
    return model, nnx.Optimizer(model, optax.adam(learning_rate), wrt=nnx.Param)


def _loss(model: Any, x: Any, y: Any) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


_evaluated = nnx.jit(_loss)


def _train(model: nnx.Module, optimizer: nnx.Optimizer, x: Any, y: Any) -> jax.Array:
    value, gradients = nnx.value_and_grad(_loss)(model, x, y)
    optimizer.update(model, gradients)
    return value


def _jit(widths: Sequence[int]) -> Callable[..., Any]:
    model, optimizer = _model(widths)
    step = nnx.jit(_train)
    return lambda x, y: step(model, optimizer, x, y)


def _cached(widths: Sequence[int]) -> Callable[..., Any]:
    model, optimizer = _model(widths)
    return nnx.cached_partial(nnx.jit(_train), model, optimizer)


def _functional(widths: Sequence[int]) -> Callable[..., Any]:
    graph, state = nnx.split(_model(widths))

    @jax.jit
    def compiled(state: Any, x: Any, y: Any) -> tuple[Any, jax.Array]:
        model, optimizer = nnx.merge(graph, state)
        value = _train(model, optimizer, x, y)
        return nnx.state((model, optimizer)), value

    def step(x: Any, y: Any) -> jax.Array:
        nonlocal state
        state, value = compiled(state, x, y)
        return value

    return step


class _Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.query = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.key = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.value = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.output = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.up = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
        self.down = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        h = self.norm1(x)
        x = x + self.output(self.query(h) * self.key(h) + self.value(h))
        return x + self.down(jax.nn.relu(self.up(self.norm2(x))))


class _Transformer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embedding = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        self.blocks = nnx.List([_Block(rngs) for _ in range(BLOCKS)])
        self.head = nnx.Linear(WIDTH, WORDS, rngs=rngs)

    def __call__(self, tokens: jnp.ndarray) -> jax.Array:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)
