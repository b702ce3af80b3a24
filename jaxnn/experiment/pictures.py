"""Pictures of a run: each is a pure function from numbers to a matplotlib figure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import train
from ..data import Standardizer
from ..files.reading import printable
from ..html import charts
from ..train.fit import panels_of
from .experiment import Configured
from .prediction import bits_of, class_names, is_of_classes

DOTS: Any = {"color": charts.CURVE, "alpha": 0.7, "s": 16, "edgecolors": "none"}
MOST_DOTS = 2000  # that are drawn as shapes; more are a picture


def drawings(
    one: Configured, history: Sequence[Mapping[str, Any]], predictions: Any
) -> dict[str, Callable[[], Any]]:
    """Return functions that draw the pictures of a run, by file name.

    Args:
        one: the configuration of the run, with its data and program.
        history: its records.
        predictions: those of the test rows; None without test rows or without a task.
    """
    found: dict[str, Callable[[], Any]] = {}
    if panels_of(history):
        found["learning_curves.png"] = lambda: learning_curves(history)
    dataset, task = one.data.dataset, one.task
    if predictions is None or dataset is None:
        return found
    y, names = dataset.test.y, class_names(one)
    if isinstance(task, train.NextToken):
        found["bits_by_position.png"] = lambda: bits_by_position(y, predictions)
    elif isinstance(task, train.Regression) and task.outputs == 1:
        quantity = dataset.target_name or "target"
        found["predicted_and_true.png"] = lambda: predicted_and_true(y, predictions, quantity)
        found["residuals.png"] = lambda: residuals(y, predictions, quantity)
    elif is_of_classes(task, predictions) and np.ndim(y) == 1:
        kept = y >= 0  # without ignored labels
        y, predictions = y[kept], predictions[kept]
        found["confusion_matrix.png"] = lambda: confusion_counts(y, predictions.argmax(1), names)
        if dataset.image_shape or getattr(dataset.test.x, "ndim", 0) in (2, 3):
            found["worst_mistakes.png"] = lambda: _worst(dataset, kept, y, predictions, names)
    return found


def _worst(dataset: Any, kept: np.ndarray, y: np.ndarray, predictions: Any, names: Any) -> Any:
    """Return the worst mistakes as images, or as profiles."""
    x = dataset.test.x[kept]
    if dataset.image_shape:
        return worst_images(x.reshape(-1, *dataset.image_shape), y, predictions, names)
    features = dataset.feature_names or tuple(f"feature {i}" for i in range(x.shape[-1]))
    z = Standardizer.fit(dataset.train.x)(x) if x.ndim == 2 else x
    return worst_profiles(z, y, predictions, names, features)


@charts.styled
def learning_curves(history: Sequence[Mapping[str, Any]]) -> Any:
    """Return a panel for each metric: its curves on the training and the validation data."""
    figure = train.History([dict(record) for record in history]).plot()
    figure.suptitle("Learning curves")
    return figure


@charts.styled
def confusion_counts(y: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> Any:
    """Return the number of examples of each true class (rows) by predicted class (columns).

    Args:
        y: labels, (rows,) integers.
        predicted: predicted labels, (rows,) integers.
        names: the names of the classes, by label.
    """
    names = [*map(_shown, names)]
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (y, predicted), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(3.4, 0.36 * len(names) + 1) + 0.08 * max(0, max(map(len, names)) - 8)
    title = f"{(y != predicted).sum():,} of {len(y):,} test examples wrong"
    figure, (panel,) = _figure(side, side, title)
    panel.grid(visible=False)
    from matplotlib.patches import Rectangle

    for row, column in zip(*np.nonzero(counts), strict=True):
        share = float(shares[row, column])
        level = int(share * (len(charts.LEVELS) - 0.01))
        panel.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, color=charts.LEVELS[level], linewidth=0)
        )
        panel.text(
            column, row, str(counts[row, column]), ha="center", va="center",
            color=charts.PAPER if share > 0.5 else charts.INK,
            fontweight="bold" if row != column else "normal",
        )  # fmt: skip
    panel.set_xlim(-0.5, len(names) - 0.5)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.set_aspect("equal")
    long = max(map(len, names)) > 3
    panel.set_xticks(range(len(names)), names, rotation=90 if long and len(names) > 3 else 0)
    panel.set_yticks(range(len(names)), names)
    panel.set_xlabel("predicted class")
    panel.set_ylabel("true class")
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    return figure


@charts.styled
def worst_images(
    images: np.ndarray, y: np.ndarray, probabilities: np.ndarray, names: Sequence[str]
) -> Any:
    """Return a grid of the images whose true class got the least probability, the worst first.

    Args:
        images: (rows, height, width), 0 for background.
        y: labels, (rows,) integers.
        probabilities: (rows, classes).
        names: the names of the classes, by label.
    """
    chosen, title = worst(y, probabilities, most=24)
    columns = min(4, len(chosen))
    figure = charts.figure(4.8, 1.5 * -(-len(chosen) // columns) + 0.5)
    figure.suptitle(f"{title}\nthe least probability for the true class first")
    darkest = max(charts.drawable(float(images.max())), 1e-6)
    for panel, row in zip(charts.panels(figure, len(chosen), columns), chosen, strict=True):
        panel.axis("off")
        # The pixels themselves, which a browser enlarges.
        panel.imshow(
            _clipped(images[row]), cmap="gray_r", vmin=0, vmax=darkest, interpolation="none"
        )
        _set_verdict(panel, int(y[row]), probabilities[row], names)
    return figure


@charts.styled
def worst_profiles(
    z: np.ndarray,
    y: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
    features: Sequence[str],
) -> Any:
    """Return the worst mistakes among measurements or sequences, with the means of the classes.

    Each example is a column, in black, to compare it with the classes. A sequence has a panel per
    feature.

    Args:
        z: standardized measurements (rows, features), or sequences (rows, T, features).
        y: labels, (rows,) integers.
        probabilities: (rows, classes).
        names: the names of the classes, by label.
        features: the names along the last axis of z.
    """
    titles, z, is_row = [*map(_shown, features)], _clipped(z), z.ndim == 2
    chosen, title = worst(y, probabilities, most=6)
    curves = z[..., None] if is_row else z
    places, rows = np.arange(curves.shape[1]), curves.shape[2]
    height = 0.17 * len(titles) if is_row else 2.2 * rows
    figure, panels = _figure(
        1.3 * len(chosen) + 1.6, height + 1.6, title, rows, len(chosen), sharex=True, sharey="row"
    )
    for index, panel in enumerate(panels):
        line, column = divmod(index, len(chosen))
        row, across = chosen[column], curves[..., line]
        for kind in np.unique(y):
            mean = across[y == kind].mean(0)
            text = f"mean of {_shown(names[int(kind)])} test examples"
            panel.plot(*((mean, places) if is_row else (places, mean)), label=text)
        this = (across[row], places) if is_row else (places, across[row])
        panel.plot(*this, label="this example", color=charts.INK)
        if is_row:
            panel.set_yticks(places, titles)
            panel.set_ylim(len(titles) - 0.5, -0.5)
        elif column == 0:
            panel.set_ylabel(titles[line])
        if line == 0:
            _set_verdict(panel, int(y[row]), probabilities[row], names)
        if line == rows - 1:
            text = "standard deviations\nfrom the training mean" if is_row else "step"
            panel.set_xlabel(text)
    handles, labels = panels[0].get_legend_handles_labels()
    columns = len(labels) if len(chosen) > 2 else 1
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    return figure


@charts.styled
def bits_by_position(y: np.ndarray, probabilities: np.ndarray) -> Any:
    """Return the mean loss at each position of a window, in bits: the effect of longer context.

    Args:
        y: the token that follows each, (rows, T) integers.
        probabilities: (rows, T, vocabulary).
    """
    bits = np.nanmean(bits_of(probabilities, y), 0)
    title = f"Bits per token by position, on {y.size:,} test tokens"
    figure, (panel,) = _figure(4.8, 3.2, title)
    panel.plot(np.arange(1, len(bits) + 1), bits, color=charts.CURVE, label="at this position")
    panel.axhline(bits.mean(), color=charts.SOFT, linewidth=1, label=f"mean {bits.mean():.3f}")
    panel.set_xscale("log")
    panel.set_xlabel("tokens of context")
    panel.set_ylabel("bits per token")
    panel.set_ylim(bottom=0)
    panel.legend(frameon=False)
    return figure


@charts.styled
def predicted_and_true(y: np.ndarray, predicted: np.ndarray, quantity: str) -> Any:
    """Return predicted by true numbers, a dot per example.

    Args:
        y: true numbers, (rows,).
        predicted: predicted numbers, (rows,).
        quantity: the name of the numbers.
    """
    r2, *errors = (float(f(predicted, y)) for f in (train.r2, train.rmse, train.mae))
    rmse, mae = (f"{error:.1f}" if 1 <= error < 1e6 else f"{error:.3g}" for error in errors)
    title = f"Predicted and true on {len(y):,} test examples\nR² {r2:.3f}, RMSE {rmse}, MAE {mae}"
    figure, (panel,) = _figure(4.4, 4.4, title)
    y, predicted = _clipped(y), _clipped(predicted)
    ends = [float(f((*y, *predicted))) for f in (min, max)]
    panel.plot(ends, ends, color=charts.SOFT, linewidth=1, label="predicted = true")
    panel.scatter(y, predicted, rasterized=len(y) > MOST_DOTS, **DOTS)
    panel.set_aspect("equal")
    panel.set_xlabel(f"true {_shown(quantity)}")
    panel.set_ylabel(f"predicted {_shown(quantity)}")
    panel.legend(frameon=False)
    return figure


@charts.styled
def residuals(y: np.ndarray, predicted: np.ndarray, quantity: str) -> Any:
    """Return the errors by predicted number, and their histogram; a trend shows a poor fit.

    Args:
        y: true numbers, (rows,).
        predicted: predicted numbers, (rows,).
        quantity: the name of the numbers.
    """
    predicted, errors = _clipped(predicted), _clipped(predicted) - _clipped(y)
    mean, std = f"{errors.mean():+.1f}", f"{errors.std():.1f}"
    if max(len(mean), len(std)) > 12:
        mean, std = f"{errors.mean():+.3g}", f"{errors.std():.3g}"
    title = f"Residuals: mean {mean}, standard deviation {std}"
    figure, (panel, side) = _figure(4.8, 3.2, title, 1, 2, sharey=True, width_ratios=(3, 1))
    panel.scatter(predicted, errors, rasterized=len(errors) > MOST_DOTS, **DOTS)
    panel.set_xlabel(f"predicted {_shown(quantity)}")
    panel.set_ylabel("error: predicted - true")
    style: Any = {"orientation": "horizontal", "color": charts.CURVE, "alpha": 0.7}
    side.hist(errors[np.isfinite(errors)], bins=20, **style)
    side.set_xlabel("test examples")
    for one in (panel, side):
        one.axhline(0, color=charts.SOFT, linewidth=1)
    return figure


def worst(y: np.ndarray, probabilities: np.ndarray, most: int) -> tuple[np.ndarray, str]:
    """Return the rows of the worst mistakes, the worst first, and a title.

    The worst mistake gives its true class the least probability. Without a mistake, the rows are
    those with the least certain predictions.

    Args:
        y: labels, (rows,) integers.
        probabilities: (rows, classes).
        most: the largest number of rows.

    >>> worst(np.array([0, 1]), np.array([[0.1, 0.9], [0.2, 0.8]]), most=5)
    (array([0]), 'The 1 mistake among 2 test examples')
    """
    order = np.argsort(probabilities[np.arange(len(y)), y], kind="stable")
    mistakes = order[probabilities.argmax(1)[order] != y[order]]
    if not len(mistakes):
        chosen = order[:most]
        return chosen, f"No mistakes; the {len(chosen)} least certain of {len(y):,} test examples"
    many = f"{len(mistakes):,} mistake{'s' if len(mistakes) > 1 else ''}"
    which = many if len(mistakes) <= most else f"{most} worst of {many}"
    return mistakes[:most], f"The {which} among {len(y):,} test examples"


def _shown(name: str) -> str:
    """Return a name that matplotlib shows as it is."""
    return printable(str(name), 32)


def _clipped(numbers: np.ndarray) -> np.ndarray:
    """Return numbers that a figure can show, see `charts.drawable`."""
    return np.clip(np.asarray(numbers, np.float64), -charts.FARTHEST, charts.FARTHEST)


def _set_verdict(panel: Any, truth: int, probabilities: np.ndarray, names: Sequence[str]) -> None:
    """Set the true class, the predicted class, and its probability as the title of a panel."""
    guess = int(probabilities.argmax())
    share = probabilities[guess]
    percent = "> 99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"
    text = f"true {_shown(names[truth])}\npredicted {_shown(names[guess])} ({percent})"
    panel.set_title(text, fontsize=7, loc="center")


def _figure(
    width: float, height: float, title: str, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Any, list[Any]]:
    """Return a figure with a title, and its panels, row by row."""
    figure = charts.figure(width, height)
    figure.suptitle(title)
    panels = charts.panels(figure, rows * columns, columns, **options)
    return figure, panels
