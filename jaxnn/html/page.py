"""The HTML document, one file that opens from disk and requests nothing else, and text in it.

Functions return HTML text, or numbers, times, and names as text for readers. The colors suit
color-blind readers: one sequential scale from pale to dark blue (reversed in dark mode), orange for
the best, and purple-red for failures.

Reference: Okabe and Ito, Color universal design, 2008.
"""

import base64
import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
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


# Under this policy a browser requests nothing, whatever a name in the page contains.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
CSS = """
:root { color-scheme: light dark;
  --paper: #fff; --ink: #1a202c; --soft: #5b6675; --line: #dbe0e8; --panel: #f6f8fb;
  --best: #d55e00; --band: #c3d9ee; --curve: #2166ac; --bad: #a5407f; --warn: #fff4e5;
  --level0: #dfe3ea; --level1: #c3d3e4; --level2: #9dbbd8; --level3: #739fc9;
  --level4: #4a82b6; --level5: #2a629b; --level6: #0b3c6f; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14181f; --ink: #e6eaf0; --soft: #9aa5b4; --line: #323a46; --panel: #1c222b;
  --best: #ff9a3d; --band: #2b4a68; --curve: #74b3ea; --bad: #e58bc4; --warn: #3a2b14;
  --level0: #2d343f; --level1: #2f4257; --level2: #345774; --level3: #3d7096;
  --level4: #549ac6; --level5: #86c3e6; --level6: #d3eefb; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font-family: system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main, header, footer { max-width: 1060px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
h1 { font-size: 1.75rem; margin: 0; line-height: 1.2; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .7rem; padding-top: .5rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.7rem 0 .4rem; }
section:first-child h2 { border: 0; margin-top: .6rem; }
header p, .caption, figcaption, footer { color: var(--soft); font-size: .88rem; }
header p { margin: .3rem 0 .8rem; }
figcaption, .caption { max-width: 56rem; margin: .3rem 0 0; }
nav { position: sticky; top: 0; z-index: 1; background: var(--paper);
  border-bottom: 1px solid var(--line); }
nav div { max-width: 1060px; margin: 0 auto; padding: 7px 20px; display: flex; flex-wrap: wrap;
  gap: 2px 18px; }
nav a { color: var(--soft); text-decoration: none; font-size: .86rem; }
nav a:hover, nav a:focus { color: var(--ink); text-decoration: underline; }
section { scroll-margin-top: 40px; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: .8rem 0; }
.card { flex: 1 1 200px; background: var(--panel); border-radius: 8px; padding: 12px 16px; }
.card b { display: block; white-space: nowrap; font-size: 1.45rem; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.card span { display: block; }
.card small { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; margin: .5rem 0;
  font-variant-numeric: tabular-nums; }
th, td { padding: 4px 9px; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; vertical-align: bottom; }
.n { text-align: right; white-space: nowrap; }
.best { width: 100%; }
.best tbody tr:first-child td { font-weight: 700; }
.best tbody tr:first-child td:first-child { border-left: 3px solid var(--best); padding-left: 6px; }
figure { margin: .6rem 0 1.2rem; }
figure svg { display: block; width: 100%; height: auto; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 8px; }
svg { font-family: inherit; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
pre { background: var(--panel); padding: 10px 14px; border-radius: 8px; overflow-x: auto;
  font-size: .88rem; margin: .5rem 0; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.warn { background: var(--warn); border-left: 4px solid var(--best); padding: 8px 14px;
  border-radius: 4px; }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--soft); font-size: .92rem; }
footer { padding: 2rem 20px; }
@media (max-width: 700px) { figure { overflow-x: auto; } figure svg { min-width: 700px; } }
@media print { nav { display: none; } section { break-inside: avoid-page; } }
"""


class Markup(str):
    """Text that is HTML already."""


def document(title: str, subtitle: str, body: str, footer: str = "") -> str:
    """Return a page as HTML, with links to its sections at the top.

    Args:
        title: plain text.
        subtitle: a line of HTML.
        body: sections, as `section` returns them.
        footer: a line of HTML. Default: "".

    >>> text = document("A & B", "", section("one", "One", "<p>1</p>"))
    >>> "<h1>A &amp; B</h1>" in text, '<a href="#one">One</a>' in text
    (True, True)
    """
    keys = re.findall(r'<section id="(\w+)">', body)
    links = "".join(f'<a href="#{key}">{key.capitalize()}</a>' for key in keys)
    title = escaped(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{CSS}</style></head>\n'
        f"<body><header><h1>{title}</h1><p>{subtitle}</p></header>"
        f"<nav><div>{links}</div></nav><main>{body}</main>"
        f"<footer>{footer}</footer></body></html>\n"
    )


def section(key: str, title: str, *parts: str) -> str:
    """Return a section with a heading; the navigation links to its key."""
    return f'<section id="{key}"><h2>{escaped(title)}</h2>\n' + "\n".join(parts) + "</section>\n"


def heading(text: str) -> str:
    """Return a heading within a section."""
    return f"<h3>{escaped(text)}</h3>"


def captioned(drawn: str, caption: str = "") -> str:
    """Return a figure: a drawing with its caption, both HTML."""
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"


def note(text: str, kind: str = "") -> str:
    """Return a paragraph of HTML; kind "warn" highlights it, "caption" makes it small."""
    return f'<p class="{kind}">{text}</p>' if kind else f"<p>{text}</p>"


def warning(text: str) -> str:
    """Return a highlighted paragraph of plain text."""
    return note(escaped(text), "warn")


def html_table(
    heads: Sequence[str], rows: Iterable[Sequence[Any]], right: Iterable[int] = (), kind: str = ""
) -> str:
    """Return a table.

    Args:
        heads: the titles of the columns.
        rows: the cells of each row: `Markup`, or anything else as plain text.
        right: the columns that are aligned right, such as numbers. Default: none.
        kind: the CSS class of the table. Default: "", none.
    """
    numeric = set(right)

    def cells(tag: str, row: Sequence[Any]) -> str:
        return "".join(
            f"<{tag}{' class=n' if i in numeric else ''}>"
            f"{cell if isinstance(cell, Markup) else escaped(cell)}</{tag}>"
            for i, cell in enumerate(row)
        )

    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{cells("th", heads)}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def cards(shown: Iterable[tuple[str, str, str]]) -> str:
    """Return large numbers in a row: (number, name, remark) for each."""
    cells = "".join(
        f'<div class="card"><b>{escaped(big)}</b><span>{escaped(name)}</span>'
        f"<small>{escaped(more)}</small></div>"
        for big, name, more in shown
    )
    return f'<div class="cards">{cells}</div>'


def picture(png: bytes, label: str) -> str:
    """Return a PNG picture, which the page itself contains."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{escaped(label)}" src="data:image/png;base64,{data}">'


def command(line: str) -> str:
    """Return preformatted text, such as a command to copy."""
    return f"<pre><code>{escaped(line)}</code></pre>"


def collapsed(summary: str, *parts: str) -> str:
    """Return details that a click on the summary shows."""
    return f"<details><summary>{escaped(summary)}</summary>\n" + "\n".join(parts) + "</details>"
