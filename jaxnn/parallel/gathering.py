"""Gathering: weights that the batch's axes split are made whole where they are used.

A mesh axis that splits a batch cannot split a weight in use: each device needs all of it for its
rows. Left alone, XLA may exchange activations instead, at several times the traffic. So each layer
asks for its weights whole along those axes; in a `Repeat` one copy at a time, and under `Remat`
again in the backward pass. A gradient comes back the other way, summed over the rows' devices and
split as the weight is.
"""

from collections.abc import Mapping
from typing import Any

import jax
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
from ..core.calls import Call, Next, Outcome
from ..core.composite import intercept
from ..core.layer import Layer, Primitive
from ..train.minimize import SupervisedLoss
from ..tree import inside
from .layout import Layout
from .mesh import batch_axes
from .rules import own_specs, placed

# Wrappers that hand the parameters of one copy on as they are. Below any other, a weight might be
# gathered once for each turn of a loop, or be no parameter any more.
_OPEN = (Inference, Repeat, Remat, Precision, Residual, capture, intercept, SupervisedLoss)


def gathered(net: Layer, layout: Layout, *inputs: Any) -> Layer:
    """`net`, each of whose layers gathers its weights: the same function, for one trace."""
    return gathering(net, layout.mesh, own_specs(net.spec(*inputs), layout.mesh, layout.rules))


def gathering(net: Layer, mesh: Mesh, lying: Mapping[paths.Path, P]) -> Layer:
    """`net`, each of whose layers gathers its weights: the same function, for one trace.

    Args:
        net: the network.
        mesh: the mesh.
        lying: the spec of each parameter's own axes, an entry for each, by path.
    """
    axes = batch_axes(mesh)
    specs = {
        path: (spec, whole)
        for path, spec in lying.items()
        if (whole := _without(spec, axes)) != spec
    }

    def gather(path: paths.Path, leaf: jax.Array) -> jax.Array:
        for spec in specs.get(path, ()):
            stacked = (None,) * (leaf.ndim - len(spec))
            leaf = with_sharding_constraint(leaf, placed(mesh, P(*stacked, *spec)))
        return leaf

    def gathered(path: paths.Path, layer: Any, call: Call, next: Next) -> Outcome:
        if isinstance(layer, _OPEN) or not (isinstance(layer, Primitive) or inside(layer)):
            return next(call)
        # Cast first: half the traffic in half the bits. All below is gathered then.
        params = paths.map_with_path(gather, call.cast_params(), path)
        return next(call.replace(params=params, casting=None, interceptor=None))

    return intercept(net, gathered) if specs else net


def _without(spec: P, axes: tuple[str, ...]) -> P:
    def entry(item: Any) -> Any:
        kept = tuple(a for a in (item if isinstance(item, tuple) else (item,)) if a not in axes)
        return kept[0] if len(kept) == 1 else kept or None

    return P(*map(entry, spec))
