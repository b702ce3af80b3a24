"""Groups by path: each parameter by its own optimizer; what is frozen costs nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train

NET = nn.Sequential(a=nn.Dense(5), norm=nn.LayerNorm(), act=jnp.tanh, b=nn.Dense(1))
TASK = train.Regression()
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
Y = X[:, 0]
KEY = jax.random.key(1)


def trained(optimizer, steps=3):
    program = train.Supervised(NET, TASK, optimizer)
    ts, step = program.init(KEY, (X, Y)), train.make_step(program)
    for _ in range(steps):
        ts, _ = step(ts, (X, Y))
    return ts


def test_each_group_is_updated_as_by_its_own_optimizer():
    """One step: the gradients are those of the whole, the updates those of each optimizer."""
    parts = {"a/w": optax.adamw(0.1, weight_decay=0.5), "**/norm*/**": optax.sgd(0.3), "b/b": None}
    rest = train.Optimizer(optax.rmsprop, learning_rate=0.2)
    ts = trained(train.partition({**parts, "**": rest}), 1)
    for path, optimizer in {
        "a/w": parts["a/w"],
        "norm/scale": parts["**/norm*/**"],
        "norm/b": parts["**/norm*/**"],
        "b/w": rest,
        "a/b": rest,
        "b/b": optax.set_to_zero(),
    }.items():
        layer, name = path.split("/")
        alone = trained(optimizer, 1).params[layer][name]
        np.testing.assert_allclose(ts.params[layer][name], alone, rtol=1e-6, err_msg=path)


def test_what_is_frozen_has_no_update_no_decay_and_no_memory():
    optimizer = train.partition({"a/**": None, "**": optax.adamw(0.1, weight_decay=0.5)})
    ts, params = trained(optimizer), NET.init(KEY, X)
    for name in ("w", "b"):
        np.testing.assert_array_equal(ts.params["a"][name], params["a"][name])
    assert not np.array_equal(ts.params["b"]["w"], params["b"]["w"])
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(ts.opt_state)]
    assert shapes.count((4, 5)) == 0  # a/w
    assert shapes.count((5, 1)) == 2  # b/w, two moments


def products(optimizer):
    """The number of matrix products in the step."""
    program = train.Supervised(NET, TASK, optimizer)
    ts = program.init(KEY, (X, Y))
    return str(jax.make_jaxpr(program.step)(ts, (X, Y))).count("dot_general")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda o: o,
        train.with_ema,
        train.dynamic_loss_scale,
        lambda o: train.Optimizer(optax.chain, o),
    ],
)
def test_what_is_frozen_needs_no_gradient(wrap):
    """Two products forward; backward one for each weight, and one for what a layer is given."""
    sgd = optax.sgd(0.1)
    assert products(wrap(sgd)) == 2 + 3
    assert products(wrap(train.partition({"a/**": None, "**": sgd}))) == 2 + 2
    assert products(wrap(train.partition({"a/**": None, "norm/**": None, "**": sgd}))) == 2 + 1


def test_groups_within_groups():
    inner = train.partition({"**/b": None, "**": optax.sgd(0.1)})
    ts = trained(train.partition({"a/**": inner, "**": optax.sgd(0.2)}), 1)
    params = NET.init(KEY, X)
    np.testing.assert_array_equal(ts.params["a"]["b"], params["a"]["b"])
    assert not np.array_equal(ts.params["b"]["b"], params["b"]["b"])
    grad_w = (params["a"]["w"] - trained(optax.sgd(1.0), 1).params["a"]["w"]) / 1.0
    np.testing.assert_allclose(ts.params["a"]["w"], params["a"]["w"] - 0.1 * grad_w, atol=1e-6)


def test_a_member_is_told_the_loss():
    plateau = optax.chain(optax.sgd(0.0), optax.contrib.reduce_on_plateau(factor=0.5, patience=1))
    ts = trained(train.partition({"a/**": plateau, "**": optax.sgd(0.0)}), 4)
    assert float(ts.opt_state.inner_states["0"].inner_state[1].scale) < 1


SGD = optax.sgd(0.1)


@pytest.mark.parametrize(
    ("rules", "error", "text"),
    [
        ({"**/kernel": SGD, "**": SGD}, ValueError, r"'\*\*/kernel' matches no trained parameter"),
        (
            {"**/w": SGD, "b/*": SGD},
            ValueError,
            r"(?s)a/b matches no pattern.*The trained parameters are a/w, a/b, norm/.*; the first "
            r'pattern that matches is used, and "\*\*" matches all',
        ),
        (
            {"**": SGD, "**/b": None},
            ValueError,
            r"'\*\*/b' comes after patterns that match all its parameters: a/b, ",
        ),
        ({}, TypeError, r"must be a dict of optimizers by path pattern, .*, got \{\}; write"),
        ({"**": 0.1}, TypeError, r"must be a dict of optimizers .* got \{'\*\*': 0.1\}"),
        ({3: SGD}, TypeError, r"must be a dict of optimizers by path pattern, .* got \{3: "),
    ],
)
def test_the_error_says_what_is_wrong(rules, error, text):
    with pytest.raises(error, match=text):
        train.partition(rules).init(NET.init(KEY, X))
