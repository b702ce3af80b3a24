"""The loss and metrics of tasks over the examples that count, in pieces and with weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import datasets
from sklearn import metrics as sk

import jaxnn as nn
from jaxnn import train
from jaxnn.train.metrics import directions

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
ROWS = 6


def normal(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


LABELS = np.array([0, 3, -100, 1, 2, 0])
TOKENS = np.where(np.arange(5) < RNG.integers(1, 6, (ROWS, 1)), RNG.integers(0, 4, (ROWS, 5)), -100)
BITS = RNG.integers(0, 2, (ROWS, 3))


class Squared(train.Regression):
    """A task that writes its loss and metrics as functions of outputs and targets."""

    def __call__(self, outputs, targets):
        return jnp.mean((outputs[..., 0] - targets) ** 2)

    def metrics(self, outputs, targets):
        return {"mae": jnp.mean(jnp.abs(outputs[..., 0] - targets)), "one": 1.0}


def logarithmic(outputs, targets):
    """A plain loss, whose gradient at 0 is not finite."""
    return -jnp.mean(jnp.log(jnp.abs(outputs[..., 0])) * targets)


TASKS: dict[str, tuple[Any, Any, Any]] = {
    "classes": (train.Classification(4), normal(ROWS, 4), LABELS),
    "smoothed": (
        train.Classification(4, label_smoothing=0.1, class_weights=(1.0, 0.5, 2.0, 1.0)),
        normal(ROWS, 4),
        LABELS,
    ),
    "probabilities": (
        train.Classification(3, label_smoothing=0.1),
        normal(ROWS, 3),
        RNG.dirichlet(np.ones(3), ROWS).astype(np.float32),
    ),
    "tokens": (train.NextToken(4, label_smoothing=0.1), normal(ROWS, 5, 4), TOKENS),
    "binary": (
        train.BinaryClassification(pos_weight=3.0),
        normal(ROWS, 1),
        np.array([0, 1, 1, -100, 0, 1]),
    ),
    "labels": (train.MultiLabelClassification(3), normal(ROWS, 3), np.where(BITS, 1, [0, -100, 0])),
    "floats": (
        train.MultiLabelClassification(3, pos_weight=(1.0, 2.0, 0.5)),
        normal(ROWS, 3),
        BITS.astype(np.float32),
    ),
    "number": (train.Regression(), normal(ROWS, 1), normal(ROWS)),
    "numbers": (train.Regression(outputs=3), normal(ROWS, 3), normal(ROWS, 3)),
    "own": (Squared(), normal(ROWS, 1), normal(ROWS)),
    "function": (logarithmic, normal(ROWS, 1), normal(ROWS)),
    "several": (
        train.MultiTask(
            {"digit": train.Classification(4), "angle": train.Regression()}, weights={"angle": 0.3}
        ),
        {"digit": normal(ROWS, 4), "angle": normal(ROWS, 1)},
        {"digit": LABELS, "angle": normal(ROWS)},
    ),
}


class Given(nn.Primitive):
    """The inputs, scaled by a parameter: the outputs of a test."""

    def parameters(self, x):
        return {"w": nn.Param((), nn.ones())}

    def forward(self, params, x):
        return jax.tree.map(lambda a: a * params["w"], x["x"] if isinstance(x, dict) else x)


def evaluated(task: Any, outputs: Any, targets: Any, weights: Any = None) -> dict[str, float]:
    """The numbers of a program of the task, whose network gives these outputs."""
    wrapped = (outputs,) if isinstance(outputs, dict) else outputs
    batch = (wrapped, targets) if weights is None else (wrapped, targets, weights)
    return train.combine([(measured_by(task)(batch), len(jax.tree.leaves(outputs)[0]))])


def measured_by(task: Any) -> Any:
    program = train.Supervised(Dict() if isinstance(task, train.MultiTask) else Given(), task, SGD)

    def run(batch: Any) -> Any:
        state = program.init(KEY, batch)
        return program.evaluate(state, batch, key=KEY)

    return jax.jit(run)


class Dict(Given):
    def forward(self, params, x):
        return jax.tree.map(lambda a: a * params["w"], x)


SGD = optax.sgd(1.0)
FEW = np.array([2.0, 0.0, 1.0, 0.0, 3.0, 1.0], np.float32)


@pytest.mark.parametrize("name", TASKS)
def test_a_weight_of_k_is_a_row_k_times(name):
    task, outputs, targets = TASKS[name]
    repeated = jax.tree.map(lambda a: np.repeat(a, FEW.astype(int), 0), (outputs, targets))
    expected, found = evaluated(task, *repeated), evaluated(task, outputs, targets, FEW)
    assert found.keys() == expected.keys()
    for metric, value in expected.items():
        np.testing.assert_allclose(found[metric], value, rtol=2e-6, err_msg=metric)


@pytest.mark.parametrize("name", TASKS)
def test_a_weight_of_zero_hides_nan_from_values_and_gradients(name):
    """The step of the rows that count alone, although inputs and targets are NaN elsewhere."""
    task, outputs, targets = TASKS[name]
    kept = FEW != 0

    def spoilt(a):
        wrong = np.nan if np.issubdtype(a.dtype, np.floating) else 99
        return np.where(kept.reshape((-1,) + (1,) * (a.ndim - 1)), a, wrong).astype(a.dtype)

    ones = FEW / np.where(kept, FEW, 1)
    hidden = (*jax.tree.map(spoilt, (outputs, targets)), ones)
    alone = jax.tree.map(lambda a: a[kept], (outputs, targets))
    net = Dict() if isinstance(task, train.MultiTask) else Given()
    program = train.Supervised(net, task, SGD)
    step = jax.jit(program.step)
    steps = []
    for inputs, *rest in (hidden, alone):
        batch = ((inputs,) if isinstance(inputs, dict) else inputs, *rest)
        steps.append(step(program.init(KEY, batch), batch))
    (one, found), (other, expected) = steps
    np.testing.assert_allclose(one.params["w"], other.params["w"], rtol=2e-6)
    found, expected = (train.combine([(metrics, 4)]) for metrics in (found, expected))
    for metric, value in expected.items():
        np.testing.assert_allclose(found[metric], value, rtol=2e-6, err_msg=metric)


@pytest.mark.parametrize("name", [n for n in TASKS if n not in ("function", "own")])
def test_pieces_give_the_numbers_of_the_whole(name):
    task, outputs, targets = TASKS[name]
    measure = jax.jit(task.measure)
    whole = measure(outputs, targets)
    loss, metrics = jax.jit(lambda *pair: (task(*pair), task.metrics(*pair)))(outputs, targets)
    np.testing.assert_allclose(float(whole["loss"]), loss, rtol=1e-6)
    assert metrics.keys() == whole.keys() - {"loss"}
    declared = {n for n in directions(whole) if n != "loss"}
    assert declared == whole.keys() - {"loss"}
    parts = [
        (measure(*jax.tree.map(lambda a, cut=cut: a[cut], (outputs, targets))), 1)
        for cut in (slice(0, 2), slice(2, 4), slice(4, 6))
    ]
    for metric, value in train.combine(parts).items():
        np.testing.assert_allclose(value, float(whole[metric]), rtol=2e-6, err_msg=metric)


@pytest.mark.parametrize("name", ["tokens", "labels", "numbers"])
def test_weights_of_positions(name):
    task, outputs, targets = TASKS[name]
    weights = RNG.integers(0, 3, targets.shape).astype(np.float32)
    measure = jax.jit(task.measure)
    found = train.combine([(measure(outputs, targets, weights), 1)])
    # Each position is an example of a task of one output, with the weights of the others 0.
    parts = []
    for place in np.ndindex(targets.shape):
        one = np.zeros_like(weights)
        one[place] = 1
        value = train.combine([(measure(outputs, targets, one), 1)])
        known = targets[place] != -100
        parts.append((weights[place] * known, value))
    total = sum(weight for weight, _ in parts)
    for metric, value in found.items():
        expected = sum(weight * each[metric] for weight, each in parts) / total
        np.testing.assert_allclose(value, expected, rtol=1e-5, err_msg=metric)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_divides_by_all_valid_tokens(accumulate):
    """Rows with 1 to 6 valid tokens, weighted, and one without: the update of the whole batch."""
    x, y = normal(8, 6, 3), RNG.integers(0, 5, (8, 6))
    y = np.where(np.arange(6) < np.array([1, 6, 2, 0, 3, 6, 1, 5])[:, None], y, -1)
    weights = np.array([1, 2, 0, 1, 0.5, 1, 3, 1], np.float32)
    net, task = nn.Dense(5), train.NextToken(5, ignore=-1)
    states, metrics = [], []
    for count in (1, accumulate):
        program = train.Supervised(net, task, SGD, accumulate=count)
        state = program.init(KEY, (x, y, weights))
        start = jax.tree.map(np.asarray, state.params)
        state, found = jax.jit(program.step)(state, (x, y, weights))
        states.append(state.params)
        metrics.append(train.combine([(found, 8)]))

    def whole(params):
        logs = jax.nn.log_softmax(x @ params["w"] + params["b"])
        each = -jnp.take_along_axis(logs, np.maximum(y, 0)[..., None], -1)[..., 0]
        counts = (y >= 0) * weights[:, None]
        return jnp.sum(each * counts) / np.sum(counts)

    loss, slopes = jax.jit(jax.value_and_grad(whole))(start)
    for params, found in zip(states, metrics, strict=True):
        np.testing.assert_allclose(found["loss"], loss, rtol=1e-6)
        for leaf, slope in slopes.items():
            np.testing.assert_allclose(start[leaf] - params[leaf], slope, rtol=1e-4, atol=1e-6)
    for name, value in metrics[0].items():
        np.testing.assert_allclose(metrics[1][name], value, rtol=1e-6)


def test_a_masked_mean_in_a_plain_loss_is_a_ratio():
    """Evaluated in pieces of 10, 4, 3, and 1 rows: the mean over all valid tokens."""
    x = RNG.integers(0, 7, (10, 6))
    y = np.where(np.arange(6) < RNG.integers(1, 7, (10, 1)), RNG.integers(0, 7, (10, 6)), -1)

    def masked(outputs, targets):
        real = targets >= 0
        each = optax.softmax_cross_entropy_with_integer_labels(outputs, jnp.maximum(targets, 0))
        return train.Ratio(jnp.sum(jnp.where(real, each, 0)), jnp.sum(real))

    net = nn.Sequential(nn.Embedding(7, 8), nn.Dense(7))
    task = train.NextToken(7, ignore=-1)
    for loss in (masked, task):
        program = train.Supervised(net, loss, SGD)
        state = program.init(KEY, (x, y))
        evaluate = jax.jit(lambda state, batch, p=program: p.evaluate(state, batch, key=KEY))
        logits = np.asarray(net.apply(state.params, x), np.float64)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = -np.take_along_axis(logs, np.maximum(y, 0)[..., None], -1)[..., 0][y >= 0].mean()
        for size in (10, 4, 1):
            parts = [
                (evaluate(state, (x[i : i + size], y[i : i + size])), len(x[i : i + size]))
                for i in range(0, 10, size)
            ]
            np.testing.assert_allclose(train.combine(parts)["loss"], expected, rtol=1e-5)


class Scored(train.BinaryClassification):
    def measure(self, outputs, targets, weights=None):
        return super().measure(outputs, targets, weights) | {
            "f1": train.f1(outputs, targets, weights),
            "auc": train.auc(outputs, targets, weights),
        }


def test_f1_and_auc_of_a_network_as_scikit_learn():
    found: Any = datasets.load_breast_cancer(return_X_y=True)
    x, y = found
    x, y = ((x - x.mean(0)) / x.std(0)).astype(np.float32), y.astype(np.int32)
    net = nn.Dense(1)
    program = train.Supervised(net, Scored(), optax.sgd(0.02))
    state = program.init(KEY, (x[:4], y[:4]))
    step = train.make_step(program)
    metrics = {}
    for i in range(0, 96, 32):
        state, metrics = step(state, (x[i : i + 32], y[i : i + 32]))
    assert metrics.keys() == {"loss", "accuracy", "f1"}  # AUC needs all rows
    x, y = x[400:], y[400:]
    z = np.asarray(net.apply(state.params, x))[:, 0]
    evaluate = jax.jit(lambda state, batch: program.evaluate(state, batch, key=KEY))
    for size in (169, 100):
        pieces = [slice(i, i + size) for i in range(0, 169, size)]
        parts = [(evaluate(state, (x[p], y[p])), len(y[p])) for p in pieces]
        found = train.combine(parts)
        np.testing.assert_allclose(found["f1"], sk.f1_score(y, z > 0), rtol=1e-6)
        np.testing.assert_allclose(found["auc"], sk.roc_auc_score(y, z), rtol=1e-9)
        np.testing.assert_allclose(found["accuracy"], sk.accuracy_score(y, z > 0), rtol=1e-6)


def test_metrics_in_steps_that_accumulate():
    class Numbers(train.Regression):
        def measure(self, outputs, targets, weights=None):
            found = super().measure(outputs, targets, weights)
            return found | {
                "r2": train.r2(outputs, targets, weights),
                "largest": train.Derived(  # made in each trace
                    lambda top: top, (jnp.abs(targets).max(),), merge=lambda top: (top.max(0),)
                ),
                "rmse": train.rmse(outputs, targets, weights),
            }

    x, y = normal(8, 3), normal(8) + 100
    for accumulate in (1, 4):
        program = train.Supervised(nn.Dense(1), Numbers(), SGD, accumulate=accumulate)
        state = program.init(KEY, (x, y))
        outputs = np.asarray(nn.Dense(1).apply(state.params, x))[:, 0]
        _, metrics = jax.jit(program.step)(state, (x, y))
        np.testing.assert_allclose(float(metrics["r2"]), sk.r2_score(y, outputs), rtol=1e-5)
        expected = sk.root_mean_squared_error(y, outputs)
        np.testing.assert_allclose(float(metrics["rmse"]), expected, rtol=1e-6)
        assert float(metrics["largest"]) == np.abs(y).max()


def test_metrics_print_and_convert():
    metrics: Any = {
        "mean": train.Mean(0.25),
        "ratio": train.Ratio(jnp.float32(1), jnp.float32(4)),
        "sum": train.Ratio(0.5, 4.0) + 0.125,
        "derived": train.Derived(lambda a: a / 4, (1.0,)),
        "collected": train.Collected(np.median, (np.array([0.25, 0.0, 1.0]),)),
    }
    for metric in metrics.values():
        assert float(metric) == 0.25
        assert f"{metric:.3f}" == "0.250"
        assert isinstance(metric, train.Metric)


class Own(train.Classification):
    directions = {"share": "maximize"}  # noqa: RUF012

    def metrics(self, outputs, targets):
        share = train.Ratio(jnp.sum(targets == 1), jnp.asarray(targets.shape[0]))
        return super().metrics(outputs, targets) | {"share": share, "plain": jnp.float32(2)}


def test_own_methods_keep_the_rest_of_the_task():
    """The loss of `Classification`, and metrics of a subclass, with their directions."""
    task, (_, outputs, targets) = Own(4), TASKS["classes"]
    batch = outputs, targets
    program = train.Supervised(Given(), task, SGD)
    found = program.evaluate(program.init(KEY, batch), batch, key=KEY)
    assert list(found) == ["loss", "accuracy", "share", "plain"]
    assert isinstance(found["loss"], train.Ratio)
    assert directions(found) == {"loss": False, "accuracy": True, "share": True}
    np.testing.assert_allclose(float(found["share"]), 1 / 6)
    weighted = evaluated(task, outputs, targets, FEW)
    np.testing.assert_allclose(weighted["share"], FEW[targets == 1].sum() / FEW.sum())

    class Doubled(train.Classification):
        def __call__(self, outputs, targets):
            return 2 * super().__call__(outputs, targets)

    doubled = evaluated(Doubled(4), outputs, targets)
    plain = evaluated(train.Classification(4), outputs, targets)
    assert doubled == {**plain, "loss": pytest.approx(2 * plain["loss"], rel=1e-6)}


class Axis(train.Classification):
    def metrics(self, outputs, targets):
        return {"per_class": jnp.mean(outputs, 0)}


class Vector(train.Classification):
    def measure(self, outputs, targets, weights=None):
        found = super().measure(outputs, targets, weights)
        return found | {"means": train.Derived(lambda sums: sums / 6, (jnp.sum(outputs, 0),))}


class Without(train.Classification):
    def measure(self, outputs, targets, weights=None):
        return {"accuracy": 1.0}


class Ranked(train.Classification):
    def metrics(self, outputs, targets):
        return {"f1": train.f1(outputs, targets, average="macro")}


@pytest.mark.parametrize(
    ("task", "weights", "error", "text"),
    [
        (
            Axis(4),
            None,
            ValueError,
            r"the metric 'per_class' of Axis\(4\) must be a real scalar, got float32\[4\]; write",
        ),
        (
            Vector(4),
            None,
            ValueError,
            r"the metric 'means' of Vector\(4\) must be a real scalar, got float32\[4\]; write",
        ),
        (
            lambda outputs, targets: (outputs.mean(), {"a": 1.0}),
            None,
            TypeError,
            r"the loss of <lambda> must be a real scalar or a train.Ratio, got \(float32\[\], "
            r"\{a: 1.0\}\); .* To report metrics, .* write a train.Task",
        ),
        (
            lambda outputs, targets: outputs.mean() + 0j,
            None,
            TypeError,
            r"the loss of <lambda> must be a real scalar .* got complex64\[\]; .* loss.real for",
        ),
        (
            lambda outputs, targets: outputs[:, 0],
            None,
            TypeError,
            r"the loss of <lambda> must be .*, got float32\[6\]; write loss.mean\(\)",
        ),
        (
            lambda outputs, targets: train.Mean(outputs.mean()),
            None,
            TypeError,
            r"the loss of <lambda> must be a real scalar or a train.Ratio, got Mean\(",
        ),
        (
            Without(4),
            None,
            TypeError,
            r"Without.measure must be the loss and metrics by name, got \{'accuracy': 1.0\}; "
            r"write return \{'loss': train.Ratio\(sum, count\)\}",
        ),
        (
            train.Classification(4),
            np.ones((ROWS, 4)),
            ValueError,
            r"weights for Classification\(4\) must be an array of one real number per row, "
            r"\(6,\), got .*\[6,4\]; write np.asarray\(weights\)",
        ),
        (
            lambda outputs, targets: outputs.mean(),
            np.ones((ROWS, 4)),
            ValueError,
            r"weights for <lambda> must be an array of one real number per row, \(6,\), got .*; w",
        ),
        (
            Ranked(4),
            np.ones(ROWS),
            TypeError,
            r"'f1' of Ranked\(4\) is a train.Derived, which cannot be weighted by rows; write def",
        ),
    ],
)
def test_the_error_says_what_to_write(task, weights, error, text):
    program = train.Supervised(Given(), task, SGD)
    batch = (TASKS["classes"][1], LABELS) + (() if weights is None else (weights,))
    with pytest.raises(error, match=text):
        jax.eval_shape(lambda batch: program.step(program.init(KEY, batch), batch), batch)
