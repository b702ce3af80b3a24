"""statistics: against numpy in float64, for trees and for what layers give."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn.inspect import statistics
from tests.cases import KEY

RNG = np.random.default_rng(0)
NET = nn.Sequential(
    z=nn.Repeat(nn.Residual(nn.Sequential(nn.Dense(3), jax.nn.relu)), 2),
    a=nn.Sequential(nn.Dense(4)),
)
X = jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32)


def expected(*arrays):
    """The same in float64, by numpy."""
    x = np.concatenate([np.ravel(np.asarray(a, np.float64)) for a in arrays])
    good = x[np.isfinite(x)]
    norm = np.linalg.norm(good)
    zeros = np.mean(x == 0)
    numbers = good.mean(), good.std(), good.min(), good.max(), norm, zeros, x.size - good.size
    return np.array(numbers)


# Sums of some tens of float32 numbers, each rounded to 6e-8.
RTOL = 1e-6


def test_a_tree():
    tree = {
        "b": (jnp.asarray(RNG.normal(1000, 0.1, (8, 4)), jnp.float32),),
        "a": [jnp.array([0.0, -jnp.inf, 3.0, jnp.nan, 0.0]), jnp.array(2.5, jnp.bfloat16)],
        "steps": jnp.arange(3),
        "key": jax.random.key(0),
    }
    found = statistics(tree)
    assert list(found.rows) == ["a/0", "a/1", "b/0"]
    for path, array in {"a/0": tree["a"][0], "a/1": tree["a"][1], "b/0": tree["b"][0]}.items():
        # The deviation of numbers near 1000: each is rounded to 3e-5, of deviations of 0.1.
        np.testing.assert_allclose(found.rows[path], expected(array), rtol=1e-4, err_msg=path)
    np.testing.assert_allclose(found.total, expected(*tree["a"], *tree["b"]), rtol=RTOL)


def test_large_and_small_numbers_do_not_overflow():
    """Their squares do, in float32."""
    for scale in (1e30, 1e-30):
        x = scale * jnp.array([3.0, -4.0])
        np.testing.assert_allclose(statistics([x]).rows["0"], expected(x), rtol=RTOL)


def test_nothing_finite_and_nothing_at_all():
    row = statistics([jnp.array([jnp.nan, jnp.inf])]).rows["0"]
    assert np.isnan(row[:4]).all() and row[4:] == (0.0, 0.0, 2)
    row = statistics([jnp.zeros((0, 3))]).rows["0"]
    assert np.isnan(row.mean) and row.nonfinite == 0


def test_any_pytree_by_path():
    params = NET.init(KEY, X)
    found = statistics(optax.adam(0.1).init(params))
    assert "0/mu/a/0/w" in found.rows and found.rows["0/nu/z/0/b"].zeros == 1


def test_what_layers_give():
    params = NET.init(KEY, X)
    found = statistics(NET, params, X)
    assert list(found.rows) == ["z", "z/0", "z/1", "a", "a/0", "output"]
    y, values = nn.capture(NET).apply(params, X)
    for path, value in {**values, "output": y}.items():
        assert found.arrays[path].shape == value.shape
        np.testing.assert_allclose(
            found.rows[path], expected(value), rtol=RTOL, atol=1e-6, err_msg=path
        )


def test_state_key_and_text():
    net = nn.Sequential(nn.BatchNorm(), nn.Dropout(0.5))
    params, state = net.init(KEY, X), net.init_state(X)
    found = statistics(net, params, X, state=state, key=KEY, train=True)
    assert abs(found.rows["0"].mean) < 1e-6 and found.rows["1"].zeros > 0
    lines = str(found).splitlines()
    assert lines[0].split() == [
        *("Path", "Shape", "Type", "Mean", "Std", "Min", "Max", "Norm", "Zeros", "Non-finite")
    ]
    assert "<th" in found._repr_html_() and "45, of which 0 not finite" in lines[-1]


def test_refused():
    params = NET.init(KEY, X)
    with pytest.raises(TypeError, match=r"write inspect.statistics\(net, params, x\)"):
        statistics(params, NET, X)
    with pytest.raises(TypeError, match=r"not known while jax.jit"):
        jax.jit(statistics)(cast(Any, X))
    with pytest.raises(ValueError, match="tree has no floating array; write"):
        statistics({"a": jnp.arange(3)})
