"""The parts a page is made of: sections, tables, notes, commands. Each gives HTML text."""

import base64
from collections.abc import Iterable, Sequence
from typing import Any

from .words import escaped


def section(key: str, title: str, *parts: str) -> str:
    """A part of the page with a heading; the navigation leads to it by its key."""
    return f'<section id="{key}"><h2>{escaped(title)}</h2>\n' + "\n".join(parts) + "</section>\n"


def figure(drawn: str, caption: str) -> str:
    """A drawing with what there is to see in it. The caption is HTML."""
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"


def note(text: str, kind: str = "") -> str:
    """A paragraph of HTML; `kind` "warn" sets it apart."""
    return f'<p class="{kind}">{text}</p>' if kind else f"<p>{text}</p>"


def table(
    heads: Sequence[str], rows: Iterable[Sequence[Any]], right: Iterable[int] = (), kind: str = ""
) -> str:
    """A table; `right` columns are of numbers. Cells are texts, or `Markup`."""
    numeric = set(right)

    def cells(tag: str, row: Sequence[Any]) -> str:
        return "".join(
            f"<{tag}{' class=n' if i in numeric else ''}>{_cell(cell)}</{tag}>"
            for i, cell in enumerate(row)
        )

    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{cells("th", heads)}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


class Markup(str):
    """Text that is HTML already."""


def cards(shown: Iterable[tuple[str, str, str]]) -> str:
    """Large numbers in a row, each with its name and a remark."""
    cells = "".join(
        f'<div class="card"><b>{escaped(big)}</b><span>{escaped(name)}</span>'
        f"<small>{escaped(more)}</small></div>"
        for big, name, more in shown
    )
    return f'<div class="cards">{cells}</div>'


def picture(png: bytes, label: str) -> str:
    """A PNG picture, held by the page itself."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{escaped(label)}" src="data:image/png;base64,{data}">'


def command(line: str) -> str:
    """A command to copy."""
    return f"<pre><code>{escaped(line)}</code></pre>"


def folded(summary: str, *parts: str) -> str:
    """What only some readers want, behind a line to click."""
    return f"<details><summary>{escaped(summary)}</summary>\n" + "\n".join(parts) + "</details>"


def _cell(cell: Any) -> str:
    return cell if isinstance(cell, Markup) else escaped(cell)
