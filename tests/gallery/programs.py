"""The programs of experiments/gallery: each one small, for the laws, and the numbers of each."""

import sys

import jax
import numpy as np
import optax

from experiments.gallery import (
    byol,
    contrastive,
    diffusion,
    dqn,
    maml,
    node,
    normalizing_flow,
    pinn,
    ppo,
    score_based,
    vae,
    vqvae,
    wgan_gp,
)
from jaxnn import train
from tests.gallery import more_programs

TRACES: list[int] = []


class Counted(train.Program):
    """A program whose traces are counted."""

    program: train.Program

    def init(self, key, batch):
        return self.program.init(key, batch)

    def step(self, state, batch):
        # By its name, since data that the code refers to belong to the program.
        vars(sys.modules[__name__])["TRACES"].append(1)
        return self.program.step(state, batch)


IMAGES = np.random.default_rng(0).uniform(size=(24, 784)).astype("f")

# The program, its data, and options of a run.
SMALL = {
    "byol": lambda: (byol.program(8), IMAGES, {"batch_size": 8}),
    "contrastive": lambda: (contrastive.program(16), IMAGES, {"batch_size": 8}),
    "diffusion": lambda: (diffusion.program(4), diffusion.data(24), {"batch_size": 8}),
    "dqn": lambda: (dqn.Seeds(dqn.program(4, capacity=16, rows=4), 2), None, {}),
    "maml": lambda: (maml.program(4), maml.data(24, 3), {"batch_size": 8}),
    "node": lambda: (node.program(4), node.data(24, 2), {"batch_size": 8}),
    "normalizing_flow": lambda: (
        normalizing_flow.program(2, 4),
        normalizing_flow.data(24),
        {"batch_size": 8},
    ),
    "pinn": lambda: (pinn.program(pinn.adam(), 4), pinn.data(8), {"batch_size": 8}),
    "pinn_lbfgs": lambda: (pinn.program(optax.lbfgs(), 4), pinn.data(8), {"batch_size": 8}),
    "ppo": lambda: (
        ppo.program(4, environments=4, horizon=4, epochs=2, minibatches=2),
        None,
        {},
    ),
    "score_based": lambda: (score_based.program(4), score_based.data(24), {"batch_size": 8}),
    "vae": lambda: (vae.program((4,)), IMAGES[:, :64], {"batch_size": 8}),
    "vqvae": lambda: (vqvae.program(4, 8, 2), IMAGES, {"batch_size": 8}),
    "wgan_gp": lambda: (wgan_gp.program(4, rows=8, critic_steps=2), None, {}),
}

# What each prints lies between these. The closed form is in the file.
EXPECTED: dict[str, dict[str, tuple[float, float]]] = {
    "byol": {"pixels": (0.60, 0.64), "trained": (0.68, 0.80)},
    "contrastive": {"pixels": (0.60, 0.64), "trained": (0.70, 0.80)},
    "diffusion": {
        "best": (0.24, 0.25),
        "loss": (0.24, 0.26),
        "distance to a mode": (0.12, 0.19),
    },
    "dqn": {"largest error": (0, 1e-3), "best actions": (1, 1)},
    "maml": {"before": (2.7, 3.5), "loss": (0, 0.25)},
    "node": {"error": (0, 0.03), "error to ten times the time": (0, 0.04)},
    "normalizing_flow": {"negative log-likelihood": (2.12, 2.17), "mean of a + b": (0.97, 1.03)},
    "pinn": {"error after Adam": (0, 1e-3), "error after L-BFGS": (0, 5e-5)},
    "ppo": {"best slope": (-0.5885, -0.5884), "slope": (-0.62, -0.56)},
    "score_based": {"fisher": (0, 0.03), "best loss": (-2.95, -2.85)},
    "vae": {"closed form": (-6.812, -6.810), "linear": (-6.82, -6.75), "deep": (-30, -15)},
    "vqvae": {"error": (0.02, 0.036), "error of PCA": (0.047, 0.049)},
    "wgan_gp": {
        "radius": (0.98, 1.02),
        "smallest share of a mode": (0.005, 0.125),
        "within 3 standard deviations": (0.9, 0.99),
    },
}

SMALL |= more_programs.SMALL
EXPECTED |= more_programs.EXPECTED


def small(name):
    """A small program whose traces are counted, its data, and the options of its run."""
    program, data, options = SMALL[name]()
    return Counted(program), data, {"key": jax.random.key(7), "steps": 3, "every": 1} | options
