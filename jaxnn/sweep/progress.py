"""How far a sweep is, for whoever watches."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ..train.directions import badness
from .ledger import Ledger
from .plan import Planner

PATIENCE = 1.0
"""Seconds between two messages to whoever watches: to count takes long after many trials."""


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
    """Reports how far a sweep is, but not all the time.

    Args:
        ledger, planner: of the sweep.
        watch: gets the progress.
    """

    def __init__(self, ledger: Ledger, planner: Planner, watch: Watch) -> None:
        self.ledger, self.planner, self.watch = ledger, planner, watch
        self.lanes = 0  # trained in this session
        self._before = float(sum(ledger.trained_epochs().values()))
        self._began, self._told = time.perf_counter(), -math.inf

    def tell(self, rung: int, now: bool = False) -> None:
        """Report, unless that was a moment ago."""
        if now or time.perf_counter() >= self._told + PATIENCE:
            self._told = time.perf_counter()
            self.watch(self.progress(rung))

    def progress(self, rung: int) -> Progress:
        """How far the sweep is."""
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
            epochs=float(sum(self.ledger.trained_epochs().values())),
            whole=float(whole),
            before=self._before,
            seconds=time.perf_counter() - self._began,
        )
