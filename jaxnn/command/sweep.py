"""The commands of an experiment that sweep it: `plan`, `sweep`, `resume`, and `run --from`."""

import contextlib
import dataclasses
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import jax

from ..executors import check_name, create, result_of, worker_died
from ..experiment import sources
from ..experiment.configuration import from_plain, to_plain
from ..experiment.experiment import Experiment, loaded
from ..experiment.run import versions
from ..files.plain import quoted
from ..fingerprint import differences
from ..sweep.driver import Driver, Progress
from ..sweep.ledger import Ledger
from ..sweep.plan import Planner, make_plan
from ..sweep.reading import read
from ..sweep.report import check_library, prepared
from ..sweep.settings import Settings
from ..sweep.storage import resume_command as resume_text
from ..sweep.structure import space_of
from ..sweep.tables import OPEN
from .parsing import library, module_of, parse, place, refuse
from .watching import finish, watched


@dataclasses.dataclass(frozen=True)
class Resources:
    """Where a sweep runs."""

    executor: str = "local"
    """local, dask, dask:ADDRESS, ray, ray:ADDRESS, slurm or submitit:local."""
    workers: int = 0
    """Cohorts that run at a time, on as many workers; 0 for as many as it has."""
    devices: int = 0
    """On a CPU, devices to make of it, which share lanes where that is faster; 0 for one."""


def plan_command(experiment: Experiment[Any], arguments: list[str]) -> int:
    """Print what a sweep would be."""
    planner, _, resources = _planned(experiment, arguments, "plan", "Say what a sweep would be.")
    asked = planner.search.ask(planner.settings.rounds(planner.epochs)[0].count, 0, [])
    with create(resources.executor, resources.workers or None) as executor:
        print(make_plan(planner, asked, functools.partial(result_of, executor)))
    return 0


def sweep_command(experiment: Experiment[Any], arguments: list[str]) -> int:
    """Sweep the experiment's space, and write the report."""
    title = "Train many configurations of the experiment's space."
    planner, folder, resources = _planned(experiment, arguments, "sweep", title)
    if folder is None:
        folder = Path("sweeps", f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    check_library()
    _note(planner.left_out)
    with Ledger.create(folder, meta_of(experiment, planner)) as ledger:
        return _drive(experiment, ledger, resources)


def resume_command(experiment: Experiment[Any], arguments: list[str]) -> int:
    """Go on with a sweep that was stopped."""
    tyro = library()

    def parsed(
        folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")],
        resources: Annotated[Resources, tyro.conf.arg(name="")] = Resources(),
        force: bool = False,
    ) -> tuple[Path, Resources, bool]:
        """Resume.

        Args:
            folder: The folder of a sweep.
            resources: Where it runs.
            force: Go on even if the experiment's code or data changed since; the sweep records it.
        """
        return folder, resources, force

    folder, resources, force = tyro.cli(
        parsed,
        args=arguments,
        prog=f"python -m {module_of(experiment)} resume",
        description="Go on with a sweep, or with a run in runs/, that stopped, as if it had not.",
    )
    check_name(resources.executor, resources.workers or None)
    _make_devices(resources.devices)
    check_library()
    with Ledger.open(folder, write=True) as ledger:
        meta = ledger.meta
        read(ledger)  # which checks all that it holds
        if meta["experiment"] != module_of(experiment):
            raise ValueError(
                f"{folder} is a sweep of {meta['experiment']}: write "
                f"{resume_text(folder, meta['experiment'])}"
            )
        base = from_plain(experiment.config, dict(meta["config"]), f"{folder}: config")
        now = _sources(experiment, base)
        began = sources.recorded(meta.get("sources"), f"the ledger in {folder}")
        changed = sources.changed(began["modules"])
        changed += differences(_others(began), _others(now))
        if changed and not force:
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
    """The configuration of a trial: `FOLDER:best`, or `FOLDER:17`.

    Raises ValueError or OSError for a folder or trial that there is not.
    """
    folder, colon, name = text.rpartition(":")
    if not colon or not (name == "best" or name.isdecimal()):
        raise ValueError(f"--from is {text!r}, wanted FOLDER:best, or FOLDER:17 for trial 17")
    with Ledger.open(Path(folder)) as ledger:
        found = read(ledger)
    if found.experiment != module_of(experiment):
        raise ValueError(
            f"{folder} is a sweep of {found.experiment}, not of {module_of(experiment)}"
        )
    trial = found.best if name == "best" else None
    if name != "best":
        trial = next((one for one in found.trials if one.number == int(name)), None)
    if trial is None:
        raise ValueError(
            f"{folder} has no trial that ran to its end yet"
            if name == "best"
            else f"{folder} has the trials 0 .. {len(found.trials) - 1}, and no {name}"
        )
    base = from_plain(experiment.config, dict(found.config), f"{folder}: config")
    return space_of(experiment).configured(base, trial.values)


def _planned(
    experiment: Experiment[Any], arguments: list[str], command: str, title: str
) -> tuple[Planner, Path | None, Resources]:
    """What the arguments of `plan` and `sweep` ask for."""
    space = space_of(experiment)
    config, settings, where, resources = parse(
        experiment,
        arguments,
        [Settings, place(f"sweeps/{experiment.name}-DATE-TIME"), Resources],
        prog=f"python -m {module_of(experiment)} {command}",
        text=[
            f"{title}\n\nIt sweeps:\n"
            + "\n".join(f"    {line}" for line in str(space).splitlines())
            + "\n\nAll else is as the options say: those of a run, and those of the sweep.\n"
        ],
        swept=space.fields,
    )
    check_name(resources.executor, resources.workers or None)
    _make_devices(resources.devices)
    return Planner(experiment, config, settings), where.folder, resources


def _drive(experiment: Experiment[Any], ledger: Ledger, resources: Resources) -> int:
    """Run a sweep to its end, or to the signal that stops it."""
    with prepared():
        status = _driven(experiment, ledger, resources)
        if status == 0:
            finish(ledger)
        return status


def _driven(experiment: Experiment[Any], ledger: Ledger, resources: Resources) -> int:
    """Run a sweep's trials; the exit status."""
    resume = resume_text(ledger.folder, module_of(experiment))
    jobs = ledger.folder / "jobs"
    workers = resources.workers or None
    with create(resources.executor, workers, jobs) as executor, _signals() as came:
        workers = resources.workers or executor.workers
        try:
            with watched(ledger) as watch:

                def told(progress: Progress) -> None:
                    if came.is_set():
                        raise KeyboardInterrupt
                    watch(progress)

                Driver(experiment, ledger, executor, workers, told).run()
        except KeyboardInterrupt:
            executor.shutdown(wait=False, cancel_futures=True)
            return refuse(f"interrupted: what was committed is whole; continue with {resume}", 130)
        except Exception as error:
            if not worker_died(error):
                raise
            executor.shutdown(wait=False, cancel_futures=True)
            died = f"workers of {resources.executor} died again and again ({error})"
            return refuse(f"{died}: what was committed is whole; continue with {resume}", 1)
    return 0


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """SIGTERM ends a sweep as Ctrl-C does; the event is set where one of them came.

    For what it raises may be lost: Python ignores what is raised within a callback of JAX's.
    """
    came = threading.Event()

    def stop(*_: Any) -> None:
        came.set()
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {number: signal.signal(number, stop) for number in numbers}
    except ValueError:  # only a main thread may
        yield came
        return
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def meta_of(experiment: Experiment[Any], planner: Planner) -> dict[str, Any]:
    """What the ledger keeps about the whole sweep."""
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
    """What a trial's numbers follow from besides its values: code, data, and versions."""
    return {
        "modules": sources.modules(experiment),
        "data": loaded(experiment, base).checksums(),
        "versions": {name: text for name, text in versions().items() if name != "python"},
    }


def _others(recorded: Mapping[str, Any]) -> dict[str, Any]:
    return {name: item for name, item in recorded.items() if name != "modules"}


def _note(text: str) -> None:
    """Print a note on standard error, unless there is none."""
    if text:
        print(f"note: {text}", file=sys.stderr)


def _make_devices(count: int) -> None:
    """Make several devices of a CPU, before it is first used."""
    if count < 0 or count > 64 * (os.cpu_count() or 1):
        raise ValueError(f"--devices is a number of devices to make of the CPU, got {count}")
    if count:
        jax.config.update("jax_num_cpu_devices", count)
