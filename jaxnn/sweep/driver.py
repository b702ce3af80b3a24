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
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any

from ..experiment.configuration import from_plain
from ..experiment.experiment import Experiment
from .assembly import Assembly, Lane
from .cohort import Outcome, Work, work
from .engine import TRIES, answer, lost
from .judging import Judge, is_lost
from .ledger import Ledger
from .plan import Member, Planner
from .progress import Progress, Teller, Watch
from .records import OPEN, Cohort, Group, Trial
from .search import Observation
from .settings import Settings
from .space import Values

__all__ = ["Driver", "Lane", "Progress", "Watch"]


class Driver:
    """Drives the sweep of a ledger to its end.

    Args:
        experiment: the experiment, as the ledger's meta data name it.
        ledger: open for writing.
        executor: where cohorts run.
        workers: how many run at a time.
        watch: told how far the sweep is, after each cohort.
    """

    def __init__(
        self,
        experiment: Experiment[Any],
        ledger: Ledger,
        executor: Executor,
        workers: int = 1,
        watch: Watch = lambda progress: None,
    ) -> None:
        meta = ledger.meta
        self.settings: Settings = from_plain(
            Settings, meta.get("settings"), f"{ledger.folder}: settings"
        )
        base = from_plain(experiment.config, meta["config"], f"{ledger.folder}: config")
        self.planner = Planner(experiment, base, self.settings, meta.get("traced"))
        now = self.planner.metric, self.planner.maximize
        recorded = meta["metric"], meta["maximize"]
        if now != recorded:
            told = [
                f"{metric} ({'more' if up else 'less'} is better)" for metric, up in (recorded, now)
            ]
            raise ValueError(
                f"the trials in {ledger.folder} are compared by {told[0]}, but the code now "
                f"compares them by {told[1]}: restore it, or begin another sweep"
            )
        self.ledger, self.executor, self.workers = ledger, executor, workers
        self.rounds = self.settings.rounds(self.planner.epochs)
        self.assembly = Assembly(self.planner, ledger)
        self.judge = Judge(self.planner, ledger, self.assembly)
        self.teller = Teller(ledger, self.planner, watch)

    def run(self) -> None:
        """Go on until every trial has ended."""
        while True:
            trials = self.ledger.trials()
            if ended := [trial.round for trial in trials if trial.status in OPEN]:
                self._finish(min(ended))
            elif len(trials) >= self.settings.trials or not self._ask(trials):
                self.teller.tell(self.planner.epochs, now=True)
                return

    # Asking

    def _ask(self, trials: Sequence[Trial]) -> bool:
        """Ask for the next round, and note it with its groups; False where the search has ended."""
        index = max((trial.round for trial in trials), default=-1) + 1
        if index >= len(self.rounds):
            return False
        history = [Observation(trial.values, self.judge.score(trial)) for trial in trials]
        asked = self.planner.search.ask(self.rounds[index].count, index, history)
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
        some, began = [values for _, values in each[:16]], time.perf_counter()
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
                {
                    "cohort": grouped.cohort,
                    "timings": timings,
                    "seconds": time.perf_counter() - began,
                },
                sum(timing.compile_seconds for timing in grouped.timings),
            )
        )

    def _there(self, function: Callable[..., Any], argument: Any) -> Any:
        return answer(self.executor, function, argument)

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
                members = self.judge.decide(bracket, members, rung, epoch)
            before = epoch

    def _reach(self, members: list[int], rung: int, before: int, epoch: int, last: bool) -> None:
        """Train the open ones of these trials from one rung to the next."""
        standing = self.ledger.standing()
        trials = {trial.number: trial for trial in self.ledger.trials()}
        pending: list[tuple[str, list[Lane], int, int]] = []
        for name, part in self.assembly.parts(trials, members):
            grouped = self.assembly.group(name)
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
                    sent = self.assembly.work(name, part, start, end, last)
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
                        self.teller.tell(epoch)
        finally:
            for future in running:
                future.cancel()

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
            self.assembly.narrow(name, outcome.way.width)
        results = [
            (lane.trial, lane.seed, before + 1 + at, metric, float(value))
            for metric, table in outcome.metrics.items()
            for lane, row in zip(part, table, strict=True)
            for at, value in enumerate(row)
        ]
        errors: dict[int, str] = {}
        for trial, seed, at, metric, value in results:
            at_end = at == sent.epochs[1]
            lost = is_lost(metric, value, at_end) or (
                last and at_end and metric == self.planner.metric and not math.isfinite(value)
            )
            if lost and trial not in errors:
                errors[trial] = f"{metric} is {value} after epoch {at} with seed {seed}"
        if not last and self.settings.halving == "population":
            errors = {}  # it takes over from another
        statuses = {lane.trial: "done" if last else "running" for lane in part}
        statuses |= dict.fromkeys(errors, "diverged")
        self.ledger.commit(
            self._cohort(name, part, sent, outcome, rung), results, statuses, errors, outcome.state
        )
        self.teller.lanes += len(part)

    def _note_error(
        self, name: str, part: list[Lane], sent: Work, outcome: Outcome, rung: int, last: bool
    ) -> None:
        """The program of a cohort raised: find out which of its trials do, each alone."""
        numbers = list(dict.fromkeys(lane.trial for lane in part))
        if len(numbers) > 1:
            for number in numbers:
                alone = [lane for lane in part if lane.trial == number]
                again = self.assembly.work(name, alone, *sent.epochs, last)
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
