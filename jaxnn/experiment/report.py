"""The report of a run, one HTML file that opens from disk, and the pictures of its predictions.

The report shows the scores, the curves of all metrics, the pictures, the network, the
configuration, and the environment. It is a pure function: equal values give equal text. Each
picture is a pure function from numbers to a matplotlib figure:

    y                       true labels or numbers, (rows,), or tokens, (rows, T)
    predicted               the same, as predicted
    probabilities           of the classes, (rows, classes), or of tokens, (rows, T, vocabulary)
    names                   names of the classes, by label
    images                  (rows, height, width), 0 for background
    z, features             standardized measurements (rows, features), or sequences
                            (rows, T, features), and the names of the last axis
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import html as page
from .. import train
from ..data import Standardizer
from ..files.reading import printable
from ..html import charts, count, duration, escaped, flat, format_number, label, shown
from ..train.fit import Record, draw_panels, finite_numbers, losses_first, median, panels_of
from ..train.hooks.measurement import TIMINGS
from .experiment import Configured
from .prediction import Interval, bits_of, class_names, is_of_classes

DOTS: Any = {"color": charts.CURVE, "alpha": 0.7, "s": 16, "edgecolors": "none"}
MOST_DOTS = 2000  # that are drawn as shapes; more are a picture
INTERVALS = (
    "The test rows were evaluated once, at the end. The 95 % intervals are for other test rows of "
    "the same kind (Wilson's interval of a proportion, or percentiles of the bootstrap over rows), "
    "and for this network: the scores of another seed vary in addition."
)
UNITS = {"device_bytes": "bytes on the device", "mfu": "share of peak FLOPs"}


def run_report(
    name: str,
    records: Sequence[Record],
    *,
    timings: Sequence[Record] = (),
    config: Mapping[str, Any] | None = None,
    scores: Mapping[str, float] | None = None,
    intervals: Mapping[str, Interval] | None = None,
    metric: str = "validation_loss",
    maximize: bool = False,
    pictures: Mapping[str, Any] | None = None,
    summary: str = "",
    environment: Mapping[str, Any] | None = None,
    remarks: Sequence[str] = (),
) -> str:
    """Return the report of a run as HTML.

    Args:
        name: the name of the run.
        records: its records, in order, each with its `step`: metrics on the training data, those
            on validation data as `validation_...`, `learning_rate`, and norms as `gradient_norm`
            and `update_norm`, those of a path after a slash.
        timings: the times and rates of the records, in `train.TIMINGS`. Default: those in
            `records`.
        config: the configuration, as plain data. Default: None, no section.
        scores: metrics on the test rows, by name. Default: None, none.
        intervals: 95 % intervals of the scores, by name. Default: None, none.
        metric: the metric of the best record. Default: "validation_loss".
        maximize: whether larger is better. Default: False.
        pictures: figures of `drawings`, by the names of their files, such as "worst_mistakes.png".
            Default: None, no section.
        summary: the network, as text. Default: "", no section.
        environment: command, commit, data, hardware, versions, and whatever else the numbers depend
            on, by name. Default: None, no section.
        remarks: events of the run: that it was resumed, stopped early, or rolled back.

    Raises:
        ImportError: matplotlib is not installed.

    >>> page = run_report("trial", [{"epoch": 1, "step": 9, "loss": 0.5}], scores={"accuracy": 0.9})
    >>> page.startswith("<!doctype html>"), "http:" in page.split("<svg")[0]
    (True, False)
    """
    scores = scores or {}
    parts = [
        _result(records, timings or records, scores, intervals or {}, metric, maximize, remarks),
        _curves(records),
        _pictures(pictures or {}),
        page.section("network", "Network", page.command(summary)) if summary else "",
    ]
    tables = {"configuration": ("field", config), "environment": ("what", environment)}
    for key, (head, plain) in tables.items():
        if rows := [(path, value) for path, value in flat(plain or {}) if path]:
            parts.append(
                page.section(key, key.capitalize(), page.html_table([head, "value"], rows))
            )
    facts = [f"{label(k)} {format_number(v)} on the test rows" for k, v in list(scores.items())[:1]]
    if records:
        facts += [count(int(records[-1][k]), k) for k in ("epoch", "step") if k in records[-1]]
    return page.document(f"Run {name}", " · ".join(map(escaped, facts)), "".join(parts))


def _result(
    records: Sequence[Record],
    timings: Sequence[Record],
    scores: Mapping[str, float],
    intervals: Mapping[str, Interval],
    metric: str,
    maximize: bool,
    remarks: Sequence[str],
) -> str:
    """Return the section of the scores, the last and the best record, and all records."""
    cards = [
        (format_number(v), f"test {label(k)}", _interval(intervals[k]) if k in intervals else "")
        for k, v in scores.items()
    ]
    if timings and "seconds" in timings[-1]:
        rate = finite_numbers(timings, "examples_per_second")
        speed = f"{format_number(median(rate), 3)} rows per second (median)" if rate else ""
        cards.append((duration(timings[-1]["seconds"]), "of training", speed))
    parts = [page.cards(cards)] if cards else []
    if intervals:
        parts.append(page.note(INTERVALS, "caption"))
    parts += map(page.warning, remarks)
    if not records:
        return page.section("result", "Result", *parts, page.warning("The run has no records."))
    names = [n for n in losses_first(records[-1]) if not (n in TIMINGS or "/" in n or "_norm" in n)]
    titles, right = [*map(label, names)], range(1, len(names) + 1)
    rows = [["last", *(shown(records[-1].get(name)) for name in names)]]
    if finite := finite_numbers(records, metric):
        word, least = ("largest", max(finite)) if maximize else ("least", min(finite))
        best = next(record for record in records if record.get(metric) == least)
        rows.insert(0, [f"{word} {label(metric)}", *(shown(best.get(name)) for name in names)])
    every = [[shown(record.get(name)) for name in names] for record in records]
    parts.append(page.html_table(["", *titles], rows, right))
    parts.append(
        page.collapsed(
            f"All {count(len(every), 'record')}", page.html_table(titles, every, range(len(names)))
        )
    )
    rates = {name: finite_numbers(timings, name) for name in TIMINGS if name != "seconds"}
    times = [
        [UNITS.get(name, label(name)), format_number(median(all_), 3), format_number(max(all_), 3)]
        for name, all_ in rates.items()
        if all_
    ]
    if times:
        parts.append(
            page.collapsed(
                "Times and rates", page.html_table(["", "median", "most"], times, (1, 2))
            )
        )
    return page.section("result", "Result", *parts)


def _interval(found: Interval) -> str:
    """Return an interval as text, with its method."""
    return f"{format_number(found.low, 3)} to {format_number(found.high, 3)} (95 %, {found.method})"


def _curves(records: Sequence[Record]) -> str:
    """Return the section of the curves: a figure for each panel, which fit on a narrow screen."""
    panels = panels_of(records)
    if not panels:
        return ""
    drawn = []
    for i, panel in enumerate(panels):
        draw = functools.partial(draw_panels, records=records, panels=[panel])
        drawn.append(charts.chart(f"curve{i}", panel[0], draw, 2.4, width=3.5))
    caption = (
        "Blue: on the training data, over the steps since the previous record. Orange: on the "
        "validation data, at the record."
    )
    return page.section("curves", "Curves", page.row(*drawn), page.note(caption, "caption"))


def _pictures(pictures: Mapping[str, Any]) -> str:
    """Return the section of the pictures."""
    parts = []
    for i, (file, figure) in enumerate(pictures.items()):
        title = label(file.rpartition("/")[2].removesuffix(".png"))
        drawn = charts.svg(figure, f"picture{i}", title)
        parts.append(page.captioned(page.heading(title.capitalize()) + drawn))
    return page.section("pictures", "Pictures", page.row(*parts)) if parts else ""


# ---- pictures ----


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
    """Return the number of examples of each true class (rows) by predicted class (columns)."""
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
    """Return a grid of the images whose true class got the least probability, the worst first."""
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
    """Return the mean loss at each position of a window, in bits: the effect of longer context."""
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
    """Return predicted by true numbers, a dot per example."""
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
    """Return the errors by predicted number, and their histogram; a trend shows a poor fit."""
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
    """Return at most `most` rows of the worst mistakes, the worst first, and a title.

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
