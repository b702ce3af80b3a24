"""What it costs to watch a run and keep it: logging, progress and checkpoints beside the steps."""

import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxnn.experiment.progress import shown

from benchmarks.report import Bar, Result, Table
from benchmarks.timing import interleaved, sample
from experiments.mnist_mlp import RECIPE, Experiment
from jaxnn import train
from jaxnn.train.checkpoint import Progress

EPOCHS = 150
ROUNDS = 5
MINUTES = 2 / 60
"""Between checkpoints; by default an experiment has 5."""


def run() -> Result:
    """Measure the experiment with the seed's network, bare and watched, and one save alone."""
    problem = RECIPE.problem()
    program = RECIPE.build(Experiment(epochs=EPOCHS), problem)
    data = problem.scaled
    fresh, saves = iter(range(10_000)), []

    with tempfile.TemporaryDirectory() as place:

        def bare() -> Any:
            return program.fit(data.train)[0]

        def watched() -> Any:
            folder = Path(place, str(next(fresh)))
            folder.mkdir()
            kept = train.Checkpoints(
                str(folder / "checkpoints"), train.Every(minutes=MINUTES), at_end=False
            )
            with contextlib.redirect_stdout(io.StringIO()), shown(EPOCHS) as report:
                return program.fit(
                    data.train,
                    report=report,
                    loggers=[train.JsonLines(folder / "metrics.jsonl")],
                    checkpoints=kept,
                )[0]

        samples = interleaved({"bare": bare, "watched": watched}, rounds=ROUNDS)
        ts = bare()
        with train.Checkpoints(str(Path(place, "alone"))).open(program.net) as folder:
            for step in range(6):
                began = time.perf_counter()
                folder.save(ts._replace(step=np.int32(step)), Progress([], {}, 0, None, 0.0))
                called = time.perf_counter()
                folder.wait()
                saves.append((called - began, time.perf_counter() - began))
    jax.block_until_ready(ts)
    calls = {
        "the call, for which the next step waits": sample([one for one, _ in saves[1:]]),
        "until it is on the disk": sample([one for _, one in saves[1:]]),
    }
    cost = Bar("watched over bare", samples["watched"].over(samples["bare"]), 1.03)
    return Result(
        f"`experiments.mnist_mlp` for {EPOCHS} epochs of {3500 // program.batch_size} steps, one "
        "dispatch an epoch. Watched, it prints a line and writes one of JSON an epoch, and saves a "
        f"checkpoint every {60 * MINUTES:.0f} seconds (by default every 5 minutes).",
        [
            Table("A run of the seed's network", "ms", samples, "bare", [cost], []),
            Table("One checkpoint of it", "ms", calls, "until it is on the disk", [], []),
        ],
    )
