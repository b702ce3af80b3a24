"""The plan of a sweep: what is traced, which trials share a program, and how their lanes run.

All of this is known before the first trial trains; the command `plan` prints it.

The fastest way to run lanes is measured by short runs of the program, a `probe`. The candidates are
the loop, `lax.map`, and `vmap` at several widths, on one device and on all. Another one is tried
only if much more work is left than it takes to compile and time it.
"""

import contextlib
import dataclasses
import math
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import jax

from ..executors import worker_died
from ..experiment.experiment import Experiment
from ..experiment.functional_training import FoldOfSeed, training_of
from ..explain.text import check_known
from ..train import EarlyStopping
from .cohort import Work, out_of_memory, taken
from .compiled import By, Way, compiled_cohort
from .external import searcher
from .score import CONFIGURED, Constraint, Keep, Objective
from .search import Search
from .settings import Settings
from .space import Space, Values
from .structure import TRACED, Structure, reads_seed, space_of, structure_of, traced_or_static

# Seconds of training that a worker gets, and the ledger commits, at a time.
AIM = 4.0
# How many lanes that is if nothing was measured.
LANES = 16
# The fields that the length of a run follows from.
LENGTHS = ("epochs", "steps", "every")
WIDTHS = (8, 32, 128, 512, 2048)
# More lanes per call of `map` gain nothing.
MAPPED = 16
# The fraction of a device's memory to use: programs do not report all that they need.
SHARE = 0.5
# A wider call is tried if the last one took at most this fraction of the time of the one before.
GAIN = 0.95
# A way within this factor of the best is timed again before it is rejected.
CLOSE = 1.4
ROUNDS = 5
# The least seconds of a run that is timed again.
SAMPLE = 0.5
# The fractions of the work left that trying one more way may cost, and timing again.
TRYING = 0.2
AGAIN = 0.025
# The least lanes that are timed; seconds of a call that is not repeated.
FEW = 4
LONG = 2.0


class Timing(NamedTuple):
    """One way that was tried.

    Args:
        way: The way.
        seconds: Seconds per lane and epoch; infinite if memory ran out.
        compile_seconds: Seconds of its compilation.
        bytes: Memory of a call on a device.
    """

    way: Way
    seconds: float
    compile_seconds: float
    bytes: int


@dataclasses.dataclass(frozen=True)
class Probe:
    """A request to a worker to measure which way is fastest for lanes of a structure.

    Args:
        work: One or more of the lanes, as examples.
        lanes: Number of lanes that will run at a time.
        epochs: Number of epochs left, over all lanes.
        width: Lanes per call if that is fixed; otherwise 0. Default: 0.
        by: The ways to try. Default: all.
        prepared: Seconds that `prepare` compiled what is timed first. Default: 0.
    """

    work: Work
    lanes: int
    epochs: int
    width: int = 0
    by: tuple[By, ...] = ("loop", "map", "vmap")
    prepared: float = 0.0


class Member(NamedTuple):
    """The structure, epochs, and seed of a trial."""

    structure: Structure
    epochs: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Grouped:
    """A group and how its lanes run.

    Args:
        structure: The structure that its trials share.
        epochs: Epochs of a whole run.
        way: How lanes run.
        cohort: Number of lanes that a worker gets at a time.
        timings: The measurements of a probe, the fastest first; none if the way was given.
        error: The error of the program, in one line.
    """

    structure: Structure
    epochs: int
    way: Way
    cohort: int
    timings: tuple[Timing, ...] = ()
    error: str = ""


class Planner:
    """The properties of a sweep that are known before it runs.

    Args:
        experiment: The experiment.
        base: The configuration that trials change.
        settings: Settings of the sweep.
        found: "traced", or why not, by dimension. Default: determined by abstract evaluation.
        search: The search, if it is an object. Default: None, the one that the settings name.

    Raises:
        ValueError: The program does not report the metric, its direction is unknown, the space has
            more groups than `settings.max_groups`, or the settings do not fit the space.
        ImportError: A library of the search is not installed.
    """

    def __init__(
        self,
        experiment: Experiment[Any],
        base: Any,
        settings: Settings,
        found: Mapping[str, str] | None = None,
        search: Any = None,
    ) -> None:
        self.experiment: Experiment[Any] = experiment
        self.base: Any = base
        self.settings: Settings = settings
        self.space: Space = space_of(experiment).around(base)
        training = training_of(experiment, base, base, settings.folds)
        self.epochs: int = training.epochs
        self.metrics: list[str] = training.names()
        usual = experiment.maximize or experiment.minimize or ""
        self.objectives: list[Objective] = settings.objectives(
            self.metrics, training.maximized, usual
        )
        self.constraints: tuple[Constraint, ...] = settings.bounds
        for metric in (one.metric for one in self.constraints):
            unknown = f"a constraint bounds {metric!r}, which is not a metric"
            check_known(metric, [*self.metrics, *CONFIGURED], unknown)
        self.stopping: EarlyStopping | None = settings.stopping(
            experiment, self.metrics, self.objectives[0]
        )
        self.search: Search = searcher(
            settings.search if search is None else search,
            self.space,
            seed=settings.search_seed,
            points=settings.points,
            objectives=len(self.objectives),
        )
        found = found or traced_or_static(experiment, base, exact=settings.exact)
        self.found: dict[str, str] = dict(found)
        settings.rounds(self.epochs)  # raises for rungs that are longer than a run
        if problem := self._problem():
            raise ValueError(problem)

    @property
    def metric(self) -> str:
        """The metric that trials are compared by; with several, the first of them."""
        return self.objectives[0].metric

    @property
    def maximize(self) -> bool:
        """Whether a larger value of the metric is better."""
        return self.objectives[0].maximize

    def member(self, values: Values) -> Member:
        """Return the structure, epochs, and seed of a trial; raise errors of its configuration.

        Args:
            values: Values of the trial.
        """
        structure = structure_of(self.experiment, self.base, self.found, values)
        structure = dataclasses.replace(structure, folds=self.settings.folds)
        training = structure.training({name: values[name] for name in structure.traced})
        if self.settings.halving != "none" and training.epochs != self.epochs:
            raise ValueError(
                f"a run of {training.epochs} epochs cannot be compared at the rungs of one of "
                f"{self.epochs}: sweep without --halving"
            )
        return Member(structure, training.epochs, training.seed)

    def members(self, asked: Sequence[Values]) -> list[Member | Exception]:
        """Return `member` of each trial, or the error that its configuration raises.

        Args:
            asked: The values of each trial.
        """
        found: list[Member | Exception] = []
        for values in asked:
            try:
                found.append(self.member(values))
            except Exception as error:  # whatever a configuration raises
                found.append(error)
        return found

    def grouped(
        self,
        member: Member,
        values: Sequence[Values],
        share: float,
        ask: Callable[..., Any],
        prepared: float = 0.0,
    ) -> Grouped:
        """Return how a group runs.

        Args:
            member: One of its trials.
            values: The values of some of its trials.
            share: The fraction of all trials that are in the group.
            ask: Runs a function of plain data where the lanes will run, and returns its result.
            prepared: What `prepare` returned for the group's probe. Default: 0.
        """
        settings, structure = self.settings, member.structure
        timings, error = (), ""
        if not self.probes:
            alone = settings.by == "loop"
            width, devices = (1, 1) if alone else (settings.width, len(jax.local_devices()))
            way = Way(cast(By, settings.by), width, devices)
        else:
            way = Way("loop", 1)
            try:
                asked = self.probe(member, values, share)
                timings = ask(probe, dataclasses.replace(asked, prepared=prepared))
                way = timings[0].way
            except Exception as raised:  # whatever the program raises: each of its trials will too
                if worker_died(raised):
                    raise
                error = last_line(raised)
        unit = math.lcm(way.lanes, settings.repeats)
        times = LANES // unit
        if timings and math.isfinite(timings[0].seconds):
            times = round(AIM / (timings[0].seconds * member.epochs * unit))
        return Grouped(structure, member.epochs, way, unit * max(1, times), timings, error)

    @property
    def probes(self) -> bool:
        """Whether the way of a group is measured, because the settings do not state it."""
        by = self.settings.by
        return by != "loop" and (by == "auto" or not self.settings.width)

    def probe(self, member: Member, values: Sequence[Values], share: float) -> Probe:
        """Return the probe of a group, to send to a worker; the arguments are as for `grouped`."""
        settings = self.settings
        count = max(len(values), min(settings.repeats, 2))  # several seeds are another program
        values = [values[i % len(values)] for i in range(count)]
        seeds = tuple(self.seed(member.seed, i % settings.repeats) for i in range(count))
        rounds = settings.rounds(self.epochs)
        lanes = share * settings.repeats * max(bracket.count for bracket in rounds)
        epochs = share * settings.repeats * sum(bracket.epochs for bracket in rounds)
        example = Work(member.structure, tuple(values), seeds, Way("loop", 1), (0, 1))
        return Probe(example, math.ceil(lanes), math.ceil(epochs), settings.width, settings.ways)

    def seed(self, first: int, repeat: int) -> int | FoldOfSeed:
        """Return the seed of a lane of a trial.

        Args:
            first: The seed of the trial.
            repeat: Index of the lane within the trial.
        """
        return FoldOfSeed(first, repeat) if self.settings.folds > 1 else first + repeat

    @property
    def keep(self) -> Keep:
        """Which trials are kept."""
        several = len(self.objectives) > 1 or self.constraints
        # the front is known at the end, so every trial may be the best
        count = self.settings.trials if several and self.settings.keep else self.settings.keep
        return Keep(count, self.metric, self.maximize, self.settings.score)

    def _problem(self) -> str:
        """Return why the settings do not fit the experiment and its space; "" if they do."""
        settings, most = self.settings, self.settings.trials
        static = {n: d for n, d in self.space.dimensions.items() if self.found[n] != TRACED}
        groups = min(self.space.grid_size(most, static), most)
        lengths = [name for name in LENGTHS if name in self.found]
        if groups > settings.max_groups:
            sizes = {name: len(dimension.grid(most)) for name, dimension in static.items()}
            each = ", ".join(f"{name} ({size})" for name, size in sizes.items() if size > 1)
            return (
                f"the space has up to {groups} groups, each a program to compile, and --max-groups "
                f"is {settings.max_groups}: static are {each}; sweep fewer values of them, or "
                f"write --max-groups {groups}"
            )
        if settings.seeds > 1 and not hasattr(self.base, "seed"):
            return "--seeds needs a field `seed` in the configuration, which has none"
        if settings.seeds > 1 and (why := reads_seed(self.experiment, self.base)) is not None:
            return (
                f"--seeds {settings.seeds} gives the lanes of a trial other keys, but the "
                f"experiment reads the configuration's seed ({why}): draw from the key that init "
                'gets, or sweep "seed": Choice(0, 1, 2)'
            )
        if settings.halving != "none" and lengths:
            return (
                f"--halving {settings.halving} compares trials after the same number of epochs, "
                f"but {lengths[0]} is swept: sweep without --halving, or take {lengths[0]} out of "
                "the space"
            )
        if settings.halving == "population" and static:
            name = next(iter(static))
            return (
                f"population-based training copies weights from trial to trial, but {name} is "
                f"static ({self.found[name]}): sweep traced numbers only"
            )
        return ""


def by_structure(
    members: Sequence[Member | Exception], asked: Sequence[Values]
) -> list[list[tuple[Member, Values]]]:
    """Return the trials that have a program, with their values, in groups of equal structure.

    Args:
        members: The result of `Planner.members`.
        asked: The values of each trial.
    """
    groups: dict[Structure, list[tuple[Member, Values]]] = {}
    for member, values in zip(members, asked, strict=True):
        if isinstance(member, Member):
            groups.setdefault(member.structure, []).append((member, values))
    return list(groups.values())


def last_line(error: Exception) -> str:
    """Return the line with which a traceback of the error would end."""
    text = "".join(traceback.format_exception_only(error))
    return text.strip().split("\n")[0]


# The fastest way to run lanes


def probe(asked: Probe) -> tuple[Timing, ...]:
    """Time the ways that are worth trying, and return the timings, fastest first.

    Args:
        asked: The request.
    """
    found: list[Timing] = []
    for ladder in _ladders(asked):
        before = math.inf
        for way in ladder:
            if not _worth(way, found, asked.epochs):
                break
            timing = _timed(asked.work, way)
            compiling = timing.compile_seconds + (0.0 if found else asked.prepared)
            found.append(timing._replace(compile_seconds=compiling))
            if found[-1].seconds > GAIN * before:
                break
            before = found[-1].seconds
    return tuple(sorted(_settled(asked, found), key=lambda timing: timing.seconds))


def prepare(probes: Iterable[Probe]) -> Iterator[float]:
    """Compile what several probes time first, on as many threads as there are cores.

    XLA compiles on one thread, without Python's lock. The programs are traced by this thread, so
    none of an experiment's code runs on another. An error is left to the probe, which raises it.

    Args:
        probes: The probes, which then run in this process.

    Yields:
        For each probe, the seconds that its programs took, when they are compiled.
    """
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for future in [pool.submit(_compiling(one)) for one in probes]:
            yield future.result()
    finally:  # what has not begun is not waited for if the sweep is interrupted
        pool.shutdown(cancel_futures=True)


def _compiling(asked: Probe) -> Callable[[], float]:
    """Lower what a probe times first; return what compiles it, and returns the seconds of both."""
    try:
        way = next(way for ladder in _ladders(asked) for way in ladder)
        compiled = compiled_cohort(asked.work.structure, way, _shared(asked.work))
        before = compiled.compile_seconds
        finish = compiled.prepare(*_picked(asked.work, way))
    except Exception:  # whatever the program raises
        return lambda: 0.0

    def compile() -> float:
        with contextlib.suppress(Exception):
            finish()
        return compiled.compile_seconds - before

    return compile


def _settled(asked: Probe, found: list[Timing]) -> list[Timing]:
    """Return the timings; those close to the best are repeated in turns, by longer runs."""
    best = min(timing.seconds for timing in found)
    close = [timing for timing in found if timing.seconds < CLOSE * best]
    times = {t.way: max(1, round(SAMPLE / (t.seconds * t.way.lanes))) for t in close}
    round_takes = sum(times[t.way] * t.way.lanes * t.seconds for t in close)
    rounds = min(ROUNDS, int(AGAIN * best * asked.epochs / round_takes))
    if len(close) < 2 or not rounds:
        return found
    again: dict[Way, list[float]] = {timing.way: [] for timing in close}
    for _ in range(rounds):
        for way, seconds in again.items():
            seconds.append(_seconds(asked.work, way, times[way]))
    return [
        t._replace(seconds=statistics.median(again[t.way])) if t.way in again else t for t in found
    ]


def _worth(way: Way, found: list[Timing], epochs: int) -> bool:
    """Return whether to try a way: the first one, then those that fit and may save their cost."""
    if not found:
        return True
    best = min(timing.seconds for timing in found)
    costs = max(timing.compile_seconds for timing in found) + 2 * way.lanes * best
    if costs > TRYING * best * epochs:
        return False
    a_lane = min(timing.bytes / timing.way.width for timing in found)
    return way.width * a_lane < SHARE * memory()


def memory() -> float:
    """Return the bytes of memory that a device has, as the system reports them."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit is None:
        limit = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float(limit)


def _ladders(asked: Probe) -> Iterator[list[Way]]:
    """Yield lists of ways: a wider way of a list is tried if the one before it gained."""
    if "loop" in asked.by:
        yield [Way("loop", 1)]
    usual: dict[By, tuple[int, ...]] = {"vmap": WIDTHS, "map": (MAPPED,)}
    for by, usually in usual.items():
        widths = (asked.width,) if asked.width else usually
        for devices in sorted({len(jax.local_devices()), 1}, reverse=True):
            most = -(-asked.lanes // devices)  # a wider call would only be filled up
            if by in asked.by:
                ways = [Way(by, w, devices) for w in dict.fromkeys(min(w, most) for w in widths)]
                structure, values = asked.work.structure, asked.work.values[0]
                yield [w for w in ways if len(asked.by) == 1 or taken(structure, values, w) == w]


def _timed(work: Work, way: Way) -> Timing:
    compiled = compiled_cohort(work.structure, way, _shared(work))
    before = compiled.compile_seconds
    try:
        seconds = _seconds(work, way)
        if seconds * way.lanes < LONG:  # the first run is slower
            seconds = _seconds(work, way)
    except Exception as error:
        if not out_of_memory(error):
            raise
        seconds = math.inf
    return Timing(way, seconds, compiled.compile_seconds - before, compiled.bytes)


def _seconds(work: Work, way: Way, times: int = 0) -> float:
    """Return the wall time per lane and epoch, over a number of full calls; by default a few."""
    compiled = compiled_cohort(work.structure, way, _shared(work))
    times = times or max(1, FEW // way.lanes)
    values, seeds = _picked(work, way)
    state, _ = compiled.train(values, seeds, None, (0, 0))
    state = jax.device_get(state)
    began, compiling = time.perf_counter(), compiled.compile_seconds
    calls = [compiled.train(values, seeds, state, (0, 1))[1] for _ in range(times)]
    jax.block_until_ready(calls)
    spent = time.perf_counter() - began - (compiled.compile_seconds - compiling)
    return spent / (times * way.lanes)


def _picked(work: Work, way: Way) -> tuple[list[Values], list[int | FoldOfSeed]]:
    """Return the values and seeds of the lanes of a full call."""
    picked = [index % len(work.seeds) for index in range(way.lanes)]
    return [work.values[i] for i in picked], [work.seeds[i] for i in picked]


def _shared(work: Work) -> bool:
    return len(set(work.seeds)) == 1
