"""Flax linen: compact modules, and a jitted step on parameters and batch statistics."""

import functools
from typing import Any, cast

import jax
import optax
from flax import linen

from benchmarks.networks.sizes import (
    BLOCKS,
    CHANNELS,
    CLASSES,
    HEADS,
    LAYERS,
    LEARNING_RATE,
    STACKED,
    UNITS,
    WIDTH,
    WORDS,
    Sides,
    batch,
)


def resnet() -> dict[str, Sides]:
    """Convolutions and batch norm, as the library's example of image classification has them."""
    return _both(_ResNet(), "resnet")


def gpt() -> dict[str, Sides]:
    """`MultiHeadDotProductAttention` with a causal mask, the layers in a Python loop."""
    return _both(_GPT(), "gpt")


def lstm() -> dict[str, Sides]:
    """`RNN` of `OptimizedLSTMCell`."""
    return _both(_LSTM(), "lstm")


class _Residual(linen.Module):
    channels: int
    stride: int

    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def norm(x: jax.Array) -> jax.Array:
            return linen.BatchNorm(use_running_average=not train, momentum=0.9)(x)

        def convolution(x: jax.Array, size: int, stride: int) -> jax.Array:
            strides, padding = (stride, stride), size // 2
            conv = linen.Conv(self.channels, (size, size), strides, padding, use_bias=False)
            return norm(conv(x))

        y = convolution(linen.relu(convolution(x, 3, self.stride)), 3, 1)
        if self.stride > 1 or x.shape[-1] != self.channels:
            x = convolution(x, 1, self.stride)
        return linen.relu(x + y)


class _ResNet(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = linen.Conv(CHANNELS[0], (3, 3), padding=1, use_bias=False)(x)
        x = linen.relu(linen.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        for stage, channels in enumerate(CHANNELS):
            for block in range(BLOCKS):
                x = _Residual(channels, 2 if stage and not block else 1)(x, train)
        return linen.Dense(CLASSES)(x.mean((1, 2)))


class _Block(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + linen.MultiHeadDotProductAttention(HEADS)(linen.LayerNorm()(x), mask=mask)
        h = linen.gelu(linen.Dense(4 * WIDTH)(linen.LayerNorm()(x)))
        return x + linen.Dense(WIDTH)(h)


class _GPT(linen.Module):
    @linen.compact
    def __call__(self, tokens: jax.Array, train: bool) -> jax.Array:
        embedding = linen.Embed(WORDS, WIDTH)
        positions = self.param("positions", linen.initializers.normal(0.02), (256, WIDTH))
        x = embedding(tokens) + positions[: tokens.shape[1]]
        mask = linen.make_causal_mask(tokens)
        for _ in range(LAYERS):
            x = _Block()(x, mask)
        return embedding.attend(linen.LayerNorm()(x))


class _LSTM(linen.Module):
    @linen.compact
    def __call__(self, tokens: jax.Array, train: bool) -> jax.Array:
        x = linen.Embed(WORDS, UNITS)(tokens)
        for _ in range(STACKED):
            x = cast(jax.Array, linen.RNN(linen.OptimizedLSTMCell(UNITS))(x))
        return linen.Dense(WORDS)(x)


def _both(model: Any, kind: str) -> dict[str, Sides]:
    return {
        "flax linen": _sides(model, kind, ()),
        "flax linen, donating": _sides(model, kind, (0,)),
    }


def _sides(model: Any, kind: str, donated: tuple[int, ...]) -> Sides:
    x, _ = batch(kind)
    variables = jax.jit(model.init, static_argnames="train")(jax.random.key(0), x, train=False)
    outputs = jax.jit(lambda variables, x: model.apply(variables, x, train=False))
    params, statistics = variables["params"], {k: v for k, v in variables.items() if k != "params"}
    optimizer = optax.adam(LEARNING_RATE)
    # The step may take them; the variables stay those of the forward.
    held = jax.tree.map(jax.numpy.copy, (params, statistics, optimizer.init(params)))

    @functools.partial(jax.jit, donate_argnums=donated)
    def compiled(held: Any, x: Any, y: Any) -> tuple[Any, jax.Array]:
        params, statistics, opt_state = held

        def loss(params: Any) -> tuple[jax.Array, Any]:
            logits, new = model.apply(
                {"params": params, **statistics}, x, train=True, mutable=list(statistics)
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), new

        (value, statistics), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return (optax.apply_updates(params, updates), statistics, opt_state), value

    def step(x: Any, y: Any) -> jax.Array:
        nonlocal held
        held, value = compiled(held, x, y)
        return value

    def lower(x: Any, y: Any) -> dict[str, Any]:
        return {"forward": outputs.lower(variables, x), "step": compiled.lower(held, x, y)}

    return Sides(lambda x: outputs(variables, x), step, lower)
