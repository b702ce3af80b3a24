"""Hand-written jax and optax: the floor that a library's step is compared with."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.peers import LEARNING_RATE, STEADY
from benchmarks.peers.shapes import BLOCKS, HIDDEN, WIDTH, WORDS

Params = list[dict[str, jax.Array]]
OPTIMIZER = optax.adam(LEARNING_RATE)


def steps(widths: Sequence[int]) -> dict[str, Callable[..., Any]]:
    """One jitted call a step, its state donated."""
    compiled = jax.jit(_update, donate_argnums=0)
    state = _state(widths)

    def step(x: Any, y: Any) -> jax.Array:
        nonlocal state
        state, value = compiled(state, (x, y))
        return value

    return {"pure jax, a call a step": step}


def forwards(widths: Sequence[int]) -> dict[str, Callable[[Any], jax.Array]]:
    """The sums, products, and activations, one call of jax each."""
    layers = _parameters(widths)

    def apply(x: Any) -> jax.Array:
        for layer in layers[:-1]:
            x = jax.nn.relu(x @ layer["w"] + layer["b"])
        return x @ layers[-1]["w"] + layers[-1]["b"]

    return {"pure jax": apply}


def epochs(
    widths: Sequence[int], x: np.ndarray, y: np.ndarray, batch: int
) -> dict[str, Callable[[], Any]]:
    """One compiled program an epoch: data on the device, a scan over shuffled rows.

    The order of an epoch is drawn while the one before runs, and the mean loss is read after it.
    """
    # As arguments: a closed-over array would be compiled into the program as a constant.
    data = jax.device_put((x, y))
    rows = np.random.default_rng(0)

    def epoch(state: Any, data: Any, order: jax.Array) -> Any:
        return jax.lax.scan(lambda s, i: _update(s, (data[0][i], data[1][i])), state, order)

    compiled = jax.jit(epoch, donate_argnums=0)

    def drawn() -> np.ndarray:
        order = rows.permutation(len(x))[: len(x) // batch * batch]
        return order.reshape(-1, batch).astype(np.int32)

    def run() -> float:
        state, order, times = _state(widths), drawn(), []
        for _ in range(1 + STEADY):
            state, losses = compiled(state, data, order)
            order = drawn()
            np.asarray(losses).mean()
            times.append(time.perf_counter())
        return (times[-1] - times[0]) / STEADY

    return {"pure jax, a scan an epoch": run}


def products(widths: Sequence[int], x: np.ndarray, batch: int) -> dict[str, Callable[[], Any]]:
    """Only the matrix products of an epoch: forward, and backward by weights and activations."""
    data = jax.device_put(x[: len(x) // batch * batch].reshape(-1, batch, x.shape[-1]))
    weights = [layer["w"] for layer in _parameters(widths)]

    def step(weights: list[jax.Array], x: jax.Array) -> tuple[list[jax.Array], None]:
        inputs = []
        for w in weights:
            inputs.append(x)
            x = x @ w
        gradients = []
        for w, before in zip(reversed(weights), reversed(inputs), strict=True):
            gradients.append(before.T @ x)
            if before is not inputs[0]:
                x = x @ w.T
        return gradients[::-1], None

    compiled = jax.jit(lambda weights, data: jax.lax.scan(step, weights, data)[0])
    # Each step takes the last one's results for its weights, so that none can be hoisted out of
    # the loop; at zero they stay what they are.
    zeros = jax.tree.map(jnp.zeros_like, weights)
    return {"matrix products alone": lambda: jax.block_until_ready(compiled(zeros, data))}


def initializers() -> dict[str, Callable[[int], Any]]:
    """`jax.nn.initializers`, one call after the other."""
    return {"pure jax, eager": _transformer}


def _parameters(widths: Sequence[int]) -> Params:
    keys = jax.random.split(jax.random.key(0), len(widths) - 1)
    draw = jax.nn.initializers.he_normal()
    return [
        {"w": draw(key, shape), "b": jnp.zeros(shape[1])}
        for key, shape in zip(keys, itertools.pairwise(widths), strict=True)
    ]


def _state(widths: Sequence[int]) -> tuple[Params, optax.OptState]:
    params = _parameters(widths)
    return params, OPTIMIZER.init(params)


def _loss(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    *hidden, last = params
    for layer in hidden:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    logits = x @ last["w"] + last["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def _update(state: Any, batch: Any) -> tuple[Any, jax.Array]:
    params, opt_state = state
    value, gradients = jax.value_and_grad(_loss)(params, *batch)
    updates, opt_state = OPTIMIZER.update(gradients, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), value


def _transformer(seed: int) -> Any:
    keys = iter(jax.random.split(jax.random.key(seed), BLOCKS * 6 + 2))
    weights, table = jax.nn.initializers.lecun_normal(), jax.nn.initializers.normal(1.0)

    def dense(inputs: int, outputs: int) -> dict[str, jax.Array]:
        return {"w": weights(next(keys), (inputs, outputs)), "b": jnp.zeros(outputs)}

    def norm() -> dict[str, jax.Array]:
        return {"scale": jnp.ones(WIDTH), "b": jnp.zeros(WIDTH)}

    def block() -> dict[str, Any]:
        square = {name: dense(WIDTH, WIDTH) for name in ("query", "key", "value", "output")}
        mlp = {"up": dense(WIDTH, HIDDEN), "down": dense(HIDDEN, WIDTH)}
        return square | mlp | {"norm1": norm(), "norm2": norm()}

    return {
        "embedding": table(next(keys), (WORDS, WIDTH)),
        "blocks": [block() for _ in range(BLOCKS)],
        "head": dense(WIDTH, WORDS),
    }
