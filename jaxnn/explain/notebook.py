"""What notebooks and terminals show of values: folded trees, and tables with numbers in units.

A `TreeNode` is a line of text with the nodes below it. `page` folds the nodes that would make the
tree longer than a screen; a click opens them. It needs no script, so it works in static pages too,
and has the notebook's colors. A `Table` is text in a terminal and HTML in a notebook.
"""

import dataclasses
import html
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ..core import paths
from ..fields import code, describe, is_array, is_layer, is_traced, is_value

LINES = 24  # that are visible at first
STYLE = (
    "<style>.jaxnn-tree{font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
    "font-size:13px;line-height:1.5;overflow-x:auto;white-space:nowrap}"
    ".jaxnn-tree details,.jaxnn-tree div{margin-left:1.3em}"
    ".jaxnn-tree>details{margin-left:0}.jaxnn-tree summary{cursor:pointer;margin-left:-1em}"
    ".jaxnn-tree>details>summary{margin-left:0}.jaxnn-tree i{opacity:.7;font-style:normal}"
    "</style>"
)


@dataclasses.dataclass(frozen=True)
class TreeNode:
    """A line of a tree: a name in bold, a text, remarks, and the nodes below it."""

    name: str
    text: str = ""
    remarks: str = ""
    below: tuple["TreeNode", ...] = ()


def page(root: TreeNode) -> str:
    """Return a tree as HTML.

    >>> page(TreeNode("net", "Dense(<3>)")).endswith('<div><b>net</b> Dense(&lt;3&gt;)</div></div>')
    True
    """
    opened, row, room = set(), [root], LINES
    while row and room >= 0:  # whole levels, as long as there is room
        room -= sum(len(node.below) for node in row)
        opened |= {id(node) for node in row if room >= 0 or node is root}
        row = [node for above in row for node in above.below]
    return f'{STYLE}<div class="jaxnn-tree">{"".join(_lines(root, opened))}</div>'


def _lines(node: TreeNode, opened: set[int]) -> Iterator[str]:
    """Yield the HTML of a node and of those below it."""
    parts = (node.name and f"<b>{_escaped(node.name)}</b>", _escaped(node.text))
    line = " ".join(filter(None, (*parts, node.remarks and f"<i>{_escaped(node.remarks)}</i>")))
    if not node.below:
        yield f"<div>{line}</div>"
        return
    yield f"<details{' open' if id(node) in opened else ''}><summary>{line}</summary>"
    for one in node.below:
        yield from _lines(one, opened)
    yield "</details>"


def _escaped(text: str) -> str:
    return html.escape(text if len(text) <= 300 else f"{text:.300}…")


def of_layer(layer: Any, name: str = "") -> TreeNode:
    """Return the tree of a network: each layer in short, and its children by path.

    Args:
        layer: The layer; None for a child that is left out.
        name: Last segment of its path. Default: "".
    """
    if layer is None:
        return TreeNode(name, "None")
    children = layer._children()
    while is_value(children):  # a wrapper adds no level to paths
        children = children._children()
    return TreeNode(name, short(layer), "", tuple(_layers_in(children)))


def network_html(layer: Any) -> str:
    """Return the tree of a network as HTML."""
    return page(of_layer(layer))


def _layers_in(children: Any) -> Iterator[TreeNode]:
    """Yield the nodes of children in dicts and tuples."""
    for name, child in children.items() if isinstance(children, dict) else enumerate(children):
        if isinstance(child, dict | tuple):
            yield TreeNode(str(name), "", "", tuple(_layers_in(child)))
        else:
            yield of_layer(child, str(name))


def short(layer: Any) -> str:
    """Return a layer without its children: `MultiHeadAttention(num_heads=8)`.

    Args:
        layer: The layer.

    >>> import jaxnn as nn
    >>> short(nn.Repeat(nn.Residual(nn.Sequential(nn.Dense(4))), 3)), short(nn.Dense(4, bias=False))
    ('Repeat(Residual(Sequential), n=3)', 'Dense(4, bias=False)')
    """
    children = layer._children()
    if not is_value(children) and not children:
        return re.sub(r" at 0x[0-9a-f]+", "", repr(layer))
    settings = [
        f"{field.name}={code(item)}"
        for field in dataclasses.fields(layer)
        for item in [getattr(layer, field.name)]
        if not any(is_layer(leaf) for _, leaf in paths.walk(item))
        and item != ()
        and (is_traced(item) or item != field.default)
    ]
    if is_value(children):
        settings = [short(children), *settings]
    name = type(layer).__qualname__.rpartition(".")[2]
    return f"{name}({', '.join(settings)})" if settings else name


def of_tree(tree: Any, name: str = "", remarks: str = "") -> TreeNode:
    """Return a pytree with its arrays as types and shapes, and small numbers as they are.

    Args:
        tree: Nested dicts, tuples, lists, and named tuples of arrays.
        name: Of the whole. Default: "".
        remarks: Of the whole. Default: "", the number of elements of its arrays.
    """
    if is_array(tree):
        return TreeNode(name, _array(tree))
    if isinstance(tree, dict):
        items = list(tree.items())
    elif hasattr(tree, "_fields"):
        items = list(zip(tree._fields, tree, strict=True))
    elif isinstance(tree, tuple | list):
        items = list(enumerate(tree))
    else:
        return TreeNode(name, code(tree))
    kind = type(tree).__name__ if hasattr(tree, "_fields") else ""
    many = sum(leaf.size for leaf in jax.tree.leaves(tree) if is_array(leaf))
    remarks = remarks or (f"{many:,} numbers" if many else "empty")
    return TreeNode(name, kind, remarks, tuple(of_tree(item, str(key)) for key, item in items))


def _array(array: Any) -> str:
    """Return the type and shape of an array, and the number in it if there is one."""
    text = describe(array)
    if array.size != 1 or not isinstance(array, jax.Array | np.ndarray) or is_traced(array):
        return text
    if isinstance(array, jax.Array) and (array.is_deleted() or not array.is_fully_addressable):
        return text
    return text if jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key) else f"{text} = {array!s}"


# ---- tables ----

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
        return _text_table(*self._table())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return _html_table(*self._table())


def _text_table(lines: Sequence[Line], notes: Sequence[Line]) -> str:
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


def _html_table(lines: Sequence[Line], notes: Sequence[Line]) -> str:
    """Return the same content as an HTML table, not shortened; all text is escaped.

    Args:
        lines: Cells of each line: the head, the rows, the total.
        notes: (name, text) of each note.
    """
    head, *rows, total = lines
    body = "".join(_html_row(row, "td") for row in rows)
    below = "".join(f"<div>{_plain(name)}: {_plain(note)}</div>" for name, note in notes)
    return (
        f"<table><thead>{_html_row(head, 'th')}</thead><tbody>{body}</tbody>"
        f"<tfoot>{_html_row(total, 'th')}</tfoot></table>{below}"
    )


def _html_row(line: Line, tag: str) -> str:
    sides = ["left" if column < LEFT else "right" for column in range(len(line))]
    cells = [
        f'<{tag} style="text-align:{side};white-space:nowrap">{_plain(cell)}</{tag}>'
        for side, cell in zip(sides, line, strict=True)
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _plain(cell: str) -> str:
    return html.escape(cell.strip())


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
