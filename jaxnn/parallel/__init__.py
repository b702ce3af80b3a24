"""Many devices: a mesh, rules that split the parameters over it, and the training step on it.

A network says nothing of devices. A table of path patterns beside it says what is split how, and
the numbers stay those of one device:

    parallel.start()  # where there are several processes
    mesh, rules = parallel.mesh(data=2, model=4), parallel.FSDP_TENSOR_PARALLEL
    ts = parallel.create(net, optimizer, key, x, mesh, rules)
    step = parallel.make_step(net, task, optimizer, mesh, rules)
    for batch in batches:
        ts, metrics = step(ts, parallel.shard_batch(batch, mesh))

`parallel.plan` says beforehand what each device will hold, and what they will exchange.
"""

from .collectives import Collective, collectives
from .fitting import fit
from .layout import Layout
from .mesh import mesh
from .placement import Placement
from .plan import Plan, plan
from .processes import is_first, start
from .rules import (
    DATA_PARALLEL,
    FSDP,
    FSDP_TENSOR_PARALLEL,
    TENSOR_PARALLEL,
    Rules,
    Split,
    shardings,
)
from .simulated import simulated
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
    "collectives",
    "create",
    "fit",
    "is_first",
    "make_step",
    "mesh",
    "plan",
    "shard_batch",
    "shardings",
    "simulated",
    "start",
]
