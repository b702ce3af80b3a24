"""Haiku: `hk.transform` and a jitted step."""

from collections.abc import Callable, Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from benchmarks.peers import LEARNING_RATE
from benchmarks.peers.shapes import BLOCKS, HIDDEN, TOKENS, WIDTH, WORDS


def steps(widths: Sequence[int]) -> dict[str, Callable[..., Any]]:
    """`jax.jit` of a step on parameters and optimizer state."""
    network = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP(widths[1:])(x)))
    optimizer = optax.adam(LEARNING_RATE)
    params = network.init(jax.random.key(0), jnp.zeros((1, widths[0])))
    opt_state = optimizer.init(params)

    def loss(params: hk.Params, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = network.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def compiled(params: Any, opt_state: Any, x: Any, y: Any) -> tuple[Any, Any, jax.Array]:
        value, gradients = jax.value_and_grad(loss)(params, x, y)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return optax.apply_updates(params, updates), opt_state, value

    def step(x: Any, y: Any) -> jax.Array:
        nonlocal params, opt_state
        params, opt_state, value = compiled(params, opt_state, x, y)
        return value

    return {"haiku": step}


def forwards(widths: Sequence[int]) -> dict[str, Callable[[Any], jax.Array]]:
    """The `apply` of the transformed function."""
    network = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP(widths[1:])(x)))
    params = network.init(jax.random.key(0), jnp.zeros((1, widths[0])))
    return {"haiku": lambda x: network.apply(params, x)}


def initializers() -> dict[str, Callable[[int], Any]]:
    """The `init` of the transformed function, which runs it forward."""
    network, tokens = hk.transform(_transformer), jnp.zeros(TOKENS, jnp.int32)
    return {"haiku": lambda seed: network.init(jax.random.key(seed), tokens)}


def _norm(x: jax.Array) -> jax.Array:
    return hk.LayerNorm(axis=-1, create_scale=True, create_offset=True)(x)


def _transformer(tokens: jax.Array) -> jax.Array:
    x = hk.Embed(WORDS, WIDTH)(tokens)
    for _ in range(BLOCKS):
        h = _norm(x)
        query, key, value = (hk.Linear(WIDTH)(h) for _ in range(3))
        x = x + hk.Linear(WIDTH)(query * key + value)
        x = x + hk.Linear(WIDTH)(jax.nn.relu(hk.Linear(HIDDEN)(_norm(x))))
    return hk.Linear(WORDS)(x)
