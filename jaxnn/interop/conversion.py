"""Conversion of the weights of another library, by name, to those of a network.

The network is traversed with its declaration. At each layer that owns arrays a converter, found by
the layer's type, requests arrays from `SourceArrays` by the names of the other library; these add
the prefix for the path of the layer. At the end every declared array must exist in its shape, every
given array must be used, and none may be used by two layers.
"""

from collections import Counter
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
from ..surgery.function_preserving import without_cache
from ..train.weights import Weights, not_held
from ..tree import inside, layers
from ..validation import Accepts, check_none
from .axes import Trace, traced
from .book import Book
from .source_arrays import IfThere, Library, Names, Owner

by_name: Accepts = Accepts(
    "arrays by name",
    lambda value: isinstance(value, Mapping) and all(isinstance(name, str) for name in value),
    TypeError,
    "write model.state_dict() of torch, or a dict whose names are of type str",
)


def _are_rules(names: Any) -> bool:
    if not isinstance(names, Mapping):
        return False
    pairs = [rule if isinstance(rule, tuple) else (rule, len) for rule in names.values()]
    return all(isinstance(path, str) for path in names) and all(
        len(pair) == 2 and isinstance(pair[0], str) and callable(pair[1]) for pair in pairs
    )


rules: Accepts = Accepts(
    "a dict from paths of the network to prefixes, or to pairs of a prefix and a converter",
    _are_rules,
    TypeError,
    'write names={{"path/of/a/layer": "its prefix"}}',
)


def convert_weights(
    library: Library,
    net: Layer,
    weights: Mapping[str, Any],
    inputs: Any,
    named: Any,
    names: Names,
    ignore: Iterable[str],
) -> Weights:
    """Return the parameters and state of `net` from the weights of another library.

    Args:
        library: Names and layouts of the other library.
        net: The network.
        weights: Arrays by name.
        inputs: Inputs of the network.
        named: Its named inputs.
        names: From a path of the network, or a pattern of paths, to a prefix of names.
        ignore: Patterns of names that may be left over.

    Raises:
        ValueError: An array is missing, has another shape, or is not used, or used twice.
    """
    by_name(weights, f"from_{library.name}.weights")
    bare = without_cache(net)  # caches start as in init_state
    spec = bare.spec(*inputs, **named)
    slots = jax.eval_shape(lambda: bare.init_state(*inputs, key=placeholder_key(), **named))
    owners = list(weight_owners(bare))
    check_name_rules(names, owners, {"params": spec, "state": slots})
    trace = traced(bare, inputs, named, spec, slots)
    if not library.channels_first:
        trace = Trace({}, trace.methods)
    book = Book(library, dict(weights), names, owners, trace)
    found: dict[paths.Path, Any] = {}
    for owner in owners:
        trees = {"params": arrays_at(spec, owner.path), "state": arrays_at(slots, owner.path)}
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
    check_none(
        lines,
        f"the {library.name} weights do not fit this network",
        'write names={"path/of/a/layer": "its prefix"} if the two have different names, and '
        'ignore=("name",) for arrays that are not needed',
    )

    def filled(root: str, tree: Any) -> Any:
        def leaf(path: paths.Path, p: Any) -> Any:
            return jnp.asarray(found[(root, *path)], p.dtype) if (root, *path) in found else p

        return paths.map_with_path(leaf, tree)

    begun = net.init_state(*inputs, key=placeholder_key(), **named)  # what is drawn is replaced
    return Weights(filled("params", spec), filled("state", begun))


def check_name_rules(names: Names, owners: list[Owner], trees: Any) -> None:
    """Raise TypeError for a rule of another type, ValueError for paths that no layer has.

    Args:
        names: The rules.
        owners: The layers that own arrays.
        trees: Declared parameters and state.
    """
    rules(names, "names")
    leaves = [path[1:-1] for path, _ in paths.walk(trees)]
    known = {
        path[:i] for path in (*leaves, *(o.path for o in owners)) for i in range(len(path) + 1)
    }
    texts = {paths.text(path) for path in known}
    owning = {
        paths.text(o.path) for o in owners if any(leaf[: len(o.path)] == o.path for leaf in leaves)
    }
    lines = []
    for path, rule in names.items():
        wanted, what = texts, "the path {!r}, which no layer of the network with weights has"
        if isinstance(rule, tuple):
            wanted, what = owning, "a converter at {!r}, which is not a layer that owns weights"
        optional = isinstance(rule[0] if isinstance(rule, tuple) else rule, IfThere)
        if not optional and not any(paths.matches(path, text) for text in wanted):
            lines.append(f"{what.format(path)}; {suggestion(path, wanted - {''})}")
    check_none(lines, "names has paths that do not fit the network")


def by_unique_name(arrays: Iterable[tuple[str, Any]], hint: str) -> dict[str, Any]:
    """Return arrays by name; raise ValueError if several have the same name.

    Args:
        arrays: Names and arrays.
        hint: What to write if several have the same name.
    """
    pairs = list(arrays)
    counts = Counter(name for name, _ in pairs)
    twice = [name for name, count in counts.items() if count > 1]
    check_none(twice, "several weights have the same name", hint)
    return dict(pairs)


def weight_owners(net: Layer) -> Iterator[Owner]:
    """Yield the layers that own arrays, by path, with the wrappers around them.

    Args:
        net: The network.
    """
    wrappers: list[tuple[paths.Path, Any]] = []
    for path, layer in layers(net):
        wrappers = [(above, one) for above, one in wrappers if path[: len(above)] == above]
        if inside(layer):
            wrappers.append((path, layer))
        elif isinstance(layer, Primitive):
            yield Owner(path, layer, tuple(wrappers))


def arrays_at(tree: Any, path: paths.Path) -> Any:
    """Return what a tree has at a path; {} if it has nothing there.

    Args:
        tree: Parameters or state.
        path: Path of a layer.
    """
    try:
        return at(tree, path)
    except KeyError:
        return {}
