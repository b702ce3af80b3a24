"""Score matching: learn the score of a density that is never normalized.

Hyvarinen, Estimation of non-normalized statistical models by score matching,
2005. The objective needs second derivatives of the network and no noise. The
data are a mixture of four Gaussians, whose score is known in closed form.

    python -m experiments.gallery.score_based

Expected in 20 seconds on two CPU cores, on other points: a mean squared error
of the score of 0.014 (its mean square is 5.8).
"""

import jax
import jax.numpy as jnp
import optax

import jaxnn as nn
from jaxnn import train

CENTERS, STD = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]), 0.5


def data(rows: int = 100_000, seed: int = 0) -> jax.Array:
    """Points (rows, 2) of the mixture."""
    choose, draw = jax.random.split(jax.random.key(seed))
    centers = CENTERS[jax.random.randint(choose, (rows,), 0, 4)]
    return centers + STD * jax.random.normal(draw, (rows, 2))


def true_score(x: jax.Array) -> jax.Array:
    """grad log p of points x (rows, 2)."""

    def log_density(x):
        return jax.nn.logsumexp(-((x - CENTERS) ** 2).sum(-1) / (2 * STD**2))

    return jax.vmap(jax.grad(log_density))(x)


class ScoreMatching(nn.Composite):
    """The objective: E[|s|^2 / 2 + div s] of the score s = -grad energy."""

    energy: nn.Layer

    def forward(self, x):
        """Loss and metrics of points x (rows, 2)."""
        net, params = self.energy.layer, self.energy.params

        def score(x):
            return -jax.grad(lambda x: net.apply(params, x)[0])(x)

        scores = jax.vmap(score)(x)
        divergence = jax.vmap(lambda x: jnp.trace(jax.jacfwd(score)(x)))(x)
        error = ((scores - true_score(x)) ** 2).sum(-1)
        return ((scores**2).sum(-1) / 2 + divergence).mean(), {"fisher": error.mean()}

    def predict(self, x):
        """The energy of points x (rows, 2)."""
        return self.energy(x)[:, 0]


def program(width: int = 64, rate: float | train.Schedule = 2e-3) -> train.Minimize:
    """Score matching of two-dimensional points."""
    hidden = [nn.Dense(width), jax.nn.softplus, nn.Dense(width), jax.nn.softplus]
    energy = nn.Sequential(*hidden, nn.Dense(1))
    return train.Minimize(ScoreMatching(energy), train.Optimizer(optax.adam, learning_rate=rate))


def main(steps: int = 5000) -> dict[str, float]:
    """Train, and compare with the true score on other points."""
    trained = program(rate=train.Cosine(3e-3, steps=steps))
    state, _ = train.fit(trained, data(), key=jax.random.key(0), steps=steps, batch_size=512)
    points = data(20000, seed=1)
    best = -(true_score(points) ** 2).sum(-1).mean() / 2
    return train.evaluate(trained, state, points) | {"best loss": float(best)}


if __name__ == "__main__":
    print(main())
