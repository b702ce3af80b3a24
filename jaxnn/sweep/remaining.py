"""The progress of a sweep, and the remaining time.

The driver reports its `SweepProgress` after each cohort, for `display` to show.
"""

import dataclasses
import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..train.metrics import badness
from .ledger import Ledger
from .plan import Planner
from .score import curve_score, mean
from .search import size_of
from .settings import Settings
from .space import Values
from .tables import OPEN, Cohort, Group, Trial

PATIENCE = 1.0
"""Seconds between two reports of the progress."""

SHARE = 20
"""Ratio of the pause between two reports to the time of a report, which counts all trials."""


class SweepProgress(NamedTuple):
    """The progress of a sweep.

    Args:
        asked: Number of trials asked so far.
        trials: Number of trials in total.
        statuses: Number of trials by status.
        rung: The epochs of the rung that is being reached.
        best: Number and metric of the best trial that ran to its end; None if there is none yet.
        lanes: Number of lanes trained to a rung in this session.
        epochs: Epochs of all lanes that are done.
        whole: Epochs of all lanes that are expected in total.
        before: Epochs that were done when this session began.
        seconds: Seconds since this session began.
        left: Seconds that are left, by `remaining`; None if nothing was measured.
        top: Number, metric, and values of the best three trials that ran to their end.
        doing: What runs now, such as "compiling group 1 of 12".
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
    left: float | None = None
    top: Sequence[tuple[int, float, Values]] = ()
    doing: str = ""


Watch = Callable[[SweepProgress], None]


class Reporter:
    """Reports the progress of a sweep, at most once per second.

    Args:
        ledger: Ledger of the sweep.
        planner: The planner of the sweep.
        watch: Receives the progress.
    """

    ledger: Ledger
    planner: Planner
    watch: Watch

    def __init__(self, ledger: Ledger, planner: Planner, watch: Watch) -> None:
        self.ledger, self.planner, self.watch = ledger, planner, watch
        self.lanes = 0  # trained in this session
        self._before = float(sum(ledger.trained_epochs().values()))
        self._began, self._next = time.perf_counter(), -math.inf
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

        Args:
            doing: What runs, as in `SweepProgress`.
        """
        self.doing = doing
        self.report(0, now=True)

    def report(self, rung: int, now: bool = False) -> None:
        """Report the progress, unless the last report was very recent.

        Args:
            rung: The epochs of the rung that is being reached.
            now: Whether to report even then. Default: False.
        """
        began = time.perf_counter()
        if now or began >= self._next:
            progress = self.progress(rung)
            pause = max(PATIENCE, SHARE * (time.perf_counter() - began))
            self.watch(progress)
            self._next = time.perf_counter() + pause

    def progress(self, rung: int) -> SweepProgress:
        """Return the progress.

        Args:
            rung: The epochs of the rung that is being reached.
        """
        trials, planner, settings = self.ledger.trials(), self.planner, self.planner.settings
        many = int(max(len(trials), min(settings.trials, self._most)))
        settings = dataclasses.replace(settings, trials=many)
        ends: dict[int, dict[int, list[float]]]
        ends = {trial.number: {} for trial in trials if trial.status == "done"}
        for result in self.ledger.results(planner.metric):  # in the order of epochs
            if result.trial in ends:
                ends[result.trial].setdefault(result.seed, []).append(result.value)
        rule, larger = settings.score, planner.maximize
        means = {
            number: mean([curve_score(curve, rule, larger) for curve in each.values()])
            for number, each in ends.items()
            if each
        }
        ranked = [(badness(mean, planner.maximize), n) for n, mean in means.items()]
        first = heapq.nsmallest(3, ranked)
        worth, best = first[0] if first else (math.inf, -1)
        trained, cohorts, groups = (
            self.ledger.trained_epochs(),
            self.ledger.cohorts(),
            self.ledger.groups(),
        )
        left = epochs_left(trials, trained, settings, planner.epochs)
        epochs, seconds = float(sum(trained.values())), time.perf_counter() - self._began
        asked = Counter(trial.group or "" for trial in trials)
        now = cohorts[self._cohorts :]
        time_left = remaining(now or cohorts, groups, left, asked)
        budget = settings.budget
        if budget.epochs is not None and time_left is not None and sum(left.values()) > 0:
            time_left *= min(1.0, max(0.0, budget.epochs - epochs) / sum(left.values()))
        if budget.time is not None and time_left is not None:
            time_left = min(time_left, max(0.0, float(budget.time) - self.seconds))
        return SweepProgress(
            asked=len(trials),
            trials=settings.trials,
            statuses=Counter(trial.status for trial in trials),
            rung=rung,
            best=(best, means[best]) if worth < math.inf else None,
            lanes=self.lanes,
            epochs=epochs,
            whole=epochs + sum(left.values()),
            before=self._before,
            seconds=seconds,
            left=time_left,
            top=[(n, means[n], trials[n].values) for worth, n in first if worth < math.inf],
            doing=self.doing,
        )


# Time, as pure functions of what the ledger records


def time_used(cohorts: Sequence[Cohort], groups: Sequence[Group]) -> float:
    """Return the wall time of cohorts, without pauses between them, and of probes.

    Args:
        cohorts: The cohorts.
        groups: The groups.

    >>> run = dict(group="all", rung=0, epoch_from=0, epoch_to=1, lanes=((0, 0),))
    >>> time_used([Cohort(**run, seconds=4.0, finished=14.0), Cohort(**run, seconds=4.0,
    ...     finished=16.0), Cohort(**run, seconds=1.0, finished=99.0)], [])
    7.0
    """
    total, until = sum(group.probe_seconds for group in groups), -math.inf
    for begin, end in sorted(((c.finished or 0.0) - c.seconds, c.finished or 0.0) for c in cohorts):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def epochs_left(
    trials: Sequence[Trial],
    trained: Mapping[tuple[int, int], int],
    settings: Settings,
    epochs: int,
) -> dict[str, float]:
    """Return the remaining epochs of lanes by group; "" for trials whose group is unknown.

    Without halving, a trial is expected to train for the mean number of epochs of those that have
    ended, since it may stop early, fail, or have a different number of epochs.

    Args:
        trials: The trials.
        trained: The number of epochs that each lane has trained.
        settings: Settings of the sweep.
        epochs: Epochs of a whole run.
    """
    left: Counter[str] = Counter()
    by_trial: Counter[int] = Counter()
    for (number, _), count in trained.items():
        by_trial[number] += count
    rounds = Counter(trial.round for trial in trials)
    future = settings.rounds(epochs, [rounds[index] for index in sorted(rounds)])[len(rounds) :]
    if settings.halving == "none":
        ended = [by_trial[trial.number] for trial in trials if trial.status not in OPEN]
        usual = float(np.mean(ended)) if ended else epochs * settings.repeats
        for trial in trials:
            if trial.status in OPEN:
                left[trial.group or ""] += max(0.0, usual - by_trial[trial.number])  # type: ignore[assignment]
        left[""] += usual * sum(bracket.count for bracket in future)  # type: ignore[assignment]
        return dict(left)
    for index in {trial.round for trial in trials if trial.status in OPEN}:
        members = [trial for trial in trials if trial.round == index]
        whole = settings.bracket(index, len(members), epochs).epochs * settings.repeats
        done = sum(by_trial[trial.number] for trial in members)
        left[""] += max(0, whole - done)
    left[""] += settings.repeats * sum(bracket.epochs for bracket in future)
    return dict(left)


def remaining(
    cohorts: Sequence[Cohort],
    groups: Sequence[Group],
    left: Mapping[str, float],
    asked: Mapping[str, int],
) -> float | None:
    """Return the remaining wall time in seconds; None if nothing was measured.

    The rate of a group, its seconds per lane and epoch, is that of its cohorts without the first
    one, which also starts the program. A group with fewer cohorts has the rate of its probe, scaled
    as the rates of other groups are to their probes. Groups without a cohort are expected to
    compile as long as others did. The sum is scaled for the time between cohorts and for parallel
    workers.

    Args:
        cohorts: The cohorts of this session, or all before it has any.
        groups: The groups.
        left: Epochs of lanes that are left, by group; "" for those of unknown groups, which are
            expected to be distributed over the groups as the trials are.
        asked: The number of trials by group.

    >>> run = dict(group="all", rung=0, epoch_from=0, epoch_to=2, lanes=((0, 0), (1, 0)))
    >>> remaining([Cohort(**run, seconds=5.0, compile_seconds=3.0)], [], {"all": 40.0}, {})
    20.0
    """
    by_group: dict[str, list[Cohort]] = {}
    for one in cohorts:
        by_group.setdefault(one.group, []).append(one)
    if not by_group:
        return None
    rates = {name: _rate(some[1:] or some) for name, some in by_group.items()}
    probed = {group.name: _probed(group) for group in groups}
    both = [n for n, some in by_group.items() if len(some) > 1 and probed.get(n)]
    scale = float(np.mean([rates[name] / probed[name] for name in both])) if both else 1.0
    mean = float(np.mean([*rates.values()]))
    for name in {*left, *asked, *rates} - {""}:
        if len(by_group.get(name, ())) < 2 and probed.get(name):
            rates[name] = probed[name] * scale
        rates.setdefault(name, mean)
    shares = {name: many for name, many in asked.items() if name}
    if shares:
        mean = sum(rates[name] * many for name, many in shares.items()) / sum(shares.values())
    found = sum(rates.get(name, mean) * epochs for name, epochs in left.items())
    new = {name for name, epochs in left.items() if name and epochs > 0} - set(by_group)
    found += len(new) * sum(one.compile_seconds for one in cohorts) / len(by_group)
    first, *later = sorted(cohorts, key=lambda one: one.finished or 0.0)
    spent = sum(one.seconds for one in later)
    return found * (((later[-1].finished or 0.0) - (first.finished or 0.0)) / spent if spent else 1)


def _rate(cohorts: Sequence[Cohort]) -> float:
    """Return the seconds per lane and epoch of cohorts, without compiling."""
    work = sum(len(one.lanes) * (one.epoch_to - one.epoch_from) for one in cohorts)
    return sum(max(0.0, one.seconds - one.compile_seconds) for one in cohorts) / work


def _probed(group: Group) -> float:
    """Return the seconds per lane and epoch that a probe measured; 0 without one."""
    timings = group.probe.get("timings") or [{}]
    found = timings[0].get("seconds", 0.0)
    return float(found) if math.isfinite(found) else 0.0
