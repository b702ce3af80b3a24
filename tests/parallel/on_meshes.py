"""Fits a small network on a mesh with checkpoints, and goes on from them on another mesh.

Run by test_fit.py: `python -m tests.parallel.on_meshes FOLDER EPOCHS SOURCE DATA MODEL [COORDINATOR
PROCESSES INDEX]`. The first process prints a JSON object: the records, and the parameters.
"""

import json
import sys
from typing import Any

import jax
import numpy as np
import optax

from jaxnn import data, models, parallel, train
from jaxnn.train.loop import TIMINGS

NET = models.MLP(width=8, depth=1, dropout=0.25).network(4)
TASK, OPTIMIZER = train.Classification(4), optax.adam(1e-2, eps=1e-2)
OPTIONS: dict[str, Any] = {"batch_size": 8, "steps_per_dispatch": 2}


def examples():
    """(x, y) of 48 rows."""
    random = np.random.default_rng(0)
    return random.normal(size=(48, 6)).astype(np.float32), random.integers(4, size=48)


def host_arrays(processes):
    """The rows in memory, from which each process takes its share."""
    return data.HostArrays(*examples())


def grain(processes):
    """The rows in an order of Grain's, in batches of one process's share of a step."""
    import grain

    rows = grain.MapDataset.source(list(zip(*examples(), strict=True))).shuffle(seed=1)
    return data.Grain(rows.batch(OPTIONS["batch_size"] // processes))


SOURCES = {"host arrays": host_arrays, "grain": grain}


def told(ts, history):
    """What is compared: the records without what differs each time, and the parameters."""
    records = [{k: v for k, v in r.items() if k not in TIMINGS} for r in history]
    return {"records": records, "params": [np.asarray(p).tolist() for p in jax.tree.leaves(ts)]}


def main(
    folder, epochs, source, split, model, coordinator=None, processes: Any = 1, index: Any = 0
):
    """Join, fit, and tell."""
    if coordinator is not None:
        parallel.initialize(coordinator, int(processes), int(index))
    mesh, rules = parallel.mesh(data=int(split), model=int(model)), parallel.FSDP_TENSOR_PARALLEL
    ts, history = parallel.fit(
        NET, TASK, OPTIMIZER, SOURCES[source](int(processes)), mesh=mesh, rules=rules,
        key=jax.random.key(0), validation=examples(), epochs=int(epochs),
        checkpoints=train.Checkpoints(
            f"{folder}/checkpoints", train.Every(epochs=1, minutes=1e-6), keep=2
        ),
        loggers=[train.JsonLines(f"{folder}/metrics.jsonl")], **OPTIONS,
    )  # fmt: skip
    whole = jax.jit(lambda tree: tree, out_shardings=parallel.Layout(mesh, rules).whole)
    params = whole(ts.params)
    if parallel.is_first():
        print(json.dumps(told(params, history)))


if __name__ == "__main__":
    main(*sys.argv[1:])
