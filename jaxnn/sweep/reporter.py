"""The progress of a sweep, which the driver reports after each cohort, and `running` shows.

The remaining time is estimated by pure functions of what the ledger records and of the plan.
"""

import dataclasses
import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from ..train.metrics import badness
from .ledger import Ledger
from .plan import Planner
from .score import curve_score, mean
from .search import size_of
from .settings import Settings
from .snapshot import Sweep, read
from .space import Values
from .tables import OPEN, Cohort, Group, Trial

PATIENCE = 1.0
"""Seconds between two reports of the progress."""

SHARE = 20
"""Ratio of the pause between two reports to the time of a report, which counts all trials."""


TOP = 3
"""Number of best trials that are reported."""

LAST = 3
"""Number of last rounds from whose pauses those of later rounds are estimated."""


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
        trials: Number of trials in total.
        statuses: Number of trials by status.
        rung: The epochs of the rung that is being reached.
        lanes: Number of lanes trained to a rung in this session.
        epochs: Epochs of all lanes that are done.
        whole: Epochs of all lanes that are expected in total.
        seconds: Seconds since this session began.
        left: Seconds that are left, by `remaining`; None if nothing was measured.
        top: The best three trials that ran to their end.
        doing: What runs now, such as "compiling group 1 of 12".
    """

    trials: int
    statuses: Mapping[str, int]
    rung: int
    lanes: int
    epochs: float
    whole: float
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

    def __init__(self, ledger: Ledger, planner: Planner, watch: Watch, workers: int = 1) -> None:
        self.ledger: Ledger = ledger
        self.planner: Planner = planner
        self.watch: Watch = watch
        self.workers: int = workers
        self.lanes: int = 0  # trained in this session
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
        ledger, settings = self.ledger, self.planner.settings
        trials, trained = ledger.trials(), ledger.trained_epochs()
        cohorts, groups = ledger.cohorts(), ledger.groups()
        many = int(max(len(trials), min(settings.trials, self._most)))
        settings = dataclasses.replace(settings, trials=many)
        left = steps_left(trials, trained, settings, self.planner.epochs)
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
            trials=settings.trials,
            statuses=Counter(trial.status for trial in trials),
            rung=rung,
            lanes=self.lanes,
            epochs=epochs,
            whole=epochs + whole,
            seconds=seconds,
            left=time_left,
            top=self._top(trials),
            doing=self.doing,
        )

    def _top(self, trials: Sequence[Trial]) -> list[TopTrial]:
        """Return the best three trials that ran to their end."""
        planner, rule = self.planner, self.planner.settings.score
        metric, larger = planner.metric, planner.maximize
        if len(planner.objectives) > 1 or planner.constraints:
            sweep = read(self.ledger)
            done = [trial for trial in sweep.ranking if trial.status == "done"][:TOP]
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
        ranked = heapq.nsmallest(TOP, [(badness(m, larger), n) for n, m in means.items()])
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


# The remaining time


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
    ends = [(one.finished or 0.0, one.seconds) for one in cohorts]
    for begin, end in sorted((end - seconds, end) for end, seconds in ends):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


class Segment(NamedTuple):
    """Lanes that are expected to train from one rung to the next.

    Args:
        group: Their group; "" if it is unknown.
        lanes: Number of lanes.
        epochs: Epochs of each lane.
    """

    group: str
    lanes: float
    epochs: float


class PlannedRung(NamedTuple):
    """Lanes that train before others may begin.

    Args:
        segments: What trains.
        asks: Whether the search is asked for trials before the rung. Default: False.
    """

    segments: Sequence[Segment]
    asks: bool = False


def steps_left(
    trials: Sequence[Trial],
    trained: Mapping[tuple[int, int], int],
    settings: Settings,
    epochs: int,
) -> list[PlannedRung]:
    """Return what is left to train, by the plan of the rounds: a step for each rung to be reached.

    Without halving, a trial is expected to train for the mean number of epochs of those that have
    ended, since it may stop early, fail, or have a different number of epochs.

    Args:
        trials: The trials.
        trained: The number of epochs that each lane has trained.
        settings: Settings of the sweep.
        epochs: Epochs of a whole run.
    """
    past: dict[int, list[int]] = {}
    for (number, _), count in trained.items():
        past.setdefault(number, []).append(count)
    rounds = Counter(trial.round for trial in trials)
    future = settings.rounds(epochs, [rounds[index] for index in sorted(rounds)])[len(rounds) :]
    repeats, usual, found = settings.repeats, float(epochs), list[PlannedRung]()
    ended = [sum(past.get(t.number, [0])) / repeats for t in trials if t.status not in OPEN]
    if settings.halving == "none" and ended:
        usual = sum(ended) / len(ended)
    for index in dict.fromkeys(trial.round for trial in trials if trial.status in OPEN):
        members = [trial for trial in trials if trial.round == index]
        waiting: dict[str, list[list[int]]] = {}  # by group, the epochs of the lanes of each trial
        for trial in members:
            if trial.status in OPEN:
                waiting.setdefault(trial.group or "", []).append(past.get(trial.number, []))
        if settings.halving == "none":
            segments = []
            for name, all_ in waiting.items():
                each = sum(max(0.0, usual - sum(one) / repeats) for one in all_) / len(all_)
                segments.append(Segment(name, len(all_) * repeats, each))
            found.append(PlannedRung(segments))
            continue
        bracket = settings.bracket(index, len(members), epochs)
        for count, (begin, end) in zip(bracket.counts, bracket.spans, strict=True):
            lanes = {
                name: sum(repeats - sum(at >= end for at in one) for one in all_)
                for name, all_ in waiting.items()
            }
            if sum(map(len, waiting.values())) > count:  # which lanes continue is unknown
                lanes = {"": count * repeats}
            found.append(PlannedRung([Segment(n, many, end - begin) for n, many in lanes.items()]))
    for bracket in future:
        spans = bracket.spans if settings.halving != "none" else [(0.0, usual)]
        for count, (begin, end) in zip(bracket.counts, spans, strict=True):
            found.append(PlannedRung([Segment("", count * repeats, end - begin)], asks=begin == 0))
    left = (
        step._replace(segments=[one for one in step.segments if one.lanes > 0 and one.epochs > 0])
        for step in found
    )
    return [step for step in left if step.segments]


def remaining(
    cohorts: Sequence[Cohort],
    groups: Sequence[Group],
    left: Sequence[PlannedRung],
    trials: Sequence[Trial],
    workers: int = 1,
) -> float | None:
    """Return the remaining wall time in seconds; None if nothing was measured.

    The cohorts that are left are distributed to the workers, and a rung begins when the one before
    has ended. A cohort takes

        calls * epochs * seconds of a call + compiling + pause

    since a call trains a full number of lanes, even if fewer are left. The seconds are measured for
    each group, without compiling and without the first cohort, which also starts the program. A
    group with fewer cohorts has the time of its probe, scaled as other groups are to their probes.
    A group without a cohort is expected to compile as long as others did. The pause is the mean
    time between cohorts of a round, without the probes of new groups. Between rounds the search is
    asked, which is expected to take as long as the last times.

    Args:
        cohorts: The cohorts of this session, or all before it has any.
        groups: The groups.
        left: What is left to train, as `steps_left` returns it. Lanes of unknown groups are
            expected to be distributed over the groups as the trials are.
        trials: The trials.
        workers: Number of cohorts that run at the same time. Default: 1.

    >>> run = dict(group="all", rung=0, epoch_from=0, epoch_to=2, lanes=((0, 0), (1, 0)))
    >>> ran = Cohort(**run, seconds=5.0, compile_seconds=3.0)  # 0.5 s for an epoch of a lane
    >>> remaining([ran], [], [PlannedRung([Segment("all", lanes=10, epochs=4)])], [])
    20.0
    """
    if not cohorts:
        return None
    named = {group.name: group for group in groups}
    ran: dict[str, list[Cohort]] = {}
    for one in cohorts:
        ran.setdefault(one.group, []).append(one)
    asked = Counter(trial.group for trial in trials if trial.group)
    shares: Mapping[str, int] = asked or dict.fromkeys(ran, 1)
    rates = _rates(
        ran, named, {*shares, *(one.group for step in left for one in step.segments if one.group)}
    )
    compiling = sum(one.compile_seconds for one in cohorts) / len(ran)
    pause, asking = _pauses(cohorts, groups, trials)
    total, new = 0.0, rates.keys() - ran.keys()
    for step in left:
        free = [0.0] * workers
        total += asking if step.asks else 0.0
        for segment in step.segments:
            parts = {segment.group: 1.0}
            if not segment.group:
                parts = {name: many / sum(shares.values()) for name, many in shares.items()}
            for name, share in parts.items():
                lanes, group = segment.lanes * share, named.get(name)
                size = (group.probe.get("cohort") if group else None) or math.inf
                while lanes > 1e-9:
                    seconds = _paid(min(lanes, size), group) * segment.epochs * rates[name] + pause
                    seconds += compiling if name in new else 0.0
                    new -= {name}
                    heapq.heapreplace(free, free[0] + seconds)
                    lanes -= size
        total += max(free)
    return total


def _rates(
    ran: Mapping[str, Sequence[Cohort]], named: Mapping[str, Group], names: Collection[str]
) -> dict[str, float]:
    """Return the seconds per lane of a call and epoch by group, including `names`."""
    found = {name: _rate(some[1:] or some, named.get(name)) for name, some in ran.items()}
    mean = sum(found.values()) / len(found)
    probed = {name: _probed(group) for name, group in named.items()}
    both = [n for n in ran if probed.get(n)]
    both = [n for n in both if len(ran[n]) > 1] or both
    scale = sum(found[n] / probed[n] for n in both) / len(both) if both else 1.0
    for name in {*names, *found}:
        if len(ran.get(name, ())) < 2 and probed.get(name):
            found[name] = probed[name] * scale
        found.setdefault(name, mean)
    return found


def _pauses(
    cohorts: Sequence[Cohort], groups: Sequence[Group], trials: Sequence[Trial]
) -> tuple[float, float]:
    """Return the time in which no cohort trains: for each cohort of a round, and between rounds."""
    within, between = list[float](), list[float]()
    until, last = -math.inf, -1
    for one in sorted(cohorts, key=lambda one: one.finished or 0.0):
        end = one.finished or 0.0
        begin, number = end - one.seconds, one.lanes[0][0]
        now = trials[number].round if number < len(trials) else 0
        if until > -math.inf:
            probes = (
                g.probe_seconds for g in groups if until < g.probe.get("finished", 0) <= begin
            )
            pause = max(0.0, begin - until - sum(probes))
            (within if now == last else between).append(pause)
        until, last = max(until, end), now
    usual = sum(within) / len(within) if within else 0.0
    recent = between[-LAST:] or [usual]
    return usual, max(0.0, sum(recent) / len(recent) - usual)


def _paid(lanes: float, group: Group | None) -> float:
    """Return the lanes of whole calls: a call of fewer lanes than its width takes as long."""
    width = group.lanes * group.devices if group else 1
    return math.ceil(lanes / width) * width if group else lanes


def _rate(cohorts: Sequence[Cohort], group: Group | None) -> float:
    """Return the seconds per lane of a call and epoch of cohorts, without compiling."""
    work = sum(_paid(len(one.lanes), group) * (one.epoch_to - one.epoch_from) for one in cohorts)
    return sum(max(0.0, one.seconds - one.compile_seconds) for one in cohorts) / work


def _probed(group: Group) -> float:
    """Return the seconds per lane and epoch that a probe measured; 0 without one."""
    timings = group.probe.get("timings") or [{}]
    found = timings[0].get("seconds", 0.0)
    return float(found) if math.isfinite(found) else 0.0
