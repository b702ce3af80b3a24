"""Log: the records of a run in files and other tools."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax

from ...validation import Accepts
from ..logging import Config, JsonLines, Logger, Numbers
from ..record import Event
from .hook import Callback, Hook, warn

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
