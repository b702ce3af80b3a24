"""Paths name the places in a network, and keys follow paths.

A path is a tuple of segments, written `blocks/3/attention/query/w`. The random key at a path folds
the root key by each segment in turn, so it depends on nothing but the root and the path: adding,
removing or reordering other layers changes nothing.
"""

import dataclasses
import functools
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Path = tuple[str, ...]

# The generators that a raw key may belong to, by its shape; JAX's default one if it is among them.
RAW_KEYS: dict[Any, tuple[str, ...]] = {(2,): ("threefry2x32",), (4,): ("rbg", "unsafe_rbg")}


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


def as_key(key: Any) -> jax.Array:
    """A typed key from a typed or an old-style key; anything else raises TypeError."""
    if isinstance(key, jax.Array | np.ndarray):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            if key.shape == ():
                return key  # type: ignore[return-value]
        elif key.dtype == np.uint32 and key.shape in RAW_KEYS:
            kinds, default = RAW_KEYS[key.shape], jax.config.jax_default_prng_impl  # type: ignore[attr-defined]
            kind = default if default in kinds else kinds[0]
            return jax.random.wrap_key_data(jnp.asarray(key), impl=kind)
        raise TypeError(
            f"a single random key is wanted, got an array of shape {key.shape} and type "
            f"{key.dtype}; write jax.random.key(seed), or jax.vmap over several keys"
        )
    raise TypeError(
        f"a random key is wanted, got {type(key).__name__} {key!r}; write jax.random.key(seed)"
    )


# How the words of a key are kept in a state, by generator: a shape for each. An array of words is
# taken wherever one of numbers is: stacked, saved, and given to a compiled step.
KEPT_SHAPES: dict[str, tuple[int, ...]] = {
    "threefry2x32": (2,),
    "rbg": (4,),
    "unsafe_rbg": (1, 4),
}


def kept_words(key: jax.Array) -> jax.Array:
    """The words of a typed key, in the shape that names its generator.

    >>> import jax
    >>> kept_words(jax.random.key(0)).shape, kept_words(jax.random.key(0, impl="unsafe_rbg")).shape
    ((2,), (1, 4))
    """
    words = jax.random.key_data(key)
    return words.reshape(KEPT_SHAPES.get(str(jax.random.key_impl(key)), words.shape))


def kept_key(words: Any) -> jax.Array:
    """The typed key whose words were kept by `kept_words`; a typed key as it is.

    >>> import jax
    >>> key = jax.random.key(0, impl="unsafe_rbg")
    >>> bool(kept_key(kept_words(key)) == key)
    True
    """
    for kind, shape in KEPT_SHAPES.items():
        if jnp.shape(words) == shape and words.dtype == np.uint32:
            return jax.random.wrap_key_data(jnp.asarray(words).reshape(-1), impl=kind)
    return as_key(words)


def key_words(key: Any) -> np.ndarray:
    """The words of a key on the host, in one row; those of a numpy array are taken as they are."""
    if not isinstance(key, np.ndarray):
        key = np.asarray(jax.random.key_data(as_key(key)))
    return key.reshape(-1)


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


def check_segments(names: Iterable[str], owner: str) -> None:
    """Raise ValueError where sibling names are empty, hold a slash, or share a hash."""
    seen: dict[int, str] = {}
    for name in names:
        if not name or "/" in name:
            raise ValueError(f"{owner} has a child called {name!r}; a name is text without a slash")
        other = seen.setdefault(segment_hash(name), name)
        if other != name:
            raise ValueError(
                f"{owner} has the children {other!r} and {name!r}, whose names have the same "
                "CRC-32 and would draw the same numbers; rename one of them"
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
