"""`sweep.run`, the Python interface of sweeps, which begins or continues one.

    result = sweep.run(EXPERIMENT, trials=256, search="tpe", folder="sweeps/a")
    result.best.config, result.best.state, result.table()

The command line calls the same `run`. An experiment is an `Experiment`, or a function that returns
the program of a configuration:

    sweep.run(program, config=Config, space={"rate": LogUniform(1e-4, 1e-1)}, data=digits)
"""

import contextlib
import dataclasses
import functools
import inspect
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import jax

from ..executors import check_name, create, worker_died
from ..experiment import sources
from ..experiment.configuration import from_plain, to_plain
from ..experiment.experiment import Experiment, Loaded, loaded
from ..experiment.training_run import versions
from ..explain.text import suggestion
from ..files.reading import quoted
from ..fingerprint import fingerprint_differences
from ..train import Program
from ..validation import function
from .display import watched
from .driver import Driver, SweepProgress
from .ledger import Ledger
from .plan import Planner
from .results import Result
from .settings import Settings
from .snapshot import read
from .storage import FILE, command_to_resume
from .structure import space_of
from .tables import OPEN, to_text

SETTINGS = tuple(field.name for field in dataclasses.fields(Settings))


def run(
    experiment: Experiment[Any] | Callable[..., Program],
    *,
    config: Any = None,
    space: Any = None,
    data: Any = None,
    folder: Path | str | None = None,
    executor: str | Executor = "local",
    workers: int | None = None,
    force: bool = False,
    progress: bool = True,
    **settings: Any,
) -> Result:
    """Sweep the space of an experiment, and return the result.

    The final states of the best trials are kept: `result.best.state` needs no training.

    If the folder contains this sweep, unfinished or finished, it is continued, and the result is
    bitwise equal to that of a sweep that was never interrupted. Arguments that are left out are
    then those of the sweep; those that are given must be equal to them.

    Args:
        experiment: An `Experiment`; or a function that maps a configuration, or a configuration and
            the data, to a `train.Program`. Such a function is pure, and called inside a trace.
        config: The configuration that trials change, or its class, for the configuration with all
            defaults. Default: None, the class of the experiment; a function needs one.
        space: What is swept: dimensions by dotted path, or a `Space`. Default: None, the space of
            the experiment.
        data: The data, or a function that maps a configuration to them, as `Experiment.data`
            returns them. Default: None, those of the experiment; a function then has no data.
        folder: The folder of the sweep, which is new or contains this sweep. Default: None,
            `sweeps/NAME-DATE-TIME` in the current folder.
        executor: Where lanes train: a name, as for `executors.create`, or any
            `concurrent.futures.Executor`. Default: "local", this process.
        workers: The number of cohorts that run at the same time; "local" with several starts worker
            processes that divide the cores. Default: None, the number of workers of the executor; 1
            if it does not state one.
        force: Whether to continue even if the code or the data changed since the sweep began; the
            sweep records it. Default: False.
        progress: Whether to show the progress: live on a terminal and in a notebook, otherwise in
            lines. Default: True.
        **settings: The settings of a new sweep:

            - `trials`: Configurations to try. Default: 64.
            - `search`: "random", "grid", "sobol", "tpe", "cmaes", or "gp". Default: "random".
            - `seeds`: Seeds per configuration, whose score is their mean. Default: 1.
            - `metric`: The metric to compare trials by, in the direction that it declares. Default:
              that of the experiment, the validation accuracy, or the validation loss.
            - `maximize`: The same, if larger is better.
            - `minimize`: The same, if smaller is better.
            - `score`: The score of a trial: "last", the value after the last epoch; "best", the
              best value; or "mean:5", the mean over the last 5 epochs. Default: "last".
            - `keep`: Number of best trials whose final states are kept. Default: 1.
            - `patience`: Stop a trial after this number of epochs without a better metric: the one
              given here, otherwise the one that a single run monitors. Default: None, never.
            - `halving`: "none", "successive", "hyperband", or "population". Default: "none".
            - `eta`: One trial in this many continues from a rung to the next. Default: 4.
            - `least`: Epochs to the first rung, or between two changes of a population. Default: 1.
            - `batch`: Trials to ask for at a time. Default: 0, 32 if the search learns, otherwise
              all.
            - `points`: Points per range in a grid. Default: 5.
            - `lanes`: Lanes per call on each device. Default: "auto", measured.
            - `by`: "loop", "map", or "vmap": how lanes run. Default: "auto", measured.
            - `exact`: Whether each lane is bitwise equal to a solo run. Default: False.
            - `max_groups`: The most programs to compile. Default: 16.
            - `search_seed`: Seed of the search. Default: 0.

    Raises:
        TypeError: A setting is unknown, or there is no configuration.
        ValueError: There is no space, a setting is invalid, the program does not report the metric,
            or the folder contains a sweep that differs.
        OSError: The folder cannot be written, contains something else, or is in use; or workers
            died repeatedly.
        KeyboardInterrupt: The sweep was interrupted; the same call continues it.

    >>> import tempfile, jax.numpy as jnp
    >>> from jaxnn import sweep, train
    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...     rate: float = 0.1
    ...     steps: int = 2
    >>> class Descent(train.Program):
    ...     rate: float
    ...     def init(self, key, batch):
    ...         return jnp.float32(1)
    ...     def step(self, x, batch):
    ...         return x - self.rate * 2 * x, {"loss": x**2}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = sweep.run(
    ...         lambda config: Descent(config.rate), config=Config, minimize="loss",
    ...         space={"rate": sweep.Grid(0.25, 0.5, 0.75)}, search="grid", trials=3, exact=True,
    ...         folder=f"{folder}/descent", progress=False)
    >>> result.best.config, float(result.best.state)
    (Config(rate=0.5, steps=2), 0.0)
    """
    made, base = _as_experiment(experiment, config, space, data)
    if unknown := [name for name in settings if name not in SETTINGS]:
        known = {*SETTINGS, *inspect.signature(run).parameters} - {"settings"}
        raise TypeError(
            f"sweep.run has no argument {unknown[0]!r}; {suggestion(unknown[0], known)}"
        )
    if isinstance(executor, str):
        check_name(executor, workers)
    folder = Path(folder or Path("sweeps", f"{made.name}-{time.strftime('%Y%m%d-%H%M%S')}"))
    if (folder / FILE).exists():
        return resume(made, folder, base, settings, executor, workers, force, progress)
    planner = Planner(made, made.config() if base is None else base, Settings(**settings))
    if planner.left_out and progress:
        print(f"note: {planner.left_out}", file=sys.stderr)
    with Ledger.create(folder, meta_of(made, planner)) as ledger:
        _drive(made, ledger, executor, workers, progress)
        return Result(read(ledger), made)


def resume(
    experiment: Experiment[Any],
    folder: Path,
    config: Any,
    settings: Mapping[str, Any],
    executor: str | Executor,
    workers: int | None,
    force: bool = False,
    progress: bool = True,
) -> Result:
    """Continue the sweep in a folder, and return the result.

    Args:
        experiment: The experiment.
        folder: The folder.
        config: The configuration that trials change; None, that of the sweep.
        settings: The settings that must be those of the sweep.
        executor: As for `run`, as are the others.
        workers: As for `run`.
        force: As for `run`.
        progress: As for `run`.
    """
    with Ledger.open(folder, write=True) as ledger:
        _check_resumable(experiment, ledger, config, settings, force)
        _drive(experiment, ledger, executor, workers, progress)
        return Result(read(ledger), experiment)


# The experiment of a function


class _WithoutData:
    """A function of a configuration as `Experiment.program`, a function of (config, data)."""

    def __init__(self, program: Callable[[Any], Program]) -> None:
        functools.update_wrapper(self, program)
        self._program = program

    def __call__(self, config: Any, data: Any) -> Program:
        return self._program(config)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _WithoutData) and self._program == other._program

    def __hash__(self) -> int:
        return hash(self._program)


class _GivenData:
    """Data as `Experiment.data`, a function of the configuration; equal if the data are."""

    def __init__(self, data: Any) -> None:
        self._data, self._identity = data, Loaded(data).identity

    def __call__(self, config: Any) -> Any:
        return self._data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _GivenData) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(repr(self._identity[0]))


def _as_experiment(given: Any, config: Any, space: Any, data: Any) -> tuple[Experiment[Any], Any]:
    """Return the experiment with this space and data, and the configuration if one is given."""
    base = None if config is None or isinstance(config, type) else config
    if not isinstance(given, Experiment):
        function(given, "the experiment", "write an Experiment, or a function of a configuration")
        name = getattr(given, "__name__", type(given).__name__).strip("<>")
        if config is None:
            raise TypeError(
                f"a sweep of a function needs a configuration: write sweep.run({name}, "
                "config=Config, space=...)"
            )
        program = given if _takes_data(given) else _WithoutData(given)
        kind = config if isinstance(config, type) else type(config)
        given = Experiment(name, kind, program=program)
    elif config is not None and (config if base is None else type(base)) is not given.config:
        raise TypeError(
            f"config must be {given.config.__name__}, the configuration of {given.name}, or an "
            f"instance of it, got {config!r:.80}"
        )
    changes: dict[str, Any] = {} if space is None else {"space": space}
    if data is not None:
        changes["data"] = data if callable(data) else _GivenData(data)
    return dataclasses.replace(given, **changes) if changes else given, base


def _takes_data(program: Callable[..., Any]) -> bool:
    """Return whether a function can be called with a configuration and data."""
    try:
        inspect.signature(program).bind(None, None)
    except TypeError:
        return False
    return True


# Beginning and resuming


def meta_of(experiment: Experiment[Any], planner: Planner) -> dict[str, Any]:
    """Return what the ledger records about the whole sweep.

    Args:
        experiment: The experiment.
        planner: What is known of the sweep.
    """
    settings = planner.settings
    return {
        "experiment": sources.module_of(experiment),
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


def _check_resumable(
    experiment: Experiment[Any],
    ledger: Ledger,
    base: Any,
    settings: Mapping[str, Any],
    force: bool,
) -> None:
    """Raise ValueError unless the ledger is of this sweep, and record what `force` accepts.

    Args:
        experiment: The experiment.
        ledger: The ledger, open for writing.
        base: The configuration that trials change; None, that of the ledger.
        settings: The settings that were given; the others are those of the ledger.
        force: Whether changed code and data are accepted.
    """
    meta, folder = ledger.meta, ledger.folder
    read(ledger)  # which checks all that it contains
    if meta["experiment"] != sources.module_of(experiment):
        raise ValueError(
            f"{folder} is a sweep of {meta['experiment']}: write "
            f"{command_to_resume(folder, meta['experiment'])}"
        )
    asked: dict[str, Any] = {"space": _by_name(space_of(experiment).to_plain())}
    recorded = {"space": _by_name(meta["space"])}
    if base is not None:
        asked["config"], recorded["config"] = json.loads(to_text(to_plain(base))), meta["config"]
    now = to_plain(Settings(**settings))
    asked["settings"] = {name: now[name] for name in settings}
    recorded["settings"] = {name: meta["settings"].get(name) for name in settings}
    differ = fingerprint_differences(recorded, asked)
    old = from_plain(experiment.config, dict(meta["config"]), f"{folder}: config")
    current = _sources(experiment, old)
    changed = sources.changes_since(meta.get("sources"), current, f"the ledger in {folder}")
    if differ:
        raise ValueError(
            f"{folder} contains another sweep: {'; '.join(differ)}. Write another folder, or leave "
            "out these arguments to continue that sweep"
        )
    if changed and not force:
        raise ValueError(
            f"the experiment changed since this sweep began, so that its trials would not "
            f"compare: {'; '.join(changed)}. Begin another sweep, or write resume "
            f"{quoted(folder)} --force, in Python force=True"
        )
    if changed:
        after = sum(trial.status not in OPEN for trial in ledger.trials())
        forced = [*meta.get("forced", []), {"after trials": after, "changes": changed}]
        ledger.set_meta({"sources": current, "forced": forced})


def _by_name(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the rows of a space by the names of its dimensions, as JSON has them."""
    return {row["name"]: row for row in json.loads(to_text(rows))}


# Driving


def _drive(
    experiment: Experiment[Any],
    ledger: Ledger,
    executor: str | Executor,
    workers: int | None,
    progress: bool,
) -> None:
    """Run a sweep to its end, or to the signal that stops it."""
    pool: Any = executor
    with contextlib.ExitStack() as stack:
        if isinstance(executor, str):
            pool = stack.enter_context(create(executor, workers, ledger.folder / "jobs"))
        came = stack.enter_context(_signals())
        watch = stack.enter_context(watched(ledger)) if progress else lambda progress: None

        def show(progress: SweepProgress) -> None:
            if came.is_set():
                raise KeyboardInterrupt
            watch(progress)

        def stop() -> None:
            if isinstance(executor, str):  # one that was given belongs to the caller
                pool.shutdown(wait=False, cancel_futures=True)

        whole = "what was committed is whole"
        count = workers or getattr(pool, "workers", 1)
        try:
            Driver(experiment, ledger, pool, count, show).run()
        except KeyboardInterrupt:
            stop()
            raise KeyboardInterrupt(
                f"{whole}: continue by sweep.run(..., folder={str(ledger.folder)!r})"
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
