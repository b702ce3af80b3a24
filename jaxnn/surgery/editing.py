"""Editing a network and its parameters together: what the pieces of surgery share."""

from typing import Any

import jax

from ..core import paths
from ..core.layer import Layer
from ..core.paths import at
from ..explain.text import mismatches
from ..keys import as_key
from ..random import draw


def filled(spec: Any, key: jax.Array, kept: dict[paths.Path, Any]) -> Any:
    """The parameters that `spec` declares: those kept by path, and fresh ones in place of None."""
    wanted = paths.map_with_path(lambda path, p: p if kept[path] is None else {}, spec)
    drawn = draw(wanted, as_key(key))
    return paths.map_with_path(
        lambda path, _: at(drawn, path) if kept[path] is None else kept[path], spec
    )


def check_params(net: Layer, params: Any, inputs: Any, named: Any) -> None:
    """Raise ValueError, with every difference, for parameters of another network."""
    lines = mismatches(net.spec(*inputs, **named), params)
    if lines:
        raise ValueError(
            "the parameters are not those of this network for these inputs:\n  "
            + "\n  ".join(lines)
        )
