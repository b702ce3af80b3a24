"""64 trials of a small network, from the command to the results, in new processes."""

import importlib.util
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import fresh
from benchmarks.report import Bar, Result, Table
from benchmarks.sweeping import digits
from benchmarks.sweeping.sizes import BATCH, EPOCHS, RATES, STEPS, WIDTHS
from benchmarks.timing import fastest, sample
from jaxnn.sweep.ledger import Ledger
from jaxnn.sweep.snapshot import read

TRIALS = 64
OURS = "jaxnn sweep"
PROCESSES = "flax nnx, one process a trial, two at a time"
# How Optuna's search trains, the peer that it trains by, and what that is installed as.
PEERS = {
    PROCESSES: ("processes", "flax_nnx", "flax"),
    "flax nnx, a fresh program a trial": ("programs", "flax_nnx", "flax"),
    "equinox, a fresh program a trial": ("programs", "equinox_", "equinox"),
}
# Trials of a first run of each side, which warms the file cache and is not counted.
WARM_UP = 2


def run(trials: int = TRIALS) -> Result:
    """Measure the command, and Optuna around each peer."""
    installed = {
        side: peer for side, peer in PEERS.items() if importlib.util.find_spec(peer[2]) is not None
    }
    missing = sorted(
        {package for _, _, package in PEERS.values()} - {p[2] for p in installed.values()}
    )
    runs: dict[str, list[Run]] = {OURS: []}
    with tempfile.TemporaryDirectory() as place:
        file = rows_file(Path(place))
        ours(Path(place, "warm"), WARM_UP)
        for side, (way, peer, _) in installed.items():
            _theirs(way, peer, file, WARM_UP)
            # The command is quick, so it is measured next to each of them.
            runs[OURS].append(ours(Path(place, f"sweep-{len(runs)}"), trials))
            runs[side] = [_theirs(way, peer, file, trials)]
        runs[OURS].append(ours(Path(place, "sweep-last"), trials))
    samples = {side: sample([run.results for run in each]) for side, each in runs.items()}
    ended = {side: sample([run.ended for run in each]) for side, each in runs.items()}
    rival, time_of_rival = fastest(samples, (side for side in installed if side != PROCESSES))
    bars = [
        Bar(
            "one process a trial over jaxnn",
            samples[PROCESSES].over(samples[OURS]),
            15,
            at_least=True,
        ),
        Bar(
            f"fastest with fresh programs ({rival}) over jaxnn",
            time_of_rival.over(samples[OURS]),
            10,
            at_least=True,
        ),
    ]
    losses = ", ".join(f"{side} {each[0].best:.3f}" for side, each in runs.items())
    return Result(
        f"{trials} trials of {'-'.join(map(str, WIDTHS))} on {BATCH * STEPS} small digits: "
        f"{STEPS * EPOCHS} steps of Adam at batch {BATCH}, the learning rate log-uniform in "
        f"{RATES[0]:g} .. {RATES[1]:g}. Wall time of the command, in a new process, until it has "
        "printed its results, and until it has ended: imports and compilations included, and of "
        "jaxnn the probe, the ledger and the validation after every epoch. It draws its HTML "
        "report after the results are printed. The others search by Optuna, in memory and at "
        "random, validate once a trial, and draw nothing. jaxnn ran before each of them and at "
        "the end, and each of them once.",
        [
            Table("From command to results", "s", samples, OURS, bars, missing),
            Table("From command to its end, report included", "s", ended, OURS, [], missing),
        ],
        [f"the best validation loss that each side found: {losses}"],
    )


def rows_file(place: Path) -> Path:
    """Return a file with the problem's arrays, for those who do not import jaxnn."""
    (x, y), (held_x, held_y) = digits.load(digits.Config())
    file = place / "digits.npz"
    np.savez(file, x=x, y=y, held_x=held_x, held_y=held_y)
    return file


class Run(NamedTuple):
    """Seconds until the results were printed, and until the process had ended; the best loss."""

    results: float
    ended: float
    best: float


def ours(
    folder: Path, trials: int, module: str = "digits", variables: Mapping[str, str] | None = None
) -> Run:
    """Run the command of an experiment in `sweeping`.

    Args:
        folder: Folder of the sweep.
        trials: Number of trials.
        module: The experiment. Default: "digits".
        variables: Further variables of the environment. Default: None.
    """
    arguments = ["--trials", str(trials), "--metric", "validation_loss", "--folder", str(folder)]
    command = ["-m", f"benchmarks.sweeping.{module}", "sweep", *arguments]
    results, ended, _ = fresh.timed(command, f"{trials} trials, {trials} done", variables)
    with Ledger.open(folder) as ledger:
        found = read(ledger)
    if len(found.trials) != trials:
        raise RuntimeError(f"{trials} trials were asked for, and {len(found.trials)} swept")
    return Run(results, ended, min(score.mean for score in found.scores.values()))


def theirs(*words: str) -> Run:
    """Run a search of `sweeping` that prints its best loss as JSON."""
    results, ended, line = fresh.timed(["-m", *words], '"best"')
    return Run(results, ended, json.loads(line)["best"])


def _theirs(way: str, peer: str, file: Path, trials: int) -> Run:
    """The same of Optuna around a peer."""
    return theirs("benchmarks.sweeping.optuna_", way, peer, str(file), str(trials))
