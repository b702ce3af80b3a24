"""Attention by its implementations, the first network by `fit`, and lanes of it."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn
from jaxnn import data, train

FIRST = nn.Sequential(nn.Dense(128), jax.nn.relu, nn.Dense(10))
TASK = train.Classification(10)


def attention(small: bool) -> Iterator[str]:
    """Causal attention in bfloat16, forward and gradient, by each implementation."""
    from jaxnn.functional.attention import attention as attend

    rows, length, heads, features = (1, 32, 2, 16) if small else (8, 2048, 16, 64)
    keys = jax.random.split(jax.random.key(0), 3)
    shape = (rows, length, heads, features)
    q, k, v = (jax.random.normal(key, shape, jnp.bfloat16) for key in keys)
    expected: Any = None
    for kind in ("own", "xla", "cudnn"):
        try:

            def loss(q: Any, k: Any, v: Any, kind: Any = kind) -> Any:
                y = attend(q, k, v, causal=True, implementation=kind)
                return jnp.sum(y.astype(jnp.float32) ** 2), y

            step = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
            seconds, ((_, y), grads) = _timed(lambda step=step: step(q, k, v), small)
            found = [np.asarray(a, np.float32) for a in (y, *grads)]
            expected = expected or found
            off = max(
                np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found, expected, strict=True)
            )
            yield f"- {kind}: {1e3 * seconds:.3f} ms; off from own by {off:.2%}"
        except Exception as error:
            yield f"- {kind}: {type(error).__name__}: {str(error).splitlines()[0][:160]}"


def first_network(small: bool) -> Iterator[str]:
    """784-128-10 by `train.fit`: seconds per epoch once compiled, and the accuracy."""
    try:
        digits: Any = data.mnist_5k()
        (x, y), held = digits.train, digits.validation
        what = "5,000 MNIST digits"
    except Exception as error:  # the package with the digits is not installed
        yield f"no digits ({type(error).__name__}); random numbers instead"
        random = np.random.default_rng(0)
        x = random.normal(size=(3500, 784)).astype(np.float32)
        y = random.integers(10, size=3500).astype(np.int32)
        held, what = (x[:500], y[:500]), "random numbers"
    epochs = 2 if small else 10
    program = train.Supervised(FIRST, TASK, optax.adam(1e-3))
    began = time.perf_counter()
    ends: list[float] = []

    def noted(event: Any) -> None:
        if event.is_record:
            ends.append(time.perf_counter())

    _, history = train.fit(
        program,
        (x, y),
        validation=held,
        batch_size=128,
        epochs=epochs,
        key=jax.random.key(0),
        hooks=[noted],
        progress=False,
    )
    steady = [b - a for a, b in itertools.pairwise(ends)]
    yield (
        f"- {what}, {epochs} epochs of {len(x):,}: first epoch {ends[0] - began:.2f} s, later "
        f"ones {1e3 * statistics.median(steady):.1f} ms; validation accuracy "
        f"{history[-1]['validation_accuracy']:.3f}"
    )


def lanes(small: bool) -> Iterator[str]:
    """Lanes of the first network, each with its own learning rate, as one `vmap`."""
    steps, batch = (2, 16) if small else (20, 128)
    x = jax.random.normal(jax.random.key(0), (steps, batch, 784))
    y = jax.random.randint(jax.random.key(1), (steps, batch), 0, 10)

    def program(rate: Any) -> train.Program:
        return train.Supervised(FIRST, TASK, train.Optimizer(optax.adam, learning_rate=rate))

    def begun(rate: Any, seed: Any) -> Any:
        return program(rate).init(jax.random.key(seed), (x[0], y[0]))

    def trained(state: Any, rate: Any) -> Any:
        state, metrics = jax.lax.scan(program(rate).step, state, (x, y))
        return state, metrics["loss"].sum[-1]

    many = jax.jit(jax.vmap(trained))
    for number in (1, 4) if small else (1, 64, 1024, 4096):
        rates = jnp.logspace(-4, -2, number)
        states = jax.jit(jax.vmap(begun))(rates, jnp.arange(number))
        seconds, (_, losses) = _timed(lambda s=states, rates=rates: many(s, rates), small)
        rate = number * steps / seconds
        finite = int(jnp.isfinite(losses).sum())
        yield (
            f"- {number:,} lanes: {1e6 * seconds / steps:,.0f} us a step of all, "
            f"{rate:,.0f} lane-steps/s; {finite:,} losses finite"
        )


def _timed(run: Callable[[], Any], small: bool) -> tuple[float, Any]:
    """The median seconds of a run once it is compiled, and what it returns."""
    result = jax.block_until_ready(run())
    seconds = []
    for _ in range(3 if small else 10):
        began = time.perf_counter()
        result = jax.block_until_ready(run())
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), result
