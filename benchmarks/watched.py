"""The cost of the hooks of a run: records, a display, and checkpoints."""

import contextlib
import io
import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.peers.jaxnn_ import fitting, program
from benchmarks.report import Bar, Result, Table
from benchmarks.timing import interleaved, sample
from jaxnn import data, train

# Widths of a network, and the epochs of a run.
NETWORKS = {"784-128-10": ((784, 128, 10), 400), "16 wide, 4 layers": ((16,) * 5, 2000)}
BATCH = 128
ROUNDS = 7
SECONDS = 2
"""Between checkpoints; an experiment has 5 minutes by default."""


def run() -> Result:
    """Measure two networks, bare and watched, and one save alone."""
    random = np.random.default_rng(0)
    small = random.normal(size=(6400, 16)).astype(np.float32), random.integers(16, size=6400)
    rows = (data.mnist_5k().train_and_validation, small)
    tables = [
        _table(title, widths, epochs, (x, y.astype(np.int32)))
        for (title, (widths, epochs)), (x, y) in zip(NETWORKS.items(), rows, strict=True)
    ]
    return Result(
        f"`train.fit` at batch {BATCH} with a record an epoch, which is one dispatch. Watched, it "
        "prints a line and writes one of JSON for each record, has `EarlyStopping`, and saves a "
        f"checkpoint every {SECONDS} seconds.",
        [*tables, _saves()],
    )


def _table(title: str, widths: Sequence[int], epochs: int, rows: Any) -> Table:
    trained, fresh = program(widths), itertools.count()
    with tempfile.TemporaryDirectory() as place:

        def watched() -> float:
            folder = Path(place, str(next(fresh)))
            folder.mkdir()
            hooks = [
                train.EarlyStopping("loss", patience=epochs + 1),
                train.Log(folder / "metrics.jsonl"),
                train.Checkpoints(str(folder / "checkpoints"), train.Every(minutes=SECONDS / 60)),
            ]
            with contextlib.redirect_stdout(io.StringIO()):
                return fitting(trained, rows, BATCH, epochs, hooks, progress=True)()

        sides = {"bare": fitting(trained, rows, BATCH, epochs), "watched": watched}
        samples = interleaved(sides, rounds=ROUNDS, warm_up=1)
    bar = Bar("watched over bare", samples["watched"].over(samples["bare"]), 1.03)
    return Table(f"An epoch, {title}", "ms", samples, "bare", [bar])


def _saves() -> Table:
    """A checkpoint each epoch: how long the run waits for a save, alone and one after the other."""
    widths, _ = NETWORKS["784-128-10"]
    rows = np.zeros((2 * BATCH, widths[0]), np.float32), np.zeros(2 * BATCH, np.int32)
    calls: dict[float, list[float]] = {}
    for pause in (0.5, 0.0):
        begun: list[float] = []
        with tempfile.TemporaryDirectory() as place:
            hooks = [
                lambda _, begun=begun: begun.append(time.perf_counter()),
                train.Checkpoints(place, train.Every(epochs=1)),
            ]
            for _ in train.run(
                program(widths),
                rows,
                key=jax.random.key(0),
                epochs=8,
                batch_size=BATCH,
                hooks=hooks,
            ):
                calls.setdefault(pause, []).append(time.perf_counter() - begun[-1])
                time.sleep(pause)
    samples = {
        "the call, for which the next step waits": sample(calls[0.5][1:]),
        "the call, if the save before is still written": sample(calls[0.0][1:]),
    }
    return Table("One checkpoint of 784-128-10", "ms", samples, next(iter(samples)))
