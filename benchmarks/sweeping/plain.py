"""The training of `tuned` in jax and optax alone, as users of Optuna and Ray Tune write it.

per_trial   as their examples: each trial builds its optimizer and jits its step
per_width   by hand what a sweep of jaxnn does by itself: hyperparameters are arguments, so one
            program of all epochs for each width serves all its trials
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.sweeping.sizes import BATCH, EPOCHS, STEPS, WIDTHS

Params = list[tuple[jax.Array, jax.Array]]


class Rows(NamedTuple):
    """The arrays to train on, and those for validation."""

    x: Any
    y: Any
    held_x: Any
    held_y: Any


def rows_of(file: str) -> Rows:
    """Return the arrays in a file, on the device."""
    with np.load(file) as arrays:
        return Rows(*(jax.device_put(arrays[name]) for name in Rows._fields))


def per_trial(file: str) -> Callable[[dict[str, Any]], float]:
    """Return the function of hyperparameters that trains, step by step, to the validation loss."""
    rows = rows_of(file)

    def train(found: dict[str, Any]) -> float:
        numbers = {name: value for name, value in found.items() if name != "width"}
        optimizer = optimizer_of(**numbers)
        update = jax.jit(functools.partial(step, optimizer.update))
        params = parameters(found["width"])
        state, random = (params, optimizer.init(params)), np.random.default_rng(0)
        for _ in range(EPOCHS):
            for chosen in order(random, len(rows.x)):
                state = update(state, (rows.x[chosen], rows.y[chosen]))
        return float(jax.jit(loss)(state[0], (rows.held_x, rows.held_y)))

    return train


def per_width(file: str) -> Callable[[dict[str, Any]], float]:
    """Return the same function, by one program for each width."""
    rows = rows_of(file)

    @functools.cache
    def compiled(width: int) -> Any:
        def whole(numbers: dict[str, Any], orders: Any, rows: Rows) -> jax.Array:
            optimizer = optimizer_of(**numbers)

            def one(state: Any, chosen: Any) -> Any:
                return step(optimizer.update, state, (rows.x[chosen], rows.y[chosen])), None

            params = parameters(width)
            state, _ = jax.lax.scan(one, (params, optimizer.init(params)), orders)
            return loss(state[0], (rows.held_x, rows.held_y))

        return jax.jit(whole)

    def train(found: dict[str, Any]) -> float:
        numbers = {name: value for name, value in found.items() if name != "width"}
        random = np.random.default_rng(0)
        orders = np.concatenate([order(random, len(rows.x)) for _ in range(EPOCHS)])
        return float(compiled(found["width"])(numbers, orders, rows))

    return train


@functools.cache
def training(way: str, file: str) -> Callable[[dict[str, Any]], float]:
    """Return the function of a way, the same each time, so that its programs are kept."""
    return {"per_trial": per_trial, "per_width": per_width}[way](file)


def optimizer_of(learning_rate: Any, weight_decay: Any, momentum: Any) -> Any:
    """Return the optimizer of a trial."""
    schedule = optax.cosine_decay_schedule(learning_rate, STEPS * EPOCHS)
    return optax.adamw(schedule, b1=momentum, weight_decay=weight_decay)


def parameters(width: int) -> Params:
    """Return the first parameters."""
    widths = (WIDTHS[0], width, width, WIDTHS[-1])
    keys = jax.random.split(jax.random.key(0), len(widths) - 1)
    draw = jax.nn.initializers.he_normal()
    pairs = zip(keys, widths[:-1], widths[1:], strict=True)
    return [(draw(key, (before, after)), jnp.zeros(after)) for key, before, after in pairs]


def loss(params: Params, batch: Any) -> jax.Array:
    """Return the mean cross entropy of a batch."""
    x, y = batch
    for weights, bias in params[:-1]:
        x = jax.nn.relu(x @ weights + bias)
    logits = x @ params[-1][0] + params[-1][1]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def step(update: Any, state: Any, batch: Any) -> Any:
    """Return the parameters and the state of the optimizer after a step."""
    params, opt_state = state
    gradients = jax.grad(loss)(params, batch)
    updates, opt_state = update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def order(random: np.random.Generator, rows: int) -> np.ndarray:
    """Return the rows of the steps of an epoch."""
    return random.permutation(rows)[: rows // BATCH * BATCH].reshape(-1, BATCH)
