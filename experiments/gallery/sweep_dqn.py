"""A sweep of a DQN on the cliff: nine learning rates and discounts as lanes of one program.

Mnih et al., Human-level control through deep reinforcement learning, 2015; Sutton and Barto,
Reinforcement learning, 2018, example 6.6. Each step costs 1, and a step into the cliff 100 and
returns to the start. The way along the cliff takes 13 steps, so the best return is -13.

    python -m experiments.gallery.sweep_dqn

Expected, in 15 seconds on two CPU cores: four of the nine lanes return -13.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxnn as nn
from experiments.gallery._lanes import lanes
from jaxnn import train
from jaxnn.sweep import LogUniform, Uniform

ROWS, COLUMNS, START, GOAL = 4, 12, 36, 47
DOWN, RIGHT = (-1, 0, 1, 0), (0, 1, 0, -1)  # of each action


def environment(s: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The next cell, the reward, and whether it is the goal."""
    row = jnp.clip(s // COLUMNS + jnp.array(DOWN)[action], 0, ROWS - 1)
    column = jnp.clip(s % COLUMNS + jnp.array(RIGHT)[action], 0, COLUMNS - 1)
    new = row * COLUMNS + column
    fall = (new > START) & (new < GOAL)
    return jnp.where(fall, START, new), jnp.where(fall, -100.0, -1.0), new == GOAL


class DQN(train.Program):
    """A Q network, a slow copy of it, a replay buffer, and actors in the environment."""

    net: nn.Layer
    optimizer: Any
    discount: float = 0.9
    polyak: float = 0.02
    exploration: float = 0.3
    restart: float = 0.02
    actors: int = 16
    capacity: int = 256
    rows: int = 128

    def init(self, key, batch):
        """Parameters, random cells, and a buffer with the places of the actors in it."""
        params = self.net.init(key, jnp.zeros((1, ROWS * COLUMNS)))
        s = jax.random.randint(nn.fold_in(key, "cells"), (self.actors,), 0, START)
        cells, zeros = jnp.zeros((self.capacity, self.actors), int), jnp.zeros(self.actors)
        return {
            "params": params,
            "target": params,
            "opt_state": self.optimizer.init(params),
            "buffer": {
                "s": cells,
                "a": cells,
                "reward": cells + zeros,
                "new": cells,
                "end": cells > 0,
            },
            "s": s,
            "step": jnp.array(0),
            "key": key,
        }

    def values(self, params, s):
        """Action values (..., 4) of cells."""
        return self.net.apply(params, jax.nn.one_hot(s, ROWS * COLUMNS))

    def step(self, state, batch):
        """An action of each actor, and a gradient step on rows of the buffer."""
        keys = jax.random.split(jax.random.fold_in(state["key"], state["step"]), 5)
        s, shape = state["s"], (self.actors,)
        random = jax.random.uniform(keys[0], shape) < self.exploration
        greedy = self.values(state["params"], s).argmax(-1)
        a = jnp.where(random, jax.random.randint(keys[1], shape, 0, 4), greedy)
        new, reward, end = environment(s, a)
        one = {"s": s, "a": a, "reward": reward, "new": new, "end": end}
        at = state["step"] % self.capacity
        buffer = jax.tree.map(lambda kept, item: kept.at[at].set(item), state["buffer"], one)
        again = end | (jax.random.uniform(keys[2], shape) < self.restart)
        s = jnp.where(again, jax.random.randint(keys[3], shape, 0, START + 1), new)
        filled = self.actors * jnp.minimum(state["step"] + 1, self.capacity)
        rows = jax.random.randint(keys[4], (self.rows,), 0, filled)
        b = jax.tree.map(lambda kept: kept.reshape(-1)[rows], buffer)
        best = self.values(state["target"], b["new"]).max(-1)
        wanted = b["reward"] + self.discount * jnp.where(b["end"], 0, best)

        def loss(params):
            found = jnp.take_along_axis(self.values(params, b["s"]), b["a"][:, None], 1)[:, 0]
            return optax.huber_loss(found, wanted).mean()

        value, grads = jax.value_and_grad(loss)(state["params"])
        updates, moments = self.optimizer.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        target = optax.incremental_update(params, state["target"], self.polyak)
        return state | {
            "params": params, "target": target, "opt_state": moments, "buffer": buffer, "s": s,
            "step": state["step"] + 1,
        }, {"loss": value}  # fmt: skip

    def evaluate(self, state, batch, *, key):
        """The return of at most 100 greedy steps from the start."""

        def one(carry, _):
            s, ended = carry
            new, reward, end = environment(s, self.values(state["params"], s).argmax(-1))
            return (new, ended | end), jnp.where(ended, 0, reward)

        _, rewards = jax.lax.scan(one, (jnp.array(START), False), length=100)
        return {"return": train.Mean(rewards.sum(), maximize=True)}


@dataclasses.dataclass(frozen=True)
class Config:
    """The configuration of a run."""

    learning_rate: float = 1e-3
    discount: float = 0.95
    width: int = 64
    steps: int = 4000
    every: int = 1000
    seed: int = 0


def build(config: Config, data: None = None) -> DQN:
    """The program of a configuration."""
    net = nn.Sequential(nn.Dense(config.width), jax.nn.relu, nn.Dense(4))
    adam = train.Optimizer(optax.adam, learning_rate=config.learning_rate)
    return DQN(net, adam, config.discount)


SPACE = {"learning_rate": LogUniform(1e-4, 1e-2), "discount": Uniform(0.5, 0.98)}


def main(config: Config = Config()) -> dict[str, float]:
    """Train a grid of nine lanes: the best return, and the number of lanes that reach it."""
    program, numbers = lanes(build, config, {name: SPACE[name].grid(3) for name in SPACE})
    options = {"steps": config.steps, "every": config.every, "hooks": [train.Evaluate()]}
    _, history = train.fit(program, key=jax.random.key(config.seed), **options)
    found = [history[-1][f"validation_return {lane}"] for lane in range(len(numbers))]
    for row, value in zip(numbers, found, strict=True):
        print(row, value)
    return {"best return": max(found), "lanes with -13": float(found.count(-13.0))}


if __name__ == "__main__":
    print(main())
