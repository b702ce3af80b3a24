"""What a training step is given: several inputs, batches, and arrays that share memory."""

import jax
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import parallel, train

X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
Y = X.sum(1)
KEY = jax.random.key(0)


def gap(outputs, targets):
    return ((outputs["online"][:, 0] - targets) ** 2 + 0 * outputs["teacher"][:, 0]).mean()


@pytest.mark.parametrize("on_mesh", [False, True])
def test_a_teacher_may_start_as_the_arrays_of_its_student(on_mesh):
    """XLA refuses to donate one buffer twice; the numbers are those of a copy of the parameters."""
    net = nn.Parallel(online=nn.Dense(1), teacher=nn.Dense(1))
    optimizer = train.partition({"online/**": optax.sgd(0.1), "**": None})
    program = train.Supervised(net, gap, optimizer)
    ts, step, batch = program.init(KEY, (X, Y)), train.make_step(program), (X, Y)
    if on_mesh:
        placement = parallel.Placement(parallel.mesh(data=1), parallel.FSDP)
        ts = parallel.init(program, KEY, (X, Y), placement)
        step = train.make_step(program, placement=placement)
        batch = parallel.shard_batch((X, Y), placement.mesh)
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
    program = train.Supervised(nn.Dense(1), train.Regression(), optimizer)
    ts, step = program.init(KEY, (X, Y)), train.make_step(program)
    assert "tensor<8x3xf32>" in step.lower(ts, (X, Y)).as_text()


@pytest.mark.parametrize("inputs", [(X, X), {"x": X, "z": X}], ids=["tuple", "dict"])
def test_inputs_may_be_several(inputs):
    program = train.Supervised(nn.Bilinear(1), train.Regression(), optax.sgd(0.1))
    state = program.init(KEY, (inputs, Y))
    outputs = nn.Bilinear(1).apply(state.params, X, X)[:, 0]
    _, metrics = train.make_step(program)(state, (inputs, Y))
    np.testing.assert_allclose(float(metrics["loss"]), np.mean((outputs - Y) ** 2), rtol=1e-5)


@pytest.mark.parametrize(
    "batch",
    [{"x": X, "y": Y}, X, (X, Y, Y, Y), None, (X,)],
    ids=["dict", "array", "four", "none", "one"],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_that_is_not_a_pair_is_rejected(batch, accumulate):
    program = train.Supervised(
        nn.Dense(1), train.Regression(), optax.sgd(0.1), accumulate=accumulate
    )
    state = program.init(KEY, (X, Y))
    with pytest.raises(
        TypeError, match=r"a batch of train.Supervised must be \(inputs, targets\) or \("
    ):
        train.make_step(program)(state, batch)


@pytest.mark.parametrize(
    "given", [X, {"a": (X, Y)}, (X,)], ids=["inputs alone", "several sets", "one"]
)
def test_evaluation_and_validation_want_inputs_and_targets(given):
    program = train.Supervised(nn.Dense(1), train.Regression(), optax.sgd(0.1))
    text = r"train.Supervised must be \(inputs, targets\) or \(inputs, targets, weights\), got"
    with pytest.raises(TypeError, match=text):
        train.evaluate(program, program.init(KEY, (X, Y)), given)
    with pytest.raises(TypeError, match=text):
        train.fit(program, (X, Y), validation=given, batch_size=4, epochs=1, key=KEY)


def test_pieces_and_inputs_need_rows():
    program = train.Supervised(nn.Dense(1), train.Regression(), optax.sgd(0.1))
    state = program.init(KEY, (X, Y))
    for given in (X[:0], np.float32(3)):
        with pytest.raises((TypeError, ValueError), match="inputs"):
            train.predict(program, state, given)
    with pytest.raises(ValueError, match="batch_size must be an int >= 1, got 0"):
        train.evaluate(program, state, (X, Y), batch_size=0)
