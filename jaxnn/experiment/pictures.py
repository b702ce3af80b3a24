"""Pictures of a run. Each is a pure function from numbers to a matplotlib figure.

`png` turns a figure into the bytes of a file. Nothing global of matplotlib is used: no pyplot, no
style, no display.
"""

import functools
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import train
from ..files.reading import printable
from ..installation import missing
from ..page.drawing import FARTHEST, drawable
from ..train.loop import TIMINGS, Record
from .problem import Problem
from .scores import of_truth_in, regression_scores

BLUE, ORANGE, GRAY = "#2b6cb0", "#dd6b20", "#718096"


def drawings(
    problem: Problem, history: list[Record], predictions: np.ndarray | None
) -> dict[str, Callable[[], Any]]:
    """What draws each picture of a run, by file name: which, depends on the task and the data."""
    y = problem.data.test.y
    if problem.task.classes is None:
        units = {"loss": "mean squared error", "mae": "mean absolute error"}
        of_predictions = {
            "predicted_and_true": (predicted_and_true, problem.quantity),
            "residuals": (residuals, problem.quantity),
        }
    elif isinstance(problem.task, train.NextToken):
        units = {"loss": "cross entropy, nats a token", "bits": "cross entropy, bits a token"}
        of_predictions = {"bits_by_position": (bits_by_position,)}
    else:
        units = {"loss": "cross entropy"}
        names = problem.class_names
        of_predictions = {
            "confusion_matrix": (lambda y, p: confusion_matrix(y, p.argmax(1), names),),
        }
        if problem.data.image_shape or problem.data.test.x.ndim in (2, 3):
            of_predictions["worst_mistakes"] = (lambda y, p: _worst_mistakes(problem, y, p),)
    found: dict[str, Callable[[], Any]] = {
        "learning_curves.png": lambda: learning_curves(history, units)
    }
    if predictions is not None:
        for name, (draw, *more) in of_predictions.items():
            found[f"{name}.png"] = functools.partial(draw, y, predictions, *more)
    return found


def _worst_mistakes(problem: Problem, y: np.ndarray, predictions: np.ndarray) -> Any:
    data, x, names = problem.data, problem.data.test.x, problem.class_names
    if data.image_shape:
        images = x.reshape(-1, *data.image_shape)
        return worst_images(images, y, predictions, names)
    features = data.feature_names or tuple(f"feature {i}" for i in range(x.shape[-1]))
    draw = worst_series if x.ndim == 3 else worst_rows
    return draw(problem.scaled.test.x, y, predictions, names, features)


def png(figure: Any) -> bytes:
    """The figure as a PNG file, 150 dots an inch.

    >>> png(learning_curves([{"epoch": 1, "loss": 0.5}]))[1:4]
    b'PNG'
    """
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def check_library() -> None:
    """Raise ImportError, with what to install, where matplotlib is not there."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise missing("pictures are drawn by", "matplotlib", "experiments") from error


def learning_curves(history: Sequence[Record], units: dict[str, str] | None = None) -> Any:
    """The loss and each metric by epoch, a panel each: training, and validation where there is one.

    `units` gives an axis' label for the name of a metric.
    """
    epochs = [record["epoch"] for record in history]
    names = [
        name
        for name in history[0]
        if name not in ("epoch", "step", "learning_rate", *TIMINGS)
        and not name.startswith("validation_")
    ]
    figure = _figure(4.8 * len(names), 3.6)
    for panel, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        curves = {
            "training, mean over the epoch": (name, BLUE),
            "validation, after the epoch": (f"validation_{name}", ORANGE),
        }
        for label, (key, color) in curves.items():
            if key in history[0]:
                numbers = [drawable(record[key]) for record in history]
                panel.plot(epochs, numbers, color=color, marker="o", markersize=3, label=label)
        panel.set_xlabel("epoch")
        panel.set_ylabel(_shown((units or {}).get(name, name)))
        panel.xaxis.get_major_locator().set_params(integer=True)
        if epochs[0] == epochs[-1]:
            panel.set_xticks(epochs)
        _plain(panel)
        panel.legend(frameon=False, fontsize=8)
    figure.suptitle("Learning curves")
    return figure


def confusion_matrix(y: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> Any:
    """How many examples of each true class (rows) were predicted as each class (columns).

    Args:
        y, predicted: labels, (rows,) integers.
        names: of the classes, by label.
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
        names: of the classes, by label.
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


def worst_rows(
    z: np.ndarray,
    y: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
    features: Sequence[str],
) -> Any:
    """The worst mistakes among rows of measurements, each beside the means of the classes.

    A panel an example: its standardized measurements as dots, the mean of each class as a line, so
    that one sees which class it looks like.

    Args:
        z: standardized measurements, (rows, features).
        y: labels, (rows,) integers.
        probabilities: (rows, classes).
        names: of the classes, by label.
        features: of the columns of z.
    """
    features, z = [*map(_shown, features)], _clipped(z)
    chosen, title = worst(y, probabilities, most=6)
    figure = _figure(2.1 * len(chosen) + 2.6, 0.17 * len(features) + 2)
    panels = np.atleast_1d(figure.subplots(1, len(chosen), sharex=True, sharey=True))
    places = np.arange(len(features))
    for panel, row in zip(panels, chosen, strict=True):
        for label in np.unique(y):
            mean = z[y == label].mean(0)
            panel.plot(mean, places, label=f"mean of the {_shown(names[int(label)])} test examples")
        panel.scatter(z[row], places, color="black", s=12, zorder=3, label="this example")
        panel.axvline(0, color=GRAY, linewidth=0.5)
        panel.set_yticks(places, features, fontsize=7)
        panel.set_ylim(len(features) - 0.5, -0.5)
        panel.set_xlabel("standard deviations\nfrom the training mean", fontsize=8)
        _plain(panel)
        _verdict(panel, int(y[row]), probabilities[row], names)
    handles, labels = panels[0].get_legend_handles_labels()
    columns = len(labels) if len(chosen) > 2 else 1
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    figure.suptitle(title)
    return figure


def worst_series(
    z: np.ndarray,
    y: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
    features: Sequence[str],
) -> Any:
    """The worst mistakes among sequences, each beside the means of the classes.

    A column an example, a row a feature: the sequence in black, the mean of each class in color,
    so that one sees which class it looks like.

    Args:
        z: sequences as the network sees them, (rows, T, features).
        y: labels, (rows,) integers.
        probabilities: (rows, classes).
        names: of the classes, by label.
        features: of the last axis of z.
    """
    features, z = [*map(_shown, features)], _clipped(z)
    chosen, title = worst(y, probabilities, most=6)
    figure = _figure(2.4 * len(chosen) + 1.2, 2.2 * len(features) + 1.4)
    grid = figure.subplots(len(features), len(chosen), sharex=True, sharey="row", squeeze=False)
    for (feature, column), panel in np.ndenumerate(grid):
        row = chosen[column]
        for label in np.unique(y):
            mean = z[y == label][..., feature].mean(0)
            panel.plot(mean, label=f"mean of the test examples of {_shown(names[int(label)])}")
        panel.plot(z[row][..., feature], color="black", linewidth=1.2, label="this example")
        _plain(panel)
        if feature == 0:
            _verdict(panel, int(y[row]), probabilities[row], names)
        if feature == len(features) - 1:
            panel.set_xlabel("step")
        if column == 0:
            panel.set_ylabel(features[feature])
    handles, labels = grid[0, 0].get_legend_handles_labels()
    columns = len(labels) if len(chosen) > 2 else 1
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    figure.suptitle(title)
    return figure


def bits_by_position(y: np.ndarray, probabilities: np.ndarray) -> Any:
    """The mean loss at each position of a window, in bits: how much more text in front helps.

    Args:
        y: the token that follows each, (rows, T) integers.
        probabilities: (rows, T, vocabulary).
    """
    floor = np.finfo(np.float32).tiny
    bits = -np.log2(np.maximum(of_truth_in(probabilities, y), floor)).mean(0)
    figure = _figure(6.4, 4.2)
    panel = figure.subplots()
    panel.plot(np.arange(1, len(bits) + 1), bits, color=BLUE, label="at this position")
    panel.axhline(bits.mean(), color=GRAY, linewidth=1, label=f"mean {bits.mean():.3f}")
    panel.set_xscale("log")
    panel.set_xlabel("tokens seen, of the window")
    panel.set_ylabel("bits a token")
    panel.set_ylim(bottom=0)
    _plain(panel)
    panel.legend(frameon=False)
    figure.suptitle(f"Bits a token by position, on {y.size:,} test tokens")
    return figure


def predicted_and_true(y: np.ndarray, predicted: np.ndarray, quantity: str) -> Any:
    """A dot an example: the true number across, the predicted one up; on the line is right."""
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
    """The errors by what was predicted, and how often each occurs; a trend shows what is missed."""
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
    """The rows of the worst mistakes, the worst first, and a title that says what they are.

    The worst gives its true class the least probability. Without any mistake, the least certain.

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
    with np.errstate(over="ignore"):  # a square may be infinite
        scores = regression_scores(y, predicted)
    rmse, mae = (
        f"{scores[name]:.1f}" if scores[name] < 1e6 else f"{scores[name]:.3g}"
        for name in ("rmse", "mae")
    )
    return f"R² {scores['r2']:.3f}, RMSE {rmse}, MAE {mae}"


def _shown(name: str) -> str:
    """A name as matplotlib shows it: between dollar signs it would read mathematics."""
    return printable(str(name), 32).replace("$", r"\$")


def _clipped(numbers: np.ndarray) -> np.ndarray:
    """Numbers that a figure can hold, see `drawable`."""
    return np.clip(np.asarray(numbers, np.float64), -FARTHEST, FARTHEST)


def _verdict(panel: Any, truth: int, probabilities: np.ndarray, names: Sequence[str]) -> None:
    guess = int(probabilities.argmax())
    right, said, share = _shown(names[truth]), _shown(names[guess]), _percent(probabilities[guess])
    panel.set_title(
        f"true {right}\npredicted {said} ({share})",
        fontsize=9,
    )


def _percent(share: float) -> str:
    return "> 99 %" if 0.99 < share < 1 else f"{share:.0%}".replace("%", " %")


def _plain(panel: Any) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)


def _figure(width: float, height: float) -> Any:
    check_library()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
