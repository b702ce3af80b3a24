"""Trains small networks on one device and on eight simulated ones, and compares them.

Run by test_equalities.py, once, in a separate process: `python -m tests.parallel.on_eight`. It
prints a JSON object of cases; each has

    apart        the largest difference of an array of the state, over the array's largest number
    metrics      the largest difference of a metric
    lies         whether the shardings of the state after the steps are those before
    part         the part of the largest parameter that a device holds
    collectives  kind -> [times, bytes]
    memory       the bytes that XLA reports: arguments and total
"""

import functools
import json
import sys
from typing import Any

import jax
import numpy as np
import optax

import jaxnn as nn
from jaxnn import models, parallel, train

RANDOM = np.random.default_rng(1)
TOKENS = RANDOM.integers(0, 64, (8, 9), np.int32)
IMAGES = RANDOM.normal(size=(16, 8, 8, 3)).astype(np.float32)
ROWS = RANDOM.normal(size=(16, 16)).astype(np.float32)
LABELS = RANDOM.integers(0, 8, 16, np.int32)
STEPS = 3

LANGUAGE = train.NextToken(64), (TOKENS[:, :-1], TOKENS[:, 1:])
CLASSES = train.Classification(8)
SWIGLU = models.GPT(
    layers=2, width=16, num_heads=4, positions="rotary", norm="rms", feed_forward="swiglu",
    bias=False, tied=False,
)  # fmt: skip

CONVOLUTION = nn.Sequential(
    nn.Conv(8, (3, 3), bias=False),
    nn.BatchNorm(None, renorm=True),
    jax.nn.relu,
    nn.GlobalAvgPool(),
    nn.Dense(8),
)

NETWORKS = {
    "gpt": (models.GPT(layers=2, width=16, num_heads=4).network(64), *LANGUAGE),
    "llama": (nn.Precision(SWIGLU.network(64), "float32", keep="**/*norm"), *LANGUAGE),
    "mlp": (models.MLP(width=32, depth=1, dropout=0.1).network(8), CLASSES, (ROWS, LABELS)),
    "convolution": (CONVOLUTION, CLASSES, (IMAGES, LABELS)),
    "resnet": (models.ResNet((1,), width=8, stem="cifar").network(8), CLASSES, (IMAGES, LABELS)),
    "vit": (models.ViT(8, 4, 2, width=16, num_heads=4).network(8), CLASSES, (IMAGES, LABELS)),
    "lstm": (models.CharLSTM(width=16, layers=1).network(64), *LANGUAGE),
}
MESHES = {
    "DATA_PARALLEL": {"data": 8},
    "FSDP": {"data": 8},
    "TENSOR_PARALLEL": {"data": 2, "model": 4},
    "FSDP_TENSOR_PARALLEL": {"data": 2, "model": 4},
}
# Rounding of a gradient near 0 would become a whole step of Adam's without this eps.
OPTIMIZER = optax.adam(1e-2, eps=1e-2)


def program_of(name):
    """The program that trains a network, and its batch."""
    net, task, batch = NETWORKS[name]
    return train.Supervised(net, task, OPTIMIZER), batch


@functools.cache
def alone(name):
    """The state and metrics after the steps on one device."""
    program, batch = program_of(name)
    state, step = program.init(jax.random.key(0), batch), train.make_step(program)
    metrics = {}
    for _ in range(STEPS):
        state, metrics = step(state, batch)
    return state, metrics


def together(name, table, expected):
    """The steps on eight devices, compared with those on one."""
    program, batch = program_of(name)
    placement = parallel.Placement(parallel.mesh(**MESHES[table]), getattr(parallel, table))
    state = parallel.init(program, jax.random.key(0), batch, placement)
    step: Any = train.make_step(program, placement=placement)
    batch = parallel.shard_batch(batch, placement.mesh)
    compiled = step.lower(state, batch).compile()
    before = jax.tree.map(lambda array: array.sharding, state)
    metrics = {}
    for _ in range(STEPS):
        state, metrics = compiled(state, batch)
    largest = max(jax.tree.leaves(state.params), key=lambda array: array.size)
    memory = compiled.memory_analysis()
    return {
        "apart": max(jax.tree.leaves(jax.tree.map(apart, state, expected[0]))),
        "metrics": max(abs(float(metrics[k]) - float(v)) for k, v in expected[1].items()),
        "lies": before == jax.tree.map(lambda array: array.sharding, state),
        "part": largest.addressable_shards[0].data.size / largest.size,
        "collectives": {
            kind: [one.times, one.bytes] for kind, one in parallel.collectives(compiled).items()
        },
        "memory": {
            "given": memory.argument_size_in_bytes,
            "total": memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes,
        },
    }


def apart(one, other):
    """The largest difference over the largest number, or over 1e-3 if all are smaller.

    The gradient of a bias of keys is 0 except for rounding: a softmax does not depend on it.
    """
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return float(np.max(np.abs(one - other)) / max(np.max(np.abs(other)), 1e-3))


if __name__ == "__main__":
    found = {}
    for case in sys.argv[1:]:
        name, _, table = case.partition(":")
        found[case] = together(name, table, alone(name))
    print(json.dumps(found))
