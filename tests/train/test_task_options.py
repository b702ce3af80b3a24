"""Smoothing, class weights, positive weights, several labels, outputs, and tasks.

The numbers are those of torch 2.13 in float64: `cross_entropy` and
`binary_cross_entropy_with_logits` of these logits and targets.
"""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train
from jaxnn.train.metrics import direction_of

LOGITS = np.array(
    [[0.5, -1.0, 2.0], [1.5, 0.25, -0.5], [-2.0, 0.75, 1.0], [0.0, 1.0, -1.5]], np.float32
)
LABELS = np.array([2, 0, -100, 1])
SOFT = np.array([[0.7, 0.2, 0.1], [0, 1, 0], [0.25, 0.25, 0.5], [0.1, 0.1, 0.8]], np.float32)
SEVERAL = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 0]])
WEIGHTS = (1.0, 0.5, 2.0)


@pytest.mark.parametrize(
    ("smoothing", "weights", "labels", "probabilities"),
    [
        (0.0, None, 0.3216007307708805, 1.8452115488496048),
        (0.0, WEIGHTS, 0.29152684944098783, 2.188400884635924),
        (0.1, None, 0.4466007307708805, 1.8207323821829382),
        (0.1, WEIGHTS, 0.42429614233588187, 2.154887560204786),
    ],
)
def test_cross_entropy_as_torch(smoothing, weights, labels, probabilities):
    task = train.Classification(3, label_smoothing=smoothing, class_weights=weights)
    np.testing.assert_allclose(task(LOGITS, LABELS), labels, rtol=1e-6)
    np.testing.assert_allclose(task(LOGITS, SOFT), probabilities, rtol=1e-6)
    plain = train.Classification(3).metrics(LOGITS, LABELS)
    assert task.metrics(LOGITS, LABELS) == plain  # metrics use neither


@pytest.mark.parametrize(
    ("weight", "loss"),
    [(None, 1.0167149346266686), (3.0, 1.7730303355261567), ((1.0, 2.0, 0.5), 1.056362595785309)],
)
@pytest.mark.parametrize("kind", [int, bool, np.float32, np.uint8])
def test_several_labels_as_torch(weight, loss, kind):
    task = train.MultiLabelClassification(3, pos_weight=weight)
    targets = SEVERAL.astype(kind)
    np.testing.assert_allclose(task(LOGITS, targets), loss, rtol=1e-6)
    right = np.mean((LOGITS > 0) == SEVERAL)
    np.testing.assert_allclose(task.metrics(LOGITS, targets)["accuracy"], right, rtol=1e-6)
    np.testing.assert_allclose(task.predict(LOGITS), 1 / (1 + np.exp(-LOGITS)), rtol=1e-6)
    assert task.outputs == 3


def test_a_positive_weight_as_torch():
    task = train.BinaryClassification(pos_weight=3.0)
    np.testing.assert_allclose(task(LOGITS[:, :1], SEVERAL[:, 0]), 2.5493938610529843, rtol=1e-6)


def test_label_smoothing_as_optax():
    soft = optax.smooth_labels(jax.nn.one_hot(LABELS[[0, 1, 3]], 3), 0.2)
    expected = optax.softmax_cross_entropy(LOGITS[[0, 1, 3]], soft).mean()

    @jax.jit
    def loss(share):  # as a number that a sweep traces
        return train.Classification(3, label_smoothing=share)(LOGITS, LABELS)

    np.testing.assert_allclose(loss(0.2), expected, rtol=1e-6)
    np.testing.assert_allclose(loss(0.0), train.Classification(3)(LOGITS, LABELS), rtol=1e-6)
    task = train.NextToken(3, label_smoothing=0.2)
    np.testing.assert_allclose(task(LOGITS, LABELS), expected, rtol=1e-6)
    nats = train.NextToken(3)(LOGITS, LABELS)
    found = task.metrics(LOGITS, LABELS)
    np.testing.assert_allclose(found["bits"], nats / np.log(2), rtol=1e-6)


def test_a_class_of_weight_zero_has_no_part():
    """Also if its logit is -inf: 0 times infinity is NaN."""
    logits = np.where([True, True, False], LOGITS, -np.inf)
    task = train.Classification(3, label_smoothing=0.1, class_weights=(1.0, 1.0, 0.0))
    run = jax.jit(jax.value_and_grad(task))
    value, slope = run(logits.astype(np.float32), np.array([0, 2, 1, 1]))
    logs = LOGITS[:, :2] - np.log(np.exp(LOGITS[:, :2]).sum(1, keepdims=True))
    hard = logs[0, 0] + logs[2, 1] + logs[3, 1]
    np.testing.assert_allclose(value, -(0.9 * hard + 0.1 * logs.sum() / 3) / 3, rtol=1e-6)
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("wrong", [np.array([[2, 0, 1]]), np.array([[1.5, 0.0, 1.0]], np.float32)])
def test_several_labels_out_of_range_give_nan(wrong):
    task = train.MultiLabelClassification(3)
    value, slope = jax.jit(jax.value_and_grad(task))(LOGITS[:1], wrong)
    assert np.isnan(value)
    assert np.isnan(slope).any()
    assert np.isnan(jax.jit(task.metrics)(LOGITS[:1], wrong)["accuracy"])


def test_regression_of_several_outputs():
    task, targets = train.Regression(outputs=3), SOFT
    np.testing.assert_allclose(task(LOGITS, targets), np.mean((LOGITS - SOFT) ** 2), rtol=1e-6)
    found = task.metrics(LOGITS, targets)
    np.testing.assert_allclose(found["mae"], np.mean(np.abs(LOGITS - SOFT)), rtol=1e-6)
    np.testing.assert_array_equal(task.predict(LOGITS), LOGITS)
    assert task.outputs == 3


class Heads(nn.Composite):
    digit: nn.Layer
    angle: nn.Layer

    def forward(self, x):
        return {"digit": self.digit(x), "angle": self.angle(x)}


def weighted_angle(outputs, targets):
    return jnp.mean((outputs[..., 0] - targets) ** 4)


def test_several_tasks():
    """The weighted sum of their losses, each over its own examples; metrics with their names."""
    tasks = {"digit": train.Classification(3), "angle": train.Regression()}
    task = train.MultiTask(tasks, weights={"angle": 0.5})
    angles = np.array([0.5, -1.0, 2.0, 0.0], np.float32)
    net = Heads(nn.Dense(task.outputs["digit"]), nn.Dense(task.outputs["angle"]))
    program = train.Supervised(net, task, optax.sgd(0.1), accumulate=2)
    batch = LOGITS, {"digit": LABELS, "angle": angles}
    state = program.init(jax.random.key(0), batch)
    outputs = net.apply(state.params, LOGITS)
    digit = train.Classification(3)(outputs["digit"], LABELS)
    angle = np.mean((np.asarray(outputs["angle"])[:, 0] - angles) ** 2)
    evaluate = jax.jit(lambda state, batch: program.evaluate(state, batch, key=jax.random.key(1)))
    found = train.combine([(evaluate(state, batch), 4)])
    np.testing.assert_allclose(found["loss"], digit + 0.5 * angle, rtol=1e-6)
    np.testing.assert_allclose(found["digit_loss"], digit, rtol=1e-6)
    np.testing.assert_allclose(found["angle_loss"], angle, rtol=1e-6)
    assert found.keys() == {"loss", "digit_loss", "digit_accuracy", "angle_loss", "angle_mae"}
    assert direction_of("validation_digit_accuracy", task) == "maximize"
    assert direction_of("angle_loss", task) == "minimize"

    def whole(params):
        outputs = net.apply(params, LOGITS)
        return tasks["digit"](outputs["digit"], LABELS) + 0.5 * jnp.mean(
            (outputs["angle"][:, 0] - angles) ** 2
        )

    slopes = jax.jit(jax.grad(whole))(state.params)
    before = jax.tree.map(np.asarray, state.params)
    predictions = program.predict(state, LOGITS)
    assert predictions["digit"].shape == (4, 3)
    assert predictions["angle"].shape == (4,)
    after, metrics = jax.jit(program.step)(state, batch)
    np.testing.assert_allclose(float(metrics["loss"]), found["loss"], rtol=1e-6)
    jax.tree.map(
        lambda a, b, s: np.testing.assert_allclose(a - b, 0.1 * s, rtol=1e-4, atol=1e-7),
        before,
        after.params,
        slopes,
    )


def test_several_tasks_in_a_tuple_with_weights_of_each():
    task = train.MultiTask((train.Regression(), weighted_angle))
    outputs, targets = (LOGITS[:, :1], LOGITS[:, 1:2]), (SOFT[:, 0], SOFT[:, 1])
    weights = (np.array([1.0, 0, 2, 1]), np.array([0, 1.0, 1, 0]))
    found = task.measure(outputs, targets, weights)
    first = np.average((LOGITS[:, 0] - SOFT[:, 0]) ** 2, weights=weights[0])
    second = np.average((LOGITS[:, 1] - SOFT[:, 1]) ** 4, weights=weights[1])
    np.testing.assert_allclose(float(found["loss"]), first + second, rtol=1e-6)
    assert set(found) == {"loss", "0_loss", "0_mae", "1_loss"}
    assert task.outputs == (1, None)


@pytest.mark.parametrize(
    ("task", "targets", "near"),  # probabilities on the right side; numbers close to the targets
    [(train.MultiLabelClassification(3), SEVERAL, 0.5), (train.Regression(outputs=3), SOFT, 0.15)],
    ids=("labels", "numbers"),
)
def test_fit_takes_several_targets(task, targets, near):
    x = np.concatenate([LOGITS, np.ones((4, 1), np.float32)], 1)
    net = nn.Dense(3)
    program = train.Supervised(net, task, optax.adam(0.1))
    ts, _ = train.fit(
        program,
        (x, targets),
        batch_size=4,
        epochs=100,
        key=jax.random.key(0),
        every=train.Every(epochs=100),
        progress=False,
    )
    found = train.evaluate(program, ts, (x, targets), batch_size=3)
    np.testing.assert_allclose(found["loss"], task(net.apply(ts.params, x), targets), rtol=1e-5)
    # Four rows in four dimensions: the targets can be met.
    np.testing.assert_allclose(train.predict(program, ts, x), targets, atol=near)


TASKS: list[Any] = [
    train.Classification(3, label_smoothing=0.1, class_weights=WEIGHTS),
    train.BinaryClassification(pos_weight=2.0),
    train.MultiLabelClassification(3, pos_weight=WEIGHTS),
    train.Regression(outputs=3),
    train.MultiTask(
        {"a": train.Regression(), "b": train.BinaryClassification()}, weights={"a": 0.5}
    ),
    train.MultiTask((train.Regression(), train.BinaryClassification())),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
def test_tasks_are_values(task):
    again = eval(repr(task), dict(vars(train)))
    assert again == task == pickle.loads(pickle.dumps(task))
    assert hash(again) == hash(task)
    assert train.Regression() != train.Regression(outputs=2)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: train.Classification(3, label_smoothing=1.5),
            ValueError,
            r"Classification.label_smoothing must be a number from 0 to 1, got 1.5",
        ),
        (
            lambda: train.Classification(3, class_weights=(1.0, 2.0)),
            ValueError,
            r"Classification.class_weights must be a tuple of 3 numbers, got \(1.0, 2.0\); write "
            r"class_weights=\(1.0,\) \* 3",
        ),
        (
            lambda: train.Classification(3, class_weights=(1.0, 2.0, -1.0)),
            ValueError,
            r"Classification.class_weights must be None or a number >= 0, or a tuple of them, got "
            r"\(1.0, 2.0, -1.0\); write class_weights=",
        ),
        (
            lambda: train.Classification(3, class_weights=np.ones(3)),  # type: ignore[arg-type]
            TypeError,
            r"Classification.class_weights got an array of shape \(3,\) and type float64; .* "
            r"write float\(x\) or int\(x\) for a number, tuple\(x.tolist\(\)\) for several",
        ),
        (
            lambda: train.BinaryClassification(pos_weight=-1.0),
            ValueError,
            r"pos_weight must be None or a number >= 0, got -1.0; write pos_weight=2.0",
        ),
        (
            lambda: train.MultiLabelClassification(3, pos_weight=(1.0,)),
            ValueError,
            r"MultiLabelClassification.pos_weight must be a tuple of 3 numbers, got \(1.0,\)",
        ),
        (
            lambda: train.MultiLabelClassification(0),
            ValueError,
            r"number must be an int >= 1, got 0; write train.MultiLabelClassification\(y.shape",
        ),
        (
            lambda: train.Regression(outputs=0),
            ValueError,
            r"Regression.outputs must be an int >= 1, got 0; write train.Regression\(outputs=y",
        ),
        (
            lambda: train.Regression()(LOGITS[:, :1], SOFT[:, :1]),
            ValueError,
            r"needs outputs \(..., 1\) and targets \(...\), got .* for targets float32\[4,1\]; "
            r"write targets\[..., 0\] for targets with a last axis of size 1",
        ),
        (
            lambda: train.Classification(3)(LOGITS, SEVERAL),
            ValueError,
            r"train.MultiLabelClassification\(n\) for several labels per example, or "
            r"targets.astype\('float32'\) for one-hot targets",
        ),
        (
            lambda: train.BinaryClassification()(LOGITS[:, :1], SEVERAL),
            ValueError,
            r"targets int64\[4,3\]; .* train.MultiLabelClassification\(n\) for several labels per",
        ),
        (
            lambda: train.BinaryClassification()(LOGITS[:, :1], SOFT[:, 0]),
            TypeError,
            r"write targets.astype\('int32'\) if they are whole numbers. Probabilities are targets "
            r"of train.Classification\(n\), \(..., n\), and of train.MultiLabelClassification",
        ),
        (
            lambda: train.BinaryClassification().measure(
                LOGITS[:, :1], SEVERAL[:, 0], [1.0, 0.0, 1.0, 1.0]
            ),
            ValueError,
            r"must be an array of one real number per row, \(4,\), got \[1.0, .* write np.asarray",
        ),
        (
            lambda: train.MultiTask({}),
            TypeError,
            r"MultiTask.tasks must be a dict of tasks or loss functions by name, or a tuple of "
            r"them, got \{\}; write train.MultiTask\(\{'digit': train.Classification\(10\)\}\)",
        ),
        (
            lambda: train.MultiTask({"a": train.Regression()}, weights={"b": 1.0}),
            ValueError,
            r"the name of a task in MultiTask.weights must be 'a', got 'b'",
        ),
        (
            lambda: train.MultiTask({"a": train.Regression()})(LOGITS, {"a": LABELS}),
            TypeError,
            r"outputs of MultiTask must be a dict of a, got float32\[4,3\]; return such outputs "
            r"from the network$",
        ),
        (
            lambda: train.MultiTask((train.Regression(),))((LOGITS[:, :1],), LABELS),
            TypeError,
            r"targets of MultiTask must be a tuple of 0, got int64\[4\]; write \(inputs, targets\) "
            r"with such targets$",
        ),
        (
            lambda: train.MultiTask({"a": train.Regression()}).measure(
                {"a": LOGITS[:, :1]}, {"a": LABELS}, {"b": LABELS}
            ),
            TypeError,
            r"weights of MultiTask must be a dict of a, got .*; write \(inputs, targets, weights\) "
            r"with such weights, or with one array for all tasks$",
        ),
    ],
)
def test_the_error_says_what_to_write(call, error, text):
    with pytest.raises(error, match=text):
        call()
