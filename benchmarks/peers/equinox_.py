"""Equinox: `filter_jit`, and the loop that its page of tricks calls low-overhead."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import optax

from benchmarks import by_step
from benchmarks.peers import LEARNING_RATE
from benchmarks.peers.shapes import BLOCKS, HIDDEN, WIDTH, WORDS

OPTIMIZER = optax.adam(LEARNING_RATE)


def steps(widths: Sequence[int]) -> dict[str, Callable[..., Any]]:
    """`eqx.filter_jit` on the model, and `jax.jit` on its leaves."""
    return {"equinox filter_jit": _filtered(widths), "equinox, flat leaves": _flat(widths)}


def programs(
    widths: Sequence[int], data: tuple[Any, Any], held: tuple[Any, Any], batch: int, epochs: int
) -> dict[str, Callable[[float], float]]:
    """A model, an optimizer and a compiled step for each learning rate."""

    def train(learning_rate: float) -> float:
        model = _perceptron(widths)
        optimizer = optax.adam(learning_rate)
        opt_state = optimizer.init(eqx.filter(model, eqx.is_array))

        @eqx.filter_jit
        def compiled(model: Any, opt_state: Any, x: Any, y: Any) -> tuple[Any, Any, jax.Array]:
            return _train(model, opt_state, x, y, optimizer)

        def step(x: Any, y: Any) -> jax.Array:
            nonlocal model, opt_state
            model, opt_state, value = compiled(model, opt_state, x, y)
            return value

        epoch = by_step.epoch(step, *data, batch)
        for _ in range(epochs):
            epoch()
        return float(_evaluated(model, *held))

    return {"equinox": train}


def forwards(widths: Sequence[int]) -> dict[str, Callable[[Any], jax.Array]]:
    """`jax.vmap` of the model, which takes one row."""
    model: Any = _perceptron(widths)
    return {"equinox": jax.vmap(model)}


def initializers() -> dict[str, Callable[[int], Any]]:
    """Building the module draws its parameters."""
    return {
        "equinox": lambda seed: eqx.filter(_Transformer(jax.random.key(seed)), eqx.is_array),
    }


def _perceptron(widths: Sequence[int]) -> eqx.Module:
    keys = jax.random.split(jax.random.key(0), len(widths) - 1)
    layers: list[Any] = []
    for key, (inputs, outputs) in zip(keys, itertools.pairwise(widths), strict=True):
        layers += [eqx.nn.Linear(inputs, outputs, key=key), eqx.nn.Lambda(jax.nn.relu)]
    return eqx.nn.Sequential(layers[:-1])


def _model(widths: Sequence[int]) -> tuple[eqx.Module, optax.OptState]:
    model = _perceptron(widths)
    return model, OPTIMIZER.init(eqx.filter(model, eqx.is_array))


def _loss(model: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), y).mean()


_evaluated = eqx.filter_jit(_loss)


def _train(
    model: Any, opt_state: Any, x: Any, y: Any, optimizer: Any = OPTIMIZER
) -> tuple[Any, Any, jax.Array]:
    value, gradients = eqx.filter_value_and_grad(_loss)(model, x, y)
    updates, opt_state = optimizer.update(gradients, opt_state, eqx.filter(model, eqx.is_array))
    return eqx.apply_updates(model, updates), opt_state, value


def _filtered(widths: Sequence[int]) -> Callable[..., Any]:
    model, opt_state = _model(widths)
    compiled = eqx.filter_jit(_train)

    def step(x: Any, y: Any) -> jax.Array:
        nonlocal model, opt_state
        model, opt_state, value = compiled(model, opt_state, x, y)
        return value

    return step


def _flat(widths: Sequence[int]) -> Callable[..., Any]:
    arrays, static = eqx.partition(_model(widths), eqx.is_array)
    leaves, tree = jax.tree.flatten(arrays)

    @jax.jit
    def compiled(leaves: list[jax.Array], x: Any, y: Any) -> tuple[list[jax.Array], jax.Array]:
        model, opt_state = eqx.combine(jax.tree.unflatten(tree, leaves), static)
        model, opt_state, value = _train(model, opt_state, x, y)
        return jax.tree.leaves(eqx.filter((model, opt_state), eqx.is_array)), value

    def step(x: Any, y: Any) -> jax.Array:
        nonlocal leaves
        leaves, value = compiled(leaves, x, y)
        return value

    return step


class _Block(eqx.Module):
    norm1: eqx.nn.LayerNorm
    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    output: eqx.nn.Linear
    norm2: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        keys = jax.random.split(key, 6)
        self.norm1, self.norm2 = eqx.nn.LayerNorm(WIDTH), eqx.nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.output = (
            eqx.nn.Linear(WIDTH, WIDTH, key=k) for k in keys[:4]
        )
        self.up = eqx.nn.Linear(WIDTH, HIDDEN, key=keys[4])
        self.down = eqx.nn.Linear(HIDDEN, WIDTH, key=keys[5])

    def __call__(self, x: jax.Array) -> jax.Array:
        h = self.norm1(x)
        x = x + self.output(self.query(h) * self.key(h) + self.value(h))
        return x + self.down(jax.nn.relu(self.up(self.norm2(x))))


class _Transformer(eqx.Module):
    embedding: eqx.nn.Embedding
    blocks: list[_Block]
    head: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        first, last, *keys = jax.random.split(key, BLOCKS + 2)
        self.embedding = eqx.nn.Embedding(WORDS, WIDTH, key=first)
        self.blocks = [_Block(k) for k in keys]
        self.head = eqx.nn.Linear(WIDTH, WORDS, key=last)
