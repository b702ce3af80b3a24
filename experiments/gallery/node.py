"""Neural ordinary differential equation: learn a vector field from its paths.

Chen et al., Neural ordinary differential equations, 2018. The paths are those
of the normal form of a Hopf bifurcation, dr/dt = r (1 - r^2) and d(angle)/dt =
1, which is solved in closed form: r(t)^2 = 1 / (1 + (1 / r(0)^2 - 1) exp(-2
t)).

    python -m experiments.gallery.node

Expected in 15 seconds on two CPU cores: a root mean squared error of 0.018 on
other paths, and also on paths of ten times the time. They have a radius of 1
in the end.
"""

import jax
import jax.numpy as jnp
import optax

import jaxnn as nn
from jaxnn import train

INTERVAL = 0.2


def data(rows: int = 1024, times: int = 10, seed: int = 0) -> jax.Array:
    """Paths (rows, times + 1, 2) from random points, a time of INTERVAL apart."""
    of_radius, of_angle = jax.random.split(jax.random.key(seed))
    start = jax.random.uniform(of_radius, (rows, 1), minval=0.2, maxval=2.0)
    t = INTERVAL * jnp.arange(times + 1)
    angle = jax.random.uniform(of_angle, (rows, 1), maxval=2 * jnp.pi) + t
    radius = 1 / jnp.sqrt(1 + (1 / start**2 - 1) * jnp.exp(-2 * t))
    return radius[..., None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)


class NeuralODE(nn.Composite):
    """The objective: the mean squared error of paths that start where the given ones do."""

    field: nn.Layer

    def forward(self, paths):
        """Loss of paths (rows, times + 1, 2)."""
        return ((self.solve(paths[:, 0], paths.shape[1] - 1) - paths) ** 2).mean()

    def solve(self, start, times):
        """Paths (rows, times + 1, 2) from start (rows, 2), by the classical Runge-Kutta method."""
        net, params, h = self.field.layer, self.field.params, INTERVAL

        def step(y, _):
            k1 = net.apply(params, y)
            k2 = net.apply(params, y + h / 2 * k1)
            k3 = net.apply(params, y + h / 2 * k2)
            k4 = net.apply(params, y + h * k3)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            return y, y

        _, path = jax.lax.scan(step, start, length=times)
        return jnp.concatenate([start[:, None], jnp.moveaxis(path, 0, 1)], 1)


def program(width: int = 64, rate: float | train.Schedule = 3e-3) -> train.Minimize:
    """A neural ODE in the plane."""
    hidden = [nn.Dense(width), jnp.tanh, nn.Dense(width), jnp.tanh]
    optimizer = train.Optimizer(optax.adam, learning_rate=rate)
    return train.Minimize(NeuralODE(nn.Sequential(*hidden, nn.Dense(2))), optimizer)


def main(steps: int = 4000) -> dict[str, float]:
    """Train, and continue other paths to ten times the time."""
    trained = program(rate=train.Cosine(5e-3, steps=steps))
    state, _ = train.fit(trained, data(), key=jax.random.key(0), steps=steps, batch_size=128)
    losses = {
        "error": train.evaluate(trained, state, data(seed=1))["loss"],
        "error to ten times the time": train.evaluate(trained, state, data(times=100, seed=1))[
            "loss"
        ],
    }
    return {name: float(jnp.sqrt(loss)) for name, loss in losses.items()}


if __name__ == "__main__":
    print(main())
