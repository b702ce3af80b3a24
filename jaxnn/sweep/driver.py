"""The driver: decides what to run next, runs it, and writes the result to the ledger.

    while not (step := decide(history, settings)) is End:    # a pure function
        run and write the step

If a driver is killed at any point, the next driver therefore continues from the last committed
step. Cohorts of one rung do not wait for each other; as many run at a time as there are workers.
"""

import contextlib
import dataclasses
import itertools
import math
import signal
import time
import traceback
import typing
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any

import numpy as np

from ..executors import TRIES, create, result_of, worker_died
from ..experiment import sources
from ..experiment.configuration import from_plain
from ..experiment.experiment import Experiment
from ..html.page import count as counted
from ..train import Interrupted
from ..train.interruption import Asked
from .cohort import Way, Work, WorkResult, work
from .compiled import By
from .decision import (
    LOSSES,
    Ask,
    End,
    Lane,
    Part,
    Regroup,
    Select,
    SweepHistory,
    Train,
    decide,
    shows_divergence,
    used_up,
)
from .display import watched
from .known import Known
from .ledger import Ledger
from .objectives import known_metrics
from .plan import LANES, Grouped, Member, Planner, by_structure
from .remaining import Reporter, SweepProgress, Watch
from .search import new_trials, size_of
from .settings import Settings
from .space import Values
from .states import kept_states, regrouped
from .storage import LedgerError, command_to_resume, damaged
from .tables import OPEN, Cohort, Group, Trial

__all__ = ["Driver", "decide", "drive"]


class Driver:
    """Runs the sweep of a ledger to its end.

    Args:
        experiment: The experiment that the ledger's meta data name.
        ledger: Ledger, open for writing.
        executor: The executor of the cohorts.
        workers: Number of cohorts at the same time. Default: 1.
        watch: Receives the progress of the sweep after each cohort.
        search: The search, if it is an object. Default: None, the one that the settings name.
    """

    planner: Planner
    ledger: Ledger
    executor: Executor
    workers: int
    reporter: Reporter

    def __init__(
        self,
        experiment: Experiment[Any],
        ledger: Ledger,
        executor: Executor,
        workers: int = 1,
        watch: Watch = lambda progress: None,
        search: Any = None,
    ) -> None:
        meta, folder = ledger.meta, ledger.folder
        self.settings: Settings = from_plain(Settings, meta.get("settings"), f"{folder}: settings")
        base = from_plain(experiment.config, meta["config"], f"{folder}: config")
        self.planner = Planner(experiment, base, self.settings, meta.get("traced"), search)
        self.known: Known = Known.of(meta)
        recorded = meta["metric"], meta["maximize"]
        now = self.planner.metric, self.planner.maximize
        if now != recorded:
            before, after = (
                f"{metric} ({'more' if up else 'less'} is better)" for metric, up in (recorded, now)
            )
            raise ValueError(
                f"the trials in {folder} are compared by {before}, but the code now compares them "
                f"by {after}: restore the code, or begin another sweep"
            )
        self.ledger, self.executor, self.workers = ledger, executor, workers
        self.reporter = Reporter(ledger, self.planner, watch, workers)
        self._members: dict[int, Member] = {}
        self._groups: dict[str, Grouped] = {}
        # What was read of the ledger, and the first trial that had not ended then.
        self._first_open = 0
        self._trials: list[Trial] = []
        self._curves: dict[str, dict[int, dict[int, dict[int, float]]]] = {}
        self._trained: dict[tuple[int, int], int] = {}
        self._scores: dict[int, float | None] = {}

    def run(self) -> None:
        """Continue until every trial has ended, or the budget is used."""
        reason: str | None = None
        while reason is None:
            history = self.history()
            match decide(history, self.settings):
                case Ask() as step:
                    if not self._ask(step):
                        reason = self._exhausted()
                case Regroup() as step:
                    self._regroup(step)
                case Train() as step:
                    self._train(step, history)
                case Select() as step:
                    stopped = dict.fromkeys(step.stopped, "stopped")
                    self.ledger.decide(stopped, step.rung, changes=step.changes)
                case End() as step:
                    reason = step.reason
        if self.ledger.meta.get("ended", "") != reason:
            self.ledger.set_meta({"ended": reason})
        self.reporter.doing = ""
        self.reporter.report(self.planner.epochs, now=True)

    def _exhausted(self) -> str:
        """Return why the search has no further trials, as a sentence."""
        size = size_of(self.planner.space)
        if self.settings.search != "none" and len(self.ledger.trials()) >= size:
            return f"all {size} configurations of the space were tried"
        return f"the search {self.settings.search} has no further trials"

    def history(self) -> SweepHistory:
        """Return the history that is committed now.

        Only what may have changed since the last call is read: the trials from the first one on
        that had not ended.
        """
        planner, first = self.planner, self._first_open
        self._trials[first:] = self.ledger.trials(first)
        trials = [*self._trials]
        bounded = {bound.metric for bound in planner.constraints}
        for name in {*(one.metric for one in planner.objectives), *bounded, *LOSSES}:
            read: dict[int, dict[int, dict[int, float]]] = {}
            for trial, seed, epoch, _, value in self.ledger.results(name, first):
                read.setdefault(trial, {}).setdefault(seed, {})[epoch] = value
            self._curves[name] = self._curves.get(name, {}) | read
        self._trained = self._trained | self.ledger.trained_epochs(first)
        open_trials = (t.number for t in trials[first:] if t.status in OPEN)
        self._first_open = next(open_trials, len(trials))
        running = min((trial.round for trial in trials if trial.status in OPEN), default=None)
        round = [trial for trial in trials if trial.round == running and trial.group is not None]
        return SweepHistory(
            trials=trials,
            curves=dict(self._curves),
            trained=self._trained,
            changes=self.ledger.changes(),
            groups={trial.group: self._group(trial) for trial in round if trial.group},
            seeds={trial.number: self._member(trial).seed for trial in round},
            epochs=planner.epochs,
            metric=planner.metric,
            maximize=planner.maximize,
            space=planner.space,
            known=self.known,
            seconds=self.reporter.seconds,
            objectives=planner.objectives,
            scores=self._scores,
            known_metrics=known_metrics(trials, self.ledger.groups(), self.ledger.cohorts())
            if len(planner.objectives) > 1 or bounded
            else {},
        )

    def _member(self, trial: Trial) -> Member:
        if trial.number not in self._members:
            self._members[trial.number] = self.planner.member(trial.values)
        return self._members[trial.number]

    def _group(self, trial: Trial) -> Grouped:
        """Return how the group of a trial runs."""
        name = trial.group or ""
        if name not in self._groups:
            group = next((group for group in self.ledger.groups() if group.name == name), None)
            cohort = group.probe.get("cohort") if group else 0
            numbers = (group.lanes, group.devices, cohort) if group else (0,)
            whole = all(type(one) is int and one > 0 for one in numbers)
            if group is None or group.way not in typing.get_args(By) or not whole:
                raise LedgerError(f"{damaged(self.ledger.folder)} (its group {name!r} cannot run)")
            way = Way(group.way, group.lanes, group.devices)  # type: ignore[arg-type]
            member = self._member(trial)
            self._groups[name] = Grouped(member.structure, member.epochs, way, cohort or 0)
        return self._groups[name]

    # Asking

    def _ask(self, step: Ask) -> bool:
        """Add the trials of the next round with their groups; return False if there are none."""
        self.reporter.note("asking for trials")
        search, count = self.planner.search, step.count
        repeat = self.settings.repeat or self.settings.halving == "population"  # values change
        new = new_trials(search, count, step.round, step.observations, repeat) if count else []
        asked = [*step.known, *new]
        members = self.planner.members(asked)
        groups = self._find_groups(members, asked, len(asked))
        names = [name if isinstance(name, str) else None for name in groups]  # others: `_regroup`
        if asked:
            numbers = self.ledger.ask(step.round, step.round, zip(asked, names, strict=True))
            pairs = zip(numbers, members, strict=True)
            self._members |= {number: one for number, one in pairs if isinstance(one, Member)}
        return bool(asked)

    def _regroup(self, step: Regroup) -> None:
        """Add the groups of trials; a trial whose configuration raises fails alone."""
        asked = [trial.values for trial in step.trials]
        found = self._find_groups(self.planner.members(asked), asked, step.count)
        pairs = [(trial.number, group) for trial, group in zip(step.trials, found, strict=True)]
        if groups := {number: group for number, group in pairs if isinstance(group, str)}:
            self.ledger.join(groups)
        errors = {
            number: "".join(traceback.format_exception(error))
            for number, error in pairs
            if isinstance(error, Exception)
        }
        if errors:
            self.ledger.decide(dict.fromkeys(errors, "failed"), errors=errors)

    def _find_groups(
        self, members: Sequence[Member | Exception], asked: Sequence[Values], count: int
    ) -> list[str | Exception]:
        """Return the group of each trial, or what its configuration raises; add new groups.

        Args:
            members: The result of `Planner.members`.
            asked: The values of each trial.
            count: The number of trials of the round.
        """
        known = {group.name for group in self.ledger.groups()}
        new = [e for e in by_structure(members, asked) if e[0][0].structure.name not in known]
        for at, each in enumerate(new, 1):
            some, (member, _) = [values for _, values in each[:LANES]], each[0]
            self.reporter.note(f"compiling group {at} of {len(new)}: {member.structure.name}")
            self._add_group(member, some, len(each) / count)
        return [one if isinstance(one, Exception) else one.structure.name for one in members]

    def _add_group(self, member: Member, some: Sequence[Values], share: float) -> None:
        """Measure how a new group runs, and add it."""
        began = time.perf_counter()
        grouped = self.planner.grouped(member, some, share, self._call)
        way, timings = grouped.way, grouped.timings
        probe = {
            "cohort": grouped.cohort,
            "timings": [t._asdict() | {"way": str(t.way)} for t in timings],
            "seconds": time.perf_counter() - began,
            "metrics": self._account(member, some[0]),
            "finished": time.time(),
        }
        static, compiling = dict(member.structure.static), sum(t.compile_seconds for t in timings)
        self.ledger.add_group(
            Group(member.structure.name, static, way.by, way.width, way.devices, probe, compiling)
        )

    def _account(self, member: Member, values: Values) -> dict[str, float]:
        """Return the metrics of a group that follow from its structure."""
        planner, structure = self.planner, member.structure
        named = {one.metric for one in (*planner.objectives, *planner.constraints)}
        try:
            training = structure.training({name: values[name] for name in structure.traced})
            return training.account(flops="flops" in named)
        except Exception:  # whatever the program raises: its trials fail with that error
            return {}

    def _call(self, function: Callable[..., Any], argument: Any) -> Any:
        """Return the result of a call on a worker."""
        return result_of(self.executor, function, argument)

    # Training

    def _train(self, step: Train, history: SweepHistory) -> None:
        """Train the lanes of a step, and commit each cohort when it ends."""
        # Each cohort is made when it is needed: then it has the present width of its group.
        queue = ((part, self._work(step, part, history)) for part in step.parts)
        names = list(dict.fromkeys(part.group for part in step.parts))
        running: dict[Future[WorkResult], tuple[Part, Work, int]] = {}
        try:
            while True:
                free = 0 if self._used_up() else self.workers - len(running)
                for part, sent in itertools.islice(queue, free):
                    at, lanes = names.index(part.group) + 1, len(part.lanes)
                    self.reporter.doing = (
                        f"training group {at} of {len(names)}: {counted(lanes, 'lane')} to epoch "
                        f"{part.epochs[1]}"
                    )
                    running[self.executor.submit(work, sent)] = (part, sent, 0)
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    part, sent, tries = running.pop(future)
                    error = future.exception()
                    if error is not None and worker_died(error) and tries < TRIES:
                        running[self.executor.submit(work, sent)] = (part, sent, tries + 1)
                    elif error is not None:
                        raise error
                    else:
                        self._write(step, part, sent, future.result(), history)
                        self.reporter.report(part.epochs[1])
        finally:
            for future in running:
                future.cancel()

    def _used_up(self) -> bool:
        """Return whether the budget is used, so that no further cohort begins."""
        return bool(self.settings.budget) and bool(used_up(self.history(), self.settings))

    def _work(self, step: Train, part: Part, history: SweepHistory) -> Work:
        """Return the `Work` to send to a worker for these lanes."""
        begin, _ = part.epochs
        grouped = self._group(history.trials[part.lanes[0].trial])
        values = history.values({lane.trial for lane in part.lanes}, begin)
        traced = grouped.structure.traced
        return Work(
            grouped.structure,
            tuple({name: values[lane.trial][name] for name in traced} for lane in part.lanes),
            tuple(self._seed(lane, history) for lane in part.lanes),
            grouped.way,
            part.epochs,
            self._states(part.lanes, begin, history) if begin else None,
            # At the end the states of the best are kept; after rungs, the score has other epochs.
            keep=not step.last or bool(begin and self.settings.keep),
            trials=tuple(lane.trial for lane in part.lanes),
            best=self.planner.keep if step.last and not begin and self.settings.keep else None,
            stopping=self.planner.stopping,
        )

    def _seed(self, lane: Lane, history: SweepHistory) -> Any:
        """Return the seed of a lane, as `Work` has it."""
        first = history.seeds[lane.trial]
        return self.planner.seed(first, lane.seed - first)

    def _states(self, lanes: Sequence[Lane], epoch: int, history: SweepHistory) -> bytes:
        """Return the packed states that these lanes continue from."""
        source = {c.trial: c.source for c in history.changes if c.epoch == epoch}
        kept = self.ledger.states()
        indices: dict[int, list[tuple[int, int]]] = {}
        for index, lane in enumerate(lanes):
            number = source.get(lane.trial, lane.trial)
            first = history.seeds[number]  # trials may have different seeds
            key = (number, first + lane.seed - history.seeds[lane.trial], epoch)
            if key not in kept:
                raise LedgerError(
                    f"{damaged(self.ledger.folder)} (trial {number} has no state after epoch "
                    f"{epoch})"
                )
            cohort, at = kept[key]
            indices.setdefault(cohort, []).append((at, index))
        pieces = [(self.ledger.lanes(c), [at for at, _ in each]) for c, each in indices.items()]
        order = [index for each in indices.values() for _, index in each]
        return regrouped(pieces, np.argsort(order).tolist())

    def _write(
        self, step: Train, part: Part, sent: Work, outcome: WorkResult, history: SweepHistory
    ) -> None:
        """Commit the outcome of a cohort; if its program raised, run each of its trials alone."""
        if outcome.error is not None:
            numbers = list(dict.fromkeys(lane.trial for lane in part.lanes))
            if len(numbers) == 1:
                self.ledger.decide({numbers[0]: "failed"}, errors={numbers[0]: outcome.error})
                return
            for number in numbers:
                alone = dataclasses.replace(
                    part, lanes=[lane for lane in part.lanes if lane.trial == number]
                )
                again = self._work(step, alone, history)
                self._write(step, alone, again, self._call(work, again), history)
            return
        if outcome.way.width != sent.way.width:  # memory ran out: the next cohorts are as narrow
            self._narrow(part.group, outcome.way.width)
        begin, end = part.epochs
        ends = outcome.ended or (end,) * len(part.lanes)
        results = [
            (lane.trial, lane.seed, begin + 1 + at, metric, float(value))
            for metric, table in outcome.metrics.items()
            for lane, row, last in zip(part.lanes, table, ends, strict=True)
            for at, value in enumerate(row[: last - begin])
        ]
        lane_ends = dict(zip(part.lanes, ends, strict=True))
        errors: dict[int, str] = {}
        if step.last or self.settings.halving != "population":  # where another state replaces it
            for trial, seed, at, metric, value in results:
                at_end = at == lane_ends[Lane(trial, seed)]
                ranked = step.last and at_end and metric == self.planner.metric
                bad = ranked and not math.isfinite(value)
                if bad or shows_divergence(metric, value, at_end):
                    text = f"{metric} is {value} after epoch {at} with seed {seed}"
                    errors.setdefault(trial, text)
        statuses = {lane.trial: "done" if step.last else "running" for lane in part.lanes}
        statuses |= dict.fromkeys(errors, "diverged")
        pairs = tuple((lane.trial, lane.seed) for lane in part.lanes)
        times = outcome.seconds, outcome.compile_seconds
        cohort = Cohort(part.group, step.rung, begin, end, pairs, *times)
        best, state = None, outcome.state
        if step.last and state is not None:
            done = {trial for trial, status in statuses.items() if status == "done"}
            best, state = self._kept(part, outcome, done, history), None
        self.ledger.commit(cohort, results, statuses, errors, state, best)
        self.reporter.lanes += len(part.lanes)

    def _kept(
        self, part: Part, outcome: WorkResult, done: Collection[int], history: SweepHistory
    ) -> Any:
        """Return the trials that are kept after their last cohort, as `Ledger.commit` gets them."""
        assert outcome.state is not None
        metric, (begin, end) = self.planner.metric, part.epochs
        places: dict[int, list[int]] = {}
        for place, lane in enumerate(outcome.packed or range(len(part.lanes))):
            if part.lanes[lane].trial in done:
                places.setdefault(part.lanes[lane].trial, []).append(place)
        curves: dict[int, list[list[float]]] = {trial: [] for trial in places}
        for index, lane in enumerate(part.lanes):
            if lane.trial in places:
                last = outcome.ended[index] if outcome.ended else end
                row = outcome.metrics[metric][index].tolist()[: last - begin]
                curve = dict(history.curve(metric, lane.trial).get(lane.seed, {}))
                curve |= dict(enumerate(row, begin + 1))
                curves[lane.trial].append(history.since(lane.trial, curve, last))
        return kept_states(self.planner.keep, outcome.state, places, curves, self.ledger.kept())

    def _narrow(self, name: str, width: int) -> None:
        """Record that memory ran out, and the number of lanes per call from now on."""
        group = next(group for group in self.ledger.groups() if group.name == name)
        probe = {**group.probe, "narrowed": group.lanes}
        self.ledger.add_group(dataclasses.replace(group, lanes=width, probe=probe))
        del self._groups[name]


# Driving


def drive(
    experiment: Experiment[Any],
    ledger: Ledger,
    executor: str | Executor,
    workers: int | None,
    progress: bool,
    search: Any = None,
) -> None:
    """Run a sweep to its end, or to the signal that stops it.

    Args:
        experiment: The experiment.
        ledger: Ledger, open for writing.
        executor: As for `running.run`.
        workers: As for `running.run`.
        progress: As for `running.run`.
        search: As for `Driver`. Default: None.
    """
    pool: Any = executor
    with contextlib.ExitStack() as stack:
        if isinstance(executor, str):
            pool = stack.enter_context(create(executor, workers, ledger.folder / "jobs"))
        came = stack.enter_context(_signals())
        watch = stack.enter_context(watched(ledger)) if progress else lambda progress: None

        def show(progress: SweepProgress) -> None:
            if came.number is not None:
                raise KeyboardInterrupt
            watch(progress)

        def stop() -> None:
            if isinstance(executor, str):  # one that was given belongs to the caller
                pool.shutdown(wait=False, cancel_futures=True)

        whole = "what was committed is whole"
        count = workers or getattr(pool, "workers", 1)
        try:
            Driver(experiment, ledger, pool, count, show, search).run()
        except KeyboardInterrupt:
            stop()
            raise Interrupted(
                f"{whole}: continue by sweep.run(..., folder={str(ledger.folder)!r})",
                came.number or signal.SIGINT,
            ) from None
        except Exception as error:
            if not worker_died(error):
                raise
            stop()
            raise ChildProcessError(
                f"workers of {executor} died repeatedly ({error}): {whole}; continue with "
                f"{command_to_resume(ledger.folder, sources.module_of(experiment))}"
            ) from error


@contextlib.contextmanager
def _signals() -> Iterator[Asked]:
    """End a sweep on SIGTERM as on Ctrl-C; yield an object that records the number of the signal.

    The exception alone may be lost, because Python ignores exceptions in callbacks of JAX.
    """
    came = Asked()

    def stop(number: int, _: Any) -> None:
        came.number = number
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {number: signal.signal(number, stop) for number in numbers}
    except ValueError:  # only a main thread may
        before = {}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
