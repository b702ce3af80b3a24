"""Pictures of a run: each is a pure function from numbers to a matplotlib figure.

`png` turns a figure into the bytes of a file. No global state of matplotlib is used: no pyplot, no
style, no display.
"""

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import train
from ..data import Standardizer
from ..files.reading import printable
from ..installation import missing
from ..page.drawing import FARTHEST, drawable
from .experiment import Configured
from .prediction import bits_of, class_names, is_of_classes
from .report import A_ROW, draw_panels, panels_of

BLUE, ORANGE, GRAY = "#2b6cb0", "#dd6b20", "#718096"
Drawing = Callable[[], Any]


def drawings(
    one: Configured, history: Sequence[Mapping[str, Any]], predictions: Any
) -> dict[str, Drawing]:
    """What draws each picture of a run, by file name.

    Args:
        one: the run's configuration, data, and program.
        history: its records.
        predictions: those of the test rows; None without test rows or without a task.
    """
    found: dict[str, Drawing] = {}
    if panels_of(history):
        found["learning_curves.png"] = functools.partial(learning_curves, history)
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
        found["confusion_matrix.png"] = lambda: confusion_matrix(y, predictions.argmax(1), names)
        if dataset.image_shape or getattr(dataset.test.x, "ndim", 0) in (2, 3):
            found["worst_mistakes.png"] = lambda: _worst(dataset, kept, y, predictions, names)
    return found


def _worst(dataset: Any, kept: np.ndarray, y: np.ndarray, predictions: Any, names: Any) -> Any:
    x = dataset.test.x[kept]
    if dataset.image_shape:
        return worst_images(x.reshape(-1, *dataset.image_shape), y, predictions, names)
    features = dataset.feature_names or tuple(f"feature {i}" for i in range(x.shape[-1]))
    z = Standardizer.fit(dataset.train.x)(x) if x.ndim == 2 else x
    return worst_profiles(z, y, predictions, names, features)


def png(figure: Any) -> bytes:
    """The figure as a PNG file, 150 dots an inch.

    >>> png(learning_curves([{"epoch": 1, "loss": 0.5}]))[1:4]
    b'PNG'
    """
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def check_library() -> None:
    """Raise ImportError, with the command that installs it, without matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise missing("pictures are drawn by", "matplotlib", "experiments") from error


def learning_curves(history: Sequence[Mapping[str, Any]]) -> Any:
    """A panel for each metric: its curve on the training data, and on the validation data."""
    panels = panels_of(history)
    columns, lines = min(A_ROW, len(panels)), -(-len(panels) // A_ROW)
    figure = _figure(4.2 * columns, 3.2 * lines)
    draw_panels(figure, history, panels, (BLUE, ORANGE))
    figure.suptitle("Learning curves")
    return figure


def confusion_matrix(y: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> Any:
    """How many examples of each true class (rows) were predicted as each class (columns).

    Args:
        y, predicted: labels, (rows,) integers.
        names: the names of the classes, by label.
    """
    names = [*map(_shown, names)]
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (y, predicted), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(4.2, 0.55 * len(names) + 1.2) + 0.08 * max(0, max(map(len, names)) - 8)
    figure = _figure(side, side)
    panel = figure.subplots()
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        dark = shares[row, column] > 0.5
        wrong = row != column and count
        color = "white" if dark else ORANGE if wrong else GRAY
        text = str(count) if count or row == column else "·"
        panel.text(
            column, row, text, ha="center", va="center", color=color,
            fontweight="bold" if wrong else "normal",
        )  # fmt: skip
    panel.set_xticks(range(len(names)), names)
    panel.set_yticks(range(len(names)), names)
    panel.set_xlabel("predicted class")
    panel.set_ylabel("true class")
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    errors = int((y != predicted).sum())
    figure.suptitle(f"Confusion matrix\n{errors:,} of {len(y):,} test examples wrong")
    return figure


def worst_images(
    images: np.ndarray, y: np.ndarray, probabilities: np.ndarray, names: Sequence[str]
) -> Any:
    """A grid of the images whose true class got the least probability, the worst first.

    Args:
        images: (rows, height, width), 0 for background.
        y: labels, (rows,) integers.
        probabilities: (rows, classes).
        names: the names of the classes, by label.
    """
    chosen, title = worst(y, probabilities, most=24)
    columns = min(6, len(chosen))
    lines = -(-len(chosen) // columns)
    figure = _figure(max(1.55 * columns, 6), 1.95 * lines + 0.6)
    panels = np.atleast_1d(figure.subplots(lines, columns)).ravel()
    for panel in panels:
        panel.axis("off")
    for panel, row in zip(panels, chosen, strict=False):
        darkest = max(drawable(float(images.max())), 1e-6)
        panel.imshow(_clipped(images[row]), cmap="gray_r", vmin=0, vmax=darkest)
        _verdict(panel, int(y[row]), probabilities[row], names)
    figure.suptitle(f"{title}\nthe least probability for the true class first")
    return figure


def worst_profiles(
    z: np.ndarray,
    y: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
    features: Sequence[str],
) -> Any:
    """The worst mistakes among rows of measurements or sequences, with the means of the classes.

    There is a column per example, in black, so that it shows which class the example resembles. A
    sequence has a panel per feature.

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
    places, lines = np.arange(curves.shape[1]), curves.shape[2]
    height = 0.17 * len(titles) if is_row else 2.2 * lines
    figure = _figure(2.2 * len(chosen) + 2.6, height + 2)
    grid = figure.subplots(lines, len(chosen), sharex=True, sharey="row", squeeze=False)
    for (line, column), panel in np.ndenumerate(grid):
        row, across = chosen[column], curves[..., line]
        means = [(f"mean of {_shown(names[int(k)])} test examples", y == k) for k in np.unique(y)]
        for label, rows in [*means, ("this example", [row])]:
            pair = places, across[rows].mean(0)
            style = {"color": "black"} if label == "this example" else {}
            panel.plot(*(pair[::-1] if is_row else pair), label=label, **style)
        _plain(panel)
        if is_row:
            panel.set_yticks(places, titles, fontsize=7)
            panel.set_ylim(len(titles) - 0.5, -0.5)
        elif column == 0:
            panel.set_ylabel(titles[line])
        if line == 0:
            _verdict(panel, int(y[row]), probabilities[row], names)
    for panel in grid[-1]:
        panel.set_xlabel("standard deviations\nfrom the training mean" if is_row else "step")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    columns = len(labels) if len(chosen) > 2 else 1
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    figure.suptitle(title)
    return figure


def bits_by_position(y: np.ndarray, probabilities: np.ndarray) -> Any:
    """The mean loss at each position of a window, in bits: the effect of a longer context.

    Args:
        y: the token that follows each, (rows, T) integers.
        probabilities: (rows, T, vocabulary).
    """
    bits = np.nanmean(bits_of(probabilities, y), 0)
    figure = _figure(6.4, 4.2)
    panel = figure.subplots()
    panel.plot(np.arange(1, len(bits) + 1), bits, color=BLUE, label="at this position")
    panel.axhline(bits.mean(), color=GRAY, linewidth=1, label=f"mean {bits.mean():.3f}")
    panel.set_xscale("log")
    panel.set_xlabel("tokens of context")
    panel.set_ylabel("bits per token")
    panel.set_ylim(bottom=0)
    _plain(panel)
    panel.legend(frameon=False)
    figure.suptitle(f"Bits per token by position, on {y.size:,} test tokens")
    return figure


def predicted_and_true(y: np.ndarray, predicted: np.ndarray, quantity: str) -> Any:
    """Predicted numbers by true numbers, a dot per example."""
    errors = _errors(y, predicted)
    y, predicted = _clipped(y), _clipped(predicted)
    figure = _figure(5.2, 5.2)
    panel = figure.subplots()
    low, high = float(min(y.min(), predicted.min())), float(max(y.max(), predicted.max()))
    panel.plot([low, high], [low, high], color=GRAY, linewidth=1, label="predicted = true")
    panel.scatter(y, predicted, color=BLUE, alpha=0.7, s=22, edgecolors="none")
    panel.set_aspect("equal")
    panel.set_xlabel(f"true {_shown(quantity)}")
    panel.set_ylabel(f"predicted {_shown(quantity)}")
    figure.suptitle(f"Predicted and true on {len(y):,} test examples\n{errors}")
    _plain(panel)
    panel.legend(frameon=False)
    return figure


def residuals(y: np.ndarray, predicted: np.ndarray, quantity: str) -> Any:
    """The errors by predicted number, and their histogram; a trend shows what the fit misses."""
    predicted, y = _clipped(predicted), _clipped(y)
    errors = predicted - y
    figure = _figure(7.6, 4.2)
    panel, side = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    panel.scatter(predicted, errors, color=BLUE, alpha=0.7, s=22, edgecolors="none")
    panel.set_xlabel(f"predicted {_shown(quantity)}")
    panel.set_ylabel("error: predicted - true")
    side.hist(errors[np.isfinite(errors)], bins=20, orientation="horizontal", color=BLUE, alpha=0.7)
    side.set_xlabel("test examples")
    for one in (panel, side):
        one.axhline(0, color=GRAY, linewidth=1)
        _plain(one)
    mean, std = f"{errors.mean():+.1f}", f"{errors.std():.1f}"
    if max(len(mean), len(std)) > 12:
        mean, std = f"{errors.mean():+.3g}", f"{errors.std():.3g}"
    figure.suptitle(f"Residuals: mean {mean}, standard deviation {std}")
    return figure


def worst(y: np.ndarray, probabilities: np.ndarray, most: int) -> tuple[np.ndarray, str]:
    """The rows of the worst mistakes, the worst first, and a title.

    The worst mistake gives its true class the least probability. Without a mistake, the rows are
    those with the least certain predictions.

    >>> worst(np.array([0, 1]), np.array([[0.1, 0.9], [0.2, 0.8]]), most=5)
    (array([0]), 'The 1 mistake among 2 test examples')
    """
    order = np.argsort(probabilities[np.arange(len(y)), y], kind="stable")
    mistakes = order[probabilities.argmax(1)[order] != y[order]]
    if not len(mistakes):
        chosen = order[:most]
        return chosen, f"No mistakes; the {len(chosen)} least certain of {len(y):,} test examples"
    many = f"{len(mistakes):,} mistake{'s' if len(mistakes) > 1 else ''}"
    if len(mistakes) <= most:
        return mistakes, f"The {many} among {len(y):,} test examples"
    return mistakes[:most], f"The {most} worst of {many} among {len(y):,} test examples"


def _errors(y: np.ndarray, predicted: np.ndarray) -> str:
    """The scores of a regression for a title."""
    scores = (train.r2(predicted, y), train.rmse(predicted, y), train.mae(predicted, y))
    r2, *errors = map(float, scores)
    rmse, mae = (f"{error:.1f}" if 1 <= error < 1e6 else f"{error:.3g}" for error in errors)
    return f"R² {r2:.3f}, RMSE {rmse}, MAE {mae}"


def _shown(name: str) -> str:
    """A name that matplotlib shows as it is: it would read text between dollar signs as math."""
    return printable(str(name), 32).replace("$", r"\$")


def _clipped(numbers: np.ndarray) -> np.ndarray:
    """Numbers that a figure can hold, see `drawable`."""
    return np.clip(np.asarray(numbers, np.float64), -FARTHEST, FARTHEST)


def _verdict(panel: Any, truth: int, probabilities: np.ndarray, names: Sequence[str]) -> None:
    guess = int(probabilities.argmax())
    share = probabilities[guess]
    percent = "> 99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"
    text = f"true {_shown(names[truth])}\npredicted {_shown(names[guess])} ({percent})"
    panel.set_title(text, fontsize=9)


def _plain(panel: Any) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)


def _figure(width: float, height: float) -> Any:
    check_library()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
