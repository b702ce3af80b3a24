"""Conversion: the weights of another library, by name, as those of a network.

The network is walked with its declaration. At each layer that owns arrays a converter, looked up by
the layer's type, asks a `Source` for arrays by the other library's names; the source knows which
prefix belongs to the layer's path. In the end every declared array must be there in its shape,
every array that was given must be used, and none may be used by two layers.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core import paths
from ..core.calls import placeholder_key
from ..core.layer import Layer, Primitive
from ..core.paths import at
from ..explain.text import suggestion
from ..surgery.caching import without_cache
from ..train.weights import Weights, not_held
from ..tree import inside, layers
from .axes import Trace, traced
from .book import Book
from .source import IfThere, Library, Names, Owner


def converted(
    library: Library,
    net: Layer,
    weights: Mapping[str, Any],
    inputs: Any,
    named: Any,
    names: Names,
    ignore: Iterable[str],
) -> Weights:
    """The parameters and state of `net` from the weights of another library, all of them."""
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"from_{library.name} takes arrays by name, such as model.state_dict() of torch; got "
            f"{type(weights).__name__}"
        )
    if others := [name for name in weights if not isinstance(name, str)]:
        raise TypeError(
            f"from_{library.name} takes arrays by name, such as model.state_dict() of torch; got "
            f"the name {others[0]!r}, which is not a str"
        )
    bare = without_cache(net)  # caches begin as init_state begins them
    spec = bare.spec(*inputs, **named)
    slots = jax.eval_shape(lambda: bare.init_state(*inputs, key=placeholder_key(), **named))
    owners = list(_owners(bare))
    check_names(names, owners, {"params": spec, "state": slots})
    trace = traced(bare, inputs, named, spec, slots)
    if not library.channels_first:
        trace = Trace({}, trace.methods)
    book = Book(library, dict(weights), names, owners, trace)
    found: dict[paths.Path, Any] = {}
    for owner in owners:
        trees = {"params": _at(spec, owner.path), "state": _at(slots, owner.path)}
        if any(True for _ in paths.walk(trees)):
            found |= book.layer(owner, trees, owner.copies(trees["params"]))
    lines = book.problems + [
        f"{paths.text(path)}: wanted {tuple(declared.shape)}, got {np.shape(found[path])}"
        + book.hint(path)
        for path, declared in paths.walk({"params": spec, "state": slots})
        if path in found and np.shape(found[path]) != tuple(declared.shape)
    ]
    lines += [
        f"{paths.text(path)}: {lost}"
        for path, declared in paths.walk({"params": spec, "state": slots})
        if path in found and (lost := not_held(np.asarray(found[path]), declared.dtype))
    ]
    lines += book.shared()
    lines += book.unused(ignore)
    lines += book.another_prefix()
    if lines:
        raise ValueError(
            f"the {library.name} weights are not those of this network:\n  "
            + "\n  ".join(lines)
            + '\nWrite names={"path/of/a/layer": "its prefix"} if the two have different names, '
            'and ignore=("name",) for what is not wanted'
        )

    def filled(root: str, tree: Any) -> Any:
        def leaf(path: paths.Path, p: Any) -> Any:
            return jnp.asarray(found[(root, *path)], p.dtype) if (root, *path) in found else p

        return paths.map_with_path(leaf, tree)

    begun = net.init_state(*inputs, key=placeholder_key(), **named)  # what is drawn is replaced
    return Weights(filled("params", spec), filled("state", begun))


def check_names(names: Names, owners: list[Owner], trees: Any) -> None:
    """Raise TypeError for a rule of another type, ValueError for a path that no layer has."""
    if not isinstance(names, Mapping):
        raise TypeError(
            "names maps a path of the network to a prefix, as in "
            f'names={{"path/of/a/layer": "its prefix"}}; got {names!r:.200}'
        )
    leaves = [path[1:-1] for path, _ in paths.walk(trees)]
    known = {
        path[:i] for path in (*leaves, *(o.path for o in owners)) for i in range(len(path) + 1)
    }
    texts = {paths.text(path) for path in known}
    owning = {
        paths.text(o.path) for o in owners if any(leaf[: len(o.path)] == o.path for leaf in leaves)
    }
    for path, rule in names.items():
        prefix = rule[0] if isinstance(rule, tuple) and len(rule) == 2 else rule
        converter = rule[1] if prefix is not rule else len
        if not isinstance(path, str) or not isinstance(prefix, str) or not callable(converter):
            raise TypeError(
                "names maps a path of the network to a prefix, or to a pair of a prefix and a "
                f"converter; got {path!r}: {rule!r}"
            )
        if not isinstance(rule, IfThere) and not any(paths.matches(path, text) for text in texts):
            raise ValueError(
                f"names has the path {path!r}, which no layer of the network with weights has; "
                f"{suggestion(path, texts - {''})}"
            )
        if prefix is not rule and not any(paths.matches(path, text) for text in owning):
            raise ValueError(
                f"names has a converter at {path!r}, which is not a layer that owns weights; "
                f"{suggestion(path, owning - {''})}"
            )


def _owners(net: Layer) -> Iterator[Owner]:
    """The layers that own arrays, by path, with the wrappers around them."""
    wrappers: list[tuple[paths.Path, Any]] = []
    for path, layer in layers(net):
        wrappers = [(above, one) for above, one in wrappers if path[: len(above)] == above]
        if inside(layer):
            wrappers.append((path, layer))
        elif isinstance(layer, Primitive):
            yield Owner(path, layer, tuple(wrappers))


def _at(tree: Any, path: paths.Path) -> Any:
    try:
        return at(tree, path)
    except KeyError:
        return {}


__all__ = ["converted"]
