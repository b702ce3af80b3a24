"""Norms of gradients and updates by path, against sums by hand; nothing where none are asked."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train

NET = nn.Sequential(nn.Dense(3), jnp.tanh, nn.Repeat(nn.Dense(3), 2), nn.Dense(1))
TASK, OPTIMIZER = train.Regression(), optax.sgd(0.5)
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
Y = X[:, 0]
KEY = jax.random.key(1)


def program_with(norms: Any):
    return train.Supervised(NET, TASK, OPTIMIZER, log_norms=norms)


def metrics_with(norms: Any):
    program = program_with(norms)
    return train.make_step(program)(program.init(KEY, (X, Y)), (X, Y))[1]


def test_norms_are_the_roots_of_the_sums_of_squares():
    params = NET.init(KEY, X)
    grads = jax.grad(lambda p: jnp.mean((NET.apply(p, X)[:, 0] - Y) ** 2))(params)

    def norm(tree):
        return np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))

    found = metrics_with("*/w")
    expected = {"gradient_norm": norm(grads)}
    expected |= {f"gradient_norm/{i}/w": norm(grads[i]["w"]) for i in (0, 2, 3)}
    expected |= {name.replace("gradient", "update"): 0.5 * n for name, n in expected.items()}
    assert found.keys() == expected.keys() | {"loss", "mae"}
    for name, number in expected.items():
        np.testing.assert_allclose(found[name], number, rtol=1e-5)


def test_a_step_without_norms_computes_none():
    ts = program_with(None).init(KEY, (X, Y))

    def roots(norms):
        return str(jax.make_jaxpr(program_with(norms).step)(ts, (X, Y))).count("sqrt")

    assert (roots(None), roots("**/w")) == (0, 2 + 2 * 3)


def test_a_pattern_that_fits_nothing_is_refused_with_the_paths():
    text = (
        r"log_norms must be a pattern that matches one of 0/b, 0/w, 2/b, 2/w, 3/b, 3/w, got "
        r"'\*\*/scale'"
    )
    with pytest.raises(ValueError, match=text):
        metrics_with("**/scale")
    with pytest.raises(
        TypeError, match=r"Minimize.log_norms must be None or a path pattern .*'\*\*/w', got True"
    ):
        metrics_with(True)
