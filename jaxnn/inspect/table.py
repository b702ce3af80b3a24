"""Tables as text for a terminal and as HTML for a notebook, and numbers with units."""

import html as escaping
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

Line = tuple[str, ...]

WIDTH = 100
LEFT = 3  # the first columns are text, the others numbers
_SHRINK = ((1, 16), (2, 12), (0, 12), (1, 6), (2, 6))  # column, to which width; in this order


class Table:
    """Base of a value that is shown as a table, as text on a terminal and as HTML in a notebook."""

    if TYPE_CHECKING:

        def _table(self) -> tuple[list[Line], list[Line]]:
            """Return the lines, from the head to the total, and the notes below the table."""
            ...

    def __str__(self) -> str:
        return format_table(*self._table())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html(*self._table())


def format_table(lines: Sequence[Line], notes: Sequence[Line]) -> str:
    """Return aligned columns between rules, the last line set apart as the total, and notes below.

    Texts are shortened if lines would be longer than `WIDTH`.

    Args:
        lines: Cells of each line: the head, the rows, the total.
        notes: (name, text) of each note.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for column, least in _SHRINK:
        excess = sum(widths) + 2 * (len(widths) - 1) - WIDTH
        widths[column] -= max(0, min(excess, widths[column] - least))
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    head, *rows, total = [_aligned(line, widths) for line in lines]
    blocks = [head, rule, *rows, *([rule] if rows else []), total, rule]
    pad = max(len(name) for name, _ in notes)
    blocks += [_cut(f"{name:<{pad}}  {note}", WIDTH) for name, note in notes]
    return "\n".join(line.rstrip() for line in blocks)


def _aligned(line: Line, widths: Sequence[int]) -> str:
    cells = []
    for column, (cell, width) in enumerate(zip(line, widths, strict=True)):
        cell = _cut(cell, width, keep_end=column == 0)
        cells.append(cell.ljust(width) if column < LEFT else cell.rjust(width))
    return "  ".join(cells)


def _cut(cell: str, width: int, keep_end: bool = False) -> str:
    if len(cell) <= width:
        return cell
    return "…" + cell[len(cell) - width + 1 :] if keep_end else cell[: width - 1] + "…"


def html(lines: Sequence[Line], notes: Sequence[Line]) -> str:
    """Return the same content as an HTML table, not shortened; all text is escaped.

    Args:
        lines: Cells of each line: the head, the rows, the total.
        notes: (name, text) of each note.
    """
    head, *rows, total = lines
    body = "".join(_html_row(row, "td") for row in rows)
    below = "".join(f"<div>{_escaped(name)}: {_escaped(note)}</div>" for name, note in notes)
    return (
        f"<table><thead>{_html_row(head, 'th')}</thead><tbody>{body}</tbody>"
        f"<tfoot>{_html_row(total, 'th')}</tfoot></table>{below}"
    )


def _html_row(line: Line, tag: str) -> str:
    sides = ["left" if column < LEFT else "right" for column in range(len(line))]
    cells = [
        f'<{tag} style="text-align:{side};white-space:nowrap">{_escaped(cell)}</{tag}>'
        for side, cell in zip(sides, line, strict=True)
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _escaped(cell: str) -> str:
    return escaping.escape(cell.strip())


def shape(description: str) -> str:
    """Return shapes with types abbreviated as in a jaxpr.

    Args:
        description: Types and shapes, as text.

    >>> shape("(bfloat16[8,16], int32[8])")
    '(bf16[8,16], i32[8])'
    """
    return re.sub(r"\b(bf|f|u|i|c)(?:loat|int|nt|omplex)(\d+)(?=\[)", r"\1\2", description)


def binary(size: int) -> str:
    """Return a size in powers of 1024, with a padded unit, so that numbers align to the right.

    Args:
        size: Bytes.

    >>> binary(407080), binary(0)
    ('397.5 KiB', '0 B  ')
    """
    return _scaled(size, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"))


def decimal(count: int) -> str:
    """Return a count in powers of 1000.

    Args:
        count: The count.

    >>> decimal(6513152), decimal(0), decimal(999_950)
    ('6.5 M', '0  ', '1.0 M')
    """
    return _scaled(count, 1000, ("", "k", "M", "G", "T", "P", "E"))


def _scaled(count: int, base: int, units: Sequence[str]) -> str:
    number, power = float(count), 0
    while power + 1 < len(units) and round(number, 1) >= 1000:
        number, power = number / base, power + 1
    digits = f"{number:.1f}" if power else str(count)
    return f"{digits} {units[power]:<{len(units[1])}}"
