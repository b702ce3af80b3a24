"""The commands of an experiment that sweep it: `plan`, `sweep`, `resume`, and `run --from`."""

import dataclasses
import functools
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax

from ..executors import check_name, create, result_of
from ..experiment.configuration import from_plain
from ..experiment.experiment import Experiment
from ..experiment.sources import module_of
from ..experiment.training_run import attempted
from ..files.reading import printable
from ..html import count
from ..sweep import Result, Space, run
from ..sweep import open as opened
from ..sweep.ledger import Ledger, check_free
from ..sweep.meta import planned
from ..sweep.plan import LANES, Planner, by_structure, last_line
from ..sweep.report import best_command
from ..sweep.results import TrialResult, best_trials
from ..sweep.search import Known, Observation, new_trials
from ..sweep.settings import Budget, Settings, a_search
from ..sweep.snapshot import described
from ..sweep.space import Values
from ..sweep.storage import command_to_resume as resume_text
from ..sweep.structure import TRACED, space_of, with_recorded_space
from ..validation import Accepts, check_fields, integer, natural, positive
from .grammar import GRAMMAR, swept_paths
from .parsing import folder_option, import_tyro, parse, read_options, refuse, texts_of

TERMS = """\
Terms used in the options below:
    trial   a configuration; its score is the mean over its seeds
    lane    one training: a trial with one seed
    group   trials that differ only in traced numbers, and share a program
    cohort  lanes of a group that train together, and are saved together
    rung    an epoch at which trials are compared, and some of them stop"""

a_trial: Accepts = Accepts(
    "FOLDER:best, or FOLDER:17 for trial 17",
    lambda text: re.fullmatch(r"(?s).*:(best|\d+)", text) is not None,
)


@dataclasses.dataclass(frozen=True)
class Resources:
    """The executor and the devices of a sweep."""

    executor: str = "local"
    """Where cohorts train: local, processes, dask, dask:ADDRESS, ray, ray:ADDRESS, slurm, or
    submitit:local."""
    workers: Annotated[int, natural] = 0
    """Number of cohorts that run at the same time; local runs several in processes that divide the
    cores and GPUs. 0 for the number of workers of the executor."""
    devices: Annotated[int, integer(0, 64 * (os.cpu_count() or 1))] = 0
    """Number of simulated CPU devices, which share lanes if that is faster; 0 for one."""

    def __post_init__(self) -> None:
        check_fields(self)

    def prepare(self) -> None:
        """Check the executor, and make several devices of a CPU before it is first used."""
        check_name(self.executor, self.workers or None)
        if self.devices:
            jax.config.update("jax_num_cpu_devices", self.devices)


@dataclasses.dataclass(frozen=True)
class Changes:
    """How a sweep is resumed, and what may change."""

    trials: Annotated[int | None, None | positive] = None
    """Total number of configurations to try."""
    epochs: Annotated[int | None, None | positive] = None
    """More epochs per trial; all trials train again, since schedules depend on the length."""
    search: Annotated[str | None, None | a_search] = None
    """Another search, which learns from all trials so far."""
    budget: Budget = dataclasses.field(default_factory=Budget)
    """A larger or different budget."""
    force: bool = False
    """Resume even if the experiment's code or data have changed; the sweep records this."""

    def __post_init__(self) -> None:
        check_fields(self)


def plan_command(experiment: Experiment[Any], arguments: list[str]) -> None:
    """Print what a sweep would do."""
    experiment, config, settings, _, known, resources = _requested(
        experiment, arguments, "plan", "Show what a sweep would do."
    )
    folders = known.warm_start
    planner, facts = planned(experiment, config, _given(settings), None, known.tries, folders)
    settings, first = planner.settings, facts["tries"]
    left = settings.rounds(planner.epochs)[0].count - len(first)
    observed = [*Known.of(facts).earlier]
    observed += [Observation(values, None, own=False) for values in first]
    asked = [*first, *new_trials(planner.search, left, 0, observed, settings.repeat)]
    with create(resources.executor, resources.workers or None) as executor:
        print(plan_text(planner, asked, functools.partial(result_of, executor)))
    for note in facts["notes"]:
        print(f"Note: {note}.")


def plan_text(planner: Planner, asked: Sequence[Values], ask: Callable[..., Any]) -> str:
    """Return the plan of a sweep whose first round has these trials.

    Args:
        planner: The planner of the sweep.
        asked: The values of each trial.
        ask: Runs a function of plain data where the lanes will run, and returns its result.
    """
    settings, members = planner.settings, planner.members(asked)
    width = max(map(len, planner.found))
    lines = ["What is swept:"]
    for name, why in planner.found.items():
        what = "traced: one program for all values" if why == TRACED else f"static: {why}"
        lines.append(f"  {name.ljust(width)}  {planner.space.dimensions[name]}  {what}")
    lines += ["", "Groups, one program each:"]
    mean_epochs, seconds, compiling = 1.0, 0.0, 0.0  # of the epochs of a whole run
    if settings.halving not in ("none", "population"):
        brackets = settings.rounds(planner.epochs)
        mean_epochs = sum(one.epochs for one in brackets) / sum(one.count for one in brackets)
        mean_epochs /= planner.epochs
    groups = by_structure(members, asked)
    for each in groups:
        some, many = [values for _, values in each[:LANES]], len(each)
        grouped = planner.grouped(each[0][0], some, many / len(asked), ask)
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
        for timing in grouped.timings[:1]:
            epochs = grouped.epochs * mean_epochs
            seconds += timing.seconds * many * epochs * settings.repeats
            compiling += timing.compile_seconds
    failed = Counter(last_line(one) for one in members if isinstance(one, Exception))
    lines += [f"  no program for {count(n, 'trial')}: {text}" for text, n in failed.items()]
    bounds = ", ".join(map(str, planner.constraints))
    bounds = f", with {bounds}" if bounds else ""
    lines += [
        "",
        f"{settings.trials} trials of {count(settings.repeats, 'lane')} by {settings.search} "
        f"search, compared by {' and '.join(map(str, planner.objectives))}{bounds}; rungs at "
        f"epochs {', '.join(map(str, settings.rungs(planner.epochs)))}.",
    ]
    if seconds:
        lines.append(
            f"{len(groups)} programs to compile in about {compiling:.1f} s, then about "
            f"{seconds * settings.trials / len(asked):.3g} s of training on one worker."
        )
    return "\n".join(lines)


def sweep_command(experiment: Experiment[Any], arguments: list[str]) -> int:
    """Sweep the experiment's space, and write the report."""
    title = "Train many configurations of the experiment's space."
    experiment, config, settings, folder, known, resources = _requested(
        experiment, arguments, "sweep", title
    )
    if folder is None:
        folder = Path("sweeps", f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    check_free(folder)
    call = functools.partial(run, config=config, **vars(known), **_given(settings))
    return _run(call, experiment, folder, resources)


def resume_sweep(experiment: Experiment[Any], arguments: list[str]) -> int:
    """Continue a sweep that was interrupted, or change one."""
    folder, changes, known, resources = read_options(
        experiment,
        "resume",
        "Continue an interrupted sweep or run, with the same results; or extend a sweep.",
        [Changes(), _known()(), Resources()],
        arguments,
        "a sweep, or of a run",
    )
    resources.prepare()
    given = {name: value for name, value in vars(changes).items() if value is not None}
    budget, epochs = given.pop("budget"), given.pop("epochs", None)
    with Ledger.open(folder) as ledger:
        meta = ledger.meta
        described(folder, meta)  # which checks the rows
        experiment = with_recorded_space(experiment, meta["space"])
    if budget:
        limits = {name: limit for name, limit in vars(budget).items() if limit is not None}
        old = from_plain(Budget, meta["settings"]["budget"], f"{folder}: budget")
        given["budget"] = dataclasses.replace(old, **limits)
    config = None
    if epochs is not None:
        where = f"{folder}: config"
        plain = {**meta["config"], "epochs": epochs}
        config = from_plain(experiment.config, plain, where)
    call = functools.partial(run, config=config, **vars(known), **given)
    return _run(call, experiment, folder, resources)


def _given(settings: Settings) -> dict[str, Any]:
    """Return the settings that differ from the defaults, by name."""
    return {
        name: value for name, value in vars(settings).items() if value != vars(Settings())[name]
    }


def _known() -> type[Any]:
    """Return a class of options: configurations to try first, and earlier sweeps."""
    tyro = import_tyro()
    first = tyro.conf.arg(
        name="try",
        metavar="PATH=VALUE,...",
        help="A configuration to try first, such as --try model.width=64,batch_size=32; omitted "
        "values are the defaults. Repeat --try for further ones.",
    )
    earlier = tyro.conf.arg(
        metavar="FOLDER",
        help="The folder of an earlier sweep, whose trials the search learns from. Repeat the "
        "option for further ones.",
    )
    append = tyro.conf.UseAppendAction
    fields = [
        ("tries", Annotated[tuple[str, ...], append, first], ()),
        ("warm_start", Annotated[tuple[Path, ...], append, earlier], ()),
    ]
    return dataclasses.make_dataclass("Known", fields, frozen=True)


def trial_of(experiment: Experiment[Any], text: str, what: str = "--from") -> TrialResult:
    """Return a trial of a sweep: `FOLDER:best`, or `FOLDER:17`.

    Args:
        experiment: the experiment.
        text: the folder of a sweep, and the trial.
        what: the name of the argument in errors. Default: "--from".

    Raises:
        ValueError, OSError: the folder or the trial does not exist.
    """
    folder, _, name = a_trial(text, what).rpartition(":")
    found = opened(folder, experiment)
    if name == "best":
        return found.best
    return found.trials[integer(0, len(found.trials) - 1)(int(name), f"the trial of {folder}")]


def _requested(
    experiment: Experiment[Any], arguments: list[str], command: str, title: str
) -> tuple[Experiment[Any], Any, Settings, Path | None, Any, Resources]:
    """Return what the arguments of `plan` and `sweep` request; `--sweep` replaces the space."""
    texts, arguments = texts_of("--sweep", arguments)
    if texts:
        where = getattr(experiment.space, "where", ())
        space = Space(experiment.config, swept_paths(experiment.config, texts), where)
        experiment = dataclasses.replace(experiment, space=space)
    space = space_of(experiment)
    lines = "\n".join(f"    {line}" for line in str(space).splitlines())
    config, settings, where, known, resources = parse(
        experiment,
        arguments,
        [Settings, folder_option(f"sweeps/{experiment.name}-DATE-TIME"), _known(), Resources],
        command=command,
        text=[
            f"{title}\n\nIt sweeps this space:\n{lines}\n\nTo sweep a different space, write\n"
            f"{GRAMMAR}\n\n{TERMS}\n\nThe options below set everything else.\n"
        ],
        swept=space.fields,
    )
    resources.prepare()
    return experiment, config, settings, where.folder, known, resources


def _run(
    call: Callable[..., Result], experiment: Experiment[Any], folder: Path, resources: Resources
) -> int:
    """Begin or continue a sweep, print its results, and write its report; return the status."""
    executor, workers = resources.executor, resources.workers or None
    print(f"{experiment.name}: sweep in {printable(str(folder), lines=True)}", flush=True)
    try:
        result = call(experiment, folder=folder, executor=executor, workers=workers)
    except KeyboardInterrupt as stopped:
        if not stopped.args:  # before it began
            raise
        again = resume_text(folder, module_of(experiment))
        text = f"interrupted: committed results are intact; continue with {again}"
        return refuse(text, 128 + getattr(stopped, "number", signal.SIGINT))
    finish(result)
    return 0


def finish(result: Result) -> None:
    """Print the results of a sweep, and write its report.

    Args:
        result: the result.
    """
    print(f"\n{best_trials(result.sweep)}", flush=True)  # the report takes a moment
    then = "All results are in the ledger; to draw it again, write jaxnn sweep report"
    with attempted(f"the report of {result.folder}", result.folder, then):
        print(f"\nReport: {printable(str(result.report()), lines=True)}")
    if result.ranking:
        print(f"Train the best again: {best_command(result.sweep)}")
