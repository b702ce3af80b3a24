"""Programs of experiments/gallery: each one small, for the laws, and the numbers of each."""

import jax
import numpy as np

import jaxnn as nn
from experiments.gallery import (
    distillation,
    federated,
    gnn,
    hypernetwork,
    lora,
    multi_input,
    seq2seq,
    uncertainty,
)
from jaxnn import train
from jaxnn.models import GPT

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(24, 6)).astype("f"), RNG.integers(10, size=24)
TOKENS = RNG.integers(96, size=(2, 16, 8))
POINTS = RNG.normal(size=(24, 3)).astype("f"), RNG.normal(size=24).astype("f")


def small_lora():
    net = GPT(layers=1, width=8, num_heads=2, length=lora.LENGTH).network(outputs=96)
    given = train.Weights(net.init(jax.random.key(0), TOKENS[0]), {})
    return lora.program(*lora.adapted(net, given, 2)), tuple(TOKENS), {"batch_size": 4}


def small_distillation():
    teacher = nn.Sequential(nn.Dense(4), nn.BatchNorm(), nn.Dropout(0.5), nn.Dense(10))
    x = IMAGES[0]
    weights = train.Weights(teacher.init(jax.random.key(0), x), teacher.init_state(x))
    return distillation.program(teacher, weights, 3), IMAGES, {"batch_size": 8}


# The program, its data, and options of a run.
SMALL = {
    "distillation": small_distillation,
    "federated": lambda: (
        federated.program(3, epochs=1, batch_size=4),
        (IMAGES[0].reshape(3, 8, 6), IMAGES[1].reshape(3, 8)),
        {"batch_size": 2},
    ),
    "gnn": lambda: (gnn.program(3, 2), gnn.data(24), {"batch_size": 8}),
    "hypernetwork": lambda: (
        hypernetwork.program(4, 2),
        hypernetwork.data(24),
        {"batch_size": 8},
    ),
    "lora": small_lora,
    "multi_input": lambda: (
        multi_input.program(3),
        jax.tree.map(lambda leaf: leaf[:24], multi_input.tumors()["train"]),
        {"batch_size": 8},
    ),
    "seq2seq": lambda: (
        seq2seq.program(seq2seq.network(4, 1)),
        seq2seq.data(24),
        {"batch_size": 8},
    ),
    "uncertainty": lambda: (uncertainty.program((2,)), POINTS, {"batch_size": 8}),
    "uncertainty_ensemble": lambda: (uncertainty.ensemble(3, 2), POINTS, {"batch_size": 8}),
}

# Programs that are run without jit, where each operation is compiled separately; others at night.
EAGER = ("ppo", "vae")

# Programs that are mapped over seeds, of different kinds of state and updates; others at night.
MAPPED = ("distillation", "dqn", "federated", "maml")

# What each prints lies between these.
EXPECTED: dict[str, dict[str, tuple[float, float]]] = {
    "distillation": {"teacher": (0.96, 0.98), "distilled": (0.94, 0.96), "labels": (0.91, 0.935)},
    "federated": {"all clients": (0.88, 0.92), "five clients": (0.85, 0.91), "union": (0.91, 0.93)},
    "gnn": {"best possible": (0.845, 0.846), "accuracy": (0.83, 0.85)},
    "hypernetwork": {"best": (0.0099, 0.0101), "mse": (0.0099, 0.0107)},
    "lora": {
        "difference from torch": (0.0, 1e-4),
        "before": (1.7, 1.9),
        "after": (1.0, 1.2),
        "merged": (1.0, 1.2),
    },
    "multi_input": {
        "sklearn accuracy": (0.96, 0.965),
        "accuracy": (0.96, 0.965),
        "sklearn mse": (0.158, 0.16),
        "mse": (0.157, 0.16),
    },
    "seq2seq": {"greedy": (0.99, 1.0), "beam": (0.99, 1.0), "at least as probable": (1.0, 1.0)},
    "uncertainty": {
        "bayesian regression": (1.106, 1.107),
        "laplace, linear": (1.106, 1.107),
        "laplace, deep": (1.09, 1.13),
        "ensemble": (0.95, 1.08),
    },
}
