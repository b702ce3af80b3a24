"""The report of a run: one HTML file that opens from disk.

It shows the scores, the curves of all metrics, pictures of the predictions, the network, the
configuration, and the environment. It is a pure function: equal values give equal text.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from ..html import charts, page
from ..html.page import count, duration, escaped, flat, format_number, label, shown
from ..train.fit import Record, draw_panels, finite_numbers, losses_first, median, panels_of
from ..train.hooks.measurement import TIMINGS
from .prediction import Interval

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
        pictures: figures of `pictures`, by the names of their files, such as "worst_mistakes.png".
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
