"""The plan of a sweep: what is traced, which trials share a program, and how their lanes run.

All of this is known before the first trial trains; the command `plan` prints it.
"""

import dataclasses
import math
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from ..executors import worker_died
from ..experiment.experiment import Experiment
from ..explain.text import suggestion
from ..html import count
from ..train import EarlyStopping
from .cohort import Way, Work
from .external import searcher
from .probe import Probe, Timing, probe
from .score import CONFIGURED, Constraint, Keep, Objective
from .search import Search, trial_key
from .settings import Settings
from .space import Space, Values
from .structure import TRACED, Structure, reads_seed, space_of, structure_of, traced_or_static
from .training import FoldOfSeed, training_of

# Seconds of training that a worker gets, and the ledger commits, at a time.
AIM = 4.0
# How many lanes that is if nothing was measured.
LANES = 16
# The fields that the length of a run follows from.
LENGTHS = ("epochs", "steps", "every")


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
        self.stopping: EarlyStopping | None = stopping_of(
            experiment, settings, self.metrics, self.objectives[0]
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

    def left_out(self, tries: Sequence[Values] = ()) -> str:
        """Return a description of the grid points that are not tried; "" if all are.

        Args:
            tries: The configurations that are tried first. Default: none.
        """
        settings = self.settings
        size = self.space.grid_size(settings.points) if settings.search == "grid" else 0
        if size + len(tries) <= settings.trials or not size:
            return ""
        grid = {trial_key(point) for point in self.space.grid(settings.points)}
        others = len([values for values in tries if trial_key(values) not in grid])
        if size + others <= settings.trials:
            return ""
        return (
            f"the grid has {size} points, of which --trials {settings.trials} tries the first "
            f"{settings.trials - others}: write --trials {size + others} to try all"
        )

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
        self, member: Member, values: Sequence[Values], share: float, ask: Callable[..., Any]
    ) -> Grouped:
        """Return how a group runs.

        Args:
            member: One of its trials.
            values: The values of some of its trials.
            share: The fraction of all trials that are in the group.
            ask: Runs a function of plain data where the lanes will run, and returns its result.
        """
        settings, structure = self.settings, member.structure
        timings, error = (), ""
        if settings.by == "loop" or (settings.by != "auto" and settings.width):
            alone = settings.by == "loop"
            width, devices = (1, 1) if alone else (settings.width, len(jax.local_devices()))
            way = Way(settings.by, width, devices)
        else:
            way = Way("loop", 1)
            try:
                timings = ask(probe, self._probe(member, values, share))
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

    def _probe(self, member: Member, values: Sequence[Values], share: float) -> Probe:
        """Return the probe of a group, to send to a worker."""
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
        named = ", ".join(one.metric for one in self.objectives)
        wrong = [o.metric for o in self.constraints if o.metric not in {*self.metrics, *CONFIGURED}]
        if wrong:
            known = suggestion(wrong[0], [*self.metrics, *CONFIGURED])
            return f"a constraint bounds {wrong[0]!r}, which is not a metric; {known}"
        if len(self.objectives) > 1 and settings.halving != "none":
            return (
                f"--halving {settings.halving} compares trials by one metric, got {named}: sweep "
                "without --halving, or keep one and bound the others by --constraints"
            )
        if len(self.objectives) > 1 and settings.search in ("cmaes", "gp"):
            return (
                f"--search {settings.search} has one objective, got {named}: write --search tpe or "
                "nsga2"
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


def stopping_of(
    experiment: Experiment[Any],
    settings: Settings,
    metrics: Sequence[str],
    ranking: tuple[str, bool],
) -> EarlyStopping | None:
    """Return the hook that stops a lane early, as in a single run; None without a patience.

    Args:
        experiment: The experiment, whose metric a single run monitors.
        settings: The settings; a metric that they name is monitored instead.
        metrics: The metrics of the program.
        ranking: The metric that trials are compared by, and whether larger is better.
    """
    if settings.patience is None:
        return None
    own = not settings.chosen and experiment.ranked[0] in metrics
    metric, maximize = experiment.ranked if own else ranking
    return EarlyStopping(metric, settings.patience, maximize=maximize)


@dataclasses.dataclass(frozen=True)
class SweepPlan:
    """The first round of a sweep.

    Args:
        planner: The sweep.
        groups: How each group runs, and how many trials of the first round it has.
        failed: Number of trials whose configuration raises, by the last line of the traceback.
    """

    planner: Planner
    groups: tuple[tuple[Grouped, int], ...]
    failed: Mapping[str, int]

    def __str__(self) -> str:
        planner, settings = self.planner, self.planner.settings
        width = max(map(len, planner.found))
        lines = ["What is swept:"]
        for name, why in planner.found.items():
            what = "traced: one program for all values" if why == TRACED else f"static: {why}"
            lines.append(f"  {name.ljust(width)}  {planner.space.dimensions[name]}  {what}")
        lines += ["", "Groups, one program each:"]
        seconds = compiling = 0.0
        for grouped, many in self.groups:
            lines.append(
                f"  {grouped.structure.name}: {count(many, 'trial')}, {grouped.way}, "
                f"{grouped.cohort} lanes at a time"
            )
            if grouped.error:
                lines.append(f"    cannot run: {grouped.error}")
            for timing in grouped.timings:
                lines.append(
                    f"    {timing.way}: {timing.seconds * 1e3:.3g} ms a lane and epoch, "
                    f"{timing.compile_seconds:.1f} s to compile, {timing.bytes / 1e6:.3g} MB"
                )
            if grouped.timings:
                epochs = self._mean_epochs(grouped.epochs)
                seconds += grouped.timings[0].seconds * many * epochs * settings.repeats
                compiling += grouped.timings[0].compile_seconds
        lines += [
            f"  no program for {count(n, 'trial')}: {text}" for text, n in self.failed.items()
        ]
        bounds = ", ".join(map(str, planner.constraints))
        bounds = f", with {bounds}" if bounds else ""
        lines += [
            "",
            f"{settings.trials} trials of {count(settings.repeats, 'lane')} by {settings.search} "
            f"search, compared by {' and '.join(map(str, planner.objectives))}{bounds}; rungs at "
            "epochs "
            f"{', '.join(map(str, settings.rungs(planner.epochs)))}.",
        ]
        if left_out := planner.left_out():
            lines.append(f"Note: {left_out}.")
        if seconds:
            first = sum(many for _, many in self.groups) + sum(self.failed.values())
            lines.append(
                f"{len(self.groups)} programs to compile in about {compiling:.1f} s, then about "
                f"{seconds * settings.trials / first:.3g} s of training on one worker."
            )
        return "\n".join(lines)

    def _mean_epochs(self, epochs: int) -> float:
        """Return the mean epochs of a trial, including those that stop early."""
        if self.planner.settings.halving in ("none", "population"):
            return epochs
        brackets = self.planner.settings.rounds(self.planner.epochs)
        return sum(b.epochs for b in brackets) / sum(b.count for b in brackets)


def make_plan(planner: Planner, asked: Sequence[Values], ask: Callable[..., Any]) -> SweepPlan:
    """Return the plan for a first round of these trials.

    Args:
        planner: The sweep.
        asked: The values of each trial.
        ask: Runs a function of plain data where the lanes will run, and returns its result.
    """
    members = planner.members(asked)
    failed = Counter(last_line(member) for member in members if isinstance(member, Exception))
    groups = []
    for each in by_structure(members, asked):
        some = [values for _, values in each[:LANES]]
        grouped = planner.grouped(each[0][0], some, len(each) / len(asked), ask)
        groups.append((grouped, len(each)))
    return SweepPlan(planner, tuple(groups), failed)


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
