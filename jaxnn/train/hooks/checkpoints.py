"""Checkpoints: save a run, and resume it.

    checkpoints/
        run.lock            held by the one run that writes here
        1200/               the checkpoint after step 1,200

A checkpoint that lacks a file, or whose files do not match their checksums, is renamed
`damaged-1200`, and the previous one is used. Any other error, such as a checkpoint of another
run, is raised and leaves the folder unchanged.
"""

import contextlib
import itertools
import math
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ...core.values import Value
from ...data.accept import as_source, check_resumable
from ...files import Lock, explain_errors
from ...files.reading import plain_path
from ...validation import instance, positive
from .. import checkpoint
from ..checkpoint import Damaged, cause, checkpoints_by_step
from ..metrics import badness
from ..program import is_key
from ..record import Event, Every, Moment
from . import FOLDER, MAXIMIZE, Hook, is_maximized, title, warn
from .stopping import Interrupted, is_peer_lost, listening

LOCK = "run.lock"
EVERY = instance(Every, "a train.Every", "write every=train.Every(epochs=1)")


class Checkpoints(Value, Hook):
    """Save checkpoints of a run, and resume the run from the newest checkpoint in the folder.

    After a crash, the same call of `train.fit` resumes the run, and the results are bitwise
    identical to those of an uninterrupted run. A call with another program, data set, batch size,
    or key raises ValueError and lists all differences; only `epochs` or `steps` may be larger.
    After SIGINT or SIGTERM, the run finishes the current dispatch, saves a checkpoint, and raises
    `train.Interrupted`. This hook must be the last one.

    Args:
        folder: The folder for the checkpoints of this run. Other runs must not use it.
        every: How often a checkpoint is saved. A checkpoint is also saved when the run is asked to
            stop. Default: every 5 minutes.
        keep: The number of newest checkpoints to keep. Default: 3.
        best: A metric of the records, such as "validation_loss". A checkpoint is also saved at each
            record that improves it, and the best checkpoint is kept. Values that are not finite
            never count as best. Default: None, no metric.
        maximize: Whether a larger value is better. Default: None, as declared by the program.
        at_end: Whether a checkpoint is also saved at the end of the run. Default: True.
        force: Resume even if the run differs from the run that wrote the checkpoint. A warning
            lists the differences, and every later checkpoint records them. Default: False.

    Raises:
        TypeError, ValueError: An argument is out of range. Before the first step: the run does not
            have the metric, its direction is unknown, or the checkpoints belong to another run.
        OSError: Another run uses the folder, or the folder cannot be written.

    >>> Checkpoints("runs/a/checkpoints", Every(epochs=1), keep=2)
    Checkpoints('runs/a/checkpoints', every=Every(epochs=1), keep=2)
    """

    folder: Annotated[str | os.PathLike[str], FOLDER]
    every: Annotated[Every, EVERY] = Every(minutes=5.0)  # type: ignore[assignment]
    keep: Annotated[int, positive] = 3
    best: str | None = None
    maximize: Annotated[bool | None, MAXIMIZE] = None
    at_end: bool = True
    force: bool = False
    last: ClassVar[bool] = True

    def check(self, run: Any) -> None:
        """Raise ValueError for a metric that the run does not have, or that has no direction."""
        if self.best is not None:
            self._maximize(run)

    def _maximize(self, run: Any) -> bool:
        return is_maximized(str(self.best), run, self.maximize, "Checkpoints(..., best={!r})")

    @contextlib.contextmanager
    def open(self, run: Any) -> Iterator[Hook]:
        """Lock the folder, restore the run from the newest checkpoint, and listen for signals."""
        check_resumable(as_source(run.data))
        with contextlib.ExitStack() as held:
            saving = _Saving(self, run, held)
            run.checkpoint = saving.newest
            found = saving.restore()
            if found is not None:
                run.resume(*found, str(saving.newest()))
                del found  # this frame lives as long as the run, which holds one copy of its state
            held.enter_context(listening(run.asked))
            yield saving

    def restore(self, like: Any, which: Literal["newest", "best"] | int = "newest") -> Any:
        """Return the state in a checkpoint: the newest, the best, or the one after a given step.

        Args:
            like: A state of the program, or its shapes: `jax.eval_shape(program.init, key, batch)`.
                The restored arrays have its shardings.
            which: "newest" (the default), "best", or the number of a step.

        Raises:
            FileNotFoundError: The checkpoint does not exist.
            ValueError: The checkpoint is damaged, or the state of the program has another
                structure.
        """
        found = checkpoints_by_step(Path(self.folder))
        named = {"newest": max(found, default=None), "best": self._best_of(found)}
        step = named.get(which, which)  # type: ignore[call-overload]
        if step not in found:
            raise FileNotFoundError(
                f"{self.folder} has no checkpoint {which!r}; there are those after the steps: "
                f"{', '.join(map(str, sorted(found))) or 'none'}"
            )
        try:
            about = checkpoint.read_progress(found[step])
            return checkpoint.read_arrays(found[step], "the given state", {"state": like}, about)[
                "state"
            ]
        except Damaged as error:
            raise Damaged(
                f"{found[step]}: is damaged ({error}); restore it from a copy, or name another step"
            ) from None

    def _best_of(self, found: Mapping[int, Path]) -> int | None:
        """Return the step of the best checkpoint; None if none was saved by the metric."""
        scores = {n: checkpoint.score_of(one, self.best, self.maximize) for n, one in found.items()}
        scored = (n for n, score in scores.items() if math.isfinite(score))
        return max(scored, key=lambda n: (scores[n], n), default=None)


class _Saving(Hook):
    """The opened `Checkpoints` of a run.

    Each checkpoint is written by a thread, from a copy on the host, so that the next step need not
    wait. If one cannot be written, that is a warning, and the run continues.
    """

    last = True

    def __init__(self, settings: Checkpoints, run: Any, held: contextlib.ExitStack) -> None:
        self._settings, self._run, self._saved_at = settings, run, run.moment()
        self.every = settings.every  # type: ignore[misc]
        self.check = settings.check  # type: ignore[method-assign]
        self._title, self._identity = title(run.program), checkpoint.run_identity(run)
        self._folder, self._first = Path(settings.folder).absolute(), jax.process_index() == 0
        if self._first:
            held.enter_context(self._lock())
        self._plain = held.enter_context(plain_path(self._folder))
        self._pool = held.enter_context(ThreadPoolExecutor(1, "checkpoint"))
        held.callback(self._wait)
        self._writing: Future[None] | None = None
        self._saved: int | None = None  # the step of the newest complete checkpoint
        self._forced: list[list[str]] = []

    def _lock(self) -> Lock:
        """Make the folder, lock it, and remove what a killed run was writing."""
        busy = f"another run works in {self._folder}; wait until it ends, or name another folder"
        then = "Nothing was trained; name another folder"
        with explain_errors(f"keep checkpoints in {self._folder}", then):
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = Lock(self._folder / LOCK, busy)
        for unfinished in self._folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        return lock

    def newest(self) -> Path | None:
        """Return the newest complete checkpoint."""
        return None if self._saved is None else self._folder / str(self._saved)

    def restore(self) -> tuple[Any, dict[str, Any]] | None:
        """Return the arrays and the progress of the newest complete checkpoint; None without one.

        A damaged checkpoint is reported by a warning and moved aside. One of another run raises
        ValueError with everything that differs.
        """
        for step, folder in sorted(checkpoints_by_step(self._folder).items(), reverse=True):
            try:
                about = checkpoint.read_progress(folder)
                differ, versions = self._changes(folder, about)
                arrays = checkpoint.read_arrays(folder, self._title, self._run.like(about), about)
            except Damaged as error:
                names = (f"damaged-{step}{f'-{i}' if i > 1 else ''}" for i in itertools.count(1))
                aside = next(one for one in map(folder.with_name, names) if not one.exists())
                if self._first:
                    folder.rename(aside)
                warn(
                    f"the checkpoint after step {step:,} is damaged ({error}), so it is not used "
                    f"and was moved to {aside}; the one before it is used"
                )
                continue
            self._saved, self._forced = step, [*about["forced"], *([differ] if differ else [])]
            if differ:
                warn(
                    f"resumed {folder}, a checkpoint of another run, because of force=True:\n  "
                    + "\n  ".join(differ)
                )
            if versions:
                warn(
                    f"{folder} was written with other versions, so that the numbers may differ "
                    f"from those of an uninterrupted run: {'; '.join(versions)}"
                )
            return arrays, about
        return None

    def _changes(self, folder: Path, about: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """Return what differs from the run that wrote the checkpoint, and from its versions."""
        recorded, now = dict(about["identity"]), dict(self._identity)
        if not self._first:  # it may read a part of the data, and the first recorded its own
            recorded.pop("data", None)
            now.pop("data", None)
        differ, versions = checkpoint.changes(recorded, now, about["versions"])
        if differ and not self._settings.force:
            raise ValueError(
                f"{folder} is a checkpoint of another run:\n  "
                + "\n  ".join([*differ, *(f"versions/{line}" for line in versions)])
                + "\nTo resume that run, pass what it recorded. To start this one, write "
                "Checkpoints(...) with another folder. To continue that run as this one, write "
                "Checkpoints(..., force=True)."
            )
        return differ, versions

    def is_due(self, now: Moment, since: Moment) -> bool:
        """Return whether it is time to save, or the run is asked to stop."""
        return self._run.signal is not None or self._settings.every.due(now, self._saved_at)

    def see(self, memory: Any, event: Event) -> tuple[Any, None]:
        """Save if it is time, and end the run if it is asked to stop."""
        run, at_end = self._run, self._settings.at_end and self._run.is_over
        score = self._score(event) if event.is_record else None
        if at_end or score is not None or self.is_due(event.moment, self._saved_at):
            self._saved_at = event.moment
            if math.isfinite(event.metrics.get("loss", 0.0)):
                self._save(event, score)
        if run.signal is not None and not run.is_over:
            self._wait()
            saved = "no checkpoint could be kept"
            if self._saved is not None:
                saved = (
                    f"the checkpoint after step {self._saved:,} is in {self._settings.folder}, "
                    "and the same call resumes from it"
                )
            name = signal.Signals(run.signal).name
            raise Interrupted(
                f"{name}: the run stopped after step {event.step:,} of {run.total:,}; {saved}",
                run.signal,
            )
        return memory, None

    def _score(self, event: Event) -> float | None:
        """Return the score of the last record, larger for better, if it is the best so far."""
        best = self._settings.best
        if best is None:
            return None
        maximize = self._settings._maximize(self._run)
        *before, last = (badness(record.get(best), maximize) for record in event.history)
        return -last if last < min(before, default=math.inf) else None

    def _save(self, event: Event, score: float | None) -> None:
        tree, progress = self._run.progress(event)
        self._wait()
        if event.step == self._saved:
            return
        if jax.process_count() > 1:  # all processes write their part, in step with each other
            self._write(event.step, tree, progress, score)
            return
        # Copy, because the next step reuses the memory of the state, which a CPU shares with NumPy.
        host = jax.tree.map(lambda leaf: jnp.copy(leaf) if is_key(leaf) else np.array(leaf), tree)
        self._writing = self._pool.submit(self._write, event.step, host, progress, score)

    def _wait(self) -> None:
        """Wait until the checkpoint that is being written is complete."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _write(
        self, step: int, tree: Any, progress: Mapping[str, Any], score: float | None
    ) -> None:
        settings = self._settings
        run = {"program": self._title, "identity": self._identity, "forced": self._forced}
        scored = {"metric": settings.best, "maximize": settings.maximize}
        scored["score"] = -math.inf if score is None else score
        try:
            checkpoint.write_checkpoint(self._plain / str(step), tree, {**run, **progress}, scored)
            self._saved = step
            if self._first:
                self._remove_old()
        except Exception as error:
            if is_peer_lost(error):
                raise
            before = "none" if self._saved is None else f"the one after step {self._saved:,}"
            warn(
                f"the checkpoint after step {step:,} could not be written in {self._folder} "
                f"({cause(error)}): the run continues, and {before} is the newest complete one; "
                "make room, or name another folder"
            )

    def _remove_old(self) -> None:
        found, settings = checkpoints_by_step(self._folder), self._settings
        kept: set[int | None] = {*sorted(found)[-settings.keep :]}
        if settings.best is not None:
            kept.add(settings._best_of(found))
        for step in found.keys() - kept:
            shutil.rmtree(found[step])
