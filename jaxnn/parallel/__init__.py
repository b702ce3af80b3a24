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

from .memory_plan import Collective as Collective
from .memory_plan import Plan as Plan
from .memory_plan import collectives as collectives
from .memory_plan import plan as plan
from .mesh import abstract_mesh as abstract_mesh
from .mesh import initialize as initialize
from .mesh import is_first as is_first
from .mesh import mesh as mesh
from .mesh import shard_batch as shard_batch
from .placement import Placement as Placement
from .placement import init as init
from .rules import DATA_PARALLEL as DATA_PARALLEL
from .rules import FSDP as FSDP
from .rules import FSDP_TENSOR_PARALLEL as FSDP_TENSOR_PARALLEL
from .rules import TENSOR_PARALLEL as TENSOR_PARALLEL
from .rules import Rules as Rules
from .rules import Split as Split
from .rules import shardings as shardings
