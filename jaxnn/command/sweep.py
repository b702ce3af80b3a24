"""The commands of an experiment that sweep it: `plan`, `sweep`, `resume`, and `run --from`."""

import contextlib
import dataclasses
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from ..executors import check_name, create, result_of, worker_died
from ..experiment import sources
from ..experiment.configuration import from_plain, to_plain
from ..experiment.experiment import Experiment, loaded
from ..experiment.run import versions
from ..files.plain import quoted
from ..html.charts import check_library
from ..sweep.driver import Driver, Progress
from ..sweep.ledger import Ledger
from ..sweep.plan import Planner, make_plan
from ..sweep.reading import read
from ..sweep.report import prepared
from ..sweep.settings import Settings
from ..sweep.storage import resume_command as resume_text
from ..sweep.structure import space_of
from ..sweep.tables import OPEN
from ..validation import integer
from .display import finish, watched
from .parsing import folder_option, module_of, parse, read_options, refuse


@dataclasses.dataclass(frozen=True)
class Resources:
    """The executor and the devices of a sweep."""

    executor: str = "local"
    """local, dask, dask:ADDRESS, ray, ray:ADDRESS, slurm, or submitit:local."""
    workers: int = 0
    """Cohorts that run at the same time; 0 for the number of workers of the executor."""
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
    planner, _, resources = _planned(experiment, arguments, "plan", "Show what a sweep would do.")
    asked = planner.search.ask(planner.settings.rounds(planner.epochs)[0].count, 0, [])
    with create(resources.executor, resources.workers or None) as executor:
        print(make_plan(planner, asked, functools.partial(result_of, executor)))


def sweep_command(experiment: Experiment[Any], arguments: list[str]) -> int:
    """Sweep the experiment's space, and write the report."""
    title = "Train many configurations of the experiment's space."
    planner, folder, resources = _planned(experiment, arguments, "sweep", title)
    if folder is None:
        folder = Path("sweeps", f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    check_library()
    if planner.left_out:
        print(f"note: {planner.left_out}", file=sys.stderr)
    with Ledger.create(folder, meta_of(experiment, planner)) as ledger:
        return _drive(experiment, ledger, resources)


def resume_command(experiment: Experiment[Any], arguments: list[str]) -> int:
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
    check_library()
    with Ledger.open(folder, write=True) as ledger:
        meta = ledger.meta
        read(ledger)  # which checks all that it contains
        if meta["experiment"] != module_of(experiment):
            raise ValueError(
                f"{folder} is a sweep of {meta['experiment']}: write "
                f"{resume_text(folder, meta['experiment'])}"
            )
        base = from_plain(experiment.config, dict(meta["config"]), f"{folder}: config")
        now = _sources(experiment, base)
        changed = sources.changes_since(meta.get("sources"), now, f"the ledger in {folder}")
        if changed and not option.force:
            raise ValueError(
                f"the experiment changed since this sweep began, so that its trials would not "
                f"compare: {'; '.join(changed)}. Begin another sweep, or write resume "
                f"{quoted(folder)} --force"
            )
        if changed:
            after = sum(trial.status not in OPEN for trial in ledger.trials())
            forced = [*meta.get("forced", []), {"after trials": after, "changes": changed}]
            ledger.set_meta({"sources": now, "forced": forced})
        return _drive(experiment, ledger, resources)


def configuration_of(experiment: Experiment[Any], text: str) -> Any:
    """Return the configuration of a trial: `FOLDER:best`, or `FOLDER:17`.

    Args:
        experiment: the experiment.
        text: the folder of a sweep, and the trial.

    Raises:
        ValueError, OSError: the folder or the trial does not exist.
    """
    folder, colon, name = text.rpartition(":")
    if not colon or not (name == "best" or name.isdecimal()):
        raise ValueError(f"--from is {text!r}, expected FOLDER:best, or FOLDER:17 for trial 17")
    with Ledger.open(Path(folder)) as ledger:
        found = read(ledger)
    if found.experiment != module_of(experiment):
        raise ValueError(
            f"{folder} is a sweep of {found.experiment}, not of {module_of(experiment)}"
        )
    trials = {str(trial.number): trial for trial in found.trials} | {"best": found.best}
    if (trial := trials.get(name)) is None:
        what = "no trial that completed yet"
        if name != "best":
            what = f"the trials 0 .. {len(found.trials) - 1}, and no {name}"
        raise ValueError(f"{folder} has {what}")
    base = from_plain(experiment.config, dict(found.config), f"{folder}: config")
    return space_of(experiment).configured(base, trial.values)


def _planned(
    experiment: Experiment[Any], arguments: list[str], command: str, title: str
) -> tuple[Planner, Path | None, Resources]:
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
    return Planner(experiment, config, settings), where.folder, resources


def _drive(experiment: Experiment[Any], ledger: Ledger, resources: Resources) -> int:
    """Run a sweep to its end, or to the signal that stops it; return the exit status."""
    resume = resume_text(ledger.folder, module_of(experiment))
    jobs = ledger.folder / "jobs"
    with (
        prepared(),
        create(resources.executor, resources.workers or None, jobs) as executor,
        _signals() as came,
    ):
        workers = resources.workers or executor.workers
        try:
            with watched(ledger) as watch:

                def show(progress: Progress) -> None:
                    if came.is_set():
                        raise KeyboardInterrupt
                    watch(progress)

                Driver(experiment, ledger, executor, workers, show).run()
        except KeyboardInterrupt:
            executor.shutdown(wait=False, cancel_futures=True)
            return refuse(f"interrupted: what was committed is whole; continue with {resume}", 130)
        except Exception as error:
            if not worker_died(error):
                raise
            executor.shutdown(wait=False, cancel_futures=True)
            died = f"workers of {resources.executor} died repeatedly ({error})"
            return refuse(f"{died}: what was committed is whole; continue with {resume}", 1)
    finish(ledger)
    return 0


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """End a sweep on SIGTERM as on Ctrl-C; yield an event that is set when one of them comes.

    The exception alone may be lost: Python ignores what is raised within a callback of JAX.
    """
    came = threading.Event()

    def stop(*_: Any) -> None:
        came.set()
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


def meta_of(experiment: Experiment[Any], planner: Planner) -> dict[str, Any]:
    """Return what the ledger records about the whole sweep."""
    settings = planner.settings
    return {
        "experiment": module_of(experiment),
        "config": to_plain(planner.base),
        "settings": to_plain(settings),
        "space": planner.space.to_plain(),
        "traced": planner.found,
        "metric": planner.metric,
        "maximize": planner.maximize,
        "seeds": settings.seeds,
        "epochs": planner.epochs,
        "rungs": settings.rungs(planner.epochs),
        "search": settings.search,
        "seed": settings.search_seed,
        "exact": settings.exact,
        "sources": _sources(experiment, planner.base),
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
        **({"left_out": planner.left_out} if planner.left_out else {}),
    }


def _sources(experiment: Experiment[Any], base: Any) -> dict[str, Any]:
    """Return what determines the results of a trial besides its values: code, data, versions."""
    return {
        "modules": sources.modules(experiment),
        "data": loaded(experiment, base).checksums(),
        "versions": {name: text for name, text in versions().items() if name != "python"},
    }
