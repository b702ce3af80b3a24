"""The HTML document of a report, one file that opens from disk and requests nothing else.

Functions return HTML text, or numbers, times, and names as text for readers; `charts` draws
figures. The colors suit color-blind readers: one sequential scale from pale to dark blue (reversed
in dark mode), orange for the best, and purple-red for failures.

Reference: Okabe and Ito, Color universal design, 2008.
"""

import base64
import functools
import hashlib
import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files.reading import printable

LONGEST_NAME = 80  # characters of a name in a figure or a table
NONE = "\N{EN DASH}"  # in place of a missing value


def format_number(value: Any, digits: int = 4) -> str:
    """Return a value with `digits` significant digits, without trailing zeros.

    >>> values = (0.00012345, 0.25, 1234567.0, 3, True, None, "relu", float("nan"))
    >>> [format_number(v) for v in values]
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
    """Return a value as `format_number` does, and a dash for None."""
    return NONE if value is None else format_number(value)


def duration(seconds: float) -> str:
    """Return a time in a suitable unit.

    >>> [duration(s) for s in (0.0123, 2.345, 75, 3725)]
    ['12 ms', '2.3 s', '1 min 15 s', '1 h 02 min']
    """
    if not abs(seconds) < 1e9:
        return f"{format_number(seconds)} s"
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


def aligned_columns(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return a line of text for each row, with columns aligned right.

    >>> aligned_columns([["trial", "loss"], [3, 0.25]])
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


# Under this policy a browser requests nothing, and runs no script but that of the page, whatever a
# name in the page contains.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


# The colors by the name of their CSS variable, in light and in dark mode; `charts` draws with them.
COLORS = {
    "paper": ("#ffffff", "#14181f"),
    "ink": ("#1a202c", "#e6eaf0"),
    "soft": ("#5b6675", "#9aa5b4"),
    "line": ("#dbe0e8", "#323a46"),
    "panel": ("#f6f8fb", "#1c222b"),
    "warn": ("#fff4e5", "#3a2b14"),
    "best": ("#d55e00", "#ff9a3d"),
    "band": ("#c3d9ee", "#2b4a68"),
    "curve": ("#2166ac", "#74b3ea"),
    "bad": ("#a5407f", "#e58bc4"),
    "level0": ("#dfe3ea", "#2d343f"),
    "level1": ("#c3d3e4", "#2f4257"),
    "level2": ("#9dbbd8", "#345774"),
    "level3": ("#739fc9", "#3d7096"),
    "level4": ("#4a82b6", "#549ac6"),
    "level5": ("#2a629b", "#86c3e6"),
    "level6": ("#0b3c6f", "#d3eefb"),
}
_LIGHT, _DARK = (
    "".join(f"--{name}: {both[mode]}; " for name, both in COLORS.items()) for mode in (0, 1)
)
THEME = f"""
:root {{ color-scheme: light dark; {_LIGHT}}}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK}}} }}
"""


@functools.cache
def _file(name: str) -> str:
    """Return the text of a file next to this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


class Markup(str):
    """Text that is HTML already."""


def document(title: str, subtitle: str, body: str, footer: str = "", data: Any = None) -> str:
    """Return a page as HTML, with links to its sections at the top.

    Args:
        title: plain text.
        subtitle: a line of HTML.
        body: sections, as `section` returns them.
        footer: a line of HTML. Default: "".
        data: plain data that the script of `plots.js` draws. Default: None, a page without script.

    >>> text = document("A & B", "", section("one", "One", "<p>1</p>"))
    >>> "<h1>A &amp; B</h1>" in text, '<a href="#one">One</a>' in text, "<script" in text
    (True, True, False)
    """
    keys = re.findall(r'<section id="(\w+)">', body)
    links = "".join(f'<a href="#{key}">{key.capitalize()}</a>' for key in keys)
    title, policy, scripts = escaped(title), POLICY, ""
    if data is not None:
        links += '<span id="selection" role="status" hidden><span></span>'
        links += '<button type="button" id="clear">Clear filters</button></span>'
        code = _file("table.js") + _file("plots.js")
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
        plain = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        scripts = f'<script type="application/json" id="data">{plain}</script>\n'
        scripts += f"<script>{code}</script>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title>'
        f"<style>{THEME}{_file('page.css')}</style></head>\n"
        f"<body><header><h1>{title}</h1><p>{subtitle}</p></header>"
        f'<nav aria-label="Sections"><div>{links}</div></nav><main>{body}</main>'
        f"<footer>{footer}</footer>{scripts}</body></html>\n"
    )


def section(key: str, title: str, *parts: str) -> str:
    """Return a section with a heading; the navigation links to its key."""
    return f'<section id="{key}"><h2>{escaped(title)}</h2>\n' + "\n".join(parts) + "</section>\n"


def heading(text: str) -> str:
    """Return a heading within a section."""
    return f"<h3>{escaped(text)}</h3>"


def captioned(drawn: str, caption: str = "") -> str:
    """Return a figure: a drawing with its caption, both HTML."""
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure>{drawn}{below}</figure>"


def note(text: str, kind: str = "") -> str:
    """Return a paragraph of HTML; kind "warn" highlights it, "caption" makes it small."""
    return f'<p class="{kind}">{text}</p>' if kind else f"<p>{text}</p>"


def warning(text: str) -> str:
    """Return a highlighted paragraph of plain text."""
    return note(escaped(text), "warn")


def html_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[Any]],
    right: Iterable[int] = (),
    kind: str = "",
    title: str = "",
) -> str:
    """Return a table.

    Args:
        heads: the titles of the columns.
        rows: the cells of each row: `Markup`, or anything else as plain text.
        right: the columns that are aligned right, such as numbers. Default: none.
        kind: the CSS class of the table. Default: "", none.
        title: plain text above the table. Default: "", none.
    """
    numeric = set(right)

    def cells(tag: str, row: Sequence[Any]) -> str:
        return "".join(
            f"<{tag}{' scope=col' if tag == 'th' else ''}{' class=n' if i in numeric else ''}>"
            f"{cell if isinstance(cell, Markup) else escaped(cell)}</{tag}>"
            for i, cell in enumerate(row)
        )

    above = f"<caption>{escaped(title)}</caption>" if title else ""
    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="wide"><table class="{kind}">{above}'
        f"<thead><tr>{cells('th', heads)}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>"
    )


def bar(text: Any, layers: Iterable[tuple[str, float]], limit: float | None = None) -> Markup:
    """Return a cell with a horizontal bar, and a text below it.

    Args:
        text: plain text.
        layers: (color, length) of bars over each other, lengths from 0 to 1; a color is "curve",
            "band", or "bad".
        limit: the place of a mark. Default: None, no mark.

    >>> bar("1/2", [("bad", 0.5)])
    '<span class="bar"><i class="bad" style="width:50.0%"></i></span>1/2'
    """
    parts = [f'<i class="{color}" style="width:{100 * share:.1f}%"></i>' for color, share in layers]
    if limit is not None:
        parts.append(f'<u style="left:{100 * limit:.1f}%"></u>')
    return Markup(f'<span class="bar">{"".join(parts)}</span>{escaped(text)}')


def plot(key: str, caption: str, before: str = "") -> str:
    """Return a figure that the script draws.

    Args:
        key: the name of the figure.
        caption: HTML.
        before: HTML above the figure, such as a legend. Default: "".
    """
    return (
        f'<figure class="plot">{before}<div class="panels" id="plot-{key}"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def cards(shown: Iterable[tuple[str, str, str]]) -> str:
    """Return large numbers in a row: (number, name, remark) for each."""
    cells = "".join(
        f'<div class="card"><b>{escaped(big)}</b><span>{escaped(name)}</span>'
        f"<small>{escaped(more)}</small></div>"
        for big, name, more in shown
    )
    return f'<div class="cards">{cells}</div>'


def row(*parts: str) -> str:
    """Return figures next to each other, and below each other on a narrow screen."""
    return f'<div class="row">{"".join(parts)}</div>'


def command(line: str) -> str:
    """Return preformatted text, such as a command to copy."""
    return f"<pre><code>{escaped(line)}</code></pre>"


def collapsed(summary: str, *parts: str) -> str:
    """Return details that a click on the summary shows."""
    return f"<details><summary>{escaped(summary)}</summary>\n" + "\n".join(parts) + "</details>"
