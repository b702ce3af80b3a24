"""What a training step is given: several inputs in one, and arrays that share memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import data, parallel, train

X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
Y = X.sum(1)
KEY = jax.random.key(0)


def student_and_teacher():
    net = nn.Parallel(online=nn.Dense(1), teacher=nn.Dense(1))
    return net, train.partition({"online/**": optax.sgd(0.1), "**": None})


def gap(outputs, targets):
    return ((outputs["online"][:, 0] - targets) ** 2 + 0 * outputs["teacher"][:, 0]).mean()


@pytest.mark.parametrize("on_mesh", [False, True])
def test_a_teacher_may_start_as_the_arrays_of_its_student(on_mesh):
    """XLA refuses to donate one buffer twice; the numbers are those of a copy of the parameters."""
    net, optimizer = student_and_teacher()
    if on_mesh:
        mesh, rules = parallel.mesh(data=1), parallel.FSDP
        ts = parallel.create(net, optimizer, KEY, X, mesh, rules)
        step = parallel.make_step(net, gap, optimizer, mesh, rules)
        batch = parallel.shard_batch((X, Y), mesh)
    else:
        ts = train.TrainState.create(net, optimizer, KEY, X)
        step, batch = train.make_step(net, gap, optimizer), (X, Y)
    online = jax.tree.map(np.array, ts.params["online"])
    ts = ts._replace(params={"online": ts.params["online"], "teacher": ts.params["online"]})
    ts, _ = step(ts, batch)
    error = X @ online["w"][:, 0] + online["b"] - Y
    expected = online["w"][:, 0] - 0.1 * 2 * (error[:, None] * X).mean(0)  # one step of descent
    np.testing.assert_allclose(ts.params["online"]["w"][:, 0], expected, rtol=1e-5)
    np.testing.assert_array_equal(ts.params["teacher"]["w"], online["w"])
    step(ts, batch)


def test_a_step_lowers_as_a_jitted_function_does():
    optimizer = train.Optimizer(optax.sgd, learning_rate=0.1)
    ts = train.TrainState.create(nn.Dense(1), optimizer, KEY, X)
    step: Any = train.make_step(nn.Dense(1), train.Regression(), optimizer)
    assert "tensor<8x3xf32>" in step.lower(ts, (X, Y)).as_text()


@pytest.mark.parametrize(
    ("net", "inputs", "call"),
    [
        (nn.Bilinear(3), (X, X), r"self\.net\(\*x\)"),
        (nn.Bilinear(3), {"x": X, "z": X}, r"self\.net\(\*\*x\)"),
    ],
)
def test_several_inputs_show_how_to_pass_them(net, inputs, call):
    ts = train.TrainState.create(net, optax.sgd(0.1), KEY, X, X)
    step = train.make_step(net, lambda outputs, _: outputs.mean(), optax.sgd(0.1))
    text = rf"the network's one input is x, here a \w+ of 2; .* returns {call}"
    with pytest.raises((TypeError, ValueError), match=text):
        step(ts, (inputs, Y))

    class Apart(nn.Composite):  # what the message says to write
        net: nn.Layer

        def forward(self, x):
            return self.net(**x) if isinstance(x, dict) else self.net(*x)

    whole = Apart(net)
    ts = train.TrainState.create(whole, optax.sgd(0.1), KEY, inputs)
    loss = train.make_step(whole, lambda outputs, _: outputs.mean(), optax.sgd(0.1))
    assert jnp.isfinite(loss(ts, (inputs, Y))[1]["loss"])


NOT_PAIRS = {
    "a source": (data.HostArrays(X, Y), "a data.Source is for training only: write the arrays"),
    "inputs alone": (X, r"write \(x, x\)"),
    "no targets": ((X, None), r"y is None; .* write \(x, x\)"),
    "several sets": ({"a": (X, Y)}, "call train.evaluate on each"),
    "a dict": (({"a": X}, Y), "x is a dict of arrays, wanted one array: join them"),
    "a tuple": (((X, X), Y), "x is a tuple of arrays, wanted one array: join them"),
}


@pytest.mark.parametrize("name", NOT_PAIRS)
def test_evaluation_and_validation_want_a_pair_of_arrays(name):
    given, text = NOT_PAIRS[name]
    net, task, optimizer = nn.Dense(1), train.Regression(), optax.sgd(0.1)
    ts = train.TrainState.create(net, optimizer, KEY, X)
    with pytest.raises(TypeError, match=rf"^data: .*{text}"):
        train.evaluate(net, task, ts, given)
    with pytest.raises(TypeError, match=rf"^validation data: .*{text}"):
        train.fit(net, task, optimizer, (X, Y), validation=given, batch_size=4, epochs=1, key=KEY)


@pytest.mark.parametrize(
    "batch", [{"x": X, "y": Y}, X, (X, Y, Y), None], ids=["dict", "array", "three", "none"]
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_that_is_not_a_pair_is_rejected(batch, accumulate):
    net, task, optimizer = nn.Dense(1), train.Regression(), optax.sgd(0.1)
    ts = train.TrainState.create(net, optimizer, KEY, X)
    step = train.make_step(net, task, optimizer, accumulate=accumulate)
    with pytest.raises(TypeError, match=r"a batch is a pair \(x, y\) of inputs and targets, got"):
        step(ts, batch)
