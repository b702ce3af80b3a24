"""Physics-informed network: Poisson's equation, by Adam and then by L-BFGS.

Raissi, Perdikaris, and Karniadakis, Physics-informed neural networks, 2019.
u'' = -pi^2 sin(pi x) with u(0) = u(1) = 0 has the solution sin(pi x).

    python -m experiments.gallery.pinn

Expected in 10 seconds on two CPU cores: a largest error of 2e-4 after Adam,
and of 1e-5 after L-BFGS.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxnn as nn
from jaxnn import train


def data(rows: int = 64) -> jax.Array:
    """Points (rows,) at which the equation is to hold."""
    return jnp.linspace(0, 1, rows)


class Poisson(nn.Composite):
    """The objective: the squared residual of the equation, and of its boundary conditions."""

    u: nn.Layer

    def forward(self, x):
        """Loss of points x (rows,)."""
        net, params = self.u.layer, self.u.params

        def u(x):
            return net.apply(params, x[None])[0]

        residual = jax.vmap(jax.grad(jax.grad(u)))(x) + jnp.pi**2 * jnp.sin(jnp.pi * x)
        ends = jax.vmap(u)(jnp.array([0.0, 1.0]))
        return (residual**2).mean() + 10 * (ends**2).mean()

    def predict(self, x):
        """u at points x (rows,)."""
        return self.u(x[:, None])[:, 0]


def adam(rate: float = 3e-3) -> train.Optimizer:
    """The optimizer of the first stage."""
    return train.Optimizer(optax.adam, learning_rate=rate)


def program(optimizer: Any, width: int = 32, initial: Any = None) -> train.Minimize:
    """The equation, with a network of two hidden layers."""
    net = nn.Sequential(nn.Dense(width), jnp.tanh, nn.Dense(width), jnp.tanh, nn.Dense(1))
    return train.Minimize(Poisson(net), optimizer, initial=initial)


def main() -> dict[str, float]:
    """Train twice, and compare with the solution."""
    x, options = data(), {"key": jax.random.key(0), "batch_size": 64}
    first = program(adam())
    rough, _ = train.fit(first, x, steps=1000, every=250, **options)
    second = dataclasses.replace(first, optimizer=optax.lbfgs(), initial=rough.params)
    fine, _ = train.fit(second, x, steps=500, every=100, **options)

    def error(program, state):
        return float(jnp.abs(train.predict(program, state, x) - jnp.sin(jnp.pi * x)).max())

    return {"error after Adam": error(first, rough), "error after L-BFGS": error(second, fine)}


if __name__ == "__main__":
    print(main())
