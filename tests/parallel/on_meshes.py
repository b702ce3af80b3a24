"""Fits a small network on a mesh with checkpoints, and resumes from them on any other mesh.

Run by test_fit.py: `python -m tests.parallel.on_meshes FOLDER EPOCHS SOURCE DATA MODEL SIGNALED
[COORDINATOR PROCESSES INDEX]`. The last process sends itself SIGTERM after step SIGNALED, if that
is not 0. Each process prints a JSON object: why it was interrupted, or the records, the parameters,
and predictions.
"""

import json
import os
import signal
import sys
from typing import Any

import jax
import numpy as np
import optax

from jaxnn import data, models, parallel, train

NET = models.MLP(width=8, depth=1, dropout=0.25).network(4)
PROGRAM = train.Supervised(NET, train.Classification(4), optax.adam(1e-2, eps=1e-2))


def examples():
    """(x, y) of 48 rows."""
    random = np.random.default_rng(0)
    return random.normal(size=(48, 6)).astype(np.float32), random.integers(4, size=48)


OPTIONS: dict[str, Any] = {
    "batch_size": 8,
    "every": 2,
    "validation": examples(),
    "progress": False,
}


def host_arrays(processes):
    """The rows in memory, from which each process takes its share."""
    return data.HostArrays(*examples())


def grain(processes):
    """The rows in an order of Grain's, in batches of one process's share of a step."""
    import grain

    rows = grain.MapDataset.source(list(zip(*examples(), strict=True))).shuffle(seed=1)
    return data.Grain(rows.batch(OPTIONS["batch_size"] // processes))


SOURCES = {"host arrays": host_arrays, "grain": grain}


def results(state, history, predictions):
    """What is compared."""
    params = [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(state)]
    return {
        "records": history,
        "params": params,
        "predictions": np.asarray(predictions).tolist(),
    }


def main(folder, epochs, source, split, model, signaled, *joined):
    """Join, fit, and print."""
    processes, index = 1, 0
    if joined:
        processes, index = int(joined[1]), int(joined[2])
        parallel.initialize(joined[0], processes, index)
    mesh = parallel.mesh(data=int(split), model=int(model))
    placement = parallel.Placement(mesh, parallel.FSDP_TENSOR_PARALLEL)

    def send(event):
        if index == processes - 1 and event.step == int(signaled):
            os.kill(os.getpid(), signal.SIGTERM)

    often = train.Every(epochs=1, minutes=60.0 if int(signaled) else 1e-6)
    hooks = [
        send,
        train.Log(f"{folder}/metrics.jsonl"),
        train.Checkpoints(f"{folder}/checkpoints", often, keep=2),
    ]
    options = OPTIONS | {"epochs": int(epochs), "hooks": hooks, "placement": placement}
    key, rows = jax.random.key(0), SOURCES[source](processes)
    try:
        state, history = train.fit(PROGRAM, rows, key=key, **options)
    except train.Interrupted as stopped:
        print(json.dumps({"interrupted": str(stopped)}))
        return
    whole = jax.jit(lambda tree: tree, out_shardings=placement.whole)(state.params)
    predictions = train.predict(PROGRAM, state, examples()[0][:5], placement=placement)
    print(json.dumps(results(whole, history, predictions)))


if __name__ == "__main__":
    main(*sys.argv[1:])
