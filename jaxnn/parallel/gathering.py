"""Gathering: parameters that the axes of a batch split are gathered where a layer uses them.

A mesh axis that splits a batch cannot split a weight in use: each device needs all of it for its
rows. Left alone, XLA may exchange activations instead, which takes several times the traffic. So
each layer of a network gathers its weights along those axes: in a `Repeat` one copy at a time, and
under `Remat` again in the backward pass. Their gradient is summed over the devices and split as the
weight is.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.lax import with_sharding_constraint
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ..combine.capture import capture
from ..combine.inference import Inference
from ..combine.precision import Precision
from ..combine.remat import Remat
from ..combine.repeat import Repeat
from ..combine.residual import Residual
from ..core import paths
from ..core.calls import Call, Outcome
from ..core.layer import Layer, LayerLike
from ..core.values import FrozenDict, copy_with
from ..core.watching import Watch, watching
from ..core.wrapper import Wrapper
from ..train.minimize import SupervisedLoss
from .mesh import batch_axes
from .rules import placed

# Wrappers that pass the parameters of one copy on as they are. Below any other, a weight might be
# gathered at each turn of a loop, or not be a parameter any more.
_OPEN = (Inference, Repeat, Remat, Precision, Residual, capture, SupervisedLoss)


@dataclasses.dataclass(frozen=True)
class Gathering(Watch):
    """Lets networks gather their parameters, if these lie in a state.

    The parameters of a network are found by their paths and shapes, since in a step they may be
    inside of transforms such as `jax.grad`. If several parts of the state fit, those at the
    shortest path count. A network whose parameters are found in two places with different specs is
    evaluated as it is.

    Args:
        mesh: the mesh.
        leaves: the path, shape, and spec of each array of the state.
    """

    mesh: Mesh
    leaves: tuple[tuple[paths.Path, tuple[int, ...], P], ...]

    def evaluate(
        self, layer: Layer, call: Call, method: str, inputs: Any, named: Any
    ) -> Outcome:
        """The outcome of the network that gathers."""
        manual = jax.sharding.get_abstract_mesh().manual_axes  # inside of jax.shard_map
        specs = {} if manual else self.specs(call.params)
        with watching(None):  # nested calls have gathered parameters
            return gathered(layer, self.mesh, specs)._evaluate(call, method, inputs, named)

    def specs(self, params: Any) -> dict[paths.Path, P]:
        """The spec of each parameter of a network by path; none if they are not in the state."""
        own = [(path, np.shape(leaf)) for path, leaf in paths.walk(params)]
        known = {path: (shape, P(*spec, *(None,) * (len(shape) - len(spec))))
                 for path, shape, spec in self.leaves}  # fmt: skip
        ends = [path[: -len(own[0][0]) or None] for path in known if own] if own else []
        above = [
            start
            for start in dict.fromkeys(ends)
            if all(known.get((*start, *path), (None,))[0] == shape for path, shape in own)
        ]
        nearest = [start for start in above if len(start) == min(map(len, above))]
        choices = {tuple(known[*start, *path][1] for path, _ in own) for start in nearest}
        if len(choices) != 1:
            return {}
        return dict(zip((path for path, _ in own), choices.pop(), strict=True))


def gathered(net: Layer, mesh: Mesh, specs: Mapping[paths.Path, P]) -> Layer:
    """A network each of whose layers gathers its parameters: the same function, for one trace.

    Args:
        net: the network.
        mesh: the mesh.
        specs: the spec of each parameter by path, with an entry for each axis.
    """
    axes = batch_axes(mesh)
    steps = {
        path: (spec, whole)
        for path, spec in specs.items()
        if (whole := _without(spec, axes)) != spec
    }

    def gather(path: paths.Path, leaf: jax.Array) -> jax.Array:
        for spec in steps.get(path, ()):
            own = tuple(spec)[len(spec) - leaf.ndim :]  # of one copy of stacked parameters
            leaf = with_sharding_constraint(leaf, placed(mesh, P(*own)))
        return leaf

    def walk(layer: Layer, path: paths.Path) -> Layer:
        if isinstance(layer, _OPEN):
            return copy_with(layer, inner=walk(layer.wrapped, path))
        children = layer._children()
        if children and not isinstance(layer, Wrapper):
            return layer._with_children(within(children, path))

        def below(call: Call) -> Call:
            # Cast first, which halves the traffic of bfloat16.
            params = paths.map_with_path(gather, call.cast_params(), path)
            return dataclasses.replace(call, params=params, casting=None)

        if isinstance(layer, Wrapper):
            return Gathered(layer, below)

        def evaluate(call: Call, method: str, inputs: Any, named: Any) -> Outcome:
            return layer._evaluate(below(call), method, inputs, named)

        # An attribute of the instance hides the method, so type, fields, and methods stay.
        return copy_with(layer, _evaluate=evaluate)

    def within(tree: Any, path: paths.Path) -> Any:
        if isinstance(tree, dict):
            return FrozenDict({name: within(item, (*path, name)) for name, item in tree.items()})
        if isinstance(tree, tuple):
            return tuple(within(item, (*path, str(i))) for i, item in enumerate(tree))
        return walk(tree, path) if isinstance(tree, Layer) else tree

    return walk(net, ()) if steps else net


class Gathered(Wrapper):
    """A wrapper all of whose weights are gathered before it runs."""

    inner: LayerLike
    below: Callable[[Call], Call]

    def _evaluate(self, call: Call, method: str, inputs: Any, named: Any) -> Outcome:
        return self.wrapped._evaluate(self.below(call), method, inputs, named)


def _without(spec: P, axes: tuple[str, ...]) -> P:
    def entry(item: Any) -> Any:
        kept = tuple(a for a in (item if isinstance(item, tuple) else (item,)) if a not in axes)
        return kept[0] if len(kept) == 1 else kept or None

    return P(*map(entry, spec))
