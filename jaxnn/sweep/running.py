"""`sweep.run`, the Python interface of sweeps, which begins or continues one.

    result = sweep.run(EXPERIMENT, trials=256, search="tpe", folder="sweeps/a")
    result.best.config, result.best.state, result.table()

The command line calls the same `run`. The same call continues a sweep, and different settings
extend or change it:

    sweep.run(EXPERIMENT, folder="sweeps/a", trials=400, search="cmaes")

The first argument is an `Experiment`, or a function that returns the program of a configuration:

    sweep.run(program, config=Config, space={"rate": LogUniform(1e-4, 1e-1)}, data=digits)
"""

import contextlib
import dataclasses
import html
import importlib.util
import inspect
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from ..data.rows import row_count
from ..executors import check_name, create, worker_died
from ..experiment import sources
from ..experiment.experiment import Experiment
from ..experiment.prediction import scores_of
from ..explain import entry
from ..explain.text import check_known
from ..files.reading import encodable, printable
from ..html import duration, format_number
from ..train import Interrupted, Program
from ..train.hooks.reporting import in_notebook
from ..train.hooks.stopping import Asked
from .driver import Driver
from .ledger import Ledger
from .meta import meta_of, planned, resumed
from .plan import Planner
from .reporter import SweepProgress, Watch
from .results import Result, facts_text, values_text, width
from .settings import OBJECT, Settings
from .snapshot import read
from .storage import FILE, command_to_resume
from .structure import as_experiment

SETTINGS = tuple(field.name for field in dataclasses.fields(Settings))


@entry
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
    tries: Sequence[Mapping[str, Any] | str] | Mapping[str, Any] | str = (),
    warm_start: Sequence[Path | str] | Path | str = (),
    **settings: Any,
) -> Result:
    """Sweep the space of an experiment, and return the result.

    The final state of the best trial is kept as `result.best.state`. If the data have test rows,
    the best trial is evaluated on them once, at the end, and `result.test` has its scores.

    If the folder contains this sweep, unfinished or finished, it is continued, and the result is
    bitwise equal to that of an uninterrupted sweep. Omitted arguments keep their recorded values.
    These may be changed: `trials`, `tries`, `search`, `batch`, `points`, `search_seed`,
    `max_groups`, `defaults`, `repeat`, `budget`, `keep`, and the epochs of `config`, which can only
    grow and for which all trials are trained again.

    A lane is the training of a trial with one seed or fold; a cohort is a set of lanes that train
    together; a rung is an epoch at which halving compares trials.

    Args:
        experiment: An `Experiment`, or a function that maps a configuration, or a configuration and
            the data, to a `train.Program`. The function must be pure, because JAX traces it.
        config: The base configuration, which trials change, or its class to use the defaults.
            Default: None, the defaults of the experiment; required with a function.
        space: The search space: a dict from dotted paths to dimensions, or a `Space`. Default:
            None, the space of the experiment.
        data: The data, as `Experiment.data` may return them, or a function from a configuration to
            them. Default: None, the data of the experiment, or no data with a function.
        folder: The folder of the sweep, which must be new, empty, or contain this sweep. Default:
            None, `sweeps/NAME-DATE-TIME` in the current folder.
        executor: Where cohorts train: a name that `executors.create` accepts, or any
            `concurrent.futures.Executor`. Default: "local", this process.
        workers: The number of cohorts that run at the same time; with several, "local" starts
            worker processes that divide the cores and GPUs. Default: None, the number of workers of
            the executor, or 1 if that is unknown.
        force: Whether to continue even if the code or the data have changed since the sweep began;
            the sweep records this. Default: False.
        progress: Whether to show progress: a live display in a terminal or a notebook, otherwise
            plain lines. Default: True.
        tries: A configuration to try first, or several, each a dict of values by dotted path, such
            as `{"model.width": 64}`; other values are those of `config`. New ones of a continued
            sweep are tried next. Default: ().
        warm_start: Folders of earlier sweeps, whose trials the search learns from. They are matched
            by dotted path; `result.sweep.facts["notes"]` lists the mismatches. Default: ().
        **settings: The settings of a new sweep:

            - `trials`: Number of configurations to try. Default: 64; with `search="none"`, all that
              are given.
            - `search`: "random", "grid", "sobol", "tpe", "cmaes", "gp", or "nsga2"; "none", to try
              only given configurations; an Optuna sampler, or its name; or an object with
              `ask(count)` and `tell(values, score)`, see `sweep.AskTell`. Default: "random".
            - `seeds`: Number of seeds per configuration; its score is their mean. Default: 1.
            - `folds`: Number of folds for cross-validation over the training and validation rows;
              the score of a configuration is the mean over the folds. With whole numbers as
              targets, each fold has its share of every class. Default: 1, no cross-validation.
            - `metric`: The metric to compare trials by, in the direction that it declares. Default:
              that of the experiment, otherwise the validation accuracy, otherwise the validation
              loss.
            - `maximize`: A metric for which larger is better, or a tuple of several. Several
              metrics, including those of `minimize`, give a Pareto front, `result.front`;
              `result.best` is its trial nearest to the best value of each metric, scaled to [0, 1]
              on the front.
            - `minimize`: A metric for which smaller is better, or a tuple of several. Every program
              also has "parameters", "bytes", "flops" (of a training step, per row), and "seconds"
              of training.
            - `constraints`: Bounds on metrics, such as `{"parameters": "<= 1e6"}`; trials that
              satisfy them rank first, the others by their total violation. Default: none.
            - `score`: The score of a trial: "last", the value after the last epoch; "best", the
              best value; or "mean:5", the mean over the last 5 epochs. Default: "last".
            - `keep`: Number of best trials whose final states are kept. With several objectives or
              constraints, the states of all trials are kept unless it is 0. Default: 1.
            - `patience`: Stop a trial after this number of epochs in which its metric did not
              improve: the metric given here, otherwise the one that a single run monitors. Default:
              None, never.
            - `halving`: Early stopping at rungs: "none", "successive", "hyperband", or "population"
              (population-based training). Default: "none".
            - `eta`: One in `eta` trials continues from each rung to the next. Default: 4.
            - `least`: Epochs to the first rung, or between two changes of a population. Default: 1.
            - `batch`: Number of trials that the search proposes at a time. Default: 0, which means
              32 if the search learns from scores, otherwise all. Without halving, "tpe" proposes 16
              at first, and then an eighth of the trials so far, from 8 to 32.
            - `points`: Number of points per range in a grid. Default: 5.
            - `lanes`: Number of lanes per call on each device. Default: "auto", the fastest by
              measurement.
            - `by`: How lanes run: "loop", "map", or "vmap". Default: "auto", the fastest by
              measurement.
            - `exact`: Whether each lane is bitwise equal to a single run. Default: False.
            - `max_groups`: Maximum number of programs to compile. Default: 16.
            - `search_seed`: Seed of the search. Default: 0.
            - `defaults`: Whether the first trial is the configuration itself, if the space contains
              it. Default: True.
            - `repeat`: Whether configurations may be tried again. Default: False; a sweep of a
              finite space then ends when all its configurations have been tried.
            - `budget`: A `sweep.Budget`: limits on time and epochs, a target, and a patience.
              Default: none.

    Raises:
        TypeError: A setting is unknown, or `config` is missing.
        ValueError: There is no space, a setting is invalid, the program does not report the metric,
            or the sweep in the folder differs in something that cannot change.
        OSError: The folder cannot be written, contains other files, or is in use; or workers died
            repeatedly.
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
    ...     result.best.config, float(result.best.state)
    (Config(rate=0.5, steps=2), 0.0)
    """
    made, base = as_experiment(experiment, config, space, data)
    known_names = {*SETTINGS, *inspect.signature(run).parameters} - {"settings"}
    for name in settings:
        unknown = f"sweep.run has no argument {name!r}"
        check_known(name, known_names, unknown, error=TypeError)
    if isinstance(executor, str):
        check_name(executor, workers)
    named = settings.get("search")
    search = None if named is None or isinstance(named, str) else named
    if search is not None:
        settings["search"] = f"{OBJECT}{type(search).__name__}"
    folders = [warm_start] if isinstance(warm_start, Path | str) else list(warm_start)
    folder = Path(folder or Path("sweeps", f"{made.name}-{time.strftime('%Y%m%d-%H%M%S')}"))
    if (folder / FILE).exists():
        with Ledger.open(folder, write=True) as ledger:
            resumed(made, ledger, base, settings, force, tries, folders)
            return _drive(made, ledger, executor, workers, progress, search)
    begin = made.config() if base is None else base
    planner, known = planned(made, begin, settings, search, tries, folders)
    for note in known["notes"] if progress else ():
        print(f"note: {note}", file=sys.stderr)
    with Ledger.create(folder, meta_of(made, planner) | known) as ledger:
        return _drive(made, ledger, executor, workers, progress, search, planner)


def _drive(
    experiment: Experiment[Any],
    ledger: Ledger,
    executor: str | Executor,
    workers: int | None,
    progress: bool,
    search: Any,
    planner: Planner | None = None,
) -> Result:
    """Run a sweep to its end, or to the signal that stops it; the arguments are those of `run`."""
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

        whole = "committed results are intact"
        count = workers or getattr(pool, "workers", 1)
        try:
            Driver(experiment, ledger, pool, count, show, search, planner).run()
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
    return with_test_scores(Result(read(ledger), experiment), ledger)


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


def with_test_scores(result: Result, ledger: Ledger) -> Result:
    """Record the test scores of the best trial, and return the result with them.

    They are computed only if the data have test rows, the trial was kept, and no scores are
    recorded yet.

    Args:
        result: The result of a sweep at its end.
        ledger: Its ledger, open for writing.
    """
    sweep = result.sweep
    if sweep.best is None or sweep.best.number not in ledger.kept():
        return result
    best = result.best
    runs = [best.configured(seed) for seed in range(sweep.seeds)]
    dataset = runs[0].data.dataset
    if dataset is None or sweep.facts.get("test", {}).get("trial") == best.number:
        return result
    rows = (*dataset.test,)
    each = [scores_of(one, best.load(seed).state, rows) for seed, one in enumerate(runs)]
    scores = {name: [float(one[name]) for one in each] for name in each[0]}
    test = {"trial": best.number, "rows": row_count(rows), "scores": scores}
    ledger.set_meta({"test": test})
    facts = {**sweep.facts, "test": test}
    return Result(dataclasses.replace(sweep, facts=facts), result.experiment)


# The display of the progress, in the width of the terminal


@contextlib.contextmanager
def watched(ledger: Ledger) -> Iterator[Watch]:
    """Yield a function that shows the progress of a sweep."""
    seeds = ledger.meta["seeds"]
    if in_notebook():
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

        shown: Any = display(HTML("<pre>starting</pre>"), display_id=True)

        def update(progress: SweepProgress) -> None:
            rows = lines(progress, seeds, 100)
            shown.update(HTML(f"<pre>{html.escape(chr(10).join(rows))}</pre>"))

        yield update
        return
    if not sys.stdout.isatty() or importlib.util.find_spec("rich") is None:

        def plain(progress: SweepProgress) -> None:
            print(encodable("; ".join(lines(progress, seeds, 999)[:2])), flush=True)

        yield plain
        return
    from rich.live import Live
    from rich.text import Text

    now: list[SweepProgress] = []
    began = time.perf_counter()

    def drawn() -> Text:
        """Return the display at this moment; it is also drawn while a program compiles."""
        waited = time.perf_counter() - began
        if not now:
            return Text(f"starting, {duration(waited)}")
        rows = lines(now[0], seeds, width(), waited)
        return Text(encodable("\n".join(rows)), no_wrap=True, overflow="ellipsis")

    def show(progress: SweepProgress) -> None:
        nonlocal began
        if not now or progress.doing != now[0].doing:
            began = time.perf_counter()
        now[:] = [progress]
        live.refresh()

    with Live(get_renderable=drawn, refresh_per_second=4) as live:
        yield show


def lines(progress: SweepProgress, seeds: int, columns: int, waited: float = 0.0) -> list[str]:
    """Return the progress of a sweep: two lines, and a line for each of the best three trials.

    Args:
        progress: of the sweep.
        seeds: per trial.
        columns: the width of a line.
        waited: seconds since what runs now began. Default: 0.

    >>> from jaxnn.sweep.reporter import TopTrial
    >>> statuses = {"done": 5, "failed": 1, "running": 2}
    >>> doing = "compiling group 2 of 12"
    >>> top = [TopTrial(3, {"loss": 0.5, "parameters": 9.0}, {"rate": 0.1}, ["parameters <= 8"])]
    >>> seen = SweepProgress(64, statuses, 4, 9, 20, 80, 10, 30.0, top, doing)
    >>> print("\\n".join(lines(seen, 1, 80)))
    6 of 64 trials: 5 done, 1 failed · 25 % · 30.0 s left · 0.9 trials per second
    epoch 4 · compiling group 2 of 12
    trial 3: loss 0.5, parameters 9, violates parameters <= 8, rate 0.1
    """
    many = progress.statuses.get
    share = progress.epochs / progress.whole if progress.whole else 1.0
    ended = ("done", "stopped", "diverged", "failed")
    counts = [f"{many(status, 0):,} {status}" for status in ended if many(status, 0)]
    over = sum(many(status, 0) for status in ended)
    facts = [
        f"{over:,} of {progress.trials:,} trials" + (f": {', '.join(counts)}" if counts else "")
    ]
    facts.append(f"{100 * min(share, 1.0):.0f} %")
    if progress.left is not None and share < 1:
        facts.append(f"{duration(progress.left)} left")
    if progress.lanes and progress.seconds > 0:
        rate = format_number(progress.lanes / seeds / progress.seconds, 3)
        facts.append(f"{rate} trials per second")
    second = [f"epoch {progress.rung}"] if progress.rung else []
    second += [printable(progress.doing)] if progress.doing else []
    second += [duration(waited)] if waited >= 1 else []
    rows = [" · ".join(facts), " · ".join(second)]
    for top in progress.top:
        rows.append(f"trial {top.number}: {facts_text(top)}, {values_text(top.values)}")
    return [printable(row, columns) for row in rows]
