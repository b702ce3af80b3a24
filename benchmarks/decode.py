"""Decoding a token at a time with GPT-2: with the cache, by recomputing, and in transformers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxnn as nn
from benchmarks.peers import offered
from benchmarks.report import Bar, Result, Table
from benchmarks.timing import interleaved, seconds_of
from jaxnn.models import GPT

WORDS = 50_257
# Tokens before those that are decoded: near the beginning, and near 512.
EARLY, LATE = 32, 496
TOKENS = 16
ROUNDS = 7


def run() -> Result:
    """Measure tokens at both places."""
    net = GPT.gpt2().network(WORDS)
    params = jax.jit(net.init)(jax.random.key(0), jax.ShapeDtypeStruct((1, 8), jnp.int32))
    row = nn.unstack_layers(net, params)
    sides: dict[str, Callable[[], float]] = {}
    places = {EARLY: f"after {EARLY} tokens", LATE: f"after {LATE} tokens"}
    missing: list[str] = []
    for prompt, place in places.items():
        sides[f"jaxnn, cached, {place}"] = _cached(*row, prompt)
        found, missing = offered(
            "decoding", prompt, TOKENS, by=("transformers_",), within="benchmarks.networks"
        )
        sides |= {f"{name}, {place}": run for name, run in found.items()}
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), row[1])
    sides["jaxnn, cached, bfloat16 weights"] = _cached(row[0], half, LATE)
    sides["jaxnn, cached, int8 weights"] = _cached(*nn.quantize(*row), LATE)
    sides["jaxnn, nn.generate"] = _generated(*row)
    sides["jaxnn, nn.generate, in a Repeat"] = _generated(net, params)
    sides["jaxnn, cached, in a Repeat"] = _cached(net, params, LATE)
    sides["jaxnn, recomputing 512 tokens"] = _recomputed(*row)
    samples = interleaved(sides, rounds=ROUNDS, per=TOKENS)
    early, late = (samples[f"jaxnn, cached, {place}"] for place in places.values())
    bars = [
        Bar("a late token over an early one", late.over(early), 1.1),
        Bar(
            "recomputing over the cache",
            samples["jaxnn, recomputing 512 tokens"].over(late),
            5,
            at_least=True,
        ),
        *(
            Bar(
                f"{name} weights over float32",
                samples[f"jaxnn, cached, {name} weights"].over(late),
                most,
            )
            for name, most in (("bfloat16", 0.6), ("int8", 0.4))
        ),
        Bar(
            "nn.generate in a Repeat over the blocks in a row",
            samples["jaxnn, nn.generate, in a Repeat"].over(samples["jaxnn, nn.generate"]),
            1.05,
        ),
        *(
            Bar(f"transformers over jaxnn, {place}", samples[name].over(ours), 1, at_least=True)
            for place, ours in zip(places.values(), (early, late), strict=True)
            if (name := f"transformers, torch, {place}") in samples
        ),
    ]
    return Result(
        f"GPT-2 of 124M parameters at random weights, float32, one sequence: {TOKENS} tokens, "
        "greedy, one call a token, or one call of nn.generate less one for a single token. jaxnn's "
        "blocks are in a row, by nn.unstack_layers, except in two lines; its cache has 1,024 "
        "positions from the start, so a token costs the same anywhere, where transformers' cache "
        "grows.",
        [Table("A token", "ms", samples, f"jaxnn, cached, after {LATE} tokens", bars, missing)],
    )


def _cached(net: nn.Layer, params: Any, prompt: int) -> Callable[[], float]:
    cached = nn.with_cache(net, length=1024)
    given = jnp.ones((1, prompt), jnp.int32)
    begun = cached.init_state(given)

    def read(params: Any, state: Any, tokens: jax.Array) -> tuple[jax.Array, Any]:
        logits, state = cached.apply(params, tokens, state=state)
        return jnp.argmax(logits[:, -1:], -1), state

    prefill, step = jax.jit(read), jax.jit(read, donate_argnums=1)

    def run() -> float:
        token, state = jax.block_until_ready(prefill(params, begun, given))

        def decode() -> None:
            nonlocal token, state
            for _ in range(TOKENS):
                token, state = step(params, state, token)
            jax.block_until_ready(token)

        return seconds_of(decode)

    return run


def _generated(net: nn.Layer, params: Any) -> Callable[[], float]:
    prompt = jnp.ones((1, LATE), jnp.int32)

    def seconds(steps: int) -> float:
        call = lambda: nn.generate(net, params, prompt, steps=steps, temperature=0)  # noqa: E731
        return seconds_of(lambda: jax.block_until_ready(call().tokens))

    return lambda: seconds(1 + TOKENS) - seconds(1)


def _recomputed(net: nn.Layer, params: Any) -> Callable[[], float]:
    """All tokens again for each, in a window of 512."""
    compiled = jax.jit(lambda params, x: jnp.argmax(net.apply(params, x)[:, -1], -1))
    tokens = jnp.ones((1, LATE + TOKENS), jnp.int32)

    def run() -> float:
        return TOKENS * seconds_of(lambda: compiled(params, tokens).block_until_ready())

    return run
