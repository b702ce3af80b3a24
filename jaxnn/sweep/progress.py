"""The progress of a running sweep, for functions that show it."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ..train.directions import badness
from .history import History
from .plan import Planner

PATIENCE = 1.0
"""Seconds between two reports: counting takes long after many trials."""


class Progress(NamedTuple):
    """The progress of a sweep.

    Args:
        asked: trials asked so far.
        trials: trials in total.
        statuses: the number of trials by status.
        rung: the epochs of the current rung.
        best: the number of the best completed trial, and its metric; None before.
        lanes: lanes trained to a rung in this session.
        epochs: epochs that all lanes have completed.
        whole: epochs expected in total.
        before: epochs that were completed when this session began.
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
    """Reports the progress of a sweep, at most once per second.

    Args:
        ledger: of the sweep.
        planner: of the sweep.
        watch: receives the progress.
    """

    def __init__(self, ledger: History, planner: Planner, watch: Watch) -> None:
        self.ledger, self.planner, self.watch = ledger, planner, watch
        self.lanes = 0  # trained in this session
        self._before = float(sum(ledger.standing().values()))
        self._began, self._told = time.perf_counter(), -math.inf

    def tell(self, rung: int, now: bool = False) -> None:
        """Report the progress, unless the last report was a moment ago; `now` always reports."""
        if now or time.perf_counter() >= self._told + PATIENCE:
            self._told = time.perf_counter()
            self.watch(self.progress(rung))

    def progress(self, rung: int) -> Progress:
        """Return the progress of the sweep."""
        trials, planner, settings = self.ledger.trials(), self.planner, self.planner.settings
        ends: dict[int, dict[int, float]] = {t.number: {} for t in trials if t.status == "done"}
        for result in self.ledger.results(planner.metric):  # the last of a seed comes last
            if result.trial in ends:
                ends[result.trial][result.seed] = result.value
        means = {n: float(np.mean([*each.values()])) for n, each in ends.items() if each}
        places = [(badness(mean, planner.maximize), n) for n, mean in means.items()]
        worth, best = min(places, default=(math.inf, -1))
        whole = sum(bracket.epochs for bracket in settings.rounds(planner.epochs)) * settings.seeds
        return Progress(
            asked=len(trials),
            trials=settings.trials,
            statuses=Counter(trial.status for trial in trials),
            rung=rung,
            best=(best, means[best]) if worth < math.inf else None,
            lanes=self.lanes,
            epochs=float(sum(self.ledger.standing().values())),
            whole=float(whole),
            before=self._before,
            seconds=time.perf_counter() - self._began,
        )
