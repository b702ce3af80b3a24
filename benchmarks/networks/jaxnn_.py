"""jaxnn: its models, and `train.make_step`."""

from collections.abc import Callable
from typing import Any

import jax
import optax

import jaxnn as nn
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
from jaxnn import train
from jaxnn.models import GPT, CharLSTM, ResNet


def resnet() -> dict[str, Sides]:
    """`models.ResNet` with the stem for small images."""
    model = ResNet(stages=(BLOCKS,) * len(CHANNELS), width=CHANNELS[0], stem="cifar")
    return {"jaxnn": _sides(model.network(CLASSES), train.Classification(CLASSES), "resnet")}


def gpt() -> dict[str, Sides]:
    """`models.GPT`, whose blocks are a `Repeat`, and the same blocks in a row."""
    net = GPT(layers=LAYERS, width=WIDTH, num_heads=HEADS, length=256).network(WORDS)
    row, _ = nn.unstack_layers(net, net.init(jax.random.key(0), batch("gpt")[0]))
    nets = {"jaxnn": net, "jaxnn, blocks in a row": row}
    return {name: _sides(net, train.NextToken(WORDS), "gpt") for name, net in nets.items()}


def lstm() -> dict[str, Sides]:
    """`models.CharLSTM`."""
    model = CharLSTM(width=UNITS, layers=STACKED)
    return {"jaxnn": _sides(model.network(WORDS), train.NextToken(WORDS), "lstm")}


def _sides(net: nn.Layer, task: train.Task, kind: str) -> Sides:
    program = train.Supervised(net, task, optax.adam(LEARNING_RATE))
    ts = program.init(jax.random.key(0), batch(kind))
    params, state = jax.tree.map(lambda leaf: leaf.copy(), (ts.params, ts.state))
    compiled = train.make_step(program)
    outputs = jax.jit(lambda params, state, x: net.apply(params, x, state=state)[0])

    def step(x: Any, y: Any) -> jax.Array:
        nonlocal ts
        ts, metrics = compiled(ts, (x, y))
        return metrics["loss"]

    forward: Callable[[Any], Any] = lambda x: outputs(params, state, x)  # noqa: E731
    return Sides(forward, step)
