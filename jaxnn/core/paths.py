"""Paths name the places in a network, and keys follow paths.

A path is a tuple of segments, written `blocks/3/attention/query/w`. The random key at a path folds
the root key by each segment in turn, so it depends on nothing but the root and the path: adding,
removing or reordering other layers changes nothing.
"""

import dataclasses
import functools
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

Path = tuple[str, ...]


def segment_hash(segment: str | int) -> int:
    """CRC-32 of the segment's text (an index is its decimal text): what a key is folded by."""
    return zlib.crc32(str(segment).encode())


def fold_in(key: jax.Array, segment: str | int) -> jax.Array:
    """The key of the child called `segment`, given its parent's key.

    `net.init(key, x)` gives its child `name` the parameters that `child.init(fold_in(key, name),
    ...)` gives; member i of an ensemble and layer i of a repetition have `fold_in(key, i)`.

    >>> import jax
    >>> key = jax.random.key(0)
    >>> bool(fold_in(key, 3) == fold_in(key, "3"))
    True
    """
    return jax.random.fold_in(key, np.uint32(segment_hash(segment)))


@dataclasses.dataclass(frozen=True)
class PathKey:
    """The key at a path, folded only when it is asked for, so that layers that draw nothing cost
    nothing."""

    root: jax.Array
    folds: tuple[int, ...] = ()

    def child(self, path: Iterable[str], count: int = 0) -> "PathKey":
        """The key `path` below this one, for the `count`-th call there."""
        more = tuple(map(segment_hash, path)) + ((count,) if count else ())
        return PathKey(self.root, self.folds + more)

    def value(self) -> jax.Array:
        """The key itself."""
        return functools.reduce(
            lambda key, number: jax.random.fold_in(key, np.uint32(number)), self.folds, self.root
        )


def text(path: Iterable[str]) -> str:
    """A path as it is written everywhere."""
    return "/".join(path)


def walk(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The leaves of nested dicts, tuples and lists with their paths; empty nodes have none."""
    if isinstance(tree, dict):
        for name, item in tree.items():
            yield from walk(item, (*path, name))
    elif isinstance(tree, (tuple, list)):
        for index, item in enumerate(tree):
            yield from walk(item, (*path, str(index)))
    else:
        yield path, tree


def map_with_path(function: Any, tree: Any, path: Path = ()) -> Any:
    """`tree` with every leaf replaced by `function(path, leaf)`; nested dicts, tuples and
    lists only."""
    if isinstance(tree, dict):
        return {name: map_with_path(function, item, (*path, name)) for name, item in tree.items()}
    if isinstance(tree, (tuple, list)):
        items = [map_with_path(function, item, (*path, str(i))) for i, item in enumerate(tree)]
        return like(tree, items)
    return function(path, tree)


def like(sequence: Any, items: Iterable[Any]) -> Any:
    """`items` as a tuple, named tuple or list, whichever `sequence` is."""
    return type(sequence)(*items) if hasattr(sequence, "_fields") else type(sequence)(items)


def at(tree: Any, path: Path) -> Any:
    """The subtree of nested dicts and tuples at `path`; KeyError where there is none."""
    for segment in path:
        if isinstance(tree, tuple) and int(segment) < len(tree):
            tree = tree[int(segment)]
        elif isinstance(tree, Mapping) and segment in tree:
            tree = tree[segment]
        else:
            raise KeyError(segment)
    return tree


def nested(tree: dict[str, Any], path: Path, item: Any) -> dict[str, Any]:
    """Nested dicts with `item` at `path`."""
    head, *rest = path
    return {**tree, head: nested(tree.get(head, {}), tuple(rest), item) if rest else item}


def matches(pattern: str, path: str) -> bool:
    """Whether a path fits a pattern: `*` stands for any text in one segment, `**` for any segments.

    >>> matches("**", "a/b"), matches("blocks/*/w", "blocks/3/w"), matches("**/norm*", "norm1")
    (True, True, True)
    >>> matches("*/w", "blocks/3/w")
    False
    """
    return _expression(pattern).fullmatch(path) is not None


@functools.lru_cache(maxsize=1024)
def _expression(pattern: str) -> re.Pattern[str]:
    parts = [
        "(?:[^/]+/)*" if part == "**/" else ".*" if part == "**" else _segment_expression(part)
        for part in re.findall(r"\*\*/|\*\*$|[^/]+/?|/", pattern)
    ]
    return re.compile("".join(parts))


def _segment_expression(part: str) -> str:
    return "".join("[^/]*" if c == "*" else "[^/]" if c == "?" else re.escape(c) for c in part)
