"""Flax nnx: modules that hold their parameters, and `nnx.jit` of a step."""

import functools
from typing import Any

import jax
import optax
from flax import nnx

from benchmarks.networks.sizes import (
    BLOCKS,
    CHANNELS,
    CLASSES,
    GPT_SMALL,
    LEARNING_RATE,
    STACKED,
    UNITS,
    WORDS,
    GPTSizes,
    Sides,
)


def resnet() -> dict[str, Sides]:
    """Convolutions and batch norm."""
    return _both(lambda: _ResNet(nnx.Rngs(0)))


def gpt() -> dict[str, Sides]:
    """`MultiHeadAttention` with a causal mask, the layers in a list."""
    return _both(lambda: GPT(nnx.Rngs(0)))


def lstm() -> dict[str, Sides]:
    """`RNN` of `OptimizedLSTMCell`."""
    return _both(lambda: _LSTM(nnx.Rngs(0)))


class _Convolution(nnx.Module):
    def __init__(self, inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs) -> None:
        self.convolution = nnx.Conv(
            inputs,
            outputs,
            (size, size),
            (stride, stride),
            padding=size // 2,
            use_bias=False,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.convolution(x))


class _Residual(nnx.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> None:
        self.first = _Convolution(inputs, outputs, 3, stride, rngs)
        self.second = _Convolution(outputs, outputs, 3, 1, rngs)
        resized = stride > 1 or inputs != outputs
        self.shortcut = _Convolution(inputs, outputs, 1, stride, rngs) if resized else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.second(nnx.relu(self.first(x)))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class _ResNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = _Convolution(3, CHANNELS[0], 3, 1, rngs)
        blocks, inputs = [], CHANNELS[0]
        for stage, channels in enumerate(CHANNELS):
            for block in range(BLOCKS):
                stride = 2 if stage and not block else 1
                blocks.append(_Residual(inputs, channels, stride, rngs))
                inputs = channels
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(inputs, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class _Block(nnx.Module):
    def __init__(self, sizes: GPTSizes, rngs: nnx.Rngs, dtype: Any) -> None:
        width, given = sizes.width, {"dtype": dtype, "rngs": rngs}
        self.norm1 = nnx.LayerNorm(width, **given)
        self.attention = nnx.MultiHeadAttention(sizes.heads, width, decode=False, **given)
        self.norm2 = nnx.LayerNorm(width, **given)
        self.up = nnx.Linear(width, 4 * width, **given)
        self.down = nnx.Linear(4 * width, width, **given)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class GPT(nnx.Module):
    """A GPT with norms first and a tied head, which computes in `dtype`."""

    def __init__(
        self, rngs: nnx.Rngs, sizes: GPTSizes = GPT_SMALL, dtype: Any = jax.numpy.float32
    ) -> None:
        given = {"dtype": dtype, "rngs": rngs}
        self.embedding = nnx.Embed(sizes.words, sizes.width, **given)
        self.positions = nnx.Embed(sizes.length, sizes.width, **given)
        self.blocks = nnx.List([_Block(sizes, rngs, dtype) for _ in range(sizes.layers)])
        self.norm = nnx.LayerNorm(sizes.width, **given)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """The logits (..., T, words) of tokens (..., T)."""
        x = self.embedding(tokens) + self.positions(jax.numpy.arange(tokens.shape[1]))
        mask = nnx.make_causal_mask(tokens)
        for block in self.blocks:
            x = block(x, mask)
        return self.embedding.attend(self.norm(x))


class _LSTM(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embedding = nnx.Embed(WORDS, UNITS, rngs=rngs)
        cells = [nnx.OptimizedLSTMCell(UNITS, UNITS, rngs=rngs) for _ in range(STACKED)]
        self.layers: Any = nnx.List([nnx.RNN(cell) for cell in cells])
        self.head = nnx.Linear(UNITS, WORDS, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def _both(make: Any) -> dict[str, Sides]:
    return {
        "flax nnx": _sides(make, ()),
        "flax nnx, donating": _sides(make, ("model", "optimizer")),
    }


def _sides(make: Any, donated: tuple[str, ...]) -> Sides:
    model = make()
    optimizer = nnx.Optimizer(model, optax.adam(LEARNING_RATE), wrt=nnx.Param)
    still = make()
    still.eval()
    outputs = nnx.jit(lambda model, x: model(x))

    @functools.partial(nnx.jit, donate_argnames=donated)
    def compiled(model: Any, optimizer: Any, x: Any, y: Any) -> jax.Array:
        def loss(model: Any) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    def lower(x: Any, y: Any) -> dict[str, Any]:
        step = compiled.lower(model, optimizer, x, y)
        return {"forward": outputs.lower(still, x), "step": step}

    return Sides(lambda x: outputs(still, x), lambda x, y: compiled(model, optimizer, x, y), lower)
