"""Trains a program in several processes with checkpoints, and stops if a signal comes to one.

Run by test_placement.py: `python -m tests.parallel.on_runs FOLDER STEPS SIGNALED COORDINATOR
PROCESSES INDEX`. Process 1 sends itself SIGTERM after step SIGNALED, if that is not 0. Each process
prints a line of JSON: the step at which it was interrupted, or the records and the parameters.
"""

import json
import os
import signal
import sys
from typing import Any

import jax
import numpy as np

from jaxnn import data, parallel, train
from jaxnn.train.loop import TIMINGS
from tests.parallel.on_meshes import NET, OPTIMIZER, TASK, examples

PROGRAM = train.Supervised(NET, TASK, OPTIMIZER)
OPTIONS: dict[str, Any] = {
    "batch_size": 8,
    "every": 2,
    "validation": examples(),
    "progress": False,
}


def source():
    """The rows in memory, from which each process takes its share."""
    return data.HostArrays(*examples())


def told(state, history):
    """The records without what differs each time, and the parameters."""
    records = [{k: v for k, v in r.items() if k not in TIMINGS} for r in history]
    return {"records": records, "params": [np.asarray(p).tolist() for p in jax.tree.leaves(state)]}


def main(folder, steps, signaled, coordinator, processes, index):
    """Join, train, and print."""
    parallel.initialize(coordinator, int(processes), int(index))
    mesh, rules = parallel.mesh(data=2, model=-1), parallel.FSDP_TENSOR_PARALLEL

    def send(event):
        if index == "1" and event.step == int(signaled):
            os.kill(os.getpid(), signal.SIGTERM)

    key = jax.random.key(0)
    hooks = [send, train.Checkpoints(f"{folder}/checkpoints", train.Every(minutes=60.0))]
    placement = parallel.Placement(mesh, rules)
    try:
        state, history = train.fit(
            PROGRAM,
            source(),
            key=key,
            steps=int(steps),
            hooks=hooks,
            placement=placement,
            **OPTIONS,
        )
    except train.Interrupted as stopped:
        print(json.dumps({"interrupted": str(stopped)}))
        return
    inputs = examples()[0][:5]
    predictions = train.predict(PROGRAM, state, inputs, placement=placement)
    whole = placement.put(jax.jit(lambda p: p, out_shardings=placement.whole)(state.params))
    print(json.dumps(told(whole, history) | {"predictions": np.asarray(predictions).tolist()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
