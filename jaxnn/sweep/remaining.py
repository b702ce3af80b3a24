"""The remaining time of a sweep, as pure functions of what the ledger records and of the plan."""

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from .halving import Bracket
from .settings import Settings
from .tables import OPEN, Cohort, Group, Trial

LAST = 3
"""Number of last rounds from whose pauses those of later rounds are estimated."""


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
            each = {n: [usual - sum(one) / repeats for one in all_] for n, all_ in waiting.items()}
            found.append(
                PlannedRung([
                    Segment(n, len(some) * repeats, sum(max(0.0, one) for one in some) / len(some))
                    for n, some in each.items()
                ])
            )  # fmt: skip
            continue
        bracket = settings.bracket(index, len(members), epochs)
        for count, (begin, end) in zip(bracket.counts, _spans(bracket), strict=True):
            lanes = {
                name: sum(repeats - sum(at >= end for at in one) for one in all_)
                for name, all_ in waiting.items()
            }
            if sum(map(len, waiting.values())) > count:  # which lanes continue is unknown
                lanes = {"": count * repeats}
            found.append(PlannedRung([Segment(n, many, end - begin) for n, many in lanes.items()]))
    for bracket in future:
        spans = _spans(bracket) if settings.halving != "none" else [(0.0, usual)]
        pairs = zip(bracket.counts, spans, strict=True)
        found += [
            PlannedRung([Segment("", count * repeats, end - begin)], asks=begin == 0)
            for count, (begin, end) in pairs
        ]
    left = (
        step._replace(segments=[one for one in step.segments if one.lanes > 0 and one.epochs > 0])
        for step in found
    )
    return [step for step in left if step.segments]


def _spans(bracket: Bracket) -> list[tuple[float, float]]:
    """Return the first and the last epoch of each rung of a bracket."""
    return list(itertools.pairwise((0, *bracket.rungs)))


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
