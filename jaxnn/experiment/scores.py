"""How good predictions are, as numbers: the scores that a run reports on its test examples."""

import numpy as np


def classification_scores(y: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Accuracy and mean cross entropy of class probabilities.

    Args:
        y: labels, (rows,) integers.
        probabilities: (rows, classes), each row with sum 1.

    >>> scores = classification_scores(np.array([0, 1]), np.array([[0.5, 0.5], [1.0, 0.0]]))
    >>> scores["accuracy"]
    0.5
    """
    of_truth = probabilities[np.arange(len(y)), y].astype(np.float64)
    # Float32 rounds a probability below 1e-45 to 0, whose logarithm would hide all other rows.
    loss = -np.log(np.maximum(of_truth, np.finfo(np.float32).tiny)).mean()
    return {"accuracy": float((probabilities.argmax(1) == y).mean()), "loss": float(loss)}


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
