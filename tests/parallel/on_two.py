"""Trains a small network in one of several processes, each with its own rows of the batches.

Run by test_processes.py: `python -m tests.parallel.on_two [COORDINATOR PROCESSES INDEX]`; without
arguments, the environment states them. The first process prints a JSON object: the numbers of
processes and devices, the metrics after the steps, and the parameters.
"""

import json
import sys

import jax
import numpy as np
import optax

from jaxnn import models, parallel, train

NET = models.MLP(width=8, depth=1, dropout=0.25).network(4)
PROGRAM = train.Supervised(NET, train.Classification(4), optax.adam(1e-2, eps=1e-2))
SHAPES = jax.ShapeDtypeStruct((8, 6), "float32"), jax.ShapeDtypeStruct((8,), "int32")
STEPS = 3


def data():
    """All rows of the batch, as numpy arrays."""
    random = np.random.default_rng(0)
    return random.normal(size=(8, 6)).astype(np.float32), random.integers(4, size=8)


def main(coordinator=None, processes=None, index=None):
    """Join, train, and print."""
    numbers = [None if text is None else int(text) for text in (processes, index)]
    parallel.initialize(coordinator, *numbers)
    here, count = jax.process_index(), jax.process_count()
    mesh, rules = parallel.mesh(data=2, model=-1), parallel.FSDP_TENSOR_PARALLEL
    placement = parallel.Placement(mesh, rules)
    x, y = data()
    own = slice(here * len(x) // count, (here + 1) * len(x) // count)
    batch = parallel.shard_batch((x[own], y[own]), mesh)
    state = parallel.init(PROGRAM, jax.random.key(0), SHAPES, placement)
    step = train.make_step(PROGRAM, placement=placement)
    metrics = {}
    for _ in range(STEPS):
        state, metrics = step(state, batch)
    # Whole on every device, so that each process has them all.
    params = jax.jit(lambda tree: tree, out_shardings=placement.whole)(state.params)
    if parallel.is_first():
        found = {name: float(item) for name, item in metrics.items()}
        leaves = [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(params)]
        facts = {"processes": count, "devices": jax.device_count(), "metrics": found}
        print(json.dumps(facts | {"params": leaves}))


if __name__ == "__main__":
    main(*sys.argv[1:])
