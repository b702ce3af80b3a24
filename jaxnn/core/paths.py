"""Paths name the layers and parameters of a network, and keys follow paths.

A path is a tuple of segments, written `blocks/3/attention/query/w`. The random key at a path folds
the root key by each segment in turn, so it depends only on the root and the path: adding, removing,
or reordering other layers does not change it.
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
    """Return the number by which a key is folded: the CRC-32 of the segment's text."""
    return zlib.crc32(str(segment).encode())


def fold_in(key: jax.Array, segment: str | int) -> jax.Array:
    """Return the key of the child called `segment`, given its parent's key.

    In `net.init(key, x)`, the child `name` has the parameters that
    `child.init(fold_in(key, name), ...)` returns. Member i of an ensemble and copy i of a
    repetition use `fold_in(key, i)`.

    Args:
        key: PRNG key.
        segment: Name or index of the child; 3 and "3" are the same.

    >>> import jax
    >>> key = jax.random.key(0)
    >>> bool(fold_in(key, 3) == fold_in(key, "3"))
    True
    """
    return jax.random.fold_in(key, np.uint32(segment_hash(segment)))


@dataclasses.dataclass(frozen=True)
class PathKey:
    """The key at a path, folded only when it is used, so layers that do not draw cost nothing."""

    root: jax.Array
    folds: tuple[int, ...] = ()

    def child(self, path: Iterable[str], count: int = 0) -> "PathKey":
        """Return the key `path` below this one, for the `count`-th call there."""
        more = tuple(map(segment_hash, path)) + ((count,) if count else ())
        return PathKey(self.root, self.folds + more)

    def value(self) -> jax.Array:
        """Return the key itself."""
        return functools.reduce(
            lambda key, number: jax.random.fold_in(key, np.uint32(number)), self.folds, self.root
        )


def text(path: Iterable[str]) -> str:
    """Return a path as text: `blocks/3/w`."""
    return "/".join(path)


def walk(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield the leaves of nested dicts, tuples, and lists with their paths."""
    if isinstance(tree, dict):
        for name, item in tree.items():
            yield from walk(item, (*path, name))
    elif isinstance(tree, (tuple, list)):
        for index, item in enumerate(tree):
            yield from walk(item, (*path, str(index)))
    else:
        yield path, tree


def map_with_path(function: Any, tree: Any, path: Path = ()) -> Any:
    """Return nested dicts, tuples, and lists with `function(path, leaf)` for every leaf."""
    if isinstance(tree, dict):
        return {name: map_with_path(function, item, (*path, name)) for name, item in tree.items()}
    if isinstance(tree, (tuple, list)):
        items = [map_with_path(function, item, (*path, str(i))) for i, item in enumerate(tree)]
        return same_kind(tree, items)
    return function(path, tree)


def same_kind(sequence: Any, items: Iterable[Any]) -> Any:
    """Return `items` as a tuple, named tuple, or list, as `sequence` is."""
    return type(sequence)(*items) if hasattr(sequence, "_fields") else type(sequence)(items)


def at(tree: Any, path: Path) -> Any:
    """Return the subtree of nested dicts and tuples at `path`; raise KeyError if it is missing."""
    for segment in path:
        if isinstance(tree, tuple) and int(segment) < len(tree):
            tree = tree[int(segment)]
        elif isinstance(tree, Mapping) and segment in tree:
            tree = tree[segment]
        else:
            raise KeyError(segment)
    return tree


def nested(tree: dict[str, Any], path: Path, item: Any) -> dict[str, Any]:
    """Return nested dicts with `item` at `path`."""
    head, *rest = path
    return {**tree, head: nested(tree.get(head, {}), tuple(rest), item) if rest else item}


def matches(pattern: str, path: str) -> bool:
    """Return whether a path matches a pattern.

    Args:
        pattern: Path in which `*` matches any text in one segment, and `**` any segments.
        path: Path.

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
