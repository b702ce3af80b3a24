"""Trains in two processes with checkpoints; the second dies after its sixth step.

Run by test_processes.py: `python -m tests.parallel.on_one_of_two COORDINATOR INDEX FOLDER`.
"""

import os
import signal
import sys

import jax

from jaxnn import parallel, train
from tests.parallel.on_two import PROGRAM, data


def main(coordinator, index, folder):
    """Join, train, and die."""
    parallel.initialize(coordinator, 2, int(index))

    def die(event):
        if index == "1" and event.step >= 6:
            os.kill(os.getpid(), signal.SIGKILL)

    train.fit(
        PROGRAM,
        data(),
        key=jax.random.key(0),
        batch_size=8,
        epochs=20,
        every=train.Every(steps=2),
        hooks=[die, train.Checkpoints(f"{folder}/checkpoints", train.Every(steps=4))],
        placement=parallel.Placement(parallel.mesh(data=2, model=-1), parallel.FSDP),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
