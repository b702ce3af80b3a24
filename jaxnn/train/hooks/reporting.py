"""Hooks that report records: Log, in files and other tools, and Progress, on a display."""

import contextlib
import dataclasses
import html
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import jax

from ...files.reading import printable
from ...validation import Accepts
from ..logging import Config, JsonLines, Logger, Numbers
from ..record import Event, Moment
from . import Callback, Hook, warn
from .measurement import TIMINGS

A_LOGGER = Accepts(
    "paths and loggers",
    lambda one: not isinstance(one, type) and callable(getattr(one, "open", None)),
    TypeError,
    'write train.Log("metrics.jsonl", train.TensorBoard("runs/a"))',
)


@dataclasses.dataclass(frozen=True, init=False)
class Log(Hook):
    """Write each record to loggers: `train.Log("metrics.jsonl", train.TensorBoard("runs/a"))`.

    Hooks that add metrics must come before this hook. In a run of several processes, only the first
    process writes. If the run is resumed, records of later steps are removed, and lost records are
    written again from the history. If a logger fails, a warning reports it, and the run continues;
    the missing records are sent again with the next record.

    Args:
        *loggers: Loggers, such as `train.TensorBoard`, or the path of a `train.JsonLines` file.
        config: Plain data that describes the run, for loggers that display it. Default: None.

    Raises:
        TypeError: An argument is not a logger.
        FileExistsError: A file contains lines of another run, and the run has no checkpoints.
        OSError: Before the first step: a file cannot be written.

    >>> Log("metrics.jsonl")
    Log(loggers=(JsonLines(file='metrics.jsonl'),), config=None)
    """

    loggers: tuple[Logger, ...]
    config: Config = None

    def __init__(self, *loggers: str | os.PathLike[str] | Logger, config: Config = None) -> None:
        made = (JsonLines(one) if isinstance(one, str | os.PathLike) else one for one in loggers)
        object.__setattr__(self, "loggers", tuple(A_LOGGER(one, "Log.loggers") for one in made))
        object.__setattr__(self, "config", config)

    @contextlib.contextmanager
    def open(self, run: Any) -> Iterator[Hook]:
        """Open the loggers, with the history of a run that is resumed."""
        if jax.process_index() > 0:
            yield self
            return
        step = run.step if any(hook.last for hook in run.hooks) else None
        given = step, self.config, [dict(record) for record in run.history]
        with contextlib.ExitStack() as opened:
            offers = [opened.enter_context(_offering(one, *given)) for one in self.loggers]

            def write(event: Event) -> None:
                for offer in offers:
                    offer(dict(event.metrics))

            yield Callback(write)


@contextlib.contextmanager
def _offering(logger: Logger, *given: Any) -> Iterator[Callable[[Numbers], None]]:
    """Return a function that passes a record to a logger, and keeps it until it is taken."""
    waiting: list[Numbers] = []
    errors: list[str] = []
    context = logger.open(*given)
    log = context.__enter__()

    @contextlib.contextmanager
    def attempt(then: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            errors.append(f"{type(error).__name__}: {' '.join(str(error).split()):.300}")
            if errors[-1] not in errors[:-1]:
                warn(f"the logger {logger!r} failed ({errors[-1]}); {then}")

    def offer(*records: Numbers) -> None:
        waiting.extend(records)
        with attempt("the run continues, and each record tries again"):
            while waiting:
                log(waiting[0])
                waiting.pop(0)

    try:
        yield offer
    finally:
        offer()
        with attempt("its last records may be missing"):
            context.__exit__(None, None, None)
        if waiting:
            warn(
                f"the logger {logger!r} lacks {len(waiting)} records, which are in the history of "
                "the run; if the run has train.Checkpoints, the same call writes them"
            )


WIDEST = 40  # characters of a name
HIDDEN = ("step", *TIMINGS)
SECONDS = 1.0  # between two updates of a bar, which takes up to 20 ms

Show = Callable[[int, list[str]], None]
"""Shows the number of steps that are done, and the lines of new records."""


@dataclasses.dataclass(frozen=True)
class Progress(Hook):
    """Show a line per record and a progress bar. `train.fit` adds this hook by default.

    On a terminal, a bar is shown below the lines, drawn by rich if it is installed. In a notebook,
    the output of the cell is a bar and the lines. Elsewhere, only the lines are printed, without
    escape codes. Metrics are read only at records. In a run of several processes, only the first
    process prints. If the output fails, for example because the terminal was closed, the run
    continues.

    >>> record_line({"epoch": 1, "step": 27, "loss": 0.52, "accuracy": 0.81}, total=54, left=1.3)
    'step 27/54  epoch 1  loss 0.52  accuracy 0.81  0:00:01 left'
    """

    @contextlib.contextmanager
    def open(self, run: Any) -> Iterator[Hook]:
        """Begin the display."""
        if jax.process_index() > 0:
            yield self
            return
        display = _display()
        with display(run.total, run.step) as show:
            # Drawing takes milliseconds, so a bar shows the lines of many quick records at once.
            showing = _Showing(run, show, 0.0 if display is _as_lines else SECONDS)
            try:
                yield showing
            finally:
                showing.flush()


class _Showing(Hook):
    """The opened `Progress` of a run."""

    def __init__(self, run: Any, show: Show, pause: float) -> None:
        self._begin, self._show, self._total = run.step, show, run.total
        self._began = time.perf_counter()
        self._lines: list[str] = []
        self._step, self._pause, self._next = run.step, pause, 0.0

    def is_due(self, now: Moment, since: Moment) -> bool:
        """Return whether it is time to move the bar."""
        return now.seconds - since.seconds >= SECONDS

    def see(self, memory: Any, event: Event) -> tuple[Any, None]:
        """Move the bar, and show the line of a record."""
        self._step = event.step
        if event.is_record:
            record = event.metrics.plain()  # it waits for the steps, so the time left is right
            rest = None
            if self._total is not None and not event.stop:
                took = time.perf_counter() - self._began
                rest = took / max(event.step - self._begin, 1) * (self._total - event.step)
            self._lines.append(record_line(record, self._total, rest))
        if time.perf_counter() >= self._next:
            self.flush()
        return memory, None

    def flush(self) -> None:
        """Show what has not been shown."""
        lines, self._lines = self._lines, []
        # A closed terminal, or one that cannot encode a character, must not stop the run.
        with contextlib.suppress(OSError, ValueError):
            self._show(self._step, lines)
        self._next = time.perf_counter() + self._pause


def record_line(record: Mapping[str, Any], total: int | None, left: float | None = None) -> str:
    """Return a record as a line: its step, epoch, and metrics, and the time that is left.

    Args:
        record: The numbers by name.
        total: The number of steps of the run; None if it is not known.
        left: The seconds that are left. Default: None, not shown.
    """
    parts = [f"step {record['step']:,}" + ("" if total is None else f"/{total:,}")]
    for name, item in record.items():
        if name not in HIDDEN:
            title = printable(name.replace("_", " "), WIDEST)
            parts.append(f"{title} {item if isinstance(item, int) else f'{item:.4g}'}")
    if left is not None:
        parts.append(f"{timedelta(seconds=int(left))} left")
    return "  ".join(parts)


def in_notebook() -> bool:
    """Return whether the process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _display() -> Callable[[int | None, int], contextlib.AbstractContextManager[Show]]:
    """Return the display that fits standard output."""
    if in_notebook():
        return _in_notebook
    is_terminal = getattr(sys.stdout, "isatty", lambda: False)()
    if is_terminal and importlib.util.find_spec("rich") is not None:
        return _on_terminal
    return _as_lines


@contextlib.contextmanager
def _as_lines(total: int | None, step: int) -> Iterator[Show]:
    yield lambda step, lines: print("".join(f"{text}\n" for text in lines), end="", flush=True)


@contextlib.contextmanager
def _on_terminal(total: int | None, step: int) -> Iterator[Show]:
    from rich import progress

    columns = (
        progress.TextColumn("training"),
        progress.BarColumn(bar_width=40),
        progress.MofNCompleteColumn(),
        progress.TextColumn("steps, left"),
        progress.TimeRemainingColumn(),
    )
    # A thread that redraws would take time from the run, so the bar is drawn at events only.
    bar = progress.Progress(*columns, transient=True, auto_refresh=False)
    task = bar.add_task("training", total=total, completed=step)

    def show(step: int, lines: list[str]) -> None:
        bar.update(task, completed=step)
        if lines:
            text = "\n".join(lines)
            bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        bar.refresh()

    with bar:
        yield show


@contextlib.contextmanager
def _in_notebook(total: int | None, step: int) -> Iterator[Show]:
    from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

    kept: list[str] = []

    def page(step: int) -> Any:
        place = f'max="{max(step, total or 1)}"></progress> {step:,}/{total or "?"}'
        bar = f'<progress value="{step}" {place} steps'
        return HTML(f"<div>{bar}</div><pre>{html.escape(chr(10).join(kept))}</pre>")

    shown: Any = display(page(step), display_id=True)

    def show(step: int, lines: list[str]) -> None:
        kept[:] = [*kept, *lines][-1000:]
        shown.update(page(step))

    yield show
