"""Numbers, times, and names as text for readers."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..files.reading import printable

LONGEST_NAME = 80  # characters of a name in a figure or a table
NONE = "\N{EN DASH}"  # in place of a missing value


def number(value: Any, digits: int = 4) -> str:
    """Return a value with `digits` significant digits, without trailing zeros.

    >>> [number(v) for v in (0.00012345, 0.25, 1234567.0, 3, True, None, "relu", float("nan"))]
    ['1.234e-4', '0.25', '1.235e6', '3', 'True', 'None', 'relu', 'nan']
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return printable(str(value), LONGEST_NAME)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    exponent = math.floor(math.log10(abs(value)))
    if -4 < exponent < 6:
        return f"{value:.{digits}g}" if exponent < digits else f"{value:,.0f}"
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(power)}"


def shown(value: Any) -> str:
    """Return a value as `number` does, and a dash for None."""
    return NONE if value is None else number(value)


def duration(seconds: float) -> str:
    """Return a time in a suitable unit.

    >>> [duration(s) for s in (0.0123, 2.345, 75, 3725)]
    ['12 ms', '2.3 s', '1 min 15 s', '1 h 02 min']
    """
    if not abs(seconds) < 1e9:
        return f"{number(seconds)} s"
    if 0 < seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(many: int, noun: str) -> str:
    """Return a number with its noun.

    >>> count(1, "trial"), count(1234, "trial")
    ('1 trial', '1,234 trials')
    """
    return f"{many:,} {noun}{'' if many == 1 else 's'}"


def label(metric: str) -> str:
    """Return the name of a metric as words: `validation_accuracy` is validation accuracy."""
    return printable(metric.replace("_", " "), LONGEST_NAME)


def shorts(names: Iterable[str]) -> dict[str, str]:
    """Return a short name for each dotted path: its end, or all of it if two ends are equal.

    >>> shorts(["model.width", "head.width", "shift", "optimizer:adamw.learning_rate"])
    {'model.width': 'model.width', 'head.width': 'head.width', 'shift': 'shift', \
'optimizer:adamw.learning_rate': 'adamw.learning_rate'}
    """
    ends = {name: name.rpartition(":" if ":" in name else ".")[2] for name in names}
    every = list(ends.values())
    return {
        name: printable(end if every.count(end) == 1 else name, LONGEST_NAME)
        for name, end in ends.items()
    }


def aligned(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return a line of text for each row, with columns aligned right.

    >>> aligned([["trial", "loss"], [3, 0.25]])
    ['trial  loss', '    3  0.25']
    """
    cells = [[printable(str(cell), 60) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.rjust, row, widths)) for row in cells]


def escaped(text: Any) -> str:
    """Return HTML that shows any text as it is."""
    return html.escape(printable(str(text), lines=True))


def flat(plain: Any, path: str = "") -> list[tuple[str, Any]]:
    """Return a nested configuration as (dotted path, value) rows.

    >>> flat({"type": "Experiment", "optimizer": {"type": "SGD", "momentum": 0.9}})
    [('type', 'Experiment'), ('optimizer', 'SGD'), ('optimizer.momentum', 0.9)]
    """
    if not isinstance(plain, Mapping):
        return [(path, plain)]
    rows: list[tuple[str, Any]] = []
    for name, value in plain.items():
        here = name if not path else path if name == "type" else f"{path}.{name}"
        rows += flat(value, here)
    return rows
