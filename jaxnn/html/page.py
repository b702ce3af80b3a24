"""The HTML document: one file that opens from disk and requests nothing else.

Functions return HTML text. Its colors suit color-blind readers: one sequential scale from pale to
dark blue (reversed in dark mode), orange for the best, and purple-red for failures.

Reference: Okabe and Ito, Color universal design, 2008.
"""

import base64
import re
from collections.abc import Iterable, Sequence
from typing import Any

from .formatting import escaped

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


def table(
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


def folded(summary: str, *parts: str) -> str:
    """Return details that a click on the summary shows."""
    return f"<details><summary>{escaped(summary)}</summary>\n" + "\n".join(parts) + "</details>"
