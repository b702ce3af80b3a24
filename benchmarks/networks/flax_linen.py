"""Flax linen: compact modules, and a jitted step on parameters and batch statistics."""

import functools
from typing import Any, cast

import jax
import optax
from flax import linen

from benchmarks.networks.sizes import (
    BERT_CLASSES,
    BERT_WORDS,
    BLOCKS,
    CHANNELS,
    CLASSES,
    HEADS,
    LAYERS,
    LEARNING_RATE,
    OBJECTS,
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


def bert() -> dict[str, Sides]:
    """BERT-base: `MultiHeadDotProductAttention`, the layers in a Python loop."""
    return {"flax linen, donating": _sides(_BERT(), "bert", (0,))}


def convnext() -> dict[str, Sides]:
    """ConvNeXt-T: grouped convolutions, the blocks in a Python loop."""
    return {"flax linen, donating": _sides(_ConvNeXt(), "convnext", (0,))}


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


class _BERT(linen.Module):
    @linen.compact
    def __call__(self, tokens: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(linen.LayerNorm, epsilon=1e-12)
        x = linen.Embed(BERT_WORDS, 768)(tokens) + linen.Embed(2, 768)(tokens * 0)
        positions = self.param("positions", linen.initializers.normal(0.02), (512, 768))
        x = norm()(x + positions[: tokens.shape[1]])
        for _ in range(12):
            x = norm()(x + linen.MultiHeadDotProductAttention(12)(x))
            h = linen.gelu(linen.Dense(3072)(x), approximate=False)
            x = norm()(x + linen.Dense(768)(h))
        return linen.Dense(BERT_CLASSES)(linen.tanh(linen.Dense(768)(x[:, 0])))


class _ConvNeXt(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(linen.LayerNorm, epsilon=1e-6)
        x = norm()(linen.Conv(96, (4, 4), 4, padding="VALID")(x))
        for stage, blocks in enumerate((3, 3, 9, 3)):
            width = 96 * 2**stage
            if stage:
                x = linen.Conv(width, (2, 2), 2, padding="VALID")(norm()(x))
            for block in range(blocks):
                y = linen.Conv(width, (7, 7), padding=3, feature_group_count=width)(x)
                y = linen.gelu(linen.Dense(4 * width)(norm()(y)), approximate=False)
                y = linen.Dense(width)(y)
                ones = linen.initializers.constant(1e-6)
                x = x + y * self.param(f"scale_{stage}_{block}", ones, (width,))
        return linen.Dense(OBJECTS)(norm()(x.mean((1, 2))))


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
