"""DQN on a chain, for several seeds at once.

Mnih et al., Human-level control through deep reinforcement learning, 2015: a
replay buffer and a target network. Going right through five states ends the
episode with a reward of 1; going left gives 0.02 and returns to the start. The
best action values are known in closed form: with a discount of d, Q(s, right)
= d^(4 - s) and Q(s, left) = 0.02 + d^5.

    python -m experiments.gallery.dqn
    python -m experiments.gallery.dqn sweep --trials 16

Expected in 10 seconds on two CPU cores: all 80 action values within 1e-4, and
every best action. The sweep trains its trials as lanes of one program, and
compares them by the largest error.
"""

import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxnn as nn
from jaxnn import command, train
from jaxnn.experiment import Experiment
from jaxnn.sweep import LogUniform, Uniform

STATES = 5


def environment(s: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The next state, the reward, and whether the episode ends; action 1 is right."""
    new = jnp.where(action == 1, s + 1, 0)
    end = new == STATES
    reward = jnp.where(end, 1.0, jnp.where(action == 1, 0.0, 0.02))
    return jnp.where(end, 0, new), reward, end


class DQN(train.Program):
    """An agent and its environment: the program makes its own data."""

    net: nn.Layer
    optimizer: Any
    discount: float = 0.9
    polyak: float = 0.01
    exploration: float = 0.3
    capacity: int = 512
    rows: int = 64

    def init(self, key, batch):
        """Parameters, an empty buffer, and the first state of an episode."""
        params = self.net.init(key, jnp.zeros((1, STATES)))
        none, zero = jnp.zeros(self.capacity, int), jnp.zeros(self.capacity)
        return {
            "params": params,
            "target": params,
            "opt_state": self.optimizer.init(params),
            "buffer": {"s": none, "action": none, "reward": zero, "next": none, "end": none > 0},
            "s": jnp.array(0),
            "step": jnp.array(0),
            "key": key,
        }

    def values(self, params, s):
        """Action values (..., 2) of states s."""
        return self.net.apply(params, jax.nn.one_hot(s, STATES))

    def step(self, state, batch):
        """One action, and one gradient step on transitions of the buffer."""
        explore, choose, draw = jax.random.split(jax.random.fold_in(state["key"], state["step"]), 3)
        greedy = self.values(state["params"], state["s"]).argmax()
        random = jax.random.uniform(explore) < self.exploration
        action = jnp.where(random, jax.random.randint(choose, (), 0, 2), greedy)
        new, reward, end = environment(state["s"], action)
        one = {"s": state["s"], "action": action, "reward": reward, "next": new, "end": end}
        at = state["step"] % self.capacity
        buffer = jax.tree.map(lambda kept, item: kept.at[at].set(item), state["buffer"], one)
        filled = jnp.minimum(state["step"] + 1, self.capacity)
        chosen = jax.random.randint(draw, (self.rows,), 0, filled)
        rows = jax.tree.map(lambda kept: kept[chosen], buffer)
        following = self.values(state["target"], rows["next"]).max(-1)
        wanted = rows["reward"] + self.discount * jnp.where(rows["end"], 0, following)

        def loss(params):
            values = self.values(params, rows["s"])
            taken = jnp.take_along_axis(values, rows["action"][:, None], 1)[:, 0]
            return ((taken - wanted) ** 2).mean()

        value, grads = jax.value_and_grad(loss)(state["params"])
        updates, opt_state = self.optimizer.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        target = optax.incremental_update(params, state["target"], self.polyak)
        after = {"params": params, "target": target, "opt_state": opt_state, "buffer": buffer}
        after |= {"s": new, "step": state["step"] + 1, "key": state["key"]}
        return after, {"loss": value, "reward": train.Mean(reward, maximize=True)}

    def best(self):
        """The best action values (states, 2) in closed form."""
        right = self.discount ** jnp.arange(STATES - 1, -1, -1)
        return jnp.stack([jnp.full(STATES, 0.02 + self.discount**STATES), right], -1)

    def evaluate(self, state, batch, *, key):
        """The largest error of an action value."""
        error = jnp.abs(self.values(state["params"], jnp.arange(STATES)) - self.best()).max()
        return {"error": train.Mean(error, maximize=False)}

    def predict(self, state, s):
        """Action values (rows, 2) of states s (rows,)."""
        return self.values(state["params"], s)


class Seeds(train.Program):
    """A program for `count` seeds at once."""

    program: train.Program
    count: int

    def init(self, key, batch):
        """A state for each seed."""
        return jax.vmap(self.program.init, (0, None))(jax.random.split(key, self.count), batch)

    def step(self, state, batch):
        """A step of each; metrics are means over the seeds."""
        state, metrics = jax.vmap(self.program.step, (0, None))(state, batch)
        return state, jax.tree.map(jnp.mean, metrics)

    def predict(self, state, inputs):
        """Predictions (rows, count, ...)."""
        return jax.vmap(self.program.predict, (0, None), out_axes=1)(state, inputs)


def program(width: int = 32, rate: float | train.Schedule = 1e-3, **options: Any) -> DQN:
    """A DQN with one hidden layer."""
    net = nn.Sequential(nn.Dense(width), jax.nn.relu, nn.Dense(2))
    return DQN(net, train.Optimizer(optax.adam, learning_rate=rate), **options)


@dataclasses.dataclass(frozen=True)
class Config:
    """The configuration of a trial of a sweep."""

    rate: float = 1e-3
    discount: float = 0.9
    polyak: float = 0.01
    steps: int = 2000
    seed: int = 0


def build(config: Config, data: None) -> DQN:
    """The program of a configuration."""
    return program(rate=config.rate, discount=config.discount, polyak=config.polyak)


SPACE = {
    "rate": LogUniform(1e-4, 1e-2),
    "discount": Uniform(0.6, 0.95),
    "polyak": LogUniform(1e-3, 0.1),
}
EXPERIMENT = Experiment("dqn", Config, program=build, space=SPACE)


def main(steps: int = 6000) -> dict[str, float]:
    """Train for eight seeds, and compare with the best action values."""
    agent = program(rate=train.Cosine(3e-3, steps=steps))
    agents = Seeds(agent, 8)
    state, _ = train.fit(agents, key=jax.random.key(0), steps=steps, every=1000)
    found, best = train.predict(agents, state, jnp.arange(STATES)), agent.best()
    return {
        "largest error": float(jnp.abs(found - best[:, None]).max()),
        "best actions": float((found.argmax(-1) == best.argmax(-1)[:, None]).mean()),
    }


if __name__ == "__main__":
    sys.exit(command.main(EXPERIMENT)) if sys.argv[1:] else print(main())
