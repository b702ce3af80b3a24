"""Trains in two processes with checkpoints, of which the second dies after its sixth step.

Run by test_processes.py: `python -m tests.parallel.on_one_of_two COORDINATOR INDEX FOLDER`.
"""

import os
import signal
import sys
from pathlib import Path

import jax
import optax

from jaxnn import parallel, train
from tests.parallel.on_two import NET, TASK, data


def main(coordinator, index, folder):
    """Join, train, and die."""
    parallel.initialize(coordinator, 2, int(index))

    def die(ts, record):
        if index == "1" and record["step"] >= 6:
            os.kill(os.getpid(), signal.SIGKILL)

    parallel.fit(
        NET,
        TASK,
        optax.adam(1e-2),
        data(),
        mesh=parallel.mesh(data=2, model=-1),
        rules=parallel.FSDP,
        key=jax.random.key(0),
        batch_size=8,
        epochs=20,
        every=train.Every(steps=2),
        checkpoints=train.Checkpoints(str(Path(folder, "checkpoints")), train.Every(steps=4)),
        callbacks=[die],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
