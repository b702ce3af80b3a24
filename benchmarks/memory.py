"""What the training of many programs in one process leaves in memory, against hand-written jax.

`python -m benchmarks.memory PEER` measures one side in the process it runs in.
"""

import gc
import json
import os
import sys
from pathlib import Path

import numpy as np

from benchmarks import fresh
from benchmarks.peers import STEADY, offered
from benchmarks.report import Bar, Result, Table

PROGRAMS = 300
FULL = 50
"""Programs after which caches of compiled code are full."""
ROUNDS = 1
OURS, FLOOR = "jaxnn fit", "pure jax, a scan an epoch"


def run() -> Result:
    """Measure both sides, each in a new process."""
    sides = {
        OURS: ["-m", "benchmarks.memory", "jaxnn_"],
        FLOOR: ["-m", "benchmarks.memory", "pure_jax"],
    }
    found = fresh.interleaved(sides, rounds=ROUNDS, warm_up=0)
    tables = []
    for quantity, samples in found.items():
        bar = Bar("jaxnn over pure jax", samples[OURS].over(samples[FLOOR]), 1.0)
        tables.append(Table(quantity, "MB a program", samples, FLOOR, [bar]))
    return Result(
        f"Resident memory over {PROGRAMS} trainings in one process, each of a perceptron of "
        f"another width for {1 + STEADY} epochs. By hand, a jitted function is made and dropped in "
        "each; what remains is what JAX keeps of the arrays that are made outside of it.",
        tables,
    )


def measure(peer: str) -> dict[str, float]:
    """Bytes that a program adds to this process: of all programs, and of those after `FULL`."""
    random = np.random.default_rng(0)
    x = random.normal(size=(64, 8)).astype(np.float32)
    y = random.integers(4, size=64).astype(np.int32)
    resident = []
    for number in range(PROGRAMS + 1):
        (train,) = offered("epochs", (8, 8 + number, 4), x, y, 32, by=(peer,))[0].values()
        train()
        del train
        if number in (0, FULL, PROGRAMS):
            gc.collect()
            resident.append(_resident())
    first, full, last = resident
    return {
        "All programs": (last - first) / PROGRAMS,
        f"After the first {FULL}": (last - full) / (PROGRAMS - FULL),
    }


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
