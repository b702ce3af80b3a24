"""The report of a run: one HTML file that opens from disk, for who wants to know how it went.

It shows the scores, the curves of all that was measured, what the run made mistakes at, the
network, the configuration, and what it ran on. It is a pure function of values: the same give the
same text.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..files.reading import printable
from ..page import html
from ..page.document import document
from ..page.drawing import BAND, BEST, CURVE, LEVELS, drawable, svg
from ..page.ticks import linear_ticks, log_ticks, set_ticks
from ..page.words import LONGEST_NAME, NONE, count, duration, escaped, flat, label, number
from ..train.loop import TIMINGS, Record

A_ROW = 3  # panels beside each other
MOST_PATHS = 8  # norms by path that are told apart
RATE = "learning_rate"
UNITS = {"device_bytes": "bytes on the device", "mfu": "share of peak FLOPs"}


def report(
    name: str,
    records: Sequence[Record],
    *,
    timings: Sequence[Record] = (),
    config: Mapping[str, Any] | None = None,
    scores: Mapping[str, float] | None = None,
    pictures: Mapping[str, bytes] | None = None,
    summary: str = "",
    environment: Mapping[str, Any] | None = None,
    remarks: Sequence[str] = (),
) -> str:
    """The report of a run as HTML.

    Args:
        name: of the run.
        records: what was measured, in order, each with `epoch` and `step`: the metrics on the
            training data, those on validation data as `validation_...`, the `learning_rate`, and
            norms as `gradient_norm`, `update_norm`, and those by path after a slash.
        timings: the same records' times and rates, which are other numbers each time; where there
            are none, those in `records`.
        config: what the run was started with, as plain data.
        scores: on the test examples, by name.
        pictures: PNG files by name, "worst_mistakes.png", say.
        summary: of the network, as text.
        environment: versions, device and whatever else the numbers hang on, by name.
        remarks: what befell the run: that it went on, was stopped early, or was rolled back.

    Raises:
        ImportError: matplotlib is not installed.

    >>> page = report("trial", [{"epoch": 1, "step": 9, "loss": 0.5}], scores={"accuracy": 0.9})
    >>> page.startswith("<!doctype html>"), "http:" in page.split("<svg")[0]
    (True, False)
    """
    body = "".join(
        (
            _result(records, timings or records, scores or {}, remarks),
            _curves(records),
            _pictures(pictures or {}),
            _network(summary),
            _table("configuration", "Configuration", "field", flat(config or {})),
            _table("environment", "Environment", "what", flat(environment or {})),
        )
    )
    return document(f"Run {name}", _subtitle(records, scores or {}), body, "")


def _subtitle(records: Sequence[Record], scores: Mapping[str, float]) -> str:
    facts = [f"{label(k)} {number(v)} on the test examples" for k, v in list(scores.items())[:1]]
    if records:
        last = records[-1]
        facts += [count(int(last["epoch"]), "epoch"), count(int(last["step"]), "step")]
    return " · ".join(map(escaped, facts))


def _result(
    records: Sequence[Record],
    timings: Sequence[Record],
    scores: Mapping[str, float],
    remarks: Sequence[str],
) -> str:
    cards = [(number(v), f"test {label(k)}", "once, at the end") for k, v in scores.items()]
    if timings and "seconds" in timings[-1]:
        seconds = timings[-1]["seconds"]
        rate = _median(timings, "examples_per_second")
        told = "" if rate is None else f"{number(rate, 3)} examples a second, in the median"
        cards.append((duration(seconds), "of training", told))
    parts = [html.cards(cards)] if cards else []
    parts += [html.note(escaped(remark), "warn") for remark in remarks]
    if not records:
        parts.append(html.note("Nothing was measured: the run had no epoch.", "warn"))
        return html.section("result", "Result", *parts)
    best = _best(records)
    rows = [["last", records[-1]]]
    if best is not None:
        rows.insert(0, ["least validation loss", best])
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


def _curves(records: Sequence[Record]) -> str:
    """Panels of the metrics, of the learning rate, and of norms."""
    names = sorted(dict.fromkeys(name for record in records for name in record), key=_rank)
    numbers = [n for n in names if n not in ("epoch", "step", *TIMINGS)]
    metrics = list(
        dict.fromkeys(
            n.removeprefix("validation_")
            for n in numbers
            if n != RATE and "/" not in n and not n.endswith("_norm")
        )
    )
    panels = [(label(m), {"training": m, "validation": f"validation_{m}"}) for m in metrics]
    panels += [(label(n), {"": n}) for n in numbers if n == RATE]
    for norm in (n for n in numbers if n.endswith("_norm") and "/" not in n):
        panels.append((label(norm), {"": norm}))
    if not panels or not records:
        return ""
    drawn = [
        html.figure(
            svg(
                "curves", "Learning curves", lambda f: _panels(f, records, panels), _height(panels)
            ),
            "Blue: on the training data, the mean since the record before. Orange: on the "
            "validation data.",
        )
    ]
    groups = dict.fromkeys(n.partition("/")[0] for n in numbers if "/" in n)
    for index, group in enumerate(groups):
        paths = [n for n in numbers if n.startswith(f"{group}/")]
        drawn.append(
            html.figure(
                svg(
                    f"paths{index}",
                    f"{label(group)} by path",
                    lambda f, paths=paths, group=group: _by_path(f, records, group, paths),
                    3.2,
                ),
                f"By path. {_told(paths)}",
            )
        )
    return html.section("curves", "Curves", *drawn)


def _panels(
    figure: Any, records: Sequence[Record], panels: list[tuple[str, dict[str, str]]]
) -> None:
    rows = -(-len(panels) // A_ROW)
    grid = figure.subplots(rows, min(A_ROW, len(panels)), squeeze=False).ravel()
    for panel, (title, curves) in zip(grid, panels, strict=False):
        shown = []
        for name, key in curves.items():
            color = BEST if name == "validation" else CURVE
            shown += _line(panel, records, key, color=color, label=name or None)
        _finished(panel, records, title, shown)
        if len(shown) and len(panel.get_legend_handles_labels()[0]) > 1:
            panel.legend()
    for panel in grid[len(panels) :]:
        panel.axis("off")


def _by_path(figure: Any, records: Sequence[Record], group: str, paths: list[str]) -> None:
    panel = figure.subplots()
    shown = []
    named = _largest(records, paths)
    for path in paths:
        if path not in named:
            shown += _line(panel, records, path, color=BAND, linewidth=0.8)
    for rank, path in enumerate(named):
        style = {"color": LEVELS[-1 - 2 * (rank % 3)], "linestyle": ("-", "--", ":")[rank // 3]}
        name = printable(path.partition("/")[2], LONGEST_NAME)
        name = f" {name}" if name[:1] in ("", "_") else name  # a legend leaves these out
        shown += _line(panel, records, path, label=name, **style)
    _finished(panel, records, label(group), shown)
    if named:
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


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
    """Title, and axes that fit the numbers: logarithmic where they span more than tenfold."""
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


def _best(records: Sequence[Record]) -> Record | None:
    """The record with the least validation loss."""
    there = [one for one in records if _finite(one.get("validation_loss"))]
    return min(there, key=lambda one: one["validation_loss"]) if there else None


def _median(records: Sequence[Record], name: str) -> float | None:
    there = sorted(float(one[name]) for one in records if _finite(one.get(name)))
    return there[len(there) // 2] if there else None


def _largest(records: Sequence[Record], paths: list[str]) -> list[str]:
    """The paths to tell apart: those with the largest median."""
    sizes = {path: _median(records, path) or 0.0 for path in paths}
    return sorted(paths, key=lambda path: -sizes[path])[:MOST_PATHS]


def _told(paths: list[str]) -> str:
    if len(paths) <= MOST_PATHS:
        return "The largest first."
    return f"The {MOST_PATHS} largest of {len(paths)} have names; the others are pale."


def _detail(name: str) -> bool:
    """Whether a number is left to the curves and the times."""
    return name in TIMINGS or "/" in name or name.endswith("_norm")


def _rank(name: str) -> tuple[bool, bool, bool]:
    """Where a number comes: epoch and step, the losses, all others as they came."""
    return name not in ("epoch", "step"), name != "loss", name != "validation_loss"


def _by_epoch(records: Sequence[Record]) -> bool:
    """Whether epochs tell the records apart; steps do where there are several an epoch."""
    return len({record["epoch"] for record in records}) == len(records)


def _place(record: Record, records: Sequence[Record]) -> float:
    return drawable(record["epoch"] if _by_epoch(records) else record["step"])


def _finite(item: Any) -> bool:
    return isinstance(item, int | float) and abs(item) < math.inf  # also for a large int


def _shown(item: Any) -> str:
    return NONE if item is None else number(item)


def _height(panels: Sequence[Any]) -> float:
    return 2.6 * -(-len(panels) // A_ROW)
