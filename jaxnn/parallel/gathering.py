"""Gathering: parameters that are split along the axes of the batch are gathered for each layer.

A mesh axis that splits a batch cannot split a weight in use: each device needs the whole weight for
its rows. By default, XLA may exchange activations instead, with several times the traffic.
Therefore each layer of a network gathers its weights along those axes: in a `Repeat` one copy at a
time, and under `Remat` again in the backward pass. The gradient is summed over the devices and
split like the weight.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.lax import with_sharding_constraint
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ..combine.precision import Precision
from ..combine.sequential import Residual
from ..combine.transforms import Inference, Remat, Repeat, capture
from ..core import paths
from ..core.calls import Call, Interceptor, Next, Outcome, evaluate_layer, intercepting
from ..core.composite import intercept
from ..core.layer import Layer, Primitive
from ..train.minimize import SupervisedLoss
from ..tree import inside
from .mesh import batch_axes
from .rules import axes_of, placed

# Wrappers that pass the parameters of one copy on unchanged. Inside any other wrapper, a weight
# could be gathered in each iteration of a loop, or no longer be a parameter.
_OPEN = (Inference, Repeat, Remat, Precision, Residual, capture, intercept, SupervisedLoss)

# The mesh axes that split each axis of an array, with None for the axes that are not split.
Entries = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Gathering:
    """An interceptor that makes networks gather their parameters, if these are part of a state.

    The parameters of a network are found by their paths and shapes, since in a step they may be
    inside of transforms such as `jax.grad`. Inside of `jax.vmap` or `lax.scan` they have fewer axes
    than in the state. If several parts of the state fit, parts with equal shapes are preferred,
    then those with the shortest paths. A network whose parameters are found at two such places with
    different specs is evaluated without gathering.

    Args:
        mesh: The mesh.
        leaves: The path, shape, and spec of each array of the state.
        outer: The interceptor around the step, such as that of `nn.checkify`, which still sees
            every layer; None by default.
    """

    mesh: Mesh
    leaves: tuple[tuple[paths.Path, tuple[int, ...], P], ...]
    outer: Interceptor | None = None

    def __call__(self, path: paths.Path, layer: Layer, call: Call, next: Next) -> Outcome:
        """Return the outcome of the network that gathers."""
        manual = jax.sharding.get_abstract_mesh().manual_axes  # inside of jax.shard_map
        specs = {} if manual else self.specs(call.params)
        with intercepting(None):  # nested calls have gathered parameters
            net = gathered(layer, self.mesh, specs)
            return evaluate_layer(net, call.replace(interceptor=self.outer))

    def specs(self, params: Any) -> dict[paths.Path, Entries]:
        """Return how each parameter is split, by path; {} if they are not in the state."""
        own = {path: np.shape(leaf) for path, leaf in paths.walk(params)}
        known = {
            path: (shape, (*spec, *(None,) * (len(shape) - len(spec))))
            for path, shape, spec in self.leaves
        }
        first: paths.Path = next(iter(own), ())
        found: dict[tuple[bool, int], set[Any]] = {}
        for place in known if own else ():
            above = place[: len(place) - len(first)]
            if (*above, *first) == place:
                there = [known.get((*above, *path), ((), ())) for path in own]
                shapes = [shape for shape, _ in there]
                pairs = zip(shapes, own.values(), strict=True)
                if all(shape[len(shape) - len(one) :] == one for shape, one in pairs):
                    rank = shapes != list(own.values()), len(above)
                    found.setdefault(rank, set()).add(tuple(spec for _, spec in there))
        nearest = found[min(found)] if found else set()
        return dict(zip(own, nearest.pop(), strict=True)) if len(nearest) == 1 else {}


def gathered(net: Layer, mesh: Mesh, specs: Mapping[paths.Path, Entries]) -> Layer:
    """Return the network with layers that gather their parameters, for one trace.

    Args:
        net: The network.
        mesh: The mesh.
        specs: How each parameter is split, by path.
    """
    axes = batch_axes(mesh)
    split = {path: spec for path, spec in specs.items() if not set(axes).isdisjoint(axes_of(spec))}

    def gather(path: paths.Path, leaf: jax.Array) -> jax.Array:
        if path not in split:
            return leaf
        own = split[path][len(split[path]) - leaf.ndim :]  # of one copy of stacked parameters
        whole = [tuple(axis for axis in axes_of((entry,)) if axis not in axes) for entry in own]
        leaf = with_sharding_constraint(leaf, placed(mesh, P(*own)))
        return with_sharding_constraint(leaf, placed(mesh, P(*whole)))

    below = False  # whether all parameters have been gathered above

    def gathering(path: paths.Path, layer: Any, call: Call, next: Next) -> Outcome:
        nonlocal below
        if below or isinstance(layer, _OPEN) or not (isinstance(layer, Primitive) or inside(layer)):
            return next(call)
        # Cast first, which halves the traffic of bfloat16.
        params = paths.map_with_path(gather, call.cast_params(), path)
        below = True
        try:
            return next(call.replace(params=params, casting=None))
        finally:
            below = False

    return intercept(net, gathering) if split else net
