"""Flax linen: a `TrainState` and a jitted step."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen
from flax.training.train_state import TrainState

from benchmarks.peers import LEARNING_RATE
from benchmarks.peers.shapes import BLOCKS, HIDDEN, TOKENS, WIDTH, WORDS


def steps(widths: Sequence[int]) -> dict[str, Callable[..., Any]]:
    """`jax.jit` of a step on a `TrainState`."""
    model = _Perceptron(tuple(widths[1:]))
    params = model.init(jax.random.key(0), jnp.zeros((1, widths[0])))["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.adam(LEARNING_RATE))

    @jax.jit
    def compiled(state: TrainState, x: Any, y: Any) -> tuple[TrainState, jax.Array]:
        def loss(params: Any) -> jax.Array:
            logits = state.apply_fn({"params": params}, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        value, gradients = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=gradients), value

    def step(x: Any, y: Any) -> jax.Array:
        nonlocal state
        state, value = compiled(state, x, y)
        return value

    return {"flax linen": step}


def forwards(widths: Sequence[int]) -> dict[str, Callable[[Any], jax.Array]]:
    """`model.apply`."""
    model: Any = _Perceptron(tuple(widths[1:]))
    variables = model.init(jax.random.key(0), jnp.zeros((1, widths[0])))
    return {"flax linen": lambda x: model.apply(variables, x)}


def initializers() -> dict[str, Callable[[int], Any]]:
    """`model.init`, which runs the network forward, as it is and under jit."""
    model, tokens = _Transformer(), jnp.zeros(TOKENS, jnp.int32)
    compiled = jax.jit(model.init)
    return {
        "flax linen": lambda seed: model.init(jax.random.key(seed), tokens),
        "flax linen, jit": lambda seed: compiled(jax.random.key(seed), tokens),
    }


class _Perceptron(linen.Module):
    widths: tuple[int, ...]

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.widths[:-1]:
            x = linen.relu(linen.Dense(width)(x))
        return linen.Dense(self.widths[-1])(x)


class _Block(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = linen.LayerNorm()(x)
        query, key, value = (linen.Dense(WIDTH)(h) for _ in range(3))
        x = x + linen.Dense(WIDTH)(query * key + value)
        return x + linen.Dense(WIDTH)(linen.relu(linen.Dense(HIDDEN)(linen.LayerNorm()(x))))


class _Transformer(linen.Module):
    @linen.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = linen.Embed(WORDS, WIDTH)(tokens)
        for _ in range(BLOCKS):
            x = _Block()(x)
        return linen.Dense(WORDS)(x)
