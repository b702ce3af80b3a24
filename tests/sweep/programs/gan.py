"""A WGAN with a gradient penalty on points of a ring: two optimizers, several critic steps.

python -m tests.sweep.programs.gan sweep
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn
from jaxnn import train
from jaxnn.command import main
from jaxnn.experiment import Experiment
from jaxnn.sweep import Choice, LogUniform


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and for how long."""

    generator_rate: float = 1e-3
    critic_rate: float = 1e-3
    penalty: float = 10.0
    critic_steps: int = 2
    width: int = 4
    batch_size: int = 16
    epochs: int = 3
    seed: int = 0


class WGAN(train.Program):
    """A generator and a critic."""

    generator: nn.Layer
    critic: nn.Layer
    optimizers: dict
    penalty: float = 10.0
    critic_steps: int = 2

    def init(self, key, batch):
        """The state before the first step; it reads the first batch."""
        g = self.generator.init(nn.fold_in(key, "generator"), jnp.zeros((1, 2)))
        c = self.critic.init(nn.fold_in(key, "critic"), batch)
        optimizers = {"g": self.optimizers["g"].init(g), "c": self.optimizers["c"].init(c)}
        state = {"g": g, "c": c, "optimizers": optimizers, "key": key, "step": jnp.int32(0)}
        return state | {"scale": batch.std()}

    def step(self, state, batch):
        """Steps of the critic, then one of the generator."""
        s, real = state, batch / state["scale"]
        keys = jax.random.split(jax.random.fold_in(s["key"], s["step"]), self.critic_steps + 1)

        def critic(carry, key):
            params, opt_state = carry

            def loss(params):
                fake = self.fake(s["g"], key, len(real))
                share = jax.random.uniform(key, (len(real), 1))
                point = share * real + (1 - share) * fake
                slope = jax.vmap(jax.grad(lambda x: self.critic.apply(params, x)[0]))(point)
                apart = self.critic.apply(params, fake) - self.critic.apply(params, real)
                steep = ((jnp.linalg.norm(slope, axis=-1) - 1) ** 2).mean()
                return apart.mean() + self.penalty * steep

            value, grads = jax.value_and_grad(loss)(params)
            updates, opt_state = self.optimizers["c"].update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        (c, c_state), value = jax.lax.scan(critic, (s["c"], s["optimizers"]["c"]), keys[1:])

        def loss(g):
            return -self.critic.apply(c, self.fake(g, keys[0], len(real))).mean()

        grads = jax.grad(loss)(s["g"])
        updates, g_state = self.optimizers["g"].update(grads, s["optimizers"]["g"], s["g"])
        return s | {
            "g": optax.apply_updates(s["g"], updates),
            "c": c,
            "optimizers": {"g": g_state, "c": c_state},
            "step": s["step"] + 1,
        }, {"critic": value.mean()}

    def evaluate(self, state, batch, *, key):
        """How far the fakes are from the ring: their mean distance, and the median one."""
        fake = state["scale"] * self.fake(state["g"], key, len(batch))
        far = jnp.abs(jnp.linalg.norm(fake, axis=-1) - 1)
        median = train.Collected(np.median, (far,), maximize=False)
        return {"distance": train.Mean(far.mean()), "median": median}

    def fake(self, g, key, rows):
        """Points of the generator."""
        return self.generator.apply(g, jax.random.normal(key, (rows, 2)))


def ring(config):
    """Points of a ring: to train on, and to evaluate on."""
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 64)
    points = np.stack([np.cos(angle), np.sin(angle)], -1).astype(np.float32)
    return points[:48], points[48:]


def build(config, data):
    """The program of this configuration."""
    return WGAN(
        nn.Sequential(nn.Dense(config.width), jax.nn.relu, nn.Dense(2)),
        nn.Sequential(nn.Dense(config.width), jax.nn.leaky_relu, nn.Dense(1)),
        {
            "g": train.Optimizer(optax.adam, learning_rate=config.generator_rate, b1=0.5),
            "c": train.Optimizer(optax.adam, learning_rate=config.critic_rate, b1=0.5),
        },
        config.penalty,
        config.critic_steps,
    )


SPACE = {
    "generator_rate": LogUniform(1e-3, 1e-2),
    "critic_rate": LogUniform(1e-3, 1e-2),
    "penalty": LogUniform(1.0, 30.0),
    "critic_steps": Choice(1, 2),
}
EXPERIMENT = Experiment("gan", Config, data=ring, program=build, space=SPACE)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
