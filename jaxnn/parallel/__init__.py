"""Many devices: a mesh, rules on paths that split a state over it, and training on both.

Networks and programs do not mention devices. A table of path patterns specifies how each array is
split, and the results equal those on one device, up to rounding:

    parallel.initialize()  # if there are several processes
    placement = parallel.Placement(parallel.mesh(data=2, model=4), parallel.FSDP_TENSOR_PARALLEL)
    state, history = train.fit(program, data, key=key, epochs=10, placement=placement)

A hand-written training loop uses the same parts:

    state = parallel.init(program, key, batch, placement)
    step = train.make_step(program, placement=placement)
    for batch in batches:
        state, metrics = step(state, parallel.shard_batch(batch, placement.mesh))

`plan(program, batch, placement)` reports in advance the memory of each device and the communication
between devices.
"""

from .memory_plan import Collective, Plan, collectives, plan
from .mesh import abstract_mesh, initialize, is_first, mesh, shard_batch
from .placement import Placement, init
from .rules import (
    DATA_PARALLEL,
    FSDP,
    FSDP_TENSOR_PARALLEL,
    TENSOR_PARALLEL,
    Rules,
    Split,
    shardings,
)

__all__ = [
    "DATA_PARALLEL",
    "FSDP",
    "FSDP_TENSOR_PARALLEL",
    "TENSOR_PARALLEL",
    "Collective",
    "Placement",
    "Plan",
    "Rules",
    "Split",
    "abstract_mesh",
    "collectives",
    "init",
    "initialize",
    "is_first",
    "mesh",
    "plan",
    "shard_batch",
    "shardings",
]
