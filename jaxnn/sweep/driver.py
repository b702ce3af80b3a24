"""The driver: asks for trials, sends their lanes out as cohorts, and notes what comes back.

It is a loop over a ledger. All that it decides follows from what is committed there, so a driver
that was killed anywhere is followed by one that goes on as if nothing had been:

    a round       the search is asked, and the trials are noted with their groups
    a rung        the lanes of each group, in the order of the trials, are cut into cohorts; each
                  cohort runs somewhere, and is committed whole; then the rung decides who goes on

Cohorts of one rung do not wait for each other: as many run as the executor has workers.
"""

import math
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any, NamedTuple

import numpy as np

from ..experiment.configuration import from_plain
from ..experiment.program import Recipe
from . import lanes
from .cohort import Outcome, Way, Work, work
from .engine import TRIES, lost
from .halve import Bracket, keep, perturbed, population
from .ledger import Ledger
from .plan import Grouped, Member, Planner
from .records import BROKEN, OPEN, Change, Cohort, Group, Trial
from .search import Observation, searcher
from .settings import Settings
from .space import Values


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


# Seconds between two messages to whoever watches.
PATIENCE = 0.5

Watch = Callable[[Progress], None]


class Lane(NamedTuple):
    """One training: a trial's number and a seed."""

    trial: int
    seed: int


class Driver:
    """Drives the sweep of a ledger to its end.

    Args:
        recipe: the experiment, as the ledger's meta data name it.
        ledger: open for writing.
        executor: where cohorts run.
        workers: how many run at a time.
        watch: told how far the sweep is, after each cohort.
    """

    def __init__(
        self,
        recipe: Recipe[Any],
        ledger: Ledger,
        executor: Executor,
        workers: int = 1,
        watch: Watch = lambda progress: None,
    ) -> None:
        meta = ledger.meta
        self.settings: Settings = from_plain(Settings, meta["settings"])
        base = from_plain(recipe.config, meta["config"])
        self.planner = Planner(recipe, base, self.settings, meta["traced"])
        self.ledger, self.executor, self.workers, self.watch = ledger, executor, workers, watch
        self.rounds = self.settings.rounds(self.planner.epochs)
        self.search = searcher(
            self.settings.search,
            self.planner.space,
            seed=self.settings.search_seed,
            points=self.settings.points,
        )
        self._asked: dict[int, Values] = {}
        self._members: dict[int, Member] = {}
        self._groups: dict[str, Grouped] = {}
        self._before = float(sum(ledger.standing().values()))
        self._began, self._told, self._lanes = time.perf_counter(), -math.inf, 0

    def run(self) -> None:
        """Go on until every trial has ended."""
        while True:
            trials = self.ledger.trials()
            if ended := [trial.round for trial in trials if trial.status in OPEN]:
                self._finish(min(ended))
            elif len(trials) >= self.settings.trials or not self._ask(trials):
                self._tell(self.planner.epochs, now=True)
                return

    # Asking

    def _ask(self, trials: Sequence[Trial]) -> bool:
        """Ask for the next round, and note it with its groups; False where the search has ended."""
        index = max((trial.round for trial in trials), default=-1) + 1
        if index >= len(self.rounds):
            return False
        history = [Observation(trial.values, self._score(trial)) for trial in trials]
        asked = self.search.ask(self.rounds[index].count, index, history)
        rows: list[tuple[Values, str | None]] = []
        members: dict[str, list[tuple[Member, Values]]] = {}
        for values in asked:
            try:
                member = self.planner.member(values)
            except Exception:  # whatever a configuration raises: `_join` says that it fails
                rows.append((values, None))
            else:
                name = member.structure.name
                members.setdefault(name, []).append((member, values))
                rows.append((values, name))
        known = {group.name for group in self.ledger.groups()}
        for name, each in members.items():
            if name not in known:
                self._plan(each, len(asked))
        self.ledger.ask(index, index, rows)
        return bool(asked)

    def _join(self, index: int) -> None:
        """Of a round's trials without a group, those whose configuration raises fail, each alone.

        One that was retried, its code put right since, gets a group.
        """
        errors, groups = {}, {}
        for trial in self.ledger.trials():
            if trial.round != index or trial.group is not None or trial.status not in OPEN:
                continue
            try:
                member = self.planner.member(trial.values)
            except Exception as error:  # whatever it raises
                errors[trial.number] = "".join(traceback.format_exception(error))
            else:
                groups[trial.number] = name = member.structure.name
                if name not in {group.name for group in self.ledger.groups()}:
                    self._plan([(member, trial.values)], self.rounds[index].count)
        if groups:
            self.ledger.join(groups)
        if errors:
            self.ledger.decide(dict.fromkeys(errors, "failed"), errors=errors)

    def _plan(self, each: Sequence[tuple[Member, Values]], asked: int) -> None:
        """Find out how a new group runs, and note it."""
        some = [values for _, values in each[:16]]
        grouped = self.planner.grouped(each[0][0], some, len(each) / asked, self._there)
        way, structure = grouped.way, grouped.structure
        timings = [
            {
                "way": str(t.way),
                "seconds": t.seconds,
                "compile": t.compile_seconds,
                "bytes": t.bytes,
            }
            for t in grouped.timings
        ]
        self.ledger.add_group(
            Group(
                structure.name,
                dict(structure.static),
                way.by,
                way.width,
                way.devices,
                {"cohort": grouped.cohort, "timings": timings},
                sum(timing.compile_seconds for timing in grouped.timings),
            )
        )

    def _there(self, function: Callable[..., Any], argument: Any) -> Any:
        return self.executor.submit(function, argument).result()

    # Running

    def _finish(self, index: int) -> None:
        """Run a round's trials to the end, rung by rung."""
        self._join(index)
        bracket = self.rounds[index]
        members = [trial.number for trial in self.ledger.trials() if trial.round == index]
        before = 0
        for rung, epoch in enumerate(bracket.rungs):
            last = rung == len(bracket.rungs) - 1
            self._reach(members, rung, before, epoch, last)
            if not last:
                members = self._decide(bracket, members, rung, epoch)
            before = epoch

    def _reach(self, members: list[int], rung: int, before: int, epoch: int, last: bool) -> None:
        """Train the open ones of these trials from one rung to the next."""
        standing = self.ledger.standing()
        trials = {trial.number: trial for trial in self.ledger.trials()}
        self._asked = {number: trial.values for number, trial in trials.items()}
        pending: list[tuple[str, list[Lane], int, int]] = []
        for name, part in self._parts(trials, members):
            grouped = self._group(name)
            # Without halving a trial ends with its own epochs, which a sweep may change.
            end = grouped.epochs if last and before == 0 else epoch
            todo = [
                lane
                for lane in part
                if trials[lane.trial].status in OPEN and standing.get(lane, 0) < end
            ]
            if todo:
                pending.append((name, todo, before, end))
        running: dict[Future[Outcome], tuple[str, list[Lane], Work, int]] = {}
        queue = iter(pending)
        tries = 0
        try:
            while True:
                while len(running) < self.workers:
                    item = next(queue, None)
                    if item is None:
                        break
                    name, part, start, end = item
                    sent = self._work(name, part, start, end, last)
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
                        self._note(name, part, sent, future.result(), rung, last)
                        self._tell(epoch)
        finally:
            for future in running:
                future.cancel()

    def _parts(
        self, trials: Mapping[int, Trial], members: Sequence[int]
    ) -> Iterator[tuple[str, list[Lane]]]:
        """The lanes of these trials, group by group, in cohorts: the same whenever it is asked."""
        by_group: dict[str, list[Lane]] = {}
        for number in members:
            trial = trials[number]
            if trial.group is not None:
                first = self._member(trial).seed
                each = [Lane(number, first + k) for k in range(self.settings.seeds)]
                by_group.setdefault(trial.group, []).extend(each)
        for name, all_lanes in by_group.items():
            size = self._group(name).cohort
            for begin in range(0, len(all_lanes), size):
                yield name, all_lanes[begin : begin + size]

    def _work(self, name: str, part: Sequence[Lane], before: int, epoch: int, last: bool) -> Work:
        """What to send to a worker for these lanes."""
        grouped = self._group(name)
        values = self._current(before, {lane.trial for lane in part})
        traced = grouped.structure.traced
        return Work(
            grouped.structure,
            tuple({key: values[lane.trial][key] for key in traced} for lane in part),
            tuple(lane.seed for lane in part),
            grouped.way,
            (before, epoch),
            self._states(part, before) if before else None,
            keep=not last,
        )

    def _current(self, epoch: int, numbers: Iterable[int]) -> dict[int, Values]:
        """The values of these trials from that epoch on."""
        values = {number: self._asked[number] for number in numbers}
        if self.settings.halving == "population":
            changes = self.ledger.changes()
            values |= {c.trial: c.values for c in changes if c.epoch <= epoch and c.trial in values}
        return values

    def _states(self, part: Sequence[Lane], epoch: int) -> bytes:
        """The packed states that these lanes go on from."""
        source = {c.trial: c.source for c in self.ledger.changes() if c.epoch == epoch}
        kept = self.ledger.states()
        places: dict[int, list[tuple[int, int]]] = {}
        for index, lane in enumerate(part):
            cohort, place = kept[(source.get(lane.trial, lane.trial), lane.seed, epoch)]
            places.setdefault(cohort, []).append((place, index))
        pieces = [
            (self.ledger.lanes(cohort), [place for place, _ in each])
            for cohort, each in places.items()
        ]
        order = [index for each in places.values() for _, index in each]
        return lanes.regrouped(pieces, np.argsort(order).tolist())

    # What comes back

    def _note(
        self, name: str, part: list[Lane], sent: Work, outcome: Outcome, rung: int, last: bool
    ) -> None:
        """Commit what came of a cohort."""
        before = sent.epochs[0]
        if outcome.error is not None:
            self._note_error(name, part, sent, outcome, rung, last)
            return
        if outcome.way.width != sent.way.width:  # memory ran out: the next begin as narrow
            self._narrow(name, outcome.way.width)
        results = [
            (lane.trial, lane.seed, before + 1 + at, metric, float(value))
            for metric, table in outcome.metrics.items()
            for lane, row in zip(part, table, strict=True)
            for at, value in enumerate(row)
        ]
        errors: dict[int, str] = {}
        for trial, seed, at, metric, value in results:
            if not math.isfinite(value) and trial not in errors:
                errors[trial] = f"{metric} is {value} after epoch {at} with seed {seed}"
        if not last and self.settings.halving == "population":
            errors = {}  # it takes over from another
        statuses = {lane.trial: "done" if last else "running" for lane in part}
        statuses |= dict.fromkeys(errors, "diverged")
        self.ledger.commit(
            self._cohort(name, part, sent, outcome, rung), results, statuses, errors, outcome.state
        )
        self._lanes += len(part)

    def _note_error(
        self, name: str, part: list[Lane], sent: Work, outcome: Outcome, rung: int, last: bool
    ) -> None:
        """The program of a cohort raised: find out which of its trials do, each alone."""
        numbers = list(dict.fromkeys(lane.trial for lane in part))
        if len(numbers) > 1:
            for number in numbers:
                alone = [lane for lane in part if lane.trial == number]
                again = self._work(name, alone, *sent.epochs, last)
                self._note(name, alone, again, self._there(work, again), rung, last)
            return
        self.ledger.decide({numbers[0]: "failed"}, errors={numbers[0]: outcome.error or ""})

    def _cohort(
        self, name: str, part: Sequence[Lane], sent: Work, outcome: Outcome, rung: int
    ) -> Cohort:
        return Cohort(
            name,
            rung,
            *sent.epochs,
            tuple((lane.trial, lane.seed) for lane in part),
            outcome.seconds,
            outcome.compile_seconds,
        )

    def _narrow(self, name: str, width: int) -> None:
        group = next(group for group in self.ledger.groups() if group.name == name)
        probe = dict(group.probe) | {"cohort": self._group(name).cohort, "narrowed": group.lanes}
        self.ledger.add_group(Group(name, group.static, group.way, width, group.devices, probe))
        del self._groups[name]

    def _decide(self, bracket: Bracket, members: list[int], rung: int, epoch: int) -> list[int]:
        """Who goes on from a rung; the others are noted as stopped."""
        trials = {trial.number: trial for trial in self.ledger.trials()}
        segment = (0, *bracket.rungs)[rung], epoch
        scores = [self._score(trials[number], segment) for number in members]
        if self.settings.halving == "population":
            self._change(members, scores, epoch)
            return members
        count = bracket.counts[rung + 1]
        kept = sorted(members[i] for i in keep(scores, min(count, len(members))))
        stopped = [n for n in members if n not in set(kept) and trials[n].status in OPEN]
        if stopped:
            self.ledger.decide(dict.fromkeys(stopped, "stopped"), rung)
        return kept

    def _change(self, members: list[int], scores: list[float | None], epoch: int) -> None:
        """A step of population-based training, unless it was made already."""
        if any(change.epoch == epoch for change in self.ledger.changes()):
            return
        random = np.random.default_rng((self.settings.search_seed, epoch))
        source, changed = population(scores, random)
        values = self._current(epoch, members)
        space = self.planner.space
        changes = [
            Change(
                member,
                epoch,
                perturbed(space, values[members[of]], random),
                members[of],
            )
            for member, of, new in zip(members, source, changed, strict=True)
            if new
        ]
        if changes:
            self.ledger.change(changes)

    # Knowing

    def _score(self, trial: Trial, segment: tuple[int, int] | None = None) -> float | None:
        """The metric at the end of a segment of epochs, or the last one; smaller for better.

        None if the trial is broken, or was in that segment: an accuracy may be finite, the best
        even, where the loss is not.
        """
        if trial.status in BROKEN if segment is None else self._diverged(trial.number, *segment):
            return None
        curves = self.ledger.curves(trial.number, self.planner.metric)
        ends = [
            dict(curve).get(segment[1], math.nan) if segment else curve[-1][1]
            for curve in curves.values()
            if curve
        ]
        if not ends or len(ends) < self.settings.seeds:
            return None
        mean = float(np.mean(ends))
        if not math.isfinite(mean):
            return None
        return -mean if self.planner.maximise else mean

    def _diverged(self, number: int, before: int, epoch: int) -> bool:
        """Whether a trial reported what is not finite between these epochs."""
        curves = [self.ledger.curves(number, name) for name in self.planner.metrics]
        return any(
            before < at <= epoch and not math.isfinite(value)
            for seeds in curves
            for curve in seeds.values()
            for at, value in curve
        )

    def _member(self, trial: Trial) -> Member:
        if trial.number not in self._members:
            self._members[trial.number] = self.planner.member(trial.values)
        return self._members[trial.number]

    def _group(self, name: str) -> Grouped:
        if name not in self._groups:
            group = next(group for group in self.ledger.groups() if group.name == name)
            trial = next(trial for trial in self.ledger.trials() if trial.group == name)
            member = self._member(trial)
            way = Way(group.way, group.lanes, group.devices)  # type: ignore[arg-type]
            cohort = int(group.probe["cohort"])
            self._groups[name] = Grouped(member.structure, member.epochs, way, cohort)
        return self._groups[name]

    def _tell(self, epoch: int, now: bool = False) -> None:
        """Tell whoever watches, but not all the time: to count takes long after many trials."""
        if not now and time.perf_counter() < self._told + PATIENCE:
            return
        self._told = time.perf_counter()
        self.watch(self._progress(epoch))

    def _progress(self, epoch: int) -> Progress:
        ledger, planner = self.ledger, self.planner
        trials = ledger.trials()
        statuses: dict[str, int] = {}
        for trial in trials:
            statuses[trial.status] = statuses.get(trial.status, 0) + 1
        sign = 1 if planner.maximise else -1
        done = {trial.number for trial in trials if trial.status == "done"}
        ends: dict[int, list[float]] = {}
        for result in ledger.results(planner.metric):
            if result.trial in done and result.epoch == planner.epochs:
                ends.setdefault(result.trial, []).append(result.value)
        best = max(
            ((number, float(np.mean(each))) for number, each in ends.items()),
            key=lambda pair: (sign * pair[1], -pair[0]),
            default=None,
        )
        settings = planner.settings
        whole = sum(bracket.epochs for bracket in settings.rounds(planner.epochs)) * settings.seeds
        return Progress(
            asked=len(trials),
            trials=settings.trials,
            statuses=statuses,
            rung=epoch,
            best=best,
            lanes=self._lanes,
            epochs=float(sum(ledger.standing().values())),
            whole=float(whole),
            before=self._before,
            seconds=time.perf_counter() - self._began,
        )
