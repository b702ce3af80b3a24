"""Ready-made metrics equal scikit-learn's on the same predictions, however the rows are cut."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from jaxnn import train
from jaxnn.train.metrics import directions
from jaxnn.train.record import Tally

RNG = np.random.default_rng(0)
ROWS, CLASSES = 12, 4
CUTS = st.permutations([1, 3, 4, 4])  # three shapes, so that few programs are compiled
LABELS = st.lists(st.sampled_from([0, 1, 2, 3, -100]), min_size=ROWS, max_size=ROWS)
PREDICTIONS = st.lists(st.integers(0, CLASSES - 1), min_size=ROWS, max_size=ROWS)
WEIGHTS = st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=ROWS, max_size=ROWS)
AVERAGED: dict[str, Any] = {
    "precision": (train.precision, sk.precision_score),
    "recall": (train.recall, sk.recall_score),
    "f1": (train.f1, sk.f1_score),
    "iou": (train.iou, sk.jaccard_score),
}


def whole(score, lengths, *arrays):
    """The metrics of all rows from pieces of these lengths, and their directions."""
    edges = np.cumsum([0, *lengths])
    pieces = [(score(*(a[i:j] for a in arrays)), j - i) for i, j in itertools.pairwise(edges)]
    return train.combine(pieces), directions(pieces[0][0])


@jax.jit
def of_classes(predicted, labels, weights):
    logits = jax.nn.one_hot(predicted, CLASSES)
    found: Any = {"accuracy": train.accuracy(logits, labels, weights)}
    for name, (score, _) in AVERAGED.items():
        for average in ("macro", "micro"):
            found[f"{name}/{average}"] = score(logits, labels, weights, average=average)
    return found


@settings(max_examples=25, deadline=None)
@given(PREDICTIONS, LABELS, WEIGHTS, CUTS)
def test_classes(predicted, labels, weights, lengths):
    predicted, labels = np.array(predicted), np.array(labels)
    weights = np.array(weights, np.float32)
    found, larger = whole(of_classes, lengths, predicted, labels, weights)
    kept = (labels != -100) & (weights != 0)
    assert larger == dict.fromkeys(found, True)
    if not kept.any():
        assert set(found.values()) == {0.0}
        return
    y, p, w = labels[kept], predicted[kept], weights[kept]
    np.testing.assert_allclose(
        found.pop("accuracy"), sk.accuracy_score(y, p, sample_weight=w), rtol=1e-6
    )
    for name, value in found.items():
        score, average = name.split("/")
        expected = AVERAGED[score][1](y, p, average=average, sample_weight=w, zero_division=0)
        np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=name)


SCORES = RNG.normal(size=(ROWS, 3)).astype(np.float32).round(1)  # with ties
YES = RNG.integers(0, 2, (ROWS, 3))
POSITION = RNG.integers(0, 3, ROWS).astype(np.float32)


@pytest.mark.parametrize("name", AVERAGED)
def test_yes_or_no(name):
    score, reference = AVERAGED[name]
    logits, y, w = SCORES[:, 0], YES[:, 0], POSITION
    pair = np.stack([0 * logits, logits], 1)
    several = YES * [1, 1, 0]  # the last one is never so

    @jax.jit
    def run(logits):
        found = [score(one, y, w) for one in (logits, logits[:, None], logits > 0, pair)]
        found.append(score(jax.nn.sigmoid(logits), y, w, threshold=0.5))
        for average in ("macro", "micro"):
            found.append(score(logits[:, None], y, w, average=average))  # over the two classes
            found.append(score(SCORES, several, average=average))  # over the three labels
        return [one.value for one in found]

    expected = [reference(y, logits > 0, sample_weight=w)] * 5
    for average in ("macro", "micro"):
        expected.append(reference(y, logits > 0, average=average, sample_weight=w))
        expected.append(reference(several, SCORES > 0, average=average, zero_division=0))
    np.testing.assert_allclose(run(logits), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "score",
    [train.accuracy, train.precision, train.recall, train.f1, train.iou, train.confusion_matrix],
)
def test_a_threshold_without_an_effect_is_rejected(score):
    owner = rf"train.{score.__name__}"
    none = rf"{owner}: threshold must be None for a score of each class and for predictions, which "
    labels = YES[:, 0]
    pair = (
        none + rf".*, got 0.5; write {owner}\(jax.nn.softmax\(outputs\)\[..., 1\], targets, thresh"
    )
    with pytest.raises(ValueError, match=pair):
        score(SCORES[:, :2], labels, threshold=0.5)
    largest = none + rf".*, got 0.0; write {owner}\(outputs, targets\), which predicts the largest"
    with pytest.raises(ValueError, match=largest):
        score(SCORES, labels, threshold=0.0)
    made = none + rf".*; write {owner}\(outputs, targets\), or pass the logits or probabilities"
    with pytest.raises(ValueError, match=made):
        score(labels, labels, threshold=0.5)
    number = rf"{owner}: threshold must be None or a number, got 'high'; write threshold=0.5"
    with pytest.raises(ValueError, match=number):
        score(SCORES[:, 0], labels, threshold="high")


def test_a_threshold_for_each_label():
    thresholds = np.array([-0.5, 0, 0.5], np.float32)
    expected = np.mean(np.greater(SCORES, thresholds) == YES)
    found = jax.jit(lambda t: train.accuracy(SCORES, YES, threshold=t).value)(thresholds)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_accuracy_of_several_labels_is_one_minus_hamming_loss():
    expected = 1 - sk.hamming_loss(YES, SCORES > 0)
    np.testing.assert_allclose(float(train.accuracy(SCORES, YES)), expected, rtol=1e-6)


def test_predictions_of_several_classes():
    y, p = RNG.integers(0, 5, 20), RNG.integers(0, 5, 20)
    expected = sk.f1_score(y, p, average="macro")
    np.testing.assert_allclose(float(train.f1(p, y, average="macro", classes=5)), expected)


def test_more_classes_than_logits():
    logits, y = RNG.normal(size=(30, 3)).astype(np.float32), RNG.integers(0, 5, 30)
    p = logits.argmax(1)
    expected = sk.confusion_matrix(y, p, labels=range(5))
    np.testing.assert_array_equal(train.confusion_matrix(logits, y, classes=5), expected)
    for average in ("macro", "micro"):
        expected = sk.f1_score(y, p, average=average)
        found = float(train.f1(logits, y, average=average, classes=5))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        # Two classes of positions, and not a label for each position.
        expected = sk.f1_score(YES.ravel(), (SCORES > 0).ravel(), average=average)
        found = float(train.f1(SCORES, YES, average=average, classes=2))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.isnan(float(train.f1(logits, np.zeros(30, int), average="macro", classes=2)))


def test_auc_with_ties_weights_and_ignored_labels():
    scores, y, w = SCORES[:, 0], YES[:, 0].copy(), POSITION.copy()
    y[:2] = -100
    kept = (y != -100) & (w != 0)
    expected = sk.roc_auc_score(y[kept], scores[kept], sample_weight=w[kept])

    def both(scores, y, w):
        spoilt = jnp.where((w == 0) | (y == -100), jnp.nan, scores)
        return {"auc": train.auc(spoilt[:, None], y, w), "yes": train.accuracy(spoilt, y, w)}

    found, larger = whole(jax.jit(both), (5, 3, 4), scores, y, w)
    np.testing.assert_allclose(found["auc"], expected, rtol=1e-12)
    assert larger["auc"] is True
    several = train.auc(SCORES, YES)
    np.testing.assert_allclose(float(several), sk.roc_auc_score(YES, SCORES), rtol=1e-12)
    assert np.isnan(float(train.auc(scores, np.ones(ROWS, int))))  # undefined, as scikit-learn has


def test_top_k_accuracy_with_ties():
    reference: Any = sk.top_k_accuracy_score
    logits, y = RNG.integers(0, 3, (30, 4)).astype(np.float32), RNG.integers(0, 4, 30)
    weights = RNG.integers(0, 3, 30).astype(np.float32)

    @jax.jit
    def top(logits, y, weights):
        ones = jnp.ones_like(weights)
        return {
            f"{name}/{k}": train.top_k_accuracy(logits, y, given, k=k)
            for k in (1, 2, 3)
            for name, given in (("plain", ones), ("weighted", weights))
        }

    found, _ = whole(top, (15, 15), logits, y, weights)
    for k in (1, 2, 3):
        for name, chosen in (("plain", None), ("weighted", weights)):
            expected = reference(y, logits, k=k, labels=range(4), sample_weight=chosen)
            np.testing.assert_allclose(found[f"{name}/{k}"], expected, rtol=1e-6)


@pytest.mark.parametrize("cut", [(6,), (2, 2, 2)])
def test_perplexity_and_bits(cut):
    """exp and log2 of the mean over all tokens, which no mean over the batches gives."""
    logits = 3 * RNG.normal(size=(6, 5, 7)).astype(np.float32)
    y = np.where(np.arange(5) < RNG.integers(1, 6, (6, 1)), RNG.integers(0, 7, (6, 5)), -100)

    @jax.jit
    def both(logits, y):
        return {"perplexity": train.perplexity(logits, y), "bits": train.bits(logits, y)}

    found, larger = whole(both, cut, logits, y)
    kept = y != -100
    wide = logits.astype(np.float64)[kept]
    logs = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    nats = -logs[np.arange(kept.sum()), y[kept]].mean()
    np.testing.assert_allclose(found["perplexity"], np.exp(nats), rtol=1e-5)
    np.testing.assert_allclose(found["bits"], nats / np.log(2), rtol=1e-6)
    assert larger == {"perplexity": False, "bits": False}


NUMBERS = {
    "mae": (train.mae, sk.mean_absolute_error),
    "rmse": (train.rmse, sk.root_mean_squared_error),
    "r2": (train.r2, sk.r2_score),
}


def of_numbers(outputs, targets, weights):
    return {name: score(outputs, targets, weights) for name, (score, _) in NUMBERS.items()}


COMPILED = jax.jit(of_numbers)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
@pytest.mark.parametrize("outputs", [1, 3])
@settings(max_examples=6, deadline=None)
@given(lengths=CUTS)
def test_numbers(mean, outputs, lengths):
    """The mean is 10,000 standard deviations large, where float32 sums of squares cancel."""
    rng = np.random.default_rng(1)
    y = (mean + 0.1 * rng.normal(size=(ROWS, outputs))).astype(np.float32)
    p = (y + 0.05 * rng.normal(size=y.shape)).astype(np.float32)
    hidden = np.where(POSITION[:, None] == 0, np.nan, y)
    found, larger = whole(COMPILED, lengths, p, hidden, POSITION)
    at_once = COMPILED(p, hidden, POSITION)
    assert larger == {"mae": False, "rmse": False, "r2": True}
    for name, (_, reference) in NUMBERS.items():
        expected = reference(np.float64(y), np.float64(p), sample_weight=POSITION)
        np.testing.assert_allclose(found[name], expected, rtol=2e-6, err_msg=name)
        np.testing.assert_allclose(float(at_once[name]), expected, rtol=2e-6)


@pytest.mark.parametrize(("error", "expected"), [(0.0, 1.0), (0.1, 0.0)])
def test_r2_of_equal_targets(error, expected):
    y = np.full(6, 0.5, np.float32)
    found, _ = whole(lambda p, y: {"r2": train.r2(p, y)}, (3, 3), y + np.float32(error), y)
    assert found["r2"] == expected == sk.r2_score(y, y + np.float32(error))


def test_within_compiled_loops_and_lanes():
    """A scan over pieces, one lane per network, then one number per lane."""
    logits, y = RNG.normal(size=(2, 12, 4)).astype(np.float32), RNG.integers(0, 4, 12)
    numbers = RNG.normal(size=12).astype(np.float32) + 100

    def measured(logits, y, numbers):
        return {
            "f1": train.f1(logits, y, average="macro"),
            "r2": train.r2(numbers + 0.1 * logits[:, 0], numbers),
        }

    def run(logits):
        pieces = [a.reshape(3, 4, *a.shape[1:]) for a in (logits, jnp.asarray(y), numbers)]
        return jax.lax.scan(lambda carry, piece: (carry, measured(*piece)), 0, pieces)[1]

    lanes = jax.jit(jax.vmap(run))(logits)
    for lane in range(2):
        tally = Tally()
        tally.add(jax.tree.map(lambda a, i=lane: a[i], lanes), 4)
        found = tally.metrics()
        f1 = sk.f1_score(y, logits[lane].argmax(1), average="macro")
        np.testing.assert_allclose(found["f1"], f1, rtol=1e-6)
        r2 = sk.r2_score(numbers, numbers + np.float32(0.1) * logits[lane][:, 0])
        np.testing.assert_allclose(found["r2"], r2, rtol=1e-5)  # 100 + 0.1 z in float32


def test_confusion_matrix():
    logits, y = RNG.normal(size=(40, 4)).astype(np.float32), RNG.integers(0, 3, 40)
    y[::5] = -100
    kept, p = y != -100, logits.argmax(1)
    expected = sk.confusion_matrix(y[kept], p[kept], labels=range(4))  # without examples of 3
    matrix = jax.jit(train.confusion_matrix, static_argnames="classes")
    lanes = jax.jit(jax.vmap(train.confusion_matrix))(logits.reshape(2, 20, 4), y.reshape(2, 20))
    for found in (
        train.confusion_matrix(logits, y),
        matrix(logits, y),
        matrix(p, y, classes=4),
        np.asarray(lanes).sum(0),
    ):
        np.testing.assert_array_equal(found, expected)
    w = RNG.integers(0, 3, 40).astype(np.float32) / 2
    expected = sk.confusion_matrix(y[kept], p[kept], labels=range(4), sample_weight=w[kept])
    np.testing.assert_allclose(matrix(logits, y, w), expected, rtol=1e-6)
    np.testing.assert_array_equal(matrix(logits, np.full(40, -100)), 0)
    yes = matrix(SCORES, YES)
    np.testing.assert_array_equal(yes, sk.confusion_matrix(YES.ravel(), (SCORES > 0).ravel()))
    with pytest.raises(ValueError, match=r"outside of \[0, 4\) for 4 classes; write classes=8"):
        train.confusion_matrix(logits, np.where(y == 0, 7, y))


def test_a_label_out_of_range_gives_nan():
    logits = RNG.normal(size=(4, 3)).astype(np.float32)
    scores: dict[str, Any] = {
        name: getattr(train, name) for name in ("accuracy", "top_k_accuracy", "perplexity", "bits")
    }
    for name, (score, _) in AVERAGED.items():
        for average in ("macro", "micro"):
            scores[f"{name}/{average}"] = functools.partial(score, average=average)

    @jax.jit
    def run(y, yes, weights):
        found = {name: score(logits, y, weights).value for name, score in scores.items()}
        found |= {n: one(logits[:, :1], yes, weights).value for n, (one, _) in AVERAGED.items()}
        return found, train.auc(logits[:, :1], yes, weights)

    y, yes = np.array([0, 1, 7, 2]), np.array([0, 1, 7, 0])
    for weight, lost in ((1.0, True), (0.0, False)):
        found, auc = run(y, yes, np.array([1.0, 1.0, weight, 1.0], np.float32))
        assert {name: bool(np.isnan(value)) for name, value in found.items()} == dict.fromkeys(
            found, lost
        )
        assert np.isnan(float(auc)) == lost


LOGITS, TARGETS = np.zeros((4, 3), np.float32), np.zeros(4, int)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: train.f1(LOGITS, TARGETS),
            ValueError,
            r"f1: the number of classes must be 2 for average='binary'.*, got 3; .*='macro'",
        ),
        (
            lambda: train.iou(LOGITS, TARGETS, average="weighted"),
            ValueError,
            r"iou: average must be 'binary', 'macro', or 'micro', got 'weighted'; write average=",
        ),
        (
            lambda: train.accuracy(LOGITS, TARGETS[:3]),
            ValueError,
            r"train.accuracy needs outputs of shape \(3\) or \(3, 1\) or \(3, classes\) for "
            r"targets int64\[3\], got float32\[4,3\]; write logits \(..., classes\) or predictions",
        ),
        (
            lambda: train.recall(LOGITS, TARGETS.astype(np.float32)),
            TypeError,
            r"train.recall must be integer class labels, got float32\[4\]; write targets.astype\(",
        ),
        (
            lambda: train.auc(LOGITS, TARGETS),
            ValueError,
            r"train.auc needs .* got float32\[4,3\]; for one .* train.auc\(outputs\[..., i\],",
        ),
        (
            lambda: train.perplexity(LOGITS[:, 0], TARGETS),
            ValueError,
            r"perplexity needs outputs of shape \(4, classes\) for targets int64\[4\], got float32",
        ),
        (
            lambda: train.top_k_accuracy(LOGITS, TARGETS, k=0),
            ValueError,
            r"top_k_accuracy: k must be an int >= 1, got 0; write k=5",
        ),
        (
            lambda: train.mae(LOGITS, TARGETS),
            ValueError,
            r"mae needs outputs of shape \(4\) or \(4, 1\) for .*; write outputs of shape \(4,\)",
        ),
        (
            lambda: train.rmse(LOGITS[:, 0], TARGETS[:, None]),
            ValueError,
            r"rmse needs outputs of shape \(4, 1\) or \(4, 1, 1\) for .*, got float32\[4\]; write",
        ),
        (
            lambda: train.r2(LOGITS, LOGITS, LOGITS[:2, 0]),
            ValueError,
            r"weights for train.r2 must be an array of one real number per row, \(4,\), or per "
            r"position, \(4, 3\), got float32\[2\]; write np.asarray",
        ),
        (
            lambda: train.accuracy(LOGITS, TARGETS, LOGITS[:, :1]),
            ValueError,
            r"weights for train.accuracy must be an array of one real number per row, \(4,\), got "
            r"float32\[4,1\]; write np.asarray\(weights\).reshape",
        ),
    ],
)
def test_the_error_says_what_to_write(call, error, text):
    with pytest.raises(error, match=text):
        call()
