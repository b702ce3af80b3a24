"""Losses of tasks: values and gradients of torch and keras, formulas, weights, and wrong inputs."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train
from jaxnn.train.metrics import value_of
from tests.fixtures.losses import CASES, FILE, LENGTHS
from tests.layers.agreement import KEY, normals
from tests.near import assert_near

STORED = np.load(FILE)


def stored(name: str) -> tuple[Any, Any, Any, Any]:
    """Outputs, targets, the loss, and the gradient of the outputs of a case."""
    count = len(CASES[name][1])
    outputs = tuple(STORED[f"{name}/x{i}"] for i in range(count))
    gradients = tuple(STORED[f"{name}/dx{i}"] for i in range(count))
    targets: Any = STORED[f"{name}/targets"]
    if name == "ctc":
        hidden = np.arange(3) >= LENGTHS[1][:, None]
        targets = np.where(hidden, -100, targets), LENGTHS[0]
    targets = targets if CASES[name][2] else None
    loss = STORED[f"{name}/loss"]
    return (outputs, targets, loss, gradients) if count > 1 else (
        outputs[0], targets, loss, gradients[0],
    )  # fmt: skip


WEIGHTED = ("focal", "poisson", "gaussian", "dice", "margin", "ctc", "triplet", "clip", "ranking")


def value(name: str, outputs: Any, targets: Any, weights: Any = None) -> Any:
    return value_of(CASES[name][0].measure(outputs, targets, weights)["loss"])


@functools.cache
def results() -> dict[str, Any]:
    """Losses and gradients of all cases, and those with a row that is NaN and has the weight 0,
    next to those of the other rows, from one program: many small ones compile slowly."""

    def spoiled(a: Any) -> Any:
        return np.concatenate([a[:1], np.full_like(a[1:2], np.nan), a[2:]])

    def without(a: Any) -> Any:
        return np.concatenate([a[:1], a[2:]])

    pairs = {name: stored(name)[:2] for name in CASES}
    calls: dict[str, Any] = {name: (name, *pair) for name, pair in pairs.items()}
    for name in WEIGHTED:
        outputs, targets = pairs[name]
        weights = np.ones(len(jax.tree.leaves(outputs)[0]), np.float32)
        weights[1] = 0
        calls[f"{name}, weights"] = (name, jax.tree.map(spoiled, outputs), targets, weights)
        calls[f"{name}, rows"] = (name, *jax.tree.map(without, pairs[name]))

    def run(outputs: dict[str, Any]) -> Any:
        return {
            call: jax.value_and_grad(value, 1)(name, outputs[call], *rest)
            for call, (name, _, *rest) in calls.items()
        }

    return jax.jit(run)({call: outputs for call, (_, outputs, *_) in calls.items()})


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_as_torch_and_keras(name):
    # keras adds 1e-7 to divisors.
    assert_near(results()[name], stored(name)[2:])


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_row_of_weight_zero_is_left_out(name):
    """Loss and gradient are those of the other rows, even if the row is NaN."""
    (loss, gradients), (expected, parts) = (results()[f"{name}, {w}"] for w in ("weights", "rows"))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(np.delete(ours, 1, 0), theirs, atol=1e-6)
        np.testing.assert_array_equal(ours[1], 0)


def test_quantiles_by_the_formula():
    """The pinball loss in double precision, and its minimum at the quantile of the data."""
    z, y = normals(0, 7, 3), normals(1, 7)
    q = np.array([0.1, 0.5, 0.8])
    error = np.asarray(y, np.float64)[:, None] - np.asarray(z, np.float64)
    expected = np.where(error > 0, q * error, (q - 1) * error).mean()
    task = train.QuantileRegression(tuple(q.tolist()))
    measure = jax.jit(task.metrics)
    np.testing.assert_allclose(task(z, y), expected, rtol=1e-6)
    data = np.random.default_rng(0).normal(size=999).astype(np.float32)
    constant = np.quantile(data, q).astype(np.float32)
    slope = jax.jit(jax.grad(lambda c: task(jnp.broadcast_to(c, (999, 3)), data)))(constant)
    assert np.abs(slope).max() < 1e-3
    found = measure(jnp.broadcast_to(constant, (999, 3)), data)
    np.testing.assert_allclose(found["coverage"], 0.7, atol=2e-3)


def test_ordinal_labels_by_the_formula():
    z, y = np.asarray(normals(0, 6, 3), np.float64), np.array([0, 3, 1, 2, 3, 0])
    p = 1 / (1 + np.exp(-z))
    above = y[:, None] > np.arange(3)
    expected = -np.where(above, np.log(p), np.log(1 - p)).sum(-1).mean()
    task = train.OrdinalRegression(4)
    np.testing.assert_allclose(task(jnp.asarray(z, jnp.float32), y), expected, rtol=1e-6)
    ranks = (z > 0).sum(-1)
    found = task.metrics(z, y)
    np.testing.assert_allclose(found["mae"], np.abs(ranks - y).mean(), rtol=1e-6)
    np.testing.assert_array_equal(task.predict(z), ranks)
    assert task.outputs == 3 and train.OrdinalRegression(2)(z[:, :1], y // 2) > 0


def test_hard_triplets_of_labels_by_loops():
    x, labels = np.asarray(normals(3, 7, 2), np.float64), np.array([0, 1, 0, 1, 2, 0, 1])
    terms = []
    for i, own in enumerate(labels):
        d = np.sqrt(((x[i] - x) ** 2).sum(-1))
        positives = [d[j] for j in range(7) if j != i and labels[j] == own]
        if positives:
            terms.append(max(0.0, max(positives) - d[labels != own].min() + 0.4))
    assert len(terms) == 6
    loss = jax.jit(train.Triplet(margin=0.4))(x.astype(np.float32), labels)
    np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-4)


def test_focal_is_finite_at_the_ends_and_cross_entropy_for_gamma_zero():
    logits, labels = jnp.array([[200.0, -200, 0], [-200, 200, 0]]), np.array([0, 0])

    @jax.jit
    def loss(z, gamma):
        return train.Classification(3, focal_gamma=gamma)(z, labels)

    for gamma in (0.0, 0.5, 2.0):
        value, gradient = jax.jit(jax.value_and_grad(loss))(logits, gamma)
        assert np.isfinite(value) and np.isfinite(gradient).all()
        np.testing.assert_allclose(value, 200.0, rtol=1e-6)
    z = normals(0, 2, 3)
    np.testing.assert_allclose(loss(z, 0.0), train.Classification(3)(z, labels), rtol=1e-6)


def test_ctc_of_padding_anywhere_of_labels_that_do_not_fit_and_its_best_path():
    logits = normals(0, 2, 4, 5)
    task = jax.jit(train.CTC(5))
    one = task(logits, np.array([[1, 2, -100], [3, -100, -100]]))
    np.testing.assert_array_equal(task(logits, np.array([[-100, 1, 2], [-100, 3, -100]])), one)
    assert np.isposinf(task(logits, (np.array([[1, 1], [2, 3]]), np.array([2, 4]))))
    assert np.isnan(task(logits, np.array([[0, 1], [2, 3]])))  # the blank is not a label
    path = jax.nn.one_hot(jnp.array([[0, 2, 2, 0, 2, 3]]), 5)
    assert train.CTC(5).predict(path).tolist() == [[2, 2, 3, -100, -100, -100]]


def test_contrastive_by_the_formula():
    """optax's loss of labels: each pair against all rows of other labels, by cosine similarity."""
    rows, labels = normals(0, 4, 3), np.array([0, 0, 1, 1])
    unit = np.asarray(rows, np.float64)
    unit = unit / np.linalg.norm(unit, axis=-1, keepdims=True)
    similar = np.exp(unit @ unit.T / 0.5)
    others = similar * (labels[:, None] != labels)
    pairs = [(0, 1), (1, 0), (2, 3), (3, 2)]
    terms = [-np.log(similar[i, j] / (similar[i, j] + others[i].sum())) for i, j in pairs]
    found = jax.jit(optax.ntxent)(rows, labels, temperature=0.5)
    np.testing.assert_allclose(found, np.mean(terms), rtol=1e-5)


@pytest.mark.parametrize("targets", ["labels", "none"])
def test_a_step_takes_pairs_and_labels(targets):
    """A network that returns a tuple, with targets None; and labels that select the triplets."""

    class Towers(nn.Composite):
        net: nn.Layer

        def forward(self, a, b):
            return self.net(a), self.net(b)

    x, pair = normals(1, 6, 4), (normals(1, 6, 4), normals(2, 6, 4))
    net, task, batch = {
        "labels": (nn.Dense(3), train.Triplet(), (x, np.array([0, 1, 0, 1, 2, 2]))),
        "none": (Towers(nn.Dense(3)), train.InfoNCE(), (pair, None)),
    }[targets]
    program = train.Supervised(net, task, optax.sgd(0.01))
    ts, step = program.init(KEY, batch), train.make_step(program)
    ts, first = step(ts, batch)
    _, second = step(ts, batch)
    assert float(second["loss"]) < float(first["loss"]) and "accuracy" in first


@pytest.mark.parametrize(
    ("task", "outputs", "targets", "text"),
    [
        (train.Dice(3), np.zeros((2, 4, 2)), np.zeros((2, 4), int), r"write train.Dice\(n\)|Dense"),
        (train.CTC(3), np.zeros((2, 4, 2)), np.zeros((2, 2), int), r"nn.Dense\(3\)"),
        (
            train.Triplet(),
            np.zeros((2, 4)),
            None,
            "outputs for Triplet.* must be .anchors, positives, negatives",
        ),
        (train.InfoNCE(), np.zeros((2, 4)), None, r"must be .queries, keys., 2 arrays"),
        (
            train.MarginRanking(),
            (np.zeros(2), np.zeros(2)),
            np.zeros((2, 1)),
            r"1 or -1 for each pair",
        ),
        (train.GaussianRegression(), np.zeros((2, 1)), np.zeros(2), r"nn.Dense\(2\)"),
        (train.GaussianRegression(2), np.zeros((3, 4)), np.zeros(3), r"targets=y.shape"),
        (train.QuantileRegression(), np.zeros((2, 1)), np.zeros(2), r"nn.Dense\(3\)"),
    ],
)
def test_wrong_shapes_are_reported(task, outputs, targets, text):
    with pytest.raises(ValueError, match=text):
        task(outputs, targets)


def test_wrong_fields_are_reported():
    with pytest.raises(ValueError, match=r"Regression.loss must be 'squared_error', .*'log_cosh'"):
        train.Regression(loss="l1")
    with pytest.raises(ValueError, match=r"write quantiles=\(0.1, 0.5, 0.9\)"):
        train.QuantileRegression((0.5, 1.5))
    with pytest.raises(ValueError, match=r"write focal_gamma=2\.0"):
        train.Classification(3, focal_gamma=-1.0)
