"""Tasks against closed forms in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import train

RNG = np.random.default_rng(1)
LOGITS = RNG.normal(size=(6, 4)).astype(np.float32)
LABELS = np.array([0, 3, 1, 1, 2, 0], np.int32)


def test_classification():
    task = train.Classification(4)
    probs = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    assert task.outputs == task.classes == 4
    np.testing.assert_allclose(
        task(LOGITS, LABELS), -np.log(probs[np.arange(6), LABELS]).mean(), rtol=1e-6
    )
    np.testing.assert_allclose(task.predict(LOGITS), probs, rtol=1e-5)
    accuracy = task.metrics(LOGITS, LABELS)["accuracy"]
    np.testing.assert_allclose(accuracy, np.mean(LOGITS.argmax(1) == LABELS))


def test_language_model():
    """Positions are examples: mean over all, in nats and in bits."""
    task = train.NextToken(4)
    logits, labels = LOGITS.reshape(2, 3, 4), LABELS.reshape(2, 3)
    log_probs = LOGITS - np.log(np.exp(LOGITS).sum(1, keepdims=True))
    loss = -log_probs[np.arange(6), LABELS].mean()
    metrics = task.metrics(logits, labels)
    assert task.outputs == task.classes == 4
    np.testing.assert_allclose(task(logits, labels), loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["bits"], loss / np.log(2), rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(LOGITS.argmax(1) == LABELS))
    np.testing.assert_allclose(task.predict(logits), np.exp(log_probs).reshape(2, 3, 4), rtol=1e-5)
    with pytest.raises(
        ValueError, match=r"NextToken.vocabulary must be an int >= 2, got 1; write train.N"
    ):
        train.NextToken(1)
    with pytest.raises(
        ValueError, match=r"targets \(...\), got outputs float32\[2,3,4\] for targets int32\[2\]"
    ):
        task(logits, labels[:, 0])


def test_binary():
    task = train.BinaryClassification()
    z, y = LOGITS[:, :1], (LABELS > 1).astype(np.int32)
    p = 1 / (1 + np.exp(-z[:, 0]))
    assert task.outputs == 1
    np.testing.assert_allclose(
        task(z, y), -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)), rtol=1e-6
    )
    np.testing.assert_allclose(task.predict(z), p, rtol=1e-5)
    np.testing.assert_allclose(task.metrics(z, y)["accuracy"], np.mean((p > 0.5) == y))


def test_regression():
    task = train.Regression()
    outputs, y = LOGITS[:, :1], LOGITS[:, 1]
    assert task.outputs == 1
    np.testing.assert_allclose(task(outputs, y), np.mean((outputs[:, 0] - y) ** 2), rtol=1e-6)
    np.testing.assert_allclose(
        task.metrics(outputs, y)["mae"], np.mean(np.abs(outputs[:, 0] - y)), rtol=1e-6
    )
    np.testing.assert_array_equal(task.predict(outputs), outputs[:, 0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_losses_accumulate_in_float32(dtype):
    """4,096 equal losses: a half-precision mean would stick or overflow; float32 gives log 4."""
    task = jax.jit(train.Classification(4))
    loss = task(np.zeros((4096, 4), jnp.dtype(dtype)), np.zeros(4096, np.int32))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, np.log(4), rtol=1e-6)


def test_large_logits_do_not_overflow():
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32)
    loss = train.Classification(2)(logits, np.array([0, 0]))
    np.testing.assert_allclose(loss, 1e4)  # (0 + 2e4) / 2
    np.testing.assert_allclose(train.BinaryClassification()(logits[:, :1], np.array([1, 1])), 5e3)


def test_tasks_are_values():
    assert train.Classification(4) == train.Classification(4) != train.Classification(5)
    assert repr(train.Classification(4)) == "Classification(4)"
    assert (
        len({train.BinaryClassification(), train.BinaryClassification(), train.Regression()}) == 2
    )


def test_a_class_without_probability_has_no_part():
    """0 * log 0 is 0: a logit of -inf for a class that the target gives 0."""
    task, logits = train.Classification(3), np.array([[0.0, 0.0, -np.inf]], np.float32)
    soft, label = np.array([[1.0, 0.0, 0.0]], np.float32), np.array([0])
    for targets in (soft, label):
        value, gradient = jax.jit(jax.value_and_grad(task))(logits, targets)
        np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
        np.testing.assert_allclose(gradient, [[-0.5, 0.5, 0.0]], atol=1e-6)
