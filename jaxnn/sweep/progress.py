"""How far a sweep is, and who is told."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ..train.directions import badness
from .history import History
from .plan import Planner

# Seconds between two messages to whoever watches: to count takes long after many trials.
PATIENCE = 1.0


class Progress(NamedTuple):
    """How far a sweep is, for whoever watches.

    Args:
        asked, trials: trials asked so far, and in all.
        statuses: trials by status.
        rung: the epochs of the rung that is being reached.
        best: the number of the best trial that ran to its end, and its metric; None before.
        lanes: lanes trained to a rung in this session.
        epochs, whole: epochs of all lanes that are done, and those expected in all.
        before: epochs that were done when this session began.
        seconds: since this session began.
    """

    asked: int
    trials: int
    statuses: Mapping[str, int]
    rung: int
    best: tuple[int, float] | None
    lanes: int
    epochs: float
    whole: float
    before: float
    seconds: float


Watch = Callable[[Progress], None]


class Teller:
    """Tells whoever watches how far a sweep is, but not all the time.

    Args:
        ledger, planner: of the sweep.
        watch: is told.
    """

    def __init__(self, ledger: History, planner: Planner, watch: Watch) -> None:
        self.ledger, self.planner, self.watch = ledger, planner, watch
        self.lanes = 0  # trained in this session
        self._before = float(sum(ledger.standing().values()))
        self._began, self._told = time.perf_counter(), -np.inf

    def tell(self, rung: int, now: bool = False) -> None:
        """Tell, unless that was a moment ago."""
        if now or time.perf_counter() >= self._told + PATIENCE:
            self._told = time.perf_counter()
            self.watch(self.progress(rung))

    def progress(self, rung: int) -> Progress:
        """How far the sweep is."""
        ledger, planner = self.ledger, self.planner
        trials = ledger.trials()
        statuses: dict[str, int] = {}
        for trial in trials:
            statuses[trial.status] = statuses.get(trial.status, 0) + 1
        done = {trial.number for trial in trials if trial.status == "done"}
        ends: dict[int, dict[int, float]] = {number: {} for number in done}
        for result in ledger.results(planner.metric):  # the last of a seed comes last
            if result.trial in done:
                ends[result.trial][result.seed] = result.value
        means = {n: float(np.mean([*each.values()])) for n, each in ends.items() if each}
        places = {n: (badness(mean, planner.maximize), n) for n, mean in means.items()}
        found = min(means, key=lambda number: places[number], default=None)
        best = None if found is None or places[found][0] == np.inf else (found, means[found])
        settings = planner.settings
        whole = sum(bracket.epochs for bracket in settings.rounds(planner.epochs)) * settings.seeds
        return Progress(
            asked=len(trials),
            trials=settings.trials,
            statuses=statuses,
            rung=rung,
            best=best,
            lanes=self.lanes,
            epochs=float(sum(ledger.standing().values())),
            whole=float(whole),
            before=self._before,
            seconds=time.perf_counter() - self._began,
        )
