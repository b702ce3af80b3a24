"""Trees in which the blocks of a stacked parameter are separate arrays."""

from collections.abc import Sequence
from typing import Any

import jax

from .lifting import NotLifted


class _SameKey:
    """A copy of a key of another type: it has its attributes."""

    def __init__(self, key: Any) -> None:
        self._key = key

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # of copying, before there is a key
            raise AttributeError(name)
        return getattr(self._key, name)

    def __str__(self) -> str:
        return ""


def _silent(kind: Any) -> Any:
    return type(kind.__name__, (kind,), {"__str__": lambda self: "", "__module__": __name__})


_ARGUMENTS = {
    jax.tree_util.DictKey: "key",
    jax.tree_util.SequenceKey: "idx",
    jax.tree_util.GetAttrKey: "name",
    jax.tree_util.FlattenedIndexKey: "key",
}
_SILENT = {kind: _silent(kind) for kind in _ARGUMENTS}


def _same(key: Any) -> Any:
    """The last key of the path to a block: it is of the type of the parameter's own key and equals
    it, and adds nothing to `jax.tree_util.keystr`, so that masks by path find the parameter."""
    kind = type(key)
    if kind not in _ARGUMENTS:
        return _SameKey(key)
    return _SILENT[kind](getattr(key, _ARGUMENTS[kind]))


@jax.tree_util.register_pytree_with_keys_class
class Blocks:
    """The blocks of one parameter, in its place in a tree."""

    def __init__(self, items: Sequence[Any], leaf: int, key: Any) -> None:
        self.items, self.leaf, self.key = tuple(items), leaf, key

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """The blocks, each with the parameter's own key."""
        return [(_same(self.key), item) for item in self.items], (self.leaf, self.key)

    def tree_flatten(self) -> tuple[Any, Any]:
        """The blocks, and which parameter they are of."""
        return self.items, (self.leaf, self.key)

    @classmethod
    def tree_unflatten(cls, aux: Any, items: Any) -> "Blocks":
        """Other blocks of the same parameter."""
        return cls(items, *aux)


class Form:
    """How the leaves of a tree with `Blocks` correspond to those of a plain tree.

    `plain` is the structure with one leaf in place of the blocks of a parameter. `entries` has, for
    each leaf of it, the number of the parameter that it belongs to, or None, and the places of its
    blocks among the leaves of the tree.
    """

    def __init__(self, tree: Any) -> None:
        self.leaves, self.structure = jax.tree.flatten(tree)
        places = jax.tree.unflatten(self.structure, range(len(self.leaves)))
        nodes, outer = jax.tree.flatten(places, is_leaf=lambda node: isinstance(node, Blocks))
        self.entries: list[tuple[int | None, tuple[int, ...]]] = []
        plain = []
        for node in nodes:
            items = node.items if isinstance(node, Blocks) else (node,)
            leaf = node.leaf if isinstance(node, Blocks) else None
            several, structures = zip(*map(jax.tree.flatten, items), strict=True)
            if len(set(structures)) > 1:
                raise NotLifted("the blocks of a parameter have different structures")
            self.entries += [(leaf, places) for places in zip(*several, strict=True)]
            plain.append(jax.tree.unflatten(structures[0], [0] * structures[0].num_leaves))
        self.plain = jax.tree.structure(jax.tree.unflatten(outer, plain))

    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of a block of each entry."""
        return [self.leaves[places[0]].shape for _, places in self.entries]
