"""How good predictions are, as numbers: the scores that a run reports on its test examples."""

import math

import numpy as np


def classification_scores(y: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Accuracy and mean cross entropy of class probabilities.

    Args:
        y: labels, (...) integers.
        probabilities: (..., classes), each with sum 1 over the classes.

    >>> scores = classification_scores(np.array([0, 1]), np.array([[0.5, 0.5], [1.0, 0.0]]))
    >>> scores["accuracy"]
    0.5
    """
    of_truth = of_truth_in(probabilities, y)
    # Float32 rounds a probability below 1e-45 to 0, whose logarithm would hide all other rows.
    loss = -np.log(np.maximum(of_truth, np.finfo(np.float32).tiny)).mean()
    return {"accuracy": float((probabilities.argmax(-1) == y).mean()), "loss": float(loss)}


def language_scores(y: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Bits a token, -log2 of the probability of the one that followed, accuracy and loss, as means.

    Args:
        y: the token that follows each, (rows, T) integers.
        probabilities: (rows, T, vocabulary), each with sum 1 over the vocabulary.

    >>> language_scores(np.array([[0, 1]]), np.full((1, 2, 4), 0.25))["bits"]
    2.0
    """
    scores = classification_scores(y, probabilities)
    return {"bits": scores["loss"] / math.log(2), **scores}


def of_truth_in(probabilities: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The probability (...) of the label y (...) among probabilities (..., classes), in float64."""
    return np.take_along_axis(probabilities, y[..., None], -1)[..., 0].astype(np.float64)


def regression_scores(y: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """R2 = 1 - sum (y - p)^2 / sum (y - mean y)^2; root mean square and mean absolute error.

    Args:
        y, predicted: (rows,); the errors are in their units.

    >>> regression_scores(np.array([1.0, 3.0]), np.array([1.0, 2.0]))["r2"]
    0.5
    """
    errors = predicted.astype(np.float64) - y
    spread = float(np.square(y - y.mean(dtype=np.float64)).sum())
    squares = float(np.square(errors).sum())
    return {
        "r2": 1 - squares / spread if spread else float("nan"),
        "rmse": float(np.sqrt(squares / len(y))),
        "mae": float(np.abs(errors).mean()),
    }
