"""Numbers and names as a reader wants them."""

import html
import math
from collections.abc import Mapping
from typing import Any

from ..files.reading import printable

LONGEST_NAME = 80  # characters of a name in a figure or a table
NONE = "\N{EN DASH}"  # where there is no value


def number(value: Any, digits: int = 4) -> str:
    """A value in so many significant digits, without needless zeros.

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


def duration(seconds: float) -> str:
    """A time in the unit that suits it.

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
    """So many of something.

    >>> count(1, "trial"), count(1234, "trial")
    ('1 trial', '1,234 trials')
    """
    return f"{many:,} {noun}{'' if many == 1 else 's'}"


def label(metric: str) -> str:
    """A metric's name as words: `validation_accuracy` is validation accuracy."""
    return printable(metric.replace("_", " "), LONGEST_NAME)


def short(name: str) -> str:
    """The end of a dimension's name: the field, and the class where it is inside of a branch.

    >>> short("model.dropout"), short("optimizer:adamw.learning_rate")
    ('dropout', 'adamw.learning_rate')
    """
    return name.rpartition(":")[2] if ":" in name else name.rpartition(".")[2]


def shorts(names: Any) -> dict[str, str]:
    """A short name for each of several, the whole one where two would be the same.

    >>> shorts(["model.width", "head.width", "shift"])
    {'model.width': 'model.width', 'head.width': 'head.width', 'shift': 'shift'}
    """
    ends = [short(name) for name in names]
    return {
        name: printable(end if ends.count(end) == 1 else name, LONGEST_NAME)
        for name, end in zip(names, ends, strict=True)
    }


def escaped(text: Any) -> str:
    """A text as HTML that shows it, whatever its characters."""
    return html.escape(printable(str(text), lines=True))


def flat(plain: Any, path: str = "") -> list[tuple[str, Any]]:
    """A nested configuration as rows of dotted paths.

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
