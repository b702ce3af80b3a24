"""The plan of a sweep: what is traced, which trials share a program, and how their lanes run.

Everything here is found before the first trial is trained, and told by the command `plan`.
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
from .cohort import Way, Work
from .probe import Probe, Timing, probe
from .search import searcher
from .settings import Settings
from .space import Values
from .structure import TRACED, Structure, reads_seed, space_of, structure_of, traced_or_static
from .training import Training, training_of

# Seconds of training that go to a worker, and into the ledger, at a time.
AIM = 4.0
# How many lanes that is where nothing was measured.
LANES = 16
# What the length of a run, and of the way to a rung, follows from.
LENGTHS = ("epochs", "steps", "every")


class Member(NamedTuple):
    """A trial as the program sees it."""

    structure: Structure
    epochs: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Grouped:
    """A group, and how its lanes run.

    Args:
        structure: what its trials have in common.
        epochs: of a whole run.
        way: how lanes go through the program.
        cohort: lanes that go to a worker at a time.
        timings: what a probe measured, the fastest first; none where the way was given.
        error: what the program raised instead, on a line.
    """

    structure: Structure
    epochs: int
    way: Way
    cohort: int
    timings: tuple[Timing, ...] = ()
    error: str = ""


class Planner:
    """What is known of a sweep before it runs.

    Args:
        experiment: the experiment.
        base: the configuration that trials change.
        settings: what was asked for.
        found: `traced`, or why not, by dimension, where that is known already.

    Raises ValueError for a metric that the program does not report, for one whose direction neither
    the settings nor the task give, and for a space with more groups
    than `settings.max_groups`, and ImportError where a library of the search is not installed.
    """

    def __init__(
        self,
        experiment: Experiment[Any],
        base: Any,
        settings: Settings,
        found: Mapping[str, str] | None = None,
    ) -> None:
        self.experiment, self.base, self.settings = experiment, base, settings
        self.space, training = space_of(experiment), training_of(experiment, base, base)
        self.epochs = training.epochs
        self.metrics = training.names()
        self.metric = self._metric(training)
        self.maximize = self._is_maximized(training)
        self.search = searcher(
            settings.search, self.space, seed=settings.search_seed, points=settings.points
        )
        self.found = dict(found or traced_or_static(experiment, base, exact=settings.exact))
        self._check_groups()
        self._check_settings()

    @property
    def left_out(self) -> str:
        """What a grid search leaves out for want of trials; empty if it tries all its points."""
        settings = self.settings
        size = self.space.grid_size(settings.points) if settings.search == "grid" else 0
        if size <= settings.trials:
            return ""
        return (
            f"the grid has {size} points, of which --trials {settings.trials} tries the first "
            f"{settings.trials}: write --trials {size} to try all"
        )

    def member(self, values: Values) -> Member:
        """The structure, epochs and seed of a trial; raises what its configuration raises."""
        structure = structure_of(self.experiment, self.base, self.found, values)
        training = structure.training({name: values[name] for name in structure.traced})
        if self.settings.halving != "none" and training.epochs != self.epochs:
            raise ValueError(
                f"a run of {training.epochs} epochs cannot be compared at the rungs of one of "
                f"{self.epochs}: sweep without --halving"
            )
        return Member(structure, training.epochs, training.seed)

    def grouped(
        self, member: Member, values: Sequence[Values], share: float, ask: Callable[..., Any]
    ) -> Grouped:
        """How a group runs.

        Args:
            member: one of its trials.
            values: some of its trials' values.
            share: of all trials, which are its.
            ask: runs a function of plain data where the lanes will run, and gives its result.
        """
        settings, structure = self.settings, member.structure
        seeds = tuple(member.seed + i % settings.seeds for i in range(len(values)))
        if settings.seeds > 1 and len(values) == 1:
            values, seeds = [values[0]] * 2, (member.seed, member.seed + 1)
        timings: tuple[Timing, ...] = ()
        said = ""
        if settings.by == "loop" or (settings.by != "auto" and settings.width):
            width = 1 if settings.by == "loop" else settings.width
            devices = 1 if settings.by == "loop" else len(jax.local_devices())
            way = Way(settings.by, width, devices)
        else:
            rounds = settings.rounds(self.epochs)
            lanes = math.ceil(share * settings.seeds * max(bracket.count for bracket in rounds))
            epochs = share * settings.seeds * sum(bracket.epochs for bracket in rounds)
            example = Work(structure, tuple(values), seeds, Way("loop", 1), (0, 1))
            asked = Probe(example, lanes, math.ceil(epochs), settings.width, settings.ways)
            way = Way("loop", 1)
            try:
                timings = ask(probe, asked)
                way = timings[0].way
            except Exception as error:  # whatever the program raises: so will each of its trials
                if worker_died(error):
                    raise
                said = _last_line(error)
        unit = math.lcm(way.lanes, settings.seeds)
        if timings and math.isfinite(timings[0].seconds):
            times = max(1, round(AIM / (timings[0].seconds * member.epochs * unit)))
        else:
            times = max(1, LANES // unit)
        return Grouped(structure, member.epochs, way, unit * times, timings, said)

    def _metric(self, training: Training) -> str:
        names, experiment = self.metrics, self.experiment
        metric = self.settings.chosen_metric or experiment.maximize or experiment.minimize or ""
        if metric and metric not in names:
            raise ValueError(
                f"the program reports no metric {metric!r}; {suggestion(metric, names)}"
            )
        usual = [name for name in ("validation_accuracy", "validation_loss") if name in names]
        if metric or usual:
            return metric or usual[0]
        held = [name for name in names if name.startswith("validation_")]
        directed = [name for name in held or names if training.maximized(name) is not None]
        if len(directed) != 1:
            raise ValueError(
                f"trials are compared by one metric of {', '.join(names)}; write --maximize "
                f"{names[-1]} or --minimize {names[-1]}, or Experiment(..., maximize={names[-1]!r})"
            )
        return directed[0]

    def _is_maximized(self, training: Training) -> bool:
        metric, stated = self.metric, self.settings.chosen_direction
        remedy = f"write --maximize {metric} or --minimize {metric}"
        found = training.maximized(metric) if stated is None else stated
        if found is None:
            raise ValueError(
                f"the direction of {metric!r} is unknown: {remedy}, or declare it in the metric by "
                "train.Mean(value, maximize=True) or train.Ratio(sum, count, maximize=True)"
            )
        return found

    def _check_groups(self) -> None:
        most = self.settings.trials
        static = {n: d for n, d in self.space.dimensions.items() if self.found[n] != TRACED}
        groups = min(self.space.grid_size(most, static), most)
        if groups > self.settings.max_groups:
            sizes = {name: len(dimension.grid(most)) for name, dimension in static.items()}
            each = ", ".join(f"{name} ({size})" for name, size in sizes.items() if size > 1)
            raise ValueError(
                f"the space has up to {groups} groups, each a program to compile, and --max-groups "
                f"is {self.settings.max_groups}: static are {each}; sweep fewer values of them, "
                f"or write --max-groups {groups}"
            )

    def _check_settings(self) -> None:
        settings = self.settings
        settings.rounds(self.epochs)  # raises for rungs that cannot be
        if settings.seeds > 1 and not hasattr(self.base, "seed"):
            raise ValueError("--seeds wants a field `seed` in the configuration; there is none")
        if settings.seeds > 1:
            why = reads_seed(self.experiment, self.base)
            if why is not None:
                raise ValueError(
                    f"--seeds {settings.seeds} gives the lanes of a trial other keys, but the "
                    f"experiment reads the configuration's seed ({why}): draw from the key that "
                    'init gets, or sweep "seed": Choice(0, 1, 2)'
                )
        lengths = [name for name in LENGTHS if name in self.found]
        if settings.halving != "none" and lengths:
            raise ValueError(
                f"--halving {settings.halving} compares trials after equally many epochs, but "
                f"{lengths[0]} is swept: sweep without --halving, or take {lengths[0]} out of the "
                "space"
            )
        static = [name for name, why in self.found.items() if why != TRACED]
        if settings.halving == "population" and static:
            raise ValueError(
                f"population-based training copies weights from trial to trial, but {static[0]} "
                f"is static ({self.found[static[0]]}): sweep traced numbers only"
            )


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the first round of a sweep would be.

    Args:
        planner: the sweep.
        groups: how each runs, and how many of the first round's trials it has.
        failed: trials of the first round whose configuration raises: the last line said, by count.
    """

    planner: Planner
    groups: tuple[tuple[Grouped, int], ...]
    failed: Mapping[str, int]

    def __str__(self) -> str:
        """The plan as a table, and what it will take."""
        planner, settings = self.planner, self.planner.settings
        lines = ["What is swept:"]
        width = max(map(len, planner.found))
        for name, why in planner.found.items():
            what = "traced: one program for all values" if why == TRACED else f"static: {why}"
            lines.append(f"  {name.ljust(width)}  {planner.space.dimensions[name]}  {what}")
        lines.append("")
        lines.append("Groups, one program each:")
        seconds = compiles = 0.0
        for grouped, count in self.groups:
            epochs = self._epochs(grouped.epochs)
            lines.append(
                f"  {grouped.structure.name}: {count} trial{'s' * (count > 1)}, {grouped.way}, "
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
                seconds += grouped.timings[0].seconds * count * epochs * settings.seeds
                compiles += grouped.timings[0].compile_seconds
        first = sum(count for _, count in self.groups) + sum(self.failed.values())
        for said, count in self.failed.items():
            lines.append(f"  no program for {count} trial{'s' * (count > 1)}: {said}")
        lines.append("")
        lines.append(
            f"{settings.trials} trials of {settings.seeds} lane{'s' * (settings.seeds > 1)} by "
            f"{settings.search} search, compared by {planner.metric} "
            f"({'more' if planner.maximize else 'less'} is better); rungs at epochs "
            f"{', '.join(map(str, settings.rungs(planner.epochs)))}."
        )
        if planner.left_out:
            lines.append(f"Note: {planner.left_out}.")
        if seconds:
            whole = seconds * settings.trials / max(first, 1)
            lines.append(
                f"{len(self.groups)} programs to compile in about {compiles:.1f} s, then about "
                f"{whole:.3g} s of training on one worker."
            )
        return "\n".join(lines)

    def _epochs(self, epochs: int) -> float:
        """Epochs that a trial trains on average, those that are stopped early among them."""
        if self.planner.settings.halving in ("none", "population"):
            return epochs
        brackets = self.planner.settings.rounds(self.planner.epochs)
        return sum(b.epochs for b in brackets) / sum(b.count for b in brackets)


def make_plan(planner: Planner, asked: Sequence[Values], ask: Callable[..., Any]) -> Plan:
    """The plan for a first round of these trials."""
    members: dict[Structure, list[tuple[Member, Values]]] = {}
    failed: Counter[str] = Counter()
    for values in asked:
        try:
            member = planner.member(values)
        except Exception as error:  # whatever a configuration raises
            failed[_last_line(error)] += 1
        else:
            members.setdefault(member.structure, []).append((member, values))
    groups = []
    for each in members.values():
        some = [values for _, values in each[:LANES]]
        grouped = planner.grouped(each[0][0], some, len(each) / len(asked), ask)
        groups.append((grouped, len(each)))
    return Plan(planner, tuple(groups), failed)


def _last_line(error: Exception) -> str:
    """What a traceback ends with."""
    said = [line for line in traceback.format_exception_only(error) if line.strip()]
    return said[0].strip().split("\n")[0]
