"""Predictions and scores of a run, for the commands on run folders, for pictures, and reports.

A score has a confidence interval: how much it would vary with other test rows. Each metric is
evaluated on every row alone. For a mean of zeros and ones, such as accuracy, the interval is
Wilson's; for other metrics it is the percentile interval of the bootstrap over rows. They apply to
one trained network, and do not include the variation between seeds.

References: Wilson, Probable inference, the law of succession, and statistical inference, 1927;
Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 13.
"""

import dataclasses
import io
import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from .. import train
from ..data import Dataset
from ..data.rows import row_count, slices
from ..files.reading import FileError, check_regular, check_size, quoted, read_bytes
from ..html import aligned_columns
from ..train.metrics import Collected, Derived, terms_of
from ..validation import one_of
from .experiment import Configured

LARGEST = 2**30  # bytes of a file with inputs
SHOWN = 10  # rows that are printed
LEVEL, Z = 0.95, 1.959964  # Z is the quantile of the normal distribution for two sides
RESAMPLES, FEWER = 1000, 200
PIECE = 256  # rows that are evaluated at once
MANY = 20_000  # rows beyond which fewer resamples are drawn
MOST = 200_000  # rows beyond which nothing is resampled
MOST_COLLECTED = 5000  # the same for metrics that each resample computes from all rows


class Interval(NamedTuple):
    """The interval of a score with 95 % confidence, and its method, "Wilson" or "bootstrap"."""

    low: float
    high: float
    method: str


def predicted(one: Configured, state: Any, inputs: Any) -> Any:
    """Return predictions on the host; of a binary task, the probabilities of both, (rows, 2)."""
    found = jax.tree.map(np.asarray, train.predict(one.program, state, inputs))
    if isinstance(one.task, train.BinaryClassification):
        return np.stack([1 - found, found], axis=-1)
    return found


def scores_of(one: Configured, state: Any, rows: Any) -> dict[str, float]:
    """Return the metrics of a state: that of the experiment first, and the loss last."""
    found = train.evaluate(one.program, state, rows)
    metric = one.experiment.ranked[0].removeprefix("validation_")
    return {name: found[name] for name in sorted(found, key=lambda n: (n == "loss", n != metric))}


def scores_text(scores: Mapping[str, float], intervals: Mapping[str, Interval] = {}) -> str:
    """Return scores on one line, each with its 95 % interval, if it has one.

    >>> scores_text({"accuracy": 0.931, "loss": 0.25}, {"loss": Interval(0.2, 0.31, "bootstrap")})
    'accuracy 0.931, loss 0.25 (0.2 to 0.31)'
    """
    texts = []
    for name, number in scores.items():
        found = intervals.get(name)
        more = f" ({found.low:.4g} to {found.high:.4g})" if found else ""
        texts.append(f"{name} {number:.4g}{more}")
    return ", ".join(texts)


def print_scores(one: Configured, state: Any, folder: Path) -> None:
    """Print the scores of a finished run: on the test rows, otherwise on the validation rows.

    Args:
        one: the run.
        state: its final state.
        folder: the name of the run in the text.
    """
    dataset, held = one.data.dataset, one.data.validation
    rows, text = held, "" if held is None else f" on {row_count(held):,} validation rows"
    if dataset is not None:
        rows, text = (*dataset.test,), f" on {row_count(dataset.test):,} test rows"
    elif held is None and one.data.rows is not None:
        raise ValueError(
            f"{one.experiment.name} has neither test rows nor validation rows; write return "
            "training_data, validation_data in its function data"
        )
    print(f"{folder}{text}: {scores_text(scores_of(one, state, rows))}")


def print_predictions(one: Configured, state: Any, folder: Path, file: Path | None) -> None:
    """Print the predictions of a finished run: of the test rows, or of the rows of a file.

    Args:
        one: the run.
        state: its final state.
        folder: the name of the run in texts.
        file: a `.npy` or `.csv` file; None for the test rows.

    Raises:
        ValueError, OSError: the file is missing or invalid.
    """
    dataset = one.data.dataset
    if file is not None:
        inputs = read_inputs(file, dataset)
        try:
            predictions = predicted(one, state, inputs)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file}: {error}") from error
        print("\n".join(prediction_lines(one, predictions, None)))
    elif dataset is None:
        raise ValueError(
            f"predictions need inputs; write predict {quoted(folder)} --input inputs.npy"
        )
    else:
        scores = scores_text(scores_of(one, state, (*dataset.test,)))
        print(
            f"{folder} on {row_count(dataset.test):,} test rows: {scores}\n\nThe first of them:\n"
        )
        x, y = jax.tree.map(lambda leaf: leaf[:SHOWN], (*dataset.test,))
        print("\n".join(prediction_lines(one, predicted(one, state, x), y)))


def prediction_lines(one: Configured, predictions: Any, y: Any) -> list[str]:
    """Return a title and a line per row: its number, the target if known, and the prediction.

    Args:
        one: the run.
        predictions: of each row.
        y: the targets, or None.
    """
    task, names = one.task, class_names(one)
    columns: dict[str, Any] = {"row": range(len(jax.tree.leaves(predictions)[0]))}
    probabilities = None
    if isinstance(task, train.NextToken):
        if y is not None:
            columns["bits"] = [f"{row:.3f}" for row in np.nanmean(bits_of(predictions, y), -1)]
        probabilities = predictions[:, -1]
        columns["next"] = [repr(names[token]) for token in probabilities.argmax(1)]
    elif is_of_classes(task, predictions):
        if y is not None and np.ndim(y) == 1:
            columns["true"] = [names[label] if label >= 0 else "" for label in y]
        probabilities = predictions
        columns["predicted"] = [names[label] for label in probabilities.argmax(1)]
    else:
        if y is not None:
            columns["true"] = _texts(y)
        columns["predicted"] = _texts(predictions)
    if probabilities is not None:
        columns["probability"] = [f"{share:.3f}" for share in probabilities.max(1)]
    return aligned_columns([[*columns], *zip(*columns.values(), strict=True)])


def _texts(tree: Any) -> list[str]:
    """Return each row of a pytree as text."""
    text = lambda row: np.array2string(row, precision=4) if np.ndim(row) else f"{row:.4g}"  # noqa: E731
    rows = zip(*map(np.asarray, jax.tree.leaves(tree)), strict=True)
    return [", ".join(map(text, row)) for row in rows]


def is_of_classes(task: Any, predictions: Any) -> bool:
    """Return whether predictions are a probability for each class, (rows, classes)."""
    kinds = train.Classification | train.BinaryClassification
    return isinstance(task, kinds) and predictions.ndim == 2


def class_names(one: Configured) -> tuple[str, ...]:
    """Return the names of the classes by label; their numbers if the data set has no names."""
    found = one.data.dataset.class_names if one.data.dataset is not None else ()
    return found or tuple(map(str, range(getattr(one.task, "classes", None) or 0)))


def bits_of(probabilities: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return -log2 of the probability of each label, NaN for labels that are ignored.

    Args:
        probabilities: (..., classes).
        y: integers (...).

    >>> bits_of(np.array([[0.25, 0.75], [0.5, 0.5]]), np.array([0, -100])).tolist()
    [2.0, nan]
    """
    found = np.take_along_axis(probabilities, np.maximum(y, 0)[..., None], -1)[..., 0]
    # Float32 rounds a probability below 1e-45 to 0, whose logarithm would hide all other rows.
    bits = -np.log2(np.maximum(found.astype(np.float64), np.finfo(np.float32).tiny))
    return np.where(y < 0, np.nan, bits)


def read_inputs(file: Path, dataset: Dataset | None) -> np.ndarray:
    """Return inputs from a `.npy` or `.csv` file: float32, or integers if the data are.

    A csv file has a line per row, and may have a line of titles. Rows of images may be flat or have
    the shape of an image. The axis of rows may be left out for a single row.

    Args:
        file: the file.
        dataset: the data set, whose inputs are in the same units; None accepts any table.

    Raises:
        OSError: there is no such file.
        ValueError: another kind of file, another shape, or numbers that the data set cannot have.
    """
    x = _read_table(file)
    if dataset is None or not hasattr(dataset.train.x, "shape"):
        return x
    known = dataset.train.x
    row, image = known.shape[1:], dataset.image_shape
    if image is not None and x.shape[-len(image) :] == image:
        x = x.reshape(*x.shape[: -len(image)], *row)
    x = x[None] if x.shape == row else x
    tokens = np.issubdtype(known.dtype, np.integer)
    most = int(known.max()) if not dataset.class_names else len(dataset.class_names) - 1
    if x.shape[1:] != row or not len(x):
        shapes = [row] if image is None else [row, image]
        wanted = " or ".join(f"(rows, {', '.join(map(str, shape))})" for shape in shapes)
        problem = f"numbers of shape {x.shape}, expected {wanted}"
    elif not np.isfinite(x).all():
        bad = int(np.argmin(np.isfinite(x).reshape(len(x), -1).all(1)))
        problem = f"NaN or infinity in row {bad}; leave it out, or fill it in"
    elif tokens and ((x != np.round(x)).any() or x.min() < 0 or x.max() > most):
        problem = f"numbers that are not tokens, expected whole numbers in 0 .. {most}"
    elif image is not None and (x.min() < known.min() or x.max() > known.max()):
        problem = (
            f"numbers from {x.min():g} to {x.max():g}, expected {known.min():g} to "
            f"{known.max():g} as in {dataset.name}; divide gray levels of 0 to 255 by 255"
        )
    else:
        return x.astype(known.dtype) if tokens else x
    raise FileError(f"{file} has {problem}")


def _read_table(file: Path) -> np.ndarray:
    """Return the numbers in a `.npy` or `.csv` file."""
    one_of(".npy", ".csv")(file.suffix, f"the suffix of {file}", "write np.save('inputs.npy', x)")
    check_size(file, check_regular(file), LARGEST, "predict from parts of it")
    try:
        if file.suffix == ".npy":
            # The shape is compared with the size of the file before anything is read.
            table = np.lib.format.open_memmap(file, mode="r")
            one_of(*"fiub")(table.dtype.kind, f"the kind of its dtype {table.dtype}")
            return np.array(table, np.float32)
        text = read_bytes(file, LARGEST).decode()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the shape of an empty file is rejected
            try:
                return _parsed(text, 0)
            except ValueError:
                return _parsed(text, 1)  # after a line of titles
    except Exception as error:  # numpy raises many kinds on a damaged file
        raise FileError(f"{file} is not a table of numbers: {error!s:.200}") from None


def _parsed(text: str, skip: int) -> np.ndarray:
    return np.loadtxt(io.StringIO(text), np.float32, delimiter=",", ndmin=2, skiprows=skip)


def intervals_of(
    one: Configured, state: Any, rows: Any, scores: dict[str, float]
) -> dict[str, Interval]:
    """Return the interval of each score that is a mean, or a function of sums, over rows.

    Args:
        one: the run.
        state: its final state.
        rows: the test rows.
        scores: their metrics.
    """
    count = row_count(rows)
    key = jax.random.key(0)

    @jax.jit
    def evaluate(state: Any, piece: Any) -> Any:
        alone = jax.tree.map(lambda leaf: leaf[:, None], piece)
        return jax.vmap(lambda row: dict(one.program.evaluate(state, row, key=key)))(alone)

    parts = jax.device_get([evaluate(state, piece) for piece in slices(rows, PIECE)])
    leaves = map(np.concatenate, zip(*map(jax.tree.leaves, parts), strict=True))
    metrics = jax.tree.unflatten(jax.tree.structure(parts[0]), leaves)
    random, resamples = np.random.default_rng(0), RESAMPLES if count <= MANY else FEWER
    chosen = np.zeros((resamples if count <= MOST else 0, count), np.float32)
    for often in chosen:
        often[:] = np.bincount(random.integers(0, count, count), minlength=count)
    # A metric of a whole, such as R2, may not exist for a row alone.
    names = [name for name in scores if name in metrics]
    found = {name: _interval(metrics[name], chosen, scores[name]) for name in names}
    return {name: interval for name, interval in found.items() if interval is not None}


def wilson(right: float, count: int) -> Interval:
    """Return Wilson's interval of a proportion.

    (p + z² / 2n ± z √(p (1 - p) / n + z² / 4n²)) / (1 + z² / n), with z = 1.96 and p = right / n.

    Args:
        right: the number of ones.
        count: the number of zeros and ones, n.

    >>> [round(end, 4) for end in wilson(9, 10)[:2]], [round(e, 4) for e in wilson(5, 5)[:2]]
    ([0.5958, 0.9821], [0.5655, 1.0])
    """
    share, more = right / count, Z**2 / count
    center, half = share + more / 2, Z * math.sqrt(share * (1 - share) / count + more / 4 / count)
    return Interval((center - half) / (1 + more), (center + half) / (1 + more), "Wilson")


def _interval(metric: Any, chosen: np.ndarray, score: float) -> Interval | None:
    """Return the interval of a metric of each row; None if it is not a combination of rows.

    Args:
        metric: with an axis of rows.
        chosen: (resamples, rows), how often a resample has a row.
        score: of all rows at once.
    """
    count = chosen.shape[1]
    if isinstance(metric, Collected) and count > MOST_COLLECTED:
        return None
    # The two differ if the metric is not a combination of rows.
    if not math.isclose(_resampled(metric, np.ones(count)), score, rel_tol=1e-3):
        return None
    if isinstance(metric, Derived):
        chosen = chosen[:FEWER] if metric.merge else chosen
    elif not isinstance(metric, Collected) and len(terms := terms_of(metric, 1)) == 1:
        sums, counts = terms[0].sum, terms[0].count
        if np.isin(counts, (0, 1)).all() and np.isin(sums, (0, 1)).all() and np.any(counts):
            # A row with an ignored label counts 0.
            return wilson(float(np.sum(sums)), int(np.sum(counts)))
    values = [_resampled(metric, often.astype(float)) for often in chosen]
    if not values or not np.isfinite(values).all():
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), "bootstrap")


def _resampled(metric: Any, often: np.ndarray) -> float:
    """Return the metric, given by row, of a sample that contains row i `often[i]` times."""
    if isinstance(metric, Collected):
        # One row per example.
        arrays = [array.reshape(-1, *array.shape[2:]) for array in metric.arrays]
        return float(metric.function(*_repeated(arrays, often)))
    if isinstance(metric, Derived) and metric.merge:
        parts = dataclasses.replace(metric, sums=_repeated(metric.sums, often))
        return float(parts.over_parts().value)
    if isinstance(metric, Derived):
        sums = tuple(np.tensordot(often, leaf, 1) for leaf in metric.sums)
        return float(dataclasses.replace(metric, sums=sums).value)
    terms = terms_of(metric, 1)
    return float(sum((often @ term.sum) / max(often @ term.count, 1e-9) for term in terms))


def _repeated(arrays: Iterable[np.ndarray], often: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return arrays with each row as often as `often` says."""
    rows = np.repeat(np.arange(len(often)), often.astype(int))
    return tuple(array[rows] for array in arrays)
