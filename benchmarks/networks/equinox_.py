"""Equinox: modules as pytrees, a model of one example under `jax.vmap`, `eqx.filter_jit`."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax

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

KEY = jax.random.key(0)


def resnet() -> dict[str, Sides]:
    """Convolutions, which have their channels first, and batch norm with its state."""
    model, state = eqx.nn.make_with_state(_ResNet)(KEY)
    return _both(model, state)


def gpt() -> dict[str, Sides]:
    """`MultiheadAttention` with a causal mask, the layers in a list."""
    return _both(GPT(KEY))


def lstm() -> dict[str, Sides]:
    """`LSTMCell` in a `lax.scan`."""
    return _both(_LSTM(KEY))


class _Convolution(eqx.Module):
    convolution: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, key: jax.Array) -> None:
        self.convolution = eqx.nn.Conv2d(
            inputs, outputs, size, stride, padding=size // 2, use_bias=False, key=key
        )
        self.norm = eqx.nn.BatchNorm(outputs, axis_name="batch", momentum=0.9, mode="batch")

    def __call__(self, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        return self.norm(self.convolution(x), state)


class _Residual(eqx.Module):
    first: _Convolution
    second: _Convolution
    shortcut: _Convolution | None

    def __init__(self, inputs: int, outputs: int, stride: int, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        self.first = _Convolution(inputs, outputs, 3, stride, keys[0])
        self.second = _Convolution(outputs, outputs, 3, 1, keys[1])
        resized = stride > 1 or inputs != outputs
        self.shortcut = _Convolution(inputs, outputs, 1, stride, keys[2]) if resized else None

    def __call__(self, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        y, state = self.first(x, state)
        y, state = self.second(jax.nn.relu(y), state)
        if self.shortcut is not None:
            x, state = self.shortcut(x, state)
        return jax.nn.relu(x + y), state


class _ResNet(eqx.Module):
    stem: _Convolution
    blocks: list[_Residual]
    head: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        first, last, *keys = jax.random.split(key, len(CHANNELS) * BLOCKS + 2)
        self.stem = _Convolution(3, CHANNELS[0], 3, 1, first)
        self.blocks, inputs = [], CHANNELS[0]
        for stage, channels in enumerate(CHANNELS):
            for block in range(BLOCKS):
                stride, key = 2 if stage and not block else 1, keys[len(self.blocks)]
                self.blocks.append(_Residual(inputs, channels, stride, key))
                inputs = channels
        self.head = eqx.nn.Linear(inputs, CLASSES, key=last)

    def __call__(self, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        x, state = self.stem(x.transpose(2, 0, 1), state)
        x = jax.nn.relu(x)
        for block in self.blocks:
            x, state = block(x, state)
        return self.head(x.mean((1, 2))), state


class _Block(eqx.Module):
    norm1: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    norm2: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, key: jax.Array, sizes: GPTSizes) -> None:
        (one, two, three), width = jax.random.split(key, 3), sizes.width
        self.norm1, self.norm2 = eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)
        self.attention = eqx.nn.MultiheadAttention(sizes.heads, width, key=one)
        self.up = eqx.nn.Linear(width, 4 * width, key=two)
        self.down = eqx.nn.Linear(4 * width, width, key=three)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        h = jax.vmap(self.norm1)(x)
        x = x + self.attention(h, h, h, mask)
        h = jax.nn.gelu(jax.vmap(self.up)(jax.vmap(self.norm2)(x)))
        return x + jax.vmap(self.down)(h)


class GPT(eqx.Module):
    """A GPT with norms first and a tied head, of one sequence."""

    embedding: eqx.nn.Embedding
    positions: eqx.nn.Embedding
    blocks: list[_Block]
    norm: eqx.nn.LayerNorm

    def __init__(self, key: jax.Array, sizes: GPTSizes = GPT_SMALL) -> None:
        first, last, *keys = jax.random.split(key, sizes.layers + 2)
        self.embedding = eqx.nn.Embedding(sizes.words, sizes.width, key=first)
        self.positions = eqx.nn.Embedding(sizes.length, sizes.width, key=last)
        self.blocks = [_Block(k, sizes) for k in keys]
        self.norm = eqx.nn.LayerNorm(sizes.width)

    def __call__(self, tokens: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        """The logits (T, words) of tokens (T,), and the state, which there is none of."""
        length = tokens.shape[0]
        x = jax.vmap(self.embedding)(tokens) + self.positions.weight[:length]
        mask = jnp.tril(jnp.ones((length, length), bool))
        for block in self.blocks:
            x = block(x, mask)
        return jax.vmap(self.norm)(x) @ self.embedding.weight.T, state


class _LSTM(eqx.Module):
    embedding: eqx.nn.Embedding
    cells: list[eqx.nn.LSTMCell]
    head: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        first, last, *keys = jax.random.split(key, STACKED + 2)
        self.embedding = eqx.nn.Embedding(WORDS, UNITS, key=first)
        self.cells = [eqx.nn.LSTMCell(UNITS, UNITS, key=k) for k in keys]
        self.head = eqx.nn.Linear(UNITS, WORDS, key=last)

    def __call__(self, tokens: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        x = jax.vmap(self.embedding)(tokens)
        for cell in self.cells:

            def body(carry: Any, x: jax.Array, cell: Any = cell) -> tuple[Any, jax.Array]:
                carry = cell(x, carry)
                return carry, carry[0]

            _, x = lax.scan(body, (jnp.zeros(UNITS), jnp.zeros(UNITS)), x)
        return jax.vmap(self.head)(x), state


def _both(model: Any, state: Any = None) -> dict[str, Sides]:
    return {
        "equinox": _sides(model, state, "none"),
        "equinox, donating": _sides(model, state, "all-except-first"),
    }


def _sides(model: Any, state: Any, donate: Any) -> Sides:
    optimizer = optax.adam(LEARNING_RATE)
    opt_state = optimizer.init(eqx.filter(model, eqx.is_array))
    still, begun = eqx.nn.inference_mode(model), state
    # The step may take them, and the forward keeps its own.
    model, state = jax.tree.map(lambda a: a.copy() if eqx.is_array(a) else a, (model, state))

    def run(model: Any, state: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        many: Callable[..., Any] = jax.vmap(
            model, axis_name="batch", in_axes=(0, None), out_axes=(0, None)
        )
        return many(x, state)

    outputs: Any = eqx.filter_jit(run)

    @eqx.filter_jit(donate=donate)
    def compiled(data: Any, model: Any, state: Any, opt_state: Any) -> Any:
        x, y = data

        def loss(model: Any) -> tuple[jax.Array, Any]:
            logits, new = run(model, state, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), new

        (value, new), gradients = eqx.filter_value_and_grad(loss, has_aux=True)(model)
        updates, opt_state = optimizer.update(gradients, opt_state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), new, opt_state, value

    def step(x: Any, y: Any) -> jax.Array:
        nonlocal model, state, opt_state
        model, state, opt_state, value = compiled((x, y), model, state, opt_state)
        return value

    def lower(x: Any, y: Any) -> dict[str, Any]:
        whole: Any = compiled
        step = whole.lower((x, y), model, state, opt_state).lowered
        return {"forward": outputs.lower(still, begun, x).lowered, "step": step}

    return Sides(lambda x: outputs(still, begun, x)[0], step, lower)
