"""The commands of an experiment that sweep it: `plan`, `sweep`, `resume`, and `run --from`."""

import dataclasses
import functools
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from ..executors import check_name, create, result_of
from ..experiment.experiment import Experiment
from ..experiment.sources import module_of
from ..files.reading import printable, quoted
from ..html.charts import check_library
from ..sweep import Result, run
from ..sweep import open as opened
from ..sweep.display import best_trials
from ..sweep.ledger import check_free
from ..sweep.plan import Planner, make_plan
from ..sweep.report import drawing_imports
from ..sweep.report.result import best_command
from ..sweep.results import TrialResult
from ..sweep.running import resume
from ..sweep.settings import Settings
from ..sweep.storage import command_to_resume as resume_text
from ..sweep.structure import space_of
from ..validation import integer
from .parsing import folder_option, parse, read_options, refuse


@dataclasses.dataclass(frozen=True)
class Resources:
    """The executor and the devices of a sweep."""

    executor: str = "local"
    """local, processes, dask, dask:ADDRESS, ray, ray:ADDRESS, slurm, or submitit:local."""
    workers: int = 0
    """Cohorts that run at the same time, with local in processes that divide the cores; 0
    for the number of workers of the executor."""
    devices: int = 0
    """Simulated devices of the CPU, which share lanes if that is faster; 0 for one."""

    def prepare(self) -> None:
        """Check the executor, and make several devices of a CPU before it is first used."""
        check_name(self.executor, self.workers or None)
        integer(0, 64 * (os.cpu_count() or 1))(self.devices, "--devices")
        if self.devices:
            jax.config.update("jax_num_cpu_devices", self.devices)


@dataclasses.dataclass(frozen=True)
class Force:
    """Whether a changed experiment is resumed."""

    force: bool = False
    """Resume even if the experiment's code or data changed since; the sweep records it."""


def plan_command(experiment: Experiment[Any], arguments: list[str]) -> None:
    """Print what a sweep would do."""
    config, settings, _, resources = _requested(
        experiment, arguments, "plan", "Show what a sweep would do."
    )
    planner = Planner(experiment, config, settings)
    asked = planner.search.ask(settings.rounds(planner.epochs)[0].count, 0, [])
    with create(resources.executor, resources.workers or None) as executor:
        print(make_plan(planner, asked, functools.partial(result_of, executor)))


def sweep_command(experiment: Experiment[Any], arguments: list[str]) -> int:
    """Sweep the experiment's space, and write the report."""
    title = "Train many configurations of the experiment's space."
    config, settings, folder, resources = _requested(experiment, arguments, "sweep", title)
    if folder is None:
        folder = Path("sweeps", f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    check_free(folder)
    call = functools.partial(run, config=config, **vars(settings))
    return _run(call, experiment, folder, resources)


def resume_sweep(experiment: Experiment[Any], arguments: list[str]) -> int:
    """Continue a sweep that was interrupted."""
    folder, resources, option = read_options(
        experiment,
        "resume",
        "Continue an interrupted sweep or run, with the same results.",
        [Resources(), Force()],
        arguments,
        "a sweep, or of a run",
    )
    resources.prepare()
    call = functools.partial(resume, config=None, settings={}, force=option.force)
    return _run(call, experiment, folder, resources)


def trial_of(experiment: Experiment[Any], text: str, what: str = "--from") -> TrialResult:
    """Return a trial of a sweep: `FOLDER:best`, or `FOLDER:17`.

    Args:
        experiment: the experiment.
        text: the folder of a sweep, and the trial.
        what: the name of the argument in errors. Default: "--from".

    Raises:
        ValueError, OSError: the folder or the trial does not exist.
    """
    folder, colon, name = text.rpartition(":")
    if not colon or not (name == "best" or name.isdecimal()):
        raise ValueError(f"{what} is {text!r}, expected FOLDER:best, or FOLDER:17 for trial 17")
    found = opened(folder, experiment)
    if name == "best":
        return found.best
    last = len(found.trials) - 1
    if int(name) > last:
        raise ValueError(f"{folder} has the trials 0 .. {last}, and no {name}")
    return found.trials[int(name)]


def _requested(
    experiment: Experiment[Any], arguments: list[str], command: str, title: str
) -> tuple[Any, Settings, Path | None, Resources]:
    """Return what the arguments of `plan` and `sweep` request."""
    space = space_of(experiment)
    lines = "\n".join(f"    {line}" for line in str(space).splitlines())
    config, settings, where, resources = parse(
        experiment,
        arguments,
        [Settings, folder_option(f"sweeps/{experiment.name}-DATE-TIME"), Resources],
        command=command,
        text=[f"{title}\n\nIt sweeps:\n{lines}\n\nThe options below set everything else.\n"],
        swept=space.fields,
    )
    resources.prepare()
    return config, settings, where.folder, resources


def _run(
    call: Callable[..., Result], experiment: Experiment[Any], folder: Path, resources: Resources
) -> int:
    """Begin or continue a sweep, print its results, and write its report; return the status."""
    check_library()
    executor, workers = resources.executor, resources.workers or None
    with drawing_imports():
        try:
            result = call(experiment, folder=folder, executor=executor, workers=workers)
        except KeyboardInterrupt as stopped:
            if not stopped.args:  # before it began
                raise
            again = resume_text(folder, module_of(experiment))
            return refuse(f"interrupted: what was committed is whole; continue with {again}", 130)
    finish(result)
    return 0


def finish(result: Result) -> None:
    """Print the results of a sweep, and write its report.

    Args:
        result: the result.
    """
    print(f"\n{best_trials(result.sweep)}", flush=True)  # the report takes a moment
    try:
        print(f"\nReport: {printable(str(result.report()), lines=True)}")
    except Exception as error:  # any error of the drawing: the ledger has all results
        cause = printable(" ".join(str(error).split()), 300)
        warnings.warn(
            f"the report of {result.folder} was not written ({type(error).__name__}: {cause}). All "
            "results are in the ledger: write jaxnn sweep report "
            f"{quoted(result.folder)} to try again",
            RuntimeWarning,
            stacklevel=2,
        )
    if result.ranking:
        print(f"Train the best again: {best_command(result.sweep)}")
