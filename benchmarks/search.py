"""The search by tree Parzen estimators in rounds, against Optuna's one trial at a time."""

import json
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import fresh
from benchmarks.report import Bar, Result, Table
from benchmarks.sweeping.sizes import BATCH, LONG_EPOCHS, LONG_ROWS
from benchmarks.timing import sample
from jaxnn.sweep.export import spans_of
from jaxnn.sweep.ledger import Ledger
from jaxnn.sweep.snapshot import read

TRIALS, SEEDS = 128, 10
OURS, OPTUNA = "jaxnn sweep --search tpe", "Optuna's TPE, a trial at a time"


class Found(NamedTuple):
    """When each trial ended, in seconds since the command, and its loss; in order of time."""

    trials: Sequence[tuple[float, float]]

    @property
    def best(self) -> float:
        """The least loss."""
        return min(loss for _, loss in self.trials)

    def until(self, loss: float) -> float:
        """Return when a trial first had at most this loss; infinity if none had."""
        return min((at for at, found in self.trials if found <= loss), default=math.inf)


def run(trials: int = TRIALS, seeds: int = SEEDS) -> Result:
    """Measure both searches with each seed, in turns."""
    found: dict[str, list[Found]] = {OURS: [], OPTUNA: []}
    with tempfile.TemporaryDirectory() as place:
        for seed in range(seeds):
            print(f"seed {seed + 1} of {seeds}", flush=True)
            found[OURS].append(_ours(Path(place, str(seed)), seed, trials))
            found[OPTUNA].append(_optuna(seed, trials))
    equal = [max(pair.best for pair in pairs) for pairs in zip(*found.values(), strict=True)]
    losses = {side: sample([one.best for one in each]) for side, each in found.items()}
    times = {
        side: sample([one.until(loss) for one, loss in zip(each, equal, strict=True)])
        for side, each in found.items()
    }
    whole = {side: sample([one.trials[-1][0] for one in each]) for side, each in found.items()}
    bars = [
        Bar("median best loss, jaxnn over Optuna", losses[OURS].over(losses[OPTUNA]), 1.05),
    ]
    faster = Bar("Optuna over jaxnn", times[OPTUNA].over(times[OURS]), 1, at_least=True)
    return Result(
        f"{trials} trials of `sweeping/tuned`: {LONG_ROWS // BATCH * LONG_EPOCHS} steps of AdamW "
        f"with a cosine decay at batch {BATCH} on {LONG_ROWS} small digits, its width and three "
        f"numbers searched, with each of {seeds} seeds of search and program. The command asks in "
        "its default rounds, of 16 trials and then of 8 to 14. "
        "Optuna's study is in memory, and each of its trials is a `train.fit` of the same program, "
        "so that both search the same function. Times begin with the command, in a new process "
        "with an empty cache of compiled programs. The equal loss of a seed is the worse of the "
        "two best ones.",
        [
            Table("Best validation loss, in thousandths", "thousandths", losses, OPTUNA, bars),
            Table("From command to an equal loss", "s", times, OPTUNA, [faster]),
            Table("From command to the last trial", "s", whole, OPTUNA),
        ],
    )


def _ours(folder: Path, seed: int, trials: int) -> Found:
    """The command."""
    numbers = ["--trials", str(trials), "--search-seed", str(seed), "--seed", str(seed)]
    numbers += ["--epochs", str(LONG_EPOCHS), "--rows", str(LONG_ROWS)]
    command = ["-m", "benchmarks.sweeping.tuned", "sweep", "--search", "tpe", *numbers]
    variables = {"XDG_CACHE_HOME": str(folder / "cache")}
    began = time.time()
    fresh.timed([*command, "--folder", str(folder / "sweep")], f"{trials} trials, ", variables)
    with Ledger.open(folder / "sweep") as ledger:
        sweep = read(ledger)
    spans = spans_of(sweep)
    ends = [(spans[n][-1].end - began, score.mean) for n, score in sweep.scores.items()]
    return Found(sorted(ends))


def _optuna(seed: int, trials: int) -> Found:
    began = time.time()
    words = ["-m", "benchmarks.sweeping.alone", str(seed), str(trials)]
    losses = json.loads(fresh.output(words).splitlines()[-1])["losses"]
    return Found([(at - began, loss) for at, loss in losses if math.isfinite(loss)])
