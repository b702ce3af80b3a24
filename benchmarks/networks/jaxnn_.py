"""jaxnn: its models, and `train.make_step`."""

from collections.abc import Callable
from typing import Any

import jax
import optax

import jaxnn as nn
from benchmarks.networks.sizes import (
    BERT_CLASSES,
    BLOCKS,
    CHANNELS,
    CHUNK,
    CLASSES,
    HEAD_DIM,
    HEADS,
    LAYERS,
    LEARNING_RATE,
    MAMBA_LAYERS,
    MAMBA_WIDTH,
    OBJECTS,
    STACKED,
    STATE,
    UNITS,
    WIDTH,
    WORDS,
    Sides,
    batch,
)
from jaxnn import train
from jaxnn.models import BERT, GPT, CharLSTM, ConvNeXt, ResNet


def resnet() -> dict[str, Sides]:
    """`models.ResNet` with the stem for small images."""
    model = ResNet(stages=(BLOCKS,) * len(CHANNELS), width=CHANNELS[0], stem="cifar")
    return _both("jaxnn", model.network(CLASSES), train.Classification(CLASSES), "resnet")


def gpt() -> dict[str, Sides]:
    """`models.GPT`, whose blocks are a `Repeat`, and the same blocks in a row."""
    net = GPT(layers=LAYERS, width=WIDTH, num_heads=HEADS, length=256).network(WORDS)
    nets = _and_in_a_row(net, "gpt")
    sides = [_both(name, net, train.NextToken(WORDS), "gpt") for name, net in nets.items()]
    return sides[0] | sides[1]


def lstm() -> dict[str, Sides]:
    """`models.CharLSTM`."""
    model = CharLSTM(width=UNITS, layers=STACKED)
    return _both("jaxnn", model.network(WORDS), train.NextToken(WORDS), "lstm")


def bert() -> dict[str, Sides]:
    """`models.BERT` with its pooler and a classifier, and the same blocks in a row; no dropout."""
    nets = _and_in_a_row(BERT(pooling="pooler", dropout=0.0).network(BERT_CLASSES), "bert")
    task = train.Classification(BERT_CLASSES)
    return {name: _sides(net, task, "bert", donate=True) for name, net in nets.items()}


def convnext() -> dict[str, Sides]:
    """`models.ConvNeXt`."""
    net = ConvNeXt.tiny().network(OBJECTS)
    return {"jaxnn": _sides(net, train.Classification(OBJECTS), "convnext", donate=True)}


def mamba() -> dict[str, Sides]:
    """Blocks of `nn.Mamba2` as a `Repeat`, and the same blocks in a row."""
    mixer = nn.Mamba2(2 * MAMBA_WIDTH // HEAD_DIM, HEAD_DIM, STATE, chunk_size=CHUNK)
    block = nn.Residual(nn.Sequential(nn.RMSNorm(), mixer))

    def network(blocks: nn.Layer) -> nn.Layer:
        head = nn.Dense(WORDS, bias=False)
        return nn.Sequential(nn.Embedding(WORDS, MAMBA_WIDTH), blocks, nn.RMSNorm(), head)

    blocks = {
        "jaxnn": nn.Repeat(nn.Remat(block, "products"), MAMBA_LAYERS),
        "jaxnn, blocks in a row": nn.Sequential(*[block] * MAMBA_LAYERS),
    }
    return {
        name: _sides(network(one), train.NextToken(WORDS), "mamba", donate=True)
        for name, one in blocks.items()
    }


def _and_in_a_row(net: nn.Layer, kind: str) -> dict[str, nn.Layer]:
    """The network with its `Repeat`, and with the same blocks in a row."""
    row, _ = nn.unstack_layers(net, net.init(jax.random.key(0), batch(kind)[0]))
    return {"jaxnn": net, "jaxnn, blocks in a row": row}


def _both(name: str, net: nn.Layer, task: train.Task, kind: str) -> dict[str, Sides]:
    return {
        name: _sides(net, task, kind, donate=True),
        f"{name}, without donation": _sides(net, task, kind, donate=False),
    }


def _sides(net: nn.Layer, task: train.Task, kind: str, donate: bool) -> Sides:
    program = train.Supervised(net, task, optax.adam(LEARNING_RATE))
    ts = program.init(jax.random.key(0), batch(kind))
    params, state = jax.tree.map(lambda leaf: leaf.copy(), (ts.params, ts.state))
    compiled: Any = train.make_step(program) if donate else jax.jit(program.step)
    outputs = jax.jit(lambda params, state, x: net.apply(params, x, state=state)[0])

    def step(x: Any, y: Any) -> jax.Array:
        nonlocal ts
        ts, metrics = compiled(ts, (x, y))
        return metrics["loss"]

    def lower(x: Any, y: Any) -> dict[str, Any]:
        return {"forward": outputs.lower(params, state, x), "step": compiled.lower(ts, (x, y))}

    forward: Callable[[Any], Any] = lambda x: outputs(params, state, x)  # noqa: E731
    return Sides(forward, step, lower)
