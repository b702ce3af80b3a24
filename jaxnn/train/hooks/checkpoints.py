"""Checkpoints: save a run, and resume it."""

import contextlib
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from ...core.values import Value
from ...data.accept import as_source, check_resumable
from ..checkpoint_files import Damaged, check_seal, progress_of, read_tree, steps
from ..checkpoint_folder import CheckpointFolder, explained, score_of
from ..directions import badness, check_maximize, check_metric, is_maximized
from ..evaluation import check_count
from ..event import Event
from ..every import Every, Moment
from ..identity import identity
from ..signals import Interrupted, listening
from .hook import Hook, title


class Checkpoints(Value, Hook):
    """Save a run now and then, and resume it from the newest checkpoint in the folder.

    After a crash, the same call of `train.fit` ends with bitwise the results that it would have
    had. A call with another program, data set, batch size, or key is another run, and raises
    ValueError with everything that differs. Only `epochs` or `steps` may be larger. SIGINT and
    SIGTERM end the dispatch, save, and raise `train.Interrupted`. It is the last hook.

    Args:
        folder: the folder of this run alone.
        every: how often a checkpoint is saved, every 5 minutes by default. There is one, too, when
            the run is asked to stop.
        keep: the number of newest checkpoints that are kept, 3 by default.
        best: a metric of the records, such as "validation_loss": each record that is the best so
            far is saved too, and the best one is kept. A value that is not finite is never best.
            None (the default) for no such metric.
        maximize: whether a larger value is better; by default as the program declares it.
        at_end: whether the end of the run is saved too, True by default.
        force: resume even if the run differs from the one that wrote the checkpoint; False by
            default. What differs is a warning, and every later checkpoint records it.

    Raises:
        TypeError, ValueError: numbers out of range; before the first step, a metric that the run
            does not have or whose direction is unknown, and checkpoints of another run.
        OSError: another run works in the folder, or it cannot be written.

    >>> Checkpoints("runs/a/checkpoints", Every(epochs=1), keep=2)
    Checkpoints('runs/a/checkpoints', every=Every(epochs=1), keep=2)
    """

    folder: str
    every: Every = Every(minutes=5.0)  # type: ignore[assignment]
    keep: int = 3
    best: str | None = None
    maximize: bool | None = None
    at_end: bool = True
    force: bool = False
    last: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not isinstance(self.every, Every):
            raise TypeError(
                f"Checkpoints.every is a train.Every, got {self.every!r}; write "
                "every=train.Every(epochs=1)"
            )
        check_count(self.keep, "Checkpoints.keep")
        check_maximize(self.maximize, "Checkpoints")

    def check(self, run: Any) -> None:
        """Raise ValueError for a metric that the run does not have, or that has no direction."""
        if self.best is not None:
            check_metric(self.best, run.names, "Checkpoints.best is")
            self._maximize(run)

    @contextlib.contextmanager
    def open(self, run: Any) -> Iterator[Hook]:
        """Lock the folder, restore the run from the newest checkpoint, and listen for signals."""
        check_resumable(as_source(run.data))
        opened = CheckpointFolder(self, title(run.program), identity(run))
        with contextlib.closing(opened) as folder:
            run.checkpoint = lambda: folder.saved and folder.folder / str(folder.saved)
            found = folder.restore(run.like)
            if found is not None:
                run.resume(*found, str(folder.folder / str(folder.saved)))
                del found  # this frame lives as long as the run, which holds one copy of its state
            with listening(run.asked):
                yield _Saving(self, folder, run)

    def restore(self, like: Any, which: Literal["newest", "best"] | int = "newest") -> Any:
        """The state in a checkpoint: the newest, the best one, or that after a step.

        Args:
            like: a state of the program, or its shapes: `jax.eval_shape(program.init, key, batch)`.
                If it is sharded, the arrays are restored in this way.
            which: "newest" (the default), "best", or the number of a step.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            ValueError: it is damaged, or of another program.
        """
        with explained(self.folder):
            found = dict(steps(Path(self.folder)))
        if which == "best":
            scores = {n: score_of(one, self.best, self.maximize) for n, one in found.items()}
            scored = {n: score for n, score in scores.items() if math.isfinite(score)}
            step = max(scored, key=lambda n: (scored[n], n), default=None)
        else:
            step = max(found, default=None) if which == "newest" else which
        if step not in found:
            there = ", ".join(map(str, sorted(found))) or "none"
            raise FileNotFoundError(
                f"{self.folder} has no checkpoint {which!r}; there are those after the steps: "
                f"{there}"
            )
        try:
            check_seal(found[step])
            about = progress_of(found[step])
            return read_tree(found[step], "the given state", {"state": like}, about)["state"]
        except Damaged as error:
            raise Damaged(
                f"{found[step]}: is damaged ({error}); restore it from a copy, or name another step"
            ) from None

    def _maximize(self, run: Any) -> bool:
        assert self.best is not None
        call = f"Checkpoints(..., best={self.best!r}, "
        return is_maximized(self.best, run.directions, self.maximize, call)


class _Saving(Hook):
    """The opened `Checkpoints` of a run."""

    last = True

    def __init__(self, settings: Checkpoints, folder: CheckpointFolder, run: Any) -> None:
        self._settings, self._folder, self._run = settings, folder, run
        self.every = settings.every  # type: ignore[misc]
        self.check = settings.check  # type: ignore[method-assign]
        self._saved = run.moment()

    def is_due(self, now: Moment, since: Moment) -> bool:
        """Whether it is time to save, or the run is asked to stop."""
        return self._run.signal is not None or self._settings.every.due(now, self._saved)

    def see(self, memory: Any, event: Event) -> tuple[Any, None]:
        """Save if it is time, and end the run if it is asked to stop."""
        run, folder = self._run, self._folder
        score = self._score(event) if event.is_record else None
        due = self.is_due(event.moment, self._saved) or score is not None
        if due or (self._settings.at_end and run.is_over):
            self._saved = event.moment
            if math.isfinite(event.metrics.get("loss", 0.0)):
                tree, progress = run.progress(event)
                folder.save(event.step, tree, progress, score)
        if run.signal is not None and not run.is_over:
            folder.wait()
            saved = "no checkpoint could be kept"
            if folder.saved is not None:
                saved = (
                    f"the checkpoint after step {folder.saved:,} is in {self._settings.folder}, "
                    "and the same call resumes from it"
                )
            name = signal.Signals(run.signal).name
            raise Interrupted(
                f"{name}: the run stopped after step {event.step:,} of {run.total:,}; {saved}",
                run.signal,
            )
        return memory, None

    def _score(self, event: Event) -> float | None:
        """The score of the last record, larger for better, if it is the best so far."""
        best = self._settings.best
        if best is None:
            return None
        maximize = self._settings._maximize(self._run)
        *before, last = (badness(record.get(best), maximize) for record in event.history)
        return -last if last < min(before, default=math.inf) else None
