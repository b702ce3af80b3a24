"""What notebooks show: networks and states as folded trees of plain HTML, in the notebook's colors.

A `TreeNode` is a line of text with the nodes below it. `page` folds the nodes that would make the
tree longer than a screen; a click opens them. It needs no script, so it works in static pages too.
"""

import dataclasses
import html
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ..fields import code, describe, is_array, is_traced, is_value

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
        if not _holds_layer(item := getattr(layer, field.name))
        and item != ()
        and (is_traced(item) or item != field.default)
    ]
    if is_value(children):
        settings = [short(children), *settings]
    name = type(layer).__qualname__.rpartition(".")[2]
    return f"{name}({', '.join(settings)})" if settings else name


def _holds_layer(item: Any) -> bool:
    """Return whether a field contains a layer, itself or in tuples and dicts."""
    if isinstance(item, dict | tuple):
        return any(map(_holds_layer, item.values() if isinstance(item, dict) else item))
    return hasattr(type(item), "_children")


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
