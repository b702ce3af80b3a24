"""The report of a run: one HTML file that opens from disk.

It shows the scores, the curves of all metrics, pictures of the predictions, the network, the
configuration, and the environment. It is a pure function: equal values give equal text.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..files.reading import printable
from ..html import charts, page
from ..html.page import LONGEST_NAME, count, duration, escaped, flat, format_number, label, shown
from ..train.hooks.profiling import TIMINGS

LINES = ("-", "--", ":", "-.")
MOST_PATHS = 2 * len(LINES)  # curves by path of a panel
RATE = "learning_rate"
UNITS = {"device_bytes": "bytes on the device", "mfu": "share of peak FLOPs"}

Record = Mapping[str, Any]
Panels = list[tuple[str, dict[str, str]]]


def run_report(
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
        metric: the metric of the best record. Default: "validation_loss".
        maximize: whether larger is better. Default: False.
        pictures: PNG files by name, such as "worst_mistakes.png". Default: None, no section.
        summary: the network, as text. Default: "", no section.
        environment: versions, device, and whatever else the numbers depend on, by name. Default:
            None, no section.
        remarks: events of the run: that it was resumed, stopped early, or rolled back.

    Raises:
        ImportError: matplotlib is not installed.

    >>> page = run_report("trial", [{"epoch": 1, "step": 9, "loss": 0.5}], scores={"accuracy": 0.9})
    >>> page.startswith("<!doctype html>"), "http:" in page.split("<svg")[0]
    (True, False)
    """
    scores = scores or {}
    parts = [
        _result(records, timings or records, scores, metric, maximize, remarks),
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
    metric: str,
    maximize: bool,
    remarks: Sequence[str],
) -> str:
    """Return the section of the scores, the last and the best record, and all records."""
    cards = [(format_number(v), f"test {label(k)}", "once, at the end") for k, v in scores.items()]
    if timings and "seconds" in timings[-1]:
        rate = _finite(timings, "examples_per_second")
        speed = f"{format_number(_median(rate), 3)} rows per second (median)" if rate else ""
        cards.append((duration(timings[-1]["seconds"]), "of training", speed))
    parts = [page.cards(cards)] if cards else []
    parts += map(page.warning, remarks)
    if not records:
        return page.section("result", "Result", *parts, page.warning("The run has no records."))
    names = [n for n in _ordered(records[-1]) if not (n in TIMINGS or "/" in n or "_norm" in n)]
    titles, right = [*map(label, names)], range(1, len(names) + 1)
    rows = [["last", *(shown(records[-1].get(name)) for name in names)]]
    if finite := _finite(records, metric):
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
    rates = {name: _finite(timings, name) for name in TIMINGS if name != "seconds"}
    times = [
        [UNITS.get(name, label(name)), format_number(_median(all_), 3), format_number(max(all_), 3)]
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


def panels_of(records: Sequence[Record]) -> Panels:
    """Return titles and curves of the panels: metrics, learning rates and norms, norms by path."""
    every = dict.fromkeys(name for record in records for name in record)
    numbers = [name for name in _ordered(every) if name not in ("epoch", "step", *TIMINGS)]
    whole = [name for name in numbers if "/" not in name]
    alone = sorted((n for n in whole if n == RATE or "_norm" in n), key=lambda n: n != RATE)
    metrics = dict.fromkeys(n.removeprefix("validation_") for n in whole if n not in alone)
    panels: Panels = [(label(m), {"training": m, "validation": f"validation_{m}"}) for m in metrics]
    panels += [(label(name), {"": name}) for name in alone]
    for group in dict.fromkeys(name.partition("/")[0] for name in numbers if "/" in name):
        paths = [name for name in numbers if name.startswith(f"{group}/")]
        size = {path: _median(_finite(records, path) or [0.0]) for path in paths}
        largest = sorted(paths, key=lambda path: -size[path])[:MOST_PATHS]
        which = f", {MOST_PATHS} largest of {len(paths)}" if len(paths) > MOST_PATHS else ""
        curves = {printable(path.partition("/")[2], LONGEST_NAME): path for path in largest}
        panels.append((f"{label(group)}{which}", curves))
    return panels


def _curves(records: Sequence[Record]) -> str:
    panels = panels_of(records)
    if not panels:
        return ""
    drawn = charts.chart(
        "curves", "Learning curves", lambda figure: draw_panels(figure, records, panels),
        2.6 * charts.rows_of(len(panels)),
        "Blue: on the training data, over the steps since the previous record. Orange: on the "
        "validation data, at the record.",
    )  # fmt: skip
    return page.section("curves", "Curves", drawn)


def draw_panels(
    figure: Any,
    records: Sequence[Record],
    panels: Panels,
    colors: tuple[str, str] = (charts.CURVE, charts.BEST),
) -> None:
    """Draw the panels of `panels_of` into a figure.

    Args:
        figure: an empty figure of matplotlib.
        records: the records.
        panels: titles and curves.
        colors: of training and validation, and in turn of further curves. Default: of the page.
    """
    epochs = {record.get("epoch") for record in records} - {None}
    unit = "epoch" if len(epochs) == len(records) else "step"
    across = [charts.drawable(record[unit]) for record in records]
    columns = min(charts.COLUMNS, len(panels))
    found = charts.panels(figure, len(panels), columns)
    for panel, (title, curves) in zip(found, panels, strict=True):
        heights: list[float] = []
        for rank, (name, key) in enumerate(curves.items()):
            points = [
                (x, record[key]) for x, record in zip(across, records, strict=True) if key in record
            ]
            y = [charts.drawable(v) if _is_finite(v) else math.nan for _, v in points]
            finite = [v for v in y if not math.isnan(v)]
            heights += finite
            style = {"marker": "o", "markersize": 3} if len(finite) < 25 else {}
            if finite:
                panel.plot(
                    [x for x, _ in points], y, color=colors[rank % 2], linewidth=1.4,
                    linestyle=LINES[rank // 2],
                    # A legend leaves out names that begin with an underscore.
                    label=(f" {name}" if name.startswith("_") else name) or None, **style,
                )  # fmt: skip
        panel.set_title(title)
        panel.set_xlabel(unit)
        ticks = charts.linear_ticks(across[0], across[-1], whole=True)
        charts.set_ticks(panel.xaxis, ticks if across[0] < across[-1] else across[:1])
        if title != label(RATE) and heights and 0 < 10 * min(heights) < max(heights):
            panel.set_yscale("log")
            charts.set_ticks(panel.yaxis, charts.log_ticks(min(heights), max(heights)))
        if len(panel.get_legend_handles_labels()[0]) > 1:
            panel.legend()


def _pictures(pictures: Mapping[str, bytes]) -> str:
    titles = [label(file.rpartition("/")[2].removesuffix(".png")) for file in pictures]
    parts = [
        page.heading(title.capitalize()) + page.captioned(page.picture(png, title))
        for title, png in zip(titles, pictures.values(), strict=True)
    ]
    return page.section("pictures", "Pictures", *parts) if parts else ""


def _ordered(names: Iterable[str]) -> list[str]:
    """Return epoch and step, the losses, and all other names in their order."""
    first = ("epoch", "step", "loss", "validation_loss")
    return sorted(names, key=lambda n: first.index(n) if n in first else len(first))


def _finite(records: Sequence[Record], name: str) -> list[float]:
    """Return the finite numbers of a name in the records."""
    return [record[name] for record in records if _is_finite(record.get(name))]


def _is_finite(item: Any) -> bool:
    return isinstance(item, int | float) and abs(item) < math.inf  # also for a large int


def _median(numbers: Sequence[float]) -> float:
    return sorted(numbers)[len(numbers) // 2]
