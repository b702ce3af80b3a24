"""optax's losses as tasks: label smoothing, focal, CTC against torch, contrastive."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import train
from tests.fixtures.normalization import FILE
from tests.layers.agreement import KEY, normals
from tests.near import assert_near


class Smoothed(train.Classification):
    share: float = 0.1

    def __call__(self, outputs, targets):
        labels = optax.smooth_labels(jax.nn.one_hot(targets, self.number), self.share)
        return optax.softmax_cross_entropy(self._wide(outputs, targets), labels).mean()


class Focal(train.BinaryClassification):
    gamma: float = 2.0

    def __call__(self, outputs, targets):
        logits = self._wide(outputs, targets)
        labels = targets.astype(logits.dtype)
        return optax.sigmoid_focal_loss(logits, labels, gamma=self.gamma).mean()


def ctc(logits, targets):
    frames, labels, padding = targets
    return optax.ctc_loss(logits, frames, labels, padding).mean()


def contrastive(embeddings, labels):
    return optax.ntxent(embeddings, labels, temperature=0.5)


LOGITS = normals(0, 6, 3)
LABELS = np.array([0, 2, 1, 1, 2, 0], np.int32)


def test_label_smoothing_by_the_formula():
    """(1 - a) -log p[y] + a * mean over classes of -log p."""
    logs = np.asarray(LOGITS, np.float64)
    logs = logs - np.log(np.exp(logs).sum(-1, keepdims=True))
    expected = -0.8 * logs[np.arange(6), LABELS] - 0.2 * logs.mean(-1)
    np.testing.assert_allclose(Smoothed(3, share=0.2)(LOGITS, LABELS), expected.mean(), rtol=1e-6)
    assert Smoothed(3, share=0.2).metrics(LOGITS, LABELS).keys() == {"accuracy"}


def test_focal_by_the_formula():
    """-(1 - p)**gamma log p, with p the probability of the target."""
    z, y = np.asarray(LOGITS[:, :1], np.float64), (LABELS > 0).astype(np.int32)
    p = 1 / (1 + np.exp(-z[:, 0] * (2 * y - 1)))
    expected = np.mean(-((1 - p) ** 2) * np.log(p))
    np.testing.assert_allclose(Focal()(LOGITS[:, :1], y), expected, rtol=1e-5)


def test_contrastive_by_the_formula():
    """Each pair of equal labels against all other rows, by cosine similarity."""
    rows, labels = normals(0, 4, 3), np.array([0, 0, 1, 1])
    unit = np.asarray(rows, np.float64)
    unit = unit / np.linalg.norm(unit, axis=-1, keepdims=True)
    similar = np.exp(unit @ unit.T / 0.5)
    others = similar * (labels[:, None] != labels)
    pairs = [(0, 1), (1, 0), (2, 3), (3, 2)]
    terms = [-np.log(similar[i, j] / (similar[i, j] + others[i].sum())) for i, j in pairs]
    np.testing.assert_allclose(contrastive(rows, jnp.asarray(labels)), np.mean(terms), rtol=1e-5)


def test_ctc_as_torch():
    """Losses of three lengths, and the gradient of their mean."""
    a = {n[4:]: np.load(FILE)[n] for n in np.load(FILE).files if n.startswith("ctc/")}
    frames = (np.arange(6) >= a["frames"][:, None]).astype(np.float32)
    padding = (np.arange(3) >= a["lengths"][:, None]).astype(np.float32)
    targets = (frames, a["labels"].astype(np.int32), padding)
    loss, gradient = jax.jit(jax.value_and_grad(ctc))(a["logits"], targets)
    np.testing.assert_allclose(loss, a["losses"].mean(), rtol=1e-5)
    assert_near(gradient, a["dlogits"])


@pytest.mark.parametrize("kind", ["smoothed", "focal", "ctc", "contrastive"])
def test_a_step_takes_them(kind):
    x = normals(1, 6, 4)
    frames = (np.zeros((2, 3), np.float32), np.array([[1], [2]]), np.zeros((2, 1), np.float32))
    net, task, x, y = {
        "smoothed": (nn.Dense(3), Smoothed(3), x, LABELS),
        "focal": (nn.Dense(1), Focal(), x, LABELS % 2),
        "ctc": (nn.Dense(3), ctc, x.reshape(2, 3, 4), frames),
        "contrastive": (nn.Dense(3), contrastive, x, LABELS),
    }[kind]
    program = train.Supervised(net, task, optax.sgd(0.01))
    ts, step = program.init(KEY, (x, y)), train.make_step(program)
    ts, first = step(ts, (x, y))
    _, second = step(ts, (x, y))
    assert float(second["loss"]) < float(first["loss"])
