"""The driver: asks for trials, sends their lanes out as cohorts, and notes what comes back.

It is a loop over a ledger. All that it decides follows from what is committed there, so a driver
that was killed anywhere is followed by one that continues as if nothing had happened:

    a round       the search is asked, and the trials are noted with their groups
    a rung        the lanes of each group, in the order of the trials, are cut into cohorts; each
                  cohort runs somewhere, and is committed whole; then `decide` says who continues

Cohorts of one rung do not wait for each other: as many run as the executor has workers.
"""

import itertools
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any, NamedTuple

import numpy as np

from ..experiment.configuration import from_plain
from ..experiment.experiment import Experiment
from ..train.directions import badness
from .assembly import Assembly, Lane
from .cohort import Outcome, Work, work
from .engine import TRIES, answer, lost
from .halve import Bracket, keep, perturbed, population
from .ledger import Ledger
from .plan import Member, Planner
from .progress import Progress, Teller, Watch
from .search import Observation
from .settings import Settings
from .space import Space, Values
from .tables import BROKEN, OPEN, Change, Cohort, Group, Trial

__all__ = ["Decision", "Driver", "Lane", "Progress", "Watch", "decide"]


class Segment(NamedTuple):
    """The way to a rung: its number, the epochs before and at it, and whether it is the end."""

    rung: int
    begin: int
    end: int
    last: bool


class Decision(NamedTuple):
    """What becomes of trials at a rung.

    Args:
        members: those that continue.
        changes: what population-based training changes in them.
    """

    members: list[int]
    changes: list[Change]


def decide(
    scores: Mapping[int, float | None],
    values: Mapping[int, Values],
    bracket: Bracket,
    segment: Segment,
    settings: Settings,
    space: Space,
) -> Decision:
    """Who continues from a rung, and how: a pure function.

    Args:
        scores: of each trial that reached the rung, by number; smaller is better.
        values: of each, before the rung.
        bracket: the trials' bracket.
        segment: the way to the rung.
        settings: of the sweep.
        space: of the values.
    """
    members = list(scores)
    if settings.halving != "population":
        count = min(bracket.counts[segment.rung + 1], len(members))
        return Decision(sorted(members[i] for i in keep(scores.values(), count)), [])
    random = np.random.default_rng((settings.search_seed, segment.end))
    source, changed = population(list(scores.values()), random)
    changes = [
        Change(member, segment.end, perturbed(space, values[members[of]], random), members[of])
        for member, of, new in zip(members, source, changed, strict=True)
        if new
    ]
    return Decision(members, changes)


def is_lost(metric: str, value: float, at_end: bool) -> bool:
    """Whether a number shows that a trial diverged.

    That is a training loss that is not finite, or such a validation loss at the end of a segment of
    epochs. Other metrics may be undefined for a while, as the precision of a class that is never
    predicted.
    """
    return not math.isfinite(value) and (
        metric == "loss" or (at_end and metric == "validation_loss")
    )


class Driver:
    """Drives the sweep of a ledger to its end.

    Args:
        experiment: the experiment, as the ledger's meta data name it.
        ledger: open for writing.
        executor: where cohorts run.
        workers: how many run at a time.
        watch: gets the progress of the sweep after each cohort.
    """

    def __init__(
        self,
        experiment: Experiment[Any],
        ledger: Ledger,
        executor: Executor,
        workers: int = 1,
        watch: Watch = lambda progress: None,
    ) -> None:
        meta, folder = ledger.meta, ledger.folder
        self.settings: Settings = from_plain(Settings, meta.get("settings"), f"{folder}: settings")
        base = from_plain(experiment.config, meta["config"], f"{folder}: config")
        self.planner = Planner(experiment, base, self.settings, meta.get("traced"))
        recorded = meta["metric"], meta["maximize"]
        now = self.planner.metric, self.planner.maximize
        if now != recorded:
            before, after = (
                f"{metric} ({'more' if up else 'less'} is better)" for metric, up in (recorded, now)
            )
            raise ValueError(
                f"the trials in {folder} are compared by {before}, but the code now compares them "
                f"by {after}: restore it, or begin another sweep"
            )
        self.ledger, self.executor, self.workers = ledger, executor, workers
        self.rounds = self.settings.rounds(self.planner.epochs)
        self.assembly = Assembly(self.planner, ledger)
        self.teller = Teller(ledger, self.planner, watch)

    def run(self) -> None:
        """Continue until every trial has ended."""
        while True:
            trials = self.ledger.trials()
            if rounds := [trial.round for trial in trials if trial.status in OPEN]:
                self._finish(min(rounds))
            elif len(trials) >= self.settings.trials or not self._ask(trials):
                self.teller.tell(self.planner.epochs, now=True)
                return

    # Asking

    def _ask(self, trials: Sequence[Trial]) -> bool:
        """Ask for the next round, and note it with its groups; False if the search has ended."""
        index = max((trial.round for trial in trials), default=-1) + 1
        if index >= len(self.rounds):
            return False
        history = [Observation(trial.values, self._score(trial)) for trial in trials]
        asked = self.planner.search.ask(self.rounds[index].count, index, history)
        groups = self._groups(asked, len(asked))
        names = [name if isinstance(name, str) else None for name in groups]  # `_join` fails others
        self.ledger.ask(index, index, zip(asked, names, strict=True))
        return bool(asked)

    def _join(self, index: int) -> None:
        """Of a round's trials without a group, those whose configuration raises fail, each alone.

        One that was retried, its code put right since, gets a group.
        """
        alone = [
            trial
            for trial in self.ledger.trials()
            if trial.round == index and trial.group is None and trial.status in OPEN
        ]
        groups, errors = {}, {}
        found = self._groups([trial.values for trial in alone], self.rounds[index].count)
        for trial, name in zip(alone, found, strict=True):
            if isinstance(name, str):
                groups[trial.number] = name
            else:
                errors[trial.number] = "".join(traceback.format_exception(name))
        if groups:
            self.ledger.join(groups)
        if errors:
            self.ledger.decide(dict.fromkeys(errors, "failed"), errors=errors)

    def _groups(self, asked: Sequence[Values], count: int) -> list[str | Exception]:
        """The group of each trial of a round, noted if it is new; or what its configuration raises.

        Args:
            asked: the values of each.
            count: the number of trials of the round.
        """
        found: list[str | Exception] = []
        new: dict[str, list[tuple[Member, Values]]] = {}
        known = {group.name for group in self.ledger.groups()}
        for values in asked:
            try:
                member = self.planner.member(values)
            except Exception as error:  # whatever a configuration raises
                found.append(error)
                continue
            found.append(name := member.structure.name)
            if name not in known:
                new.setdefault(name, []).append((member, values))
        for each in new.values():
            self._plan(each, len(each) / count)
        return found

    def _plan(self, each: Sequence[tuple[Member, Values]], share: float) -> None:
        """Find out how a new group runs, and note it."""
        some, began = [values for _, values in each[:16]], time.perf_counter()
        grouped = self.planner.grouped(each[0][0], some, share, self._there)
        way, structure, timings = grouped.way, grouped.structure, grouped.timings
        probe = {
            "cohort": grouped.cohort,
            "timings": [t._asdict() | {"way": str(t.way)} for t in timings],
            "seconds": time.perf_counter() - began,
        }
        compiling = sum(timing.compile_seconds for timing in timings)
        static = dict(structure.static)
        self.ledger.add_group(
            Group(structure.name, static, way.by, way.width, way.devices, probe, compiling)
        )

    def _there(self, function: Callable[..., Any], argument: Any) -> Any:
        return answer(self.executor, function, argument)

    # Running

    def _finish(self, index: int) -> None:
        """Run a round's trials to the end, rung by rung."""
        self._join(index)
        bracket = self.rounds[index]
        members = [trial.number for trial in self.ledger.trials() if trial.round == index]
        pairs = itertools.pairwise((0, *bracket.rungs))
        for rung, (begin, end) in enumerate(pairs):
            segment = Segment(rung, begin, end, end == bracket.rungs[-1])
            self._reach(members, segment)
            if not segment.last:
                members = self._decide(bracket, members, segment)

    def _decide(self, bracket: Bracket, members: list[int], segment: Segment) -> list[int]:
        """Who continues from a rung; what is decided is noted, unless it was already."""
        trials = {trial.number: trial for trial in self.ledger.trials()}
        scores = {n: self._score(trials[n], segment) for n in members}
        values = self.assembly.current(segment.begin, members)
        found = decide(scores, values, bracket, segment, self.settings, self.planner.space)
        stopped = set(members) - set(found.members)
        stopped = [n for n in members if n in stopped and trials[n].status in OPEN]
        if stopped:
            self.ledger.decide(dict.fromkeys(stopped, "stopped"), segment.rung)
        if found.changes and all(c.epoch != segment.end for c in self.ledger.changes()):
            self.ledger.change(found.changes)
        return found.members

    def _score(self, trial: Trial, segment: Segment | None = None) -> float | None:
        """The metric at the end of a segment of epochs, or the last one; smaller for better.

        None if the trial is broken, or was in that segment: an accuracy may be finite, the best
        even, while the loss is not. None too if the metric is not finite for one of the seeds.
        """
        if trial.status in BROKEN if segment is None else self._diverged(trial.number, segment):
            return None
        curves = self.ledger.curves(trial.number, self.planner.metric).values()
        end = segment and segment.end
        ends = [dict(curve).get(end or curve[-1][0], math.nan) for curve in curves if curve]
        if not ends or len(ends) < self.settings.seeds:
            return None
        score = badness(float(np.mean(ends)), self.planner.maximize)
        return score if math.isfinite(score) else None

    def _diverged(self, number: int, segment: Segment) -> bool:
        """Whether a trial diverged in a segment."""
        return any(
            segment.begin < at <= segment.end and is_lost(name, value, at == segment.end)
            for name in ("loss", "validation_loss")
            for curve in self.ledger.curves(number, name).values()
            for at, value in curve
        )

    def _reach(self, members: list[int], segment: Segment) -> None:
        """Train the open ones of these trials from one rung to the next."""
        queue = self._pending(members, segment)
        running: dict[Future[Outcome], tuple[str, list[Lane], Work, int]] = {}
        try:
            while True:
                for name, part, sent in itertools.islice(queue, self.workers - len(running)):
                    running[self.executor.submit(work, sent)] = (name, part, sent, 0)
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    name, part, sent, tries = running.pop(future)
                    error = future.exception()
                    if error is not None and lost(error) and tries < TRIES:
                        running[self.executor.submit(work, sent)] = (name, part, sent, tries + 1)
                    elif error is not None:
                        raise error
                    else:
                        self._note(name, part, sent, future.result(), segment)
                        self.teller.tell(segment.end)
        finally:
            for future in running:
                future.cancel()

    def _pending(
        self, members: list[int], segment: Segment
    ) -> Iterator[tuple[str, list[Lane], Work]]:
        """The cohorts that are left to train, each made when it is needed."""
        standing = self.ledger.standing()
        trials = {trial.number: trial for trial in self.ledger.trials()}
        for name, part in list(self.assembly.parts(trials, members)):
            # Without halving a trial ends with its own epochs, which a sweep may change.
            whole = segment.last and segment.begin == 0
            end = self.assembly.group(name).epochs if whole else segment.end
            todo = [
                lane
                for lane in part
                if trials[lane.trial].status in OPEN and standing.get(lane, 0) < end
            ]
            if todo:
                yield name, todo, self.assembly.work(name, todo, segment.begin, end, segment.last)

    # What comes back

    def _note(
        self, name: str, part: list[Lane], sent: Work, outcome: Outcome, segment: Segment
    ) -> None:
        """Commit what came of a cohort."""
        begin, end = sent.epochs
        if outcome.error is not None:
            self._note_error(name, part, sent, outcome, segment)
            return
        if outcome.way.width != sent.way.width:  # memory ran out: the next begin as narrow
            self.assembly.narrow(name, outcome.way.width)
        results = [
            (lane.trial, lane.seed, begin + 1 + at, metric, float(value))
            for metric, table in outcome.metrics.items()
            for lane, row in zip(part, table, strict=True)
            for at, value in enumerate(row)
        ]
        last, errors = segment.last, dict[int, str]()
        for trial, seed, at, metric, value in results:
            judged = last and at == end and metric == self.planner.metric
            if is_lost(metric, value, at == end) or (judged and not math.isfinite(value)):
                errors.setdefault(trial, f"{metric} is {value} after epoch {at} with seed {seed}")
        if not last and self.settings.halving == "population":
            errors = {}  # it takes over from another
        statuses = {lane.trial: "done" if last else "running" for lane in part}
        statuses |= dict.fromkeys(errors, "diverged")
        times = outcome.seconds, outcome.compile_seconds
        cohort = Cohort(
            name, segment.rung, begin, end, tuple((lane.trial, lane.seed) for lane in part), *times
        )
        self.ledger.commit(cohort, results, statuses, errors, outcome.state)
        self.teller.lanes += len(part)

    def _note_error(
        self, name: str, part: list[Lane], sent: Work, outcome: Outcome, segment: Segment
    ) -> None:
        """The program of a cohort raised: find out which of its trials do, each alone."""
        numbers = list(dict.fromkeys(lane.trial for lane in part))
        if len(numbers) == 1:
            self.ledger.decide({numbers[0]: "failed"}, errors={numbers[0]: outcome.error or ""})
            return
        for number in numbers:
            alone = [lane for lane in part if lane.trial == number]
            again = self.assembly.work(name, alone, *sent.epochs, segment.last)
            self._note(name, alone, again, self._there(work, again), segment)
