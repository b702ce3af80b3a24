"""Wasserstein GAN with gradient penalty: five critic steps per generator step.

Gulrajani et al., Improved training of Wasserstein GANs, 2017. The data are
eight Gaussians on the unit circle, which the program draws itself.

    python -m experiments.gallery.wgan_gp
    python -m experiments.gallery.wgan_gp sweep --trials 16

Expected in 30 seconds on two CPU cores, compared with the ring itself: a mean
radius of 1.00 (1.005), and 95 % of the fakes within three standard deviations
of a mode (98.9 %). Each mode has fakes, but their shares differ. The sweep
trains its trials as lanes of one program, and compares them by the energy
distance, 0 for equal distributions.
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
from jaxnn.sweep import LogUniform

NOISE, LATENT = 0.1, 4


def real(key: jax.Array, rows: int) -> jax.Array:
    """Points (rows, 2) of the ring."""
    choose, draw = jax.random.split(key)
    angle = jax.random.randint(choose, (rows,), 0, 8) * jnp.pi / 4
    centers = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    return centers + NOISE * jax.random.normal(draw, (rows, 2))


def apart(x: jax.Array, y: jax.Array) -> jax.Array:
    """The mean distance of the points of two samples; of a sample and itself, of other points."""
    squares = ((x[:, None] - y) ** 2).sum(-1)
    return jnp.sqrt(squares).sum() / (squares > 0).sum()


class WGAN(train.Program):
    """Two networks, each with its optimizer."""

    generator: nn.Layer
    critic: nn.Layer
    optimizers: dict[str, Any]
    penalty: float = 0.1
    critic_steps: int = 5
    rows: int = 128

    def init(self, key, batch):
        """Parameters and optimizer states of both."""
        generator = self.generator.init(nn.fold_in(key, "generator"), jnp.zeros((1, LATENT)))
        critic = self.critic.init(nn.fold_in(key, "critic"), jnp.zeros((1, 2)))
        params = {"generator": generator, "critic": critic}
        moments = {name: self.optimizers[name].init(params[name]) for name in params}
        return {"params": params, "opt_state": moments, "step": jnp.int32(0), "key": key}

    def step(self, state, batch):
        """`critic_steps` steps of the critic, then one of the generator."""
        key = jax.random.fold_in(state["key"], state["step"])
        state = state | {"step": state["step"] + 1}
        keys = jax.random.split(key, self.critic_steps + 1)

        def one(state, key):
            return self.descend("critic", self.critic_loss, state, key)

        state, losses = jax.lax.scan(one, state, keys[1:])
        state, _ = self.descend("generator", self.generator_loss, state, keys[0])
        return state, {"distance": -losses[-1]}

    def descend(self, name, loss, state, key):
        """One step of the optimizer of one network."""
        value, grads = jax.value_and_grad(loss)(state["params"][name], state["params"], key)
        updates, moments = self.optimizers[name].update(
            grads, state["opt_state"][name], state["params"][name]
        )
        params = optax.apply_updates(state["params"][name], updates)
        return state | {
            "params": state["params"] | {name: params},
            "opt_state": state["opt_state"] | {name: moments},
        }, value

    def critic_loss(self, params, both, key):
        """The negative distance, and the penalty of slopes other than 1 between real and fake."""
        of_real, of_fake, of_share = jax.random.split(key, 3)
        x, fake = real(of_real, self.rows), self.fakes(both["generator"], of_fake, self.rows)
        share = jax.random.uniform(of_share, (self.rows, 1))

        def critic(x):
            return self.critic.apply(params, x)[..., 0]

        slopes = jnp.linalg.norm(
            jax.vmap(jax.grad(critic))(share * x + (1 - share) * fake), axis=-1
        )
        return (critic(fake) - critic(x)).mean() + self.penalty * ((slopes - 1) ** 2).mean()

    def generator_loss(self, params, both, key):
        """The negative mean score that the critic gives to samples of the generator."""
        return -self.critic.apply(both["critic"], self.fakes(params, key, self.rows)).mean()

    def fakes(self, params, key, rows):
        """Points that the generator draws."""
        return self.generator.apply(params, jax.random.normal(key, (rows, LATENT)))

    def evaluate(self, state, batch, *, key):
        """The energy distance of 1,000 fakes and real points (Szekely and Rizzo, 2013)."""
        of_real, of_fake = jax.random.split(key)
        x, y = real(of_real, 1000), self.fakes(state["params"]["generator"], of_fake, 1000)
        return {"energy": train.Mean(2 * apart(x, y) - apart(x, x) - apart(y, y), maximize=False)}

    def predict(self, state, noise):
        """Points of noise (rows, LATENT)."""
        return self.generator.apply(state["params"]["generator"], noise)


def program(width: int = 128, rate: float | train.Schedule = 1e-3, **options: Any) -> WGAN:
    """A WGAN of two-dimensional points."""
    hidden = [nn.Dense(width), jax.nn.leaky_relu, nn.Dense(width), jax.nn.leaky_relu]
    generator, critic = nn.Sequential(*hidden, nn.Dense(2)), nn.Sequential(*hidden, nn.Dense(1))
    return WGAN(generator, critic, {"generator": adam(rate), "critic": adam(rate)}, **options)


def adam(rate: float | train.Schedule) -> train.Optimizer:
    """The optimizer of each network."""
    return train.Optimizer(optax.adam, learning_rate=rate, b1=0.5, b2=0.9)


@dataclasses.dataclass(frozen=True)
class Config:
    """The configuration of a trial of a sweep."""

    generator_rate: float = 1e-3
    critic_rate: float = 1e-3
    penalty: float = 0.1
    width: int = 32
    steps: int = 1000
    seed: int = 0


def build(config: Config, data: None) -> WGAN:
    """The program of a configuration."""
    optimizers = {"generator": adam(config.generator_rate), "critic": adam(config.critic_rate)}
    gan = program(config.width, penalty=config.penalty)
    return dataclasses.replace(gan, optimizers=optimizers)


RATE = LogUniform(1e-4, 1e-2)
SPACE = {"generator_rate": RATE, "critic_rate": RATE, "penalty": LogUniform(0.01, 10.0)}
EXPERIMENT = Experiment("wgan_gp", Config, program=build, space=SPACE)


def main(steps: int = 10000) -> dict[str, float]:
    """Train, and compare 4,000 fakes with the ring."""
    gan = program(rate=train.Linear(1e-3, 0.0, steps=steps))
    state, _ = train.fit(gan, key=jax.random.key(0), steps=steps, every=1000)
    fakes = train.predict(gan, state, jax.random.normal(jax.random.key(1), (4000, LATENT)))
    centers = jnp.stack(
        [jnp.cos(jnp.arange(8) * jnp.pi / 4), jnp.sin(jnp.arange(8) * jnp.pi / 4)], -1
    )
    distance = jnp.linalg.norm(fakes[:, None] - centers, axis=-1)
    shares = jnp.bincount(distance.argmin(-1), length=8) / len(fakes)
    return {
        "radius": float(jnp.linalg.norm(fakes, axis=-1).mean()),
        "smallest share of a mode": float(shares.min()),
        "within 3 standard deviations": float((distance.min(-1) < 3 * NOISE).mean()),
    }


if __name__ == "__main__":
    sys.exit(command.main(EXPERIMENT)) if sys.argv[1:] else print(main())
