"""The progress of a sweep.

The driver reports its `SweepProgress` after each cohort, for `display` to show.
"""

import dataclasses
import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..train.metrics import badness
from .ledger import Ledger
from .plan import Planner
from .remaining import remaining, steps_left, time_used
from .score import curve_score, mean
from .search import size_of
from .snapshot import Sweep, read
from .space import Values
from .tables import Trial

PATIENCE = 1.0
"""Seconds between two reports of the progress."""

SHARE = 20
"""Ratio of the pause between two reports to the time of a report, which counts all trials."""


class TopTrial(NamedTuple):
    """One of the best trials that ran to their end.

    Args:
        number: Number of the trial.
        metrics: The metrics that trials are compared and bounded by, the first one first.
        values: Its values.
        violated: The constraints that it violates. Default: none.
    """

    number: int
    metrics: Mapping[str, float]
    values: Values
    violated: Sequence[str] = ()


class SweepProgress(NamedTuple):
    """The progress of a sweep.

    Args:
        asked: Number of trials asked so far.
        trials: Number of trials in total.
        statuses: Number of trials by status.
        rung: The epochs of the rung that is being reached.
        lanes: Number of lanes trained to a rung in this session.
        epochs: Epochs of all lanes that are done.
        whole: Epochs of all lanes that are expected in total.
        before: Epochs that were done when this session began.
        seconds: Seconds since this session began.
        left: Seconds that are left, by `remaining`; None if nothing was measured.
        top: The best three trials that ran to their end.
        doing: What runs now, such as "compiling group 1 of 12".
    """

    asked: int
    trials: int
    statuses: Mapping[str, int]
    rung: int
    lanes: int
    epochs: float
    whole: float
    before: float
    seconds: float
    left: float | None = None
    top: Sequence[TopTrial] = ()
    doing: str = ""


Watch = Callable[[SweepProgress], None]


class Reporter:
    """Reports the progress of a sweep, at most once per second.

    Args:
        ledger: Ledger of the sweep.
        planner: The planner of the sweep.
        watch: Receives the progress.
        workers: Number of cohorts that run at the same time. Default: 1.
    """

    ledger: Ledger
    planner: Planner
    watch: Watch
    workers: int

    def __init__(self, ledger: Ledger, planner: Planner, watch: Watch, workers: int = 1) -> None:
        self.ledger, self.planner, self.watch, self.workers = ledger, planner, watch, workers
        self.lanes = 0  # trained in this session
        self._before = float(sum(ledger.trained_epochs().values()))
        self._began, self._next = time.perf_counter(), -math.inf
        self._last: SweepProgress | None = None
        self.doing: str = ""
        self._used = time_used(ledger.cohorts(), ledger.groups())
        self._cohorts = len(ledger.cohorts())
        repeats = planner.settings.repeat or planner.settings.halving == "population"
        self._most = math.inf if repeats else size_of(planner.space)

    @property
    def seconds(self) -> float:
        """The wall time of training: that of earlier sessions, and all of this one."""
        return self._used + time.perf_counter() - self._began

    def note(self, doing: str) -> None:
        """Report immediately what runs now, because it may take long.

        The rest of the progress is that of the last report, unless it is time for another one.

        Args:
            doing: What runs, as in `SweepProgress`.
        """
        self.doing = doing
        if self._last is None or time.perf_counter() >= self._next:
            self.report(0, now=True)
        else:
            seconds = time.perf_counter() - self._began
            self.watch(self._last._replace(doing=doing, seconds=seconds))

    def report(self, rung: int, now: bool = False) -> None:
        """Report the progress, unless the last report was very recent.

        Args:
            rung: The epochs of the rung that is being reached.
            now: Whether to report even then. Default: False.
        """
        began = time.perf_counter()
        if now or began >= self._next:
            self._last = self.progress(rung)
            pause = max(PATIENCE, SHARE * (time.perf_counter() - began))
            self.watch(self._last)
            self._next = time.perf_counter() + pause

    def progress(self, rung: int) -> SweepProgress:
        """Return the progress.

        Args:
            rung: The epochs of the rung that is being reached.
        """
        trials, planner, settings = self.ledger.trials(), self.planner, self.planner.settings
        many = int(max(len(trials), min(settings.trials, self._most)))
        settings = dataclasses.replace(settings, trials=many)
        trained, cohorts, groups = (
            self.ledger.trained_epochs(),
            self.ledger.cohorts(),
            self.ledger.groups(),
        )
        left = steps_left(trials, trained, settings, planner.epochs)
        whole = sum(segment.lanes * segment.epochs for step in left for segment in step.segments)
        epochs, seconds = float(sum(trained.values())), time.perf_counter() - self._began
        now = cohorts[self._cohorts :]
        time_left = remaining(now or cohorts, groups, left, trials, self.workers)
        budget = settings.budget
        if budget.epochs is not None and time_left is not None and whole > 0:
            time_left *= min(1.0, max(0.0, budget.epochs - epochs) / whole)
        if budget.time is not None and time_left is not None:
            time_left = min(time_left, max(0.0, float(budget.time) - self.seconds))
        return SweepProgress(
            asked=len(trials),
            trials=settings.trials,
            statuses=Counter(trial.status for trial in trials),
            rung=rung,
            lanes=self.lanes,
            epochs=epochs,
            whole=epochs + whole,
            before=self._before,
            seconds=seconds,
            left=time_left,
            top=self._top(trials),
            doing=self.doing,
        )

    def _top(self, trials: Sequence[Trial], count: int = 3) -> list[TopTrial]:
        """Return the best trials that ran to their end."""
        planner, rule = self.planner, self.planner.settings.score
        metric, larger = planner.metric, planner.maximize
        if len(planner.objectives) > 1 or planner.constraints:
            sweep = read(self.ledger)
            done = [trial for trial in sweep.ranking if trial.status == "done"][:count]
            return [top_trial(sweep, trial) for trial in done]
        ends: dict[int, dict[int, list[float]]]
        ends = {trial.number: {} for trial in trials if trial.status == "done"}
        for result in self.ledger.results(metric):  # in the order of epochs
            if result.trial in ends:
                ends[result.trial].setdefault(result.seed, []).append(result.value)
        means = {
            number: mean([curve_score(curve, rule, larger) for curve in each.values()])
            for number, each in ends.items()
            if each
        }
        ranked = heapq.nsmallest(count, [(badness(m, larger), n) for n, m in means.items()])
        return [
            TopTrial(n, {metric: means[n]}, trials[n].values) for w, n in ranked if w < math.inf
        ]


def top_trial(sweep: Sweep, trial: Trial) -> TopTrial:
    """Return a trial with all metrics that the trials of a sweep are compared and bounded by.

    Args:
        sweep: The sweep.
        trial: One of its trials.
    """
    names = dict.fromkeys(one.metric for one in (*sweep.objectives, *sweep.constraints))
    found = {name: sweep.measured(trial.number, name) for name in names}
    metrics = {name: value for name, value in found.items() if value is not None}
    violated = [str(b) for b in sweep.constraints if b.violation(found[b.metric])]
    return TopTrial(trial.number, metrics, trial.values, violated)
