"""Many devices: a mesh, rules on paths that split a state over it, and training on both.

A network and a program do not mention devices. A table of path patterns states what is split and
how, and the numbers stay those of one device:

    parallel.initialize()  # if there are several processes
    placement = parallel.Placement(parallel.mesh(data=2, model=4), parallel.FSDP_TENSOR_PARALLEL)
    state, history = train.fit(program, data, key=key, epochs=10, placement=placement)

A loop written by hand has the same parts:

    state = placement.init(program, key, batch)
    step = train.make_step(program, placement=placement)
    for batch in batches:
        state, metrics = step(state, parallel.shard_batch(batch, placement.mesh))

`create`, `make_step`, and `fit` do the same for a network, a task, and an optimizer. `plan` reports
beforehand what each device will hold, and what the devices will exchange.
"""

from .abstract_mesh import abstract_mesh
from .collectives import Collective, collectives
from .fitting import fit
from .layout import Layout
from .mesh import mesh
from .placement import Placement
from .plan import Plan, plan
from .processes import initialize, is_first
from .rules import (
    DATA_PARALLEL,
    FSDP,
    FSDP_TENSOR_PARALLEL,
    TENSOR_PARALLEL,
    Rules,
    Split,
    shardings,
)
from .state import create, shard_batch
from .step import make_step

__all__ = [
    "DATA_PARALLEL",
    "FSDP",
    "FSDP_TENSOR_PARALLEL",
    "TENSOR_PARALLEL",
    "Collective",
    "Layout",
    "Placement",
    "Plan",
    "Rules",
    "Split",
    "abstract_mesh",
    "collectives",
    "create",
    "fit",
    "initialize",
    "is_first",
    "make_step",
    "mesh",
    "plan",
    "shard_batch",
    "shardings",
]
