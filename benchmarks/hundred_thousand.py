"""A hundred thousand trials of 64-16-10 on digits, 20 steps each, through the ledger."""

import dataclasses
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.report import Bar, Result, Table
from benchmarks.timing import sample
from jaxnn import data, train
from jaxnn.executors import create
from jaxnn.experiment import SGD, Experiment
from jaxnn.models import MLP
from jaxnn.sweep import LogUniform, Space, Uniform
from jaxnn.sweep.driver import Driver
from jaxnn.sweep.ledger import Ledger
from jaxnn.sweep.meta import meta_of
from jaxnn.sweep.plan import Planner
from jaxnn.sweep.report import write_report
from jaxnn.sweep.reporter import SweepProgress
from jaxnn.sweep.running import lines
from jaxnn.sweep.settings import Settings
from jaxnn.sweep.snapshot import read

TRIALS = 100_000
STEPS = 20
BATCH = 64
MEBIBYTES = 4096  # that the process may take at most
SECONDS = 10.0  # between two lines about the progress


@dataclasses.dataclass(frozen=True)
class Config:
    """64-16-10, by descent with momentum."""

    model: MLP = MLP(width=16, depth=1, dropout=0.0)  # noqa: RUF009, frozen
    optimizer: SGD = SGD(learning_rate=0.1)  # noqa: RUF009, frozen
    batch_size: int = BATCH
    steps: int = STEPS
    seed: int = 0


def program(config: Config, data: Any) -> train.Program:
    """The training program of a configuration."""
    return train.Supervised(
        config.model.network(10), train.Classification(10), config.optimizer.build(config.steps)
    )


SPACE = Space(
    Config,
    {"optimizer.learning_rate": LogUniform(1e-3, 1.0), "optimizer.momentum": Uniform(0.0, 0.99)},
)
EXPERIMENT = Experiment(
    "hundred_thousand", Config, data=lambda config: data.digits(), program=program, space=SPACE
)
PARTS = {"ask": Ledger.ask, "commit": Ledger.commit, "history": Driver.history}
SWEEP, READ, REPORT = "sweep", "read", "report"


def run(trials: int = TRIALS, round: int = 0) -> Result:
    """Measure a sweep with its ledger, reading it, and its report.

    Args:
        trials: the number of trials.
        round: trials per round of the search. Default: 0, all.
    """
    began = time.perf_counter()
    seconds: Counter[str] = Counter()
    planner = Planner(EXPERIMENT, Config(), Settings(trials=trials, batch=round))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "sweep")
        with (
            Ledger.create(folder, meta_of(EXPERIMENT, planner)) as ledger,
            create("local") as executor,
            _timed(seconds),
        ):
            Driver(EXPERIMENT, ledger, executor, watch=_Lines(SECONDS)).run()
            whole = time.perf_counter() - began
            groups, cohorts = ledger.groups(), ledger.cohorts()
        size = (folder / "ledger.sqlite").stat().st_size
        began = time.perf_counter()
        with Ledger.open(folder) as ledger:
            sweep = read(ledger)
            sweep.ranking  # noqa: B018, computed
        reading = time.perf_counter() - began
        began = time.perf_counter()
        page = write_report(sweep).stat().st_size
        reporting = time.perf_counter() - began
    training = sum(cohort.seconds for cohort in cohorts)
    probing = sum(group.probe_seconds for group in groups)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**20 if sys.platform == "darwin" else 2**10
    )
    ends = Counter(trial.status for trial in sweep.trials)
    each = {
        SWEEP: whole / trials,
        "of it lanes": training / trials,
        READ: reading / trials,
        REPORT: reporting / trials,
    }
    bars = [
        Bar("the sweep over its lanes", whole / (training + probing), 1.5),
        Bar("peak memory, MiB", peak, MEBIBYTES),
        Bar("report, MB", page / 1e6, 1.5),
    ]
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    return Result(
        f"{trials:,} trials of 64-16-10 on digits, {STEPS} steps at batch {BATCH}, validated at "
        "the end; learning rate and momentum searched at random. The sweep runs in process, from "
        "the plan to the last commit. Then its ledger is read and ranked, and its report written.",
        [Table("Parts", "ms a trial", {s: sample([t]) for s, t in each.items()}, SWEEP, bars)],
        [
            f"{trials / whole:.0f} trials a second: {trials:,} in {whole / 60:.1f} minutes, of "
            f"which probing {probing:.1f} s, lanes {training:.1f} s, {parts}; "
            f"{', '.join(f'{many:,} {how}' for how, many in ends.items())}",
            f"{len(cohorts):,} cohorts; a ledger of {size / 2**20:.0f} MiB, a report of "
            f"{page / 1e6:.2f} MB; peak memory of the process {peak:.0f} MiB",
        ],
    )


class _Lines:
    """Prints a line about the progress of a sweep, at most once in some seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.next = seconds, 0.0

    def __call__(self, seen: SweepProgress) -> None:
        if time.perf_counter() >= self.next:
            self.next = time.perf_counter() + self.seconds
            print("; ".join(lines(seen, 1, 999)[:2]), flush=True)


@contextmanager
def _timed(seconds: Counter[str]) -> Iterator[None]:
    """Add the time of each of `PARTS` to `seconds` inside."""

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                seconds[name] += time.perf_counter() - began  # type: ignore[misc]

        return call

    owners = {"ask": Ledger, "commit": Ledger, "history": Driver}
    for name, function in PARTS.items():
        setattr(owners[name], name, timed(name, function))
    try:
        yield
    finally:
        for name, function in PARTS.items():
            setattr(owners[name], name, function)
