"""The report of a run: one HTML file that opens from disk.

It shows the scores, the curves of all metrics, pictures of the predictions, the network, the
configuration, and the environment. It is a pure function: equal values give the same text.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..files.reading import printable
from ..page import html
from ..page.document import document
from ..page.drawing import BEST, CURVE, drawable, svg
from ..page.ticks import linear_ticks, log_ticks, set_ticks
from ..page.words import LONGEST_NAME, NONE, count, duration, escaped, flat, label, number
from ..train.hooks.throughput import TIMINGS

COLORS = (CURVE, BEST)
LINES = ("-", "--", ":", "-.")
A_ROW = 3  # panels next to each other
MOST_PATHS = len(COLORS) * len(LINES)  # curves by path of a panel
RATE = "learning_rate"
UNITS = {"device_bytes": "bytes on the device", "mfu": "share of peak FLOPs"}

Record = Mapping[str, Any]
Panels = list[tuple[str, dict[str, str]]]


def report(
    name: str,
    records: Sequence[Record],
    *,
    timings: Sequence[Record] = (),
    config: Mapping[str, Any] | None = None,
    scores: Mapping[str, float] | None = None,
    metric: str = "validation_loss",
    maximize: bool = False,
    pictures: Mapping[str, bytes] | None = None,
    summary: str = "",
    environment: Mapping[str, Any] | None = None,
    remarks: Sequence[str] = (),
) -> str:
    """The report of a run as HTML.

    Args:
        name: the name of the run.
        records: its records, in order, each with its `step`: metrics on the training data, those
            on validation data as `validation_...`, `learning_rate`, and norms as `gradient_norm`
            and `update_norm`, those of a path after a slash.
        timings: the times and rates of the records, in `train.TIMINGS`; by default those in
            `records`.
        config: the configuration, as plain data.
        scores: on the test rows, by name.
        metric: the metric of the best record.
        maximize: whether larger is better; False by default.
        pictures: PNG files by name, such as "worst_mistakes.png".
        summary: the network, as text.
        environment: versions, device, and whatever else the numbers depend on, by name.
        remarks: what happened to the run: that it was resumed, stopped early, or rolled back.

    Raises:
        ImportError: matplotlib is not installed.

    >>> page = report("trial", [{"epoch": 1, "step": 9, "loss": 0.5}], scores={"accuracy": 0.9})
    >>> page.startswith("<!doctype html>"), "http:" in page.split("<svg")[0]
    (True, False)
    """
    body = "".join(
        (
            _result(
                records, timings or records, scores or {}, _best(records, metric, maximize), remarks
            ),
            _curves(records),
            _pictures(pictures or {}),
            _network(summary),
            _table("configuration", "Configuration", "field", flat(config or {})),
            _table("environment", "Environment", "what", flat(environment or {})),
        )
    )
    return document(f"Run {name}", _subtitle(records, scores or {}), body, "")


def _subtitle(records: Sequence[Record], scores: Mapping[str, float]) -> str:
    facts = [f"{label(k)} {number(v)} on the test rows" for k, v in list(scores.items())[:1]]
    if records:
        facts += [count(int(records[-1][k]), k) for k in ("epoch", "step") if k in records[-1]]
    return " · ".join(map(escaped, facts))


def _result(
    records: Sequence[Record],
    timings: Sequence[Record],
    scores: Mapping[str, float],
    best: tuple[str, Record] | None,
    remarks: Sequence[str],
) -> str:
    cards = [(number(v), f"test {label(k)}", "once, at the end") for k, v in scores.items()]
    if timings and "seconds" in timings[-1]:
        seconds = timings[-1]["seconds"]
        rate = _median(timings, "examples_per_second")
        speed = "" if rate is None else f"{number(rate, 3)} rows per second (median)"
        cards.append((duration(seconds), "of training", speed))
    parts = [html.cards(cards)] if cards else []
    parts += [html.note(escaped(remark), "warn") for remark in remarks]
    if not records:
        parts.append(html.note("The run has no records.", "warn"))
        return html.section("result", "Result", *parts)
    rows = [("last", records[-1])]
    if best is not None:
        rows.insert(0, best)
    names = sorted((one for one in records[-1] if not _detail(one)), key=_rank)
    parts.append(
        html.table(
            ["", *map(label, names)],
            [[what, *(_shown(record.get(one)) for one in names)] for what, record in rows],
            range(1, len(names) + 1),
        )
    )
    parts.append(
        html.folded(
            f"All {count(len(records), 'record')}",
            html.table(
                [label(one) for one in names],
                [[_shown(record.get(one)) for one in names] for record in records],
                range(len(names)),
            ),
        )
    )
    if further := _timing_rows(timings):
        parts.append(
            html.folded("Times and rates", html.table(["", "median", "most"], further, (1, 2)))
        )
    return html.section("result", "Result", *parts)


def panels_of(records: Sequence[Record]) -> Panels:
    """Titles and curves of the panels: metrics, learning rates and norms, and those by path."""
    names = dict.fromkeys(name for record in records for name in record)
    numbers = [name for name in sorted(names, key=_rank) if name not in ("epoch", "step", *TIMINGS)]
    whole = [name for name in numbers if "/" not in name]
    alone = {name: name.endswith("_norm") for name in whole if name == RATE or "_norm" in name}
    metrics = dict.fromkeys(n.removeprefix("validation_") for n in whole if n not in alone)
    panels: Panels = [(label(m), {"training": m, "validation": f"validation_{m}"}) for m in metrics]
    panels += [(label(name), {"": name}) for name in sorted(alone, key=lambda n: alone[n])]
    for group in dict.fromkeys(name.partition("/")[0] for name in numbers if "/" in name):
        paths = [name for name in numbers if name.startswith(f"{group}/")]
        sizes = {path: _median(records, path) or 0.0 for path in paths}
        largest = sorted(paths, key=lambda path: -sizes[path])[:MOST_PATHS]
        which = f", {MOST_PATHS} largest of {len(paths)}" if len(paths) > MOST_PATHS else ""
        curves = {printable(path.partition("/")[2], LONGEST_NAME): path for path in largest}
        panels.append((f"{label(group)}{which}", curves))
    return panels


def _curves(records: Sequence[Record]) -> str:
    panels = panels_of(records)
    if not panels:
        return ""
    height = 2.6 * -(-len(panels) // A_ROW)
    drawn = svg("curves", "Learning curves", lambda f: draw_panels(f, records, panels), height)
    caption = (
        "Blue: on the training data, over the steps since the record before. Orange: on the "
        "validation data, at the record."
    )
    return html.section("curves", "Curves", html.figure(drawn, caption))


def draw_panels(
    figure: Any, records: Sequence[Record], panels: Panels, colors: tuple[str, ...] = COLORS
) -> None:
    """Draw the panels of `panels_of` into a figure.

    Args:
        figure: an empty figure of matplotlib.
        records: the records.
        panels: titles and curves.
        colors: of the curves of a panel, in turn: the first ones are training and validation.
    """
    rows = -(-len(panels) // A_ROW)
    grid = figure.subplots(rows, min(A_ROW, len(panels)), squeeze=False).ravel()
    for panel, (title, curves) in zip(grid, panels, strict=False):
        shown = []
        for rank, (name, key) in enumerate(curves.items()):
            style = {"color": colors[rank % len(colors)], "linestyle": LINES[rank // len(colors)]}
            name = f" {name}" if name.startswith("_") else name  # a legend leaves these out
            shown += _line(panel, records, key, label=name or None, **style)
        _finished(panel, records, title, shown)
        if len(panel.get_legend_handles_labels()[0]) > 1:
            panel.legend()
    for panel in grid[len(panels) :]:
        panel.axis("off")


def _line(panel: Any, records: Sequence[Record], key: str, **style: Any) -> list[float]:
    """Draw one curve, with a gap where it is not finite; returns its finite numbers."""
    points = [(_place(record, records), record[key]) for record in records if key in record]
    heights = [drawable(y) if _finite(y) else math.nan for _, y in points]
    finite = [y for y in heights if not math.isnan(y)]
    if finite:
        marker = {"marker": "o", "markersize": 3} if len(finite) < 25 else {}
        panel.plot([x for x, _ in points], heights, **{"linewidth": 1.4, **marker, **style})
    return finite


def _finished(panel: Any, records: Sequence[Record], title: str, shown: Iterable[float]) -> None:
    """Title, and axes that fit the numbers: logarithmic if they span more than tenfold."""
    heights = list(shown)
    panel.set_title(title)
    panel.set_xlabel("epoch" if _by_epoch(records) else "step")
    first, last = _place(records[0], records), _place(records[-1], records)
    set_ticks(panel.xaxis, [first] if first == last else linear_ticks(first, last, whole=True))
    if title != label(RATE) and heights and 0 < 10 * min(heights) < max(heights):
        panel.set_yscale("log")
        set_ticks(panel.yaxis, log_ticks(min(heights), max(heights)))


def _pictures(pictures: Mapping[str, bytes]) -> str:
    if not pictures:
        return ""
    parts = []
    for file, png in pictures.items():
        title = label(file.rpartition("/")[2].removesuffix(".png"))
        parts += [
            f"<h3>{escaped(title.capitalize())}</h3>",
            html.figure(html.picture(png, title), ""),
        ]
    return html.section("pictures", "Pictures", *parts)


def _network(summary: str) -> str:
    return html.section("network", "Network", html.command(summary)) if summary else ""


def _table(key: str, title: str, head: str, rows: Sequence[tuple[str, Any]]) -> str:
    shown = [(name, NONE if value is None else str(value)) for name, value in rows if name]
    return html.section(key, title, html.table([head, "value"], shown)) if shown else ""


def _timing_rows(timings: Sequence[Record]) -> list[list[str]]:
    rows = []
    for name in TIMINGS:
        middle = None if name == "seconds" else _median(timings, name)
        if middle is not None:
            most = max(float(record[name]) for record in timings if _finite(record.get(name)))
            rows.append([UNITS.get(name, label(name)), number(middle, 3), number(most, 3)])
    return rows


def _best(records: Sequence[Record], metric: str, maximize: bool) -> tuple[str, Record] | None:
    """The best record, and what it is."""
    there = [one for one in records if _finite(one.get(metric))]
    if not there:
        return None
    pick, word = (max, "largest") if maximize else (min, "least")
    return f"{word} {label(metric)}", pick(there, key=lambda one: one[metric])


def _median(records: Sequence[Record], name: str) -> float | None:
    there = sorted(float(one[name]) for one in records if _finite(one.get(name)))
    return there[len(there) // 2] if there else None


def _detail(name: str) -> bool:
    """Whether a number is left to the curves and the times."""
    return name in TIMINGS or "/" in name or name.endswith("_norm")


def _rank(name: str) -> tuple[bool, bool, bool]:
    """The order of the numbers: epoch and step, the losses, all others as they came."""
    return name not in ("epoch", "step"), name != "loss", name != "validation_loss"


def _by_epoch(records: Sequence[Record]) -> bool:
    """Whether each record has another epoch; otherwise the steps place them."""
    return len({record.get("epoch") for record in records} - {None}) == len(records)


def _place(record: Record, records: Sequence[Record]) -> float:
    return drawable(record["epoch"] if _by_epoch(records) else record["step"])


def _finite(item: Any) -> bool:
    return isinstance(item, int | float) and abs(item) < math.inf  # also for a large int


def _shown(item: Any) -> str:
    return NONE if item is None else number(item)
