"""A DQN on a chain of states: seeds, learning rates, and discounts as lanes of one program.

    python -m tests.sweep.programs.dqn sweep --seeds 2

Right three times gives 1, left gives 0.02. The program makes its own data.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import optax

import jaxnn as nn
from jaxnn import train
from jaxnn.command import main
from jaxnn.experiment import Experiment
from jaxnn.sweep import Choice, LogUniform, Uniform

N, CAPACITY = 3, 32


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and for how long."""

    learning_rate: float = 3e-3
    discount: float = 0.95
    clip: float = 0.0
    width: int = 4
    steps: int = 30
    every: int = 10
    seed: int = 0


class DQN(train.Program):
    """A network, a slow copy of it, a replay buffer, and an environment."""

    net: nn.Layer
    optimizer: train.Optimizer
    discount: float = 0.95
    clip: float = 0.0
    static = ("clip",)

    def init(self, key, batch):
        """The state before the first step."""
        params = self.net.init(key, jnp.zeros((1, N)))
        zeros = jnp.zeros(CAPACITY, jnp.int32)
        return {
            "params": params,
            "target": params,
            "opt_state": self.optimizer.init(params),
            "buffer": {"s": zeros, "a": zeros, "r": zeros * 0.0, "n": zeros, "end": zeros > 0},
            "s": jnp.int32(0),
            "i": 0,
            "key": key,
        }

    def step(self, state, batch):
        """One step in the environment, and one of the optimizer on a batch of the buffer."""
        c = state
        explore, choose, draw = jax.random.split(jax.random.fold_in(c["key"], c["i"]), 3)
        greedy = self.values(c["params"], c["s"]).argmax()
        random = jax.random.randint(choose, (), 0, 2)
        a = jnp.where(jax.random.uniform(explore) < 0.3, random, greedy)
        n = jnp.where(a == 1, c["s"] + 1, 0)
        end = n >= N
        reward = jnp.where(end, 1.0, jnp.where(a == 0, 0.02, 0.0))
        new = {"s": c["s"], "a": a, "r": reward, "n": jnp.where(end, 0, n), "end": end}
        buffer = jax.tree.map(
            lambda b, v: b.at[c["i"] % CAPACITY].set(v.astype(b.dtype)), c["buffer"], new
        )
        rows = jax.random.randint(draw, (8,), 0, jnp.minimum(c["i"] + 1, CAPACITY))
        b = jax.tree.map(lambda leaf: leaf[rows], buffer)
        best = self.values(c["target"], b["n"]).max(-1)
        wanted = b["r"] + self.discount * (1 - b["end"]) * best

        def loss(params):
            values = self.values(params, b["s"])
            error = jnp.take_along_axis(values, b["a"][:, None], 1)[:, 0] - wanted
            return (optax.huber_loss(error, delta=self.clip) if self.clip > 0 else error**2).mean()

        value, grads = jax.value_and_grad(loss)(c["params"])
        updates, opt_state = self.optimizer.update(grads, c["opt_state"], c["params"])
        params = optax.apply_updates(c["params"], updates)
        return c | {
            "params": params,
            "target": optax.incremental_update(params, c["target"], 0.05),
            "opt_state": opt_state,
            "buffer": buffer,
            "s": new["n"].astype(jnp.int32),
            "i": c["i"] + 1,
        }, {"loss": value, "reward": reward}

    def evaluate(self, state, batch, *, key):
        """The mean reward of the buffer."""
        buffer = state["buffer"]
        return {"return": train.Ratio(buffer["r"].sum(), 1.0 * CAPACITY, maximize=True)}

    def values(self, params, s):
        """The value of each action."""
        return self.net.apply(params, jax.nn.one_hot(s, N))


def build(config, data):
    """The program of this configuration."""
    net = nn.Sequential(nn.Dense(config.width), jax.nn.relu, nn.Dense(2))
    optimizer = train.Optimizer(optax.adam, learning_rate=config.learning_rate)
    return DQN(net, optimizer, config.discount, config.clip)


SPACE = {
    "learning_rate": LogUniform(1e-3, 3e-2),
    "discount": Uniform(0.8, 0.99),
    "seed": Choice(0, 1, 2, 3),
}
EXPERIMENT = Experiment("dqn", Config, program=build, space=SPACE)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
