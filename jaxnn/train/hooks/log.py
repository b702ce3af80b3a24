"""Log: the records of a run in files and other tools."""

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from ..event import Event
from ..logging import JsonLines, Logger, Record
from .hook import Hook


@dataclasses.dataclass(frozen=True, init=False)
class Log(Hook):
    """Write each record to loggers: `train.Log("metrics.jsonl", train.TensorBoard("runs/a"))`.

    Hooks that add metrics come before it. In a run of several processes the first one writes. If
    the run is resumed, records of later steps are removed, and records that were lost are written
    again from the history. If a logger fails, a warning reports it, and the run continues; the
    records that the logger has not taken are offered again at the next one.

    Args:
        *loggers: a path, for a `train.JsonLines` file; or loggers, such as `train.TensorBoard`.
        config: plain data that describes the run, for loggers that show it; None by default.

    Raises:
        TypeError: something that is not a logger.
        FileExistsError: a file has the lines of another run, and the run has no checkpoints.
        OSError: a file cannot be written, before the first step.

    >>> Log("metrics.jsonl")
    Log(loggers=(JsonLines(file='metrics.jsonl'),), config=None)
    """

    loggers: tuple[Logger, ...]
    config: Mapping[str, Any] | None = None

    def __init__(
        self, *loggers: str | os.PathLike[str] | Logger, config: Mapping[str, Any] | None = None
    ) -> None:
        object.__setattr__(self, "loggers", tuple(map(_logger, loggers)))
        object.__setattr__(self, "config", config)

    @contextlib.contextmanager
    def open(self, run: Any) -> Iterator[Hook]:
        """Open the loggers, with the history of a run that is resumed."""
        if jax.process_index() > 0:
            yield self
            return
        step = run.step if any(hook.last for hook in run.hooks) else None
        history = [dict(record) for record in run.history]
        with contextlib.ExitStack() as opened:
            yield _Logging(
                [_Outlet(one, opened, step, self.config, history) for one in self.loggers]
            )


class _Logging(Hook):
    """The opened `Log` of a run."""

    def __init__(self, outlets: list["_Outlet"]) -> None:
        self._outlets = outlets

    def see(self, memory: Any, event: Event) -> tuple[Any, None]:
        """Write the record."""
        if event.is_record:
            for outlet in self._outlets:
                outlet.write(dict(event.metrics))
        return memory, None


class _Outlet:
    """A logger of a run, with the records that it has not taken."""

    def __init__(
        self,
        logger: Logger,
        opened: contextlib.ExitStack,
        step: int | None,
        config: Mapping[str, Any] | None,
        history: Sequence[Record],
    ) -> None:
        self._logger = logger
        self._waiting: list[Record] = []
        self._is_reported = False
        self._context = logger.open(step, config, history)
        self._log: Callable[[Record], None] = self._context.__enter__()
        opened.callback(self._close)

    def write(self, record: Record | None = None) -> None:
        """Write the records that wait, and this one."""
        self._waiting += [] if record is None else [record]
        try:
            while self._waiting:
                self._log(self._waiting[0])
                self._waiting.pop(0)
        except Exception as error:
            if not self._is_reported:
                self._is_reported = True
                self._warn(error, "the run continues, and the next record tries again")

    def _close(self) -> None:
        if self._waiting:
            self.write()
        lost = [int(record["step"]) for record in self._waiting]
        try:
            self._context.__exit__(None, None, None)
        except Exception as error:
            self._warn(error, "its last records may be missing")
        if lost:
            warnings.warn(
                f"the logger {self._logger!r} lacks the records after the steps "
                f"{', '.join(map(str, lost[:5]))}{', ...' * (len(lost) > 5)}, which are in the "
                "history of the run; if the run has train.Checkpoints, the same call writes them",
                RuntimeWarning,
                stacklevel=2,
            )

    def _warn(self, error: Exception, then: str) -> None:
        warnings.warn(
            f"the logger {self._logger!r} failed ({type(error).__name__}: {error}); {then}",
            RuntimeWarning,
            stacklevel=4,
        )


def _logger(logger: Any) -> Logger:
    if isinstance(logger, str | os.PathLike):
        return JsonLines(logger)
    if isinstance(logger, type) or not callable(getattr(logger, "open", None)):
        raise TypeError(
            f"train.Log takes paths and loggers, got {logger!r}; write "
            'train.Log("metrics.jsonl", train.TensorBoard("runs/a"))'
        )
    return logger
