"""Checkpoints of a run: the whole state and how far it is, written beside the training by orbax.

    checkpoints/
        run.lock            held by the one run that writes here
        1200/               the checkpoint after step 1,200, put in place by one rename
            state/          the arrays of the TrainState, by path
            progress/       what else the run needs to resume, as JSON, and what run it is
            seal.json       the SHA-256 of each file above

A checkpoint that lacks a file, or whose files do not match their checksums, is renamed
`damaged-1200`, and the one before it is used. Any other error is raised, and the folder stays as it
is. So is a difference between the run that wrote the checkpoint and the one that resumes it.
"""

import contextlib
import dataclasses
import math
import os
import signal
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np

from ..core.layer import Layer
from ..core.values import Value
from ..data.accept import as_source, check_resumable
from ..explain.text import brief, describe, suggestion
from ..files.lock import Lock, Locked
from ..files.plain import plain
from ..files.reading import printable, read_json
from .agreement import is_peer_lost
from .checkpoint_files import (
    ORBAX,
    RUN_SCHEMA,
    SCHEMA,
    Damaged,
    Progress,
    by_path,
    cause,
    check_seal,
    progress_of,
    quiet,
    read,
    read_tree,
    seal,
    steps,
)
from .directions import badness, is_maximized, stated
from .event import Event
from .every import Every, Moment
from .hooks.hook import Hook
from .identity import changes, environment, run_identity
from .signals import Interrupted, listening
from .state import TrainState, is_key

LOCK = "run.lock"


class Checkpoints(Value, Hook):
    """Where and how often a run is saved, and how many checkpoints are kept.

    `train.fit(..., checkpoints=Checkpoints("runs/a/checkpoints"))` goes on from the newest one in
    the folder, if there is one: after a crash, the same call ends with the numbers that it would
    have had. A call with another network, task, optimizer, data set, batch size or key is another
    run, and raises ValueError with everything that differs. Only `epochs` may be larger.

    Args:
        folder: the folder of this run alone.
        every: how often; when a run is asked to stop, there is one as well.
        keep: how many of the newest are kept.
        best: a metric of the records, such as "validation_loss": each record that is the best so
            far is saved too, and the best one is kept. A value that is not finite is never best.
        maximize: whether larger is better, as for an accuracy; by default as the task declares.
        at_end: whether the end of a run is saved too; not where its weights are written anyway.
        force: resume even if the run differs from the one that wrote the checkpoint. What differs
            is a warning, and every later checkpoint records it.
        larger: the former name of `maximize`.

    Raises ValueError for numbers out of range; `train.fit` raises it before the first step if the
    direction of `best` is not known.

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
    larger: bool | None = None
    last: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not isinstance(self.every, Every):
            raise TypeError(f"Checkpoints.every is train.Every(epochs=1), say; got {self.every!r}")
        if not isinstance(self.keep, int) or isinstance(self.keep, bool) or self.keep < 1:
            raise ValueError(f"Checkpoints.keep is an int >= 1, got {self.keep!r}")
        maximize = stated(self.maximize, self.larger, "Checkpoints")
        object.__setattr__(self, "maximize", maximize)
        object.__setattr__(self, "larger", None)

    def directed(self, task: Any) -> Self:
        """The same with the direction of `best` that the task declares, unless it has one already.

        Raises ValueError if neither says it.
        """
        if self.best is None:
            return self
        remedy = f"write Checkpoints(..., best={self.best!r}, maximize=True) or maximize=False"
        maximize = is_maximized(self.best, task, self.maximize, remedy)
        return dataclasses.replace(self, maximize=maximize)

    def score(self, history: Sequence[Mapping[str, float]]) -> float | None:
        """The last record's score, larger for better, if it is the best so far; else None.

        Raises ValueError for a metric that the records do not have, or whose direction is not
        known.
        """
        if self.best is None:
            return None
        if self.best not in history[-1]:
            raise ValueError(
                f"Checkpoints.best is {self.best!r}, which is not among the metrics; "
                f"{suggestion(self.best, history[-1])}"
            )
        maximize = bool(self.directed(None).maximize)
        *before, last = (badness(record.get(self.best), maximize) for record in history)
        return -last if last < min(before, default=math.inf) else None

    def check(self, run: Any) -> None:
        """Raise ValueError for a metric that the run has not, or that has no direction."""
        if self.best is None:
            return
        if self.best not in run.names:
            raise ValueError(
                f"Checkpoints.best is {self.best!r}, which is not among the metrics; "
                f"{suggestion(self.best, run.names)}"
            )
        self._maximize(run.directions)

    def open(self, run: Any, identity: Mapping[str, Any] | None = None) -> Any:
        """The folder, for one run: a context manager.

        Args:
            run: a `train.run.Run`; or a network, for a run of `train.fit(net, ...)`.
            identity: what determines the numbers of a run of a network, as `identity.identity`
                describes it; checkpoints keep it, and only a run with an equal one is resumed.

        Raises OSError if another run works in the folder, or it cannot be written.
        """
        if isinstance(run, Layer):
            return CheckpointFolder(self, run, identity or {})
        return self._opened(run)

    @contextlib.contextmanager
    def _opened(self, run: Any) -> Iterator[Any]:
        """Lock the folder, restore the run from the newest checkpoint, and listen for signals."""
        check_resumable(as_source(run.data))
        title = Title(run.program)
        with CheckpointFolder(self, title, run_identity(run), RUN_SCHEMA) as folder:
            run.checkpoint = lambda: folder.saved and folder.folder / str(folder.saved)
            found = folder.restore_run(run.like)
            if found is not None:
                run.resume(*found, str(folder.folder / str(folder.saved)))
                del found  # this frame lives as long as the run, which holds one copy of its state
            with listening(run.asked):
                yield _Saving(self, folder, run)

    def _maximize(self, directions: Mapping[str, bool]) -> bool:
        assert self.best is not None
        found = directions.get(self.best) if self.maximize is None else self.maximize
        if found is None:
            raise ValueError(
                f"the direction of {self.best!r} is unknown: write Checkpoints(..., "
                f"best={self.best!r}, maximize=True) or maximize=False, or return "
                "train.Mean(value, maximize=True) from the program"
            )
        return found

    def restore(
        self, net: Layer, like: Any, which: Literal["newest", "best"] | int = "newest"
    ) -> TrainState:
        """The state in a checkpoint: the newest, the best one, or that after a step.

        Args:
            net: the network.
            like: a `TrainState`, or one of `jax.ShapeDtypeStruct`, of the run: shapes, types and
                where the arrays are to lie.
            which: of the checkpoints.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            ValueError: it is damaged, or of another network or optimizer.
        """
        with _explained(self.folder):
            found = dict(steps(Path(self.folder)))
        if which == "best":
            scores = {
                step: _score(folder, self.best, self.maximize) for step, folder in found.items()
            }
            scored = {step: score for step, score in scores.items() if math.isfinite(score)}
            step = max(scored, key=lambda step: (scored[step], step), default=None)
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
            return read(found[step], net, like, progress_of(found[step]))[0]
        except Damaged as error:
            raise Damaged(
                f"{found[step]}: is damaged ({error}); restore it from a copy, or name another step"
            ) from None


class Title:
    """A program in messages and checkpoints: its name, and its parts without their arrays."""

    def __init__(self, program: Any) -> None:
        self._program = program

    def __repr__(self) -> str:
        fields = dataclasses.fields(self._program)
        parts = (brief(getattr(self._program, field.name)) for field in fields)
        return f"{type(self._program).__name__}({', '.join(parts)})"


class _Saving(Hook):
    """The opened `Checkpoints` of a run."""

    last = True

    def __init__(self, settings: "Checkpoints", folder: "CheckpointFolder", run: Any) -> None:
        self._settings, self._folder, self._run = settings, folder, run
        self.every = settings.every  # type: ignore[misc]
        self._saved = run.moment()

    def check(self, run: Any) -> None:
        """As `Checkpoints.check`."""
        self._settings.check(run)

    def begin(self, state: Any) -> None:
        """Nothing: the folder knows."""

    def is_due(self, now: Moment, since: Moment) -> bool:
        """Whether it is time to save, or the run is asked to stop."""
        return self._run.signal is not None or self._settings.every.due(now, self._saved)

    def see(self, memory: Any, event: Event) -> tuple[Any, None]:
        """Save if it is time, and end the run if it is asked to stop."""
        run, settings = self._run, self._settings
        score = self._score(event) if event.is_record else None
        is_over = run.is_over
        due = self.is_due(event.moment, self._saved) or score is not None
        if due or (settings.at_end and is_over):
            self._saved = event.moment
            if math.isfinite(event.metrics.get("loss", 0.0)):
                tree, progress = run.progress(event)
                self._folder.save_tree(event.step, tree, progress, score)
        if run.signal is not None and not is_over:
            self._folder.wait()
            raise Interrupted(left(self._folder, run.signal, event.step, run.total), run.signal)
        return memory, None

    def _score(self, event: Event) -> float | None:
        """The score of the last record, larger for better, if it is the best so far."""
        best = self._settings.best
        if best is None:
            return None
        maximize = self._settings._maximize(event.directions)
        *before, last = (badness(record.get(best), maximize) for record in event.history)
        return -last if last < min(before, default=math.inf) else None


def left(folder: "CheckpointFolder", number: int, done: int, total: int) -> str:
    """The line about a run that a signal stopped."""
    saved = "no checkpoint could be kept"
    if folder.saved is not None:
        saved = (
            f"the checkpoint after step {folder.saved:,} is in {folder.settings.folder}, and the "
            "same call goes on from it"
        )
    name = signal.Signals(number).name
    return f"{name}: the run stopped after step {done:,} of {total:,}; {saved}"


class CheckpointFolder:
    """The checkpoints of the run that is at work: `restore` once, `save` now and then.

    Each is written by a thread of its own, from a copy on the host, so that the next step need not
    wait. One that cannot be written is told by a warning, and the run goes on.
    """

    def __init__(
        self, settings: Checkpoints, net: Any, identity: Mapping[str, Any], schema: int = SCHEMA
    ) -> None:
        self.settings, self._net, self._identity = settings, net, identity
        self._schema = schema
        self._forced: list[list[str]] = []
        self.folder = Path(settings.folder).absolute()
        self._manager: Any = None
        self._writing: Future[None] | None = None
        self.saved: int | None = None  # the step of the newest whole one
        self._first = jax.process_index() == 0
        with contextlib.ExitStack() as held:
            if self._first:
                with _explained(self.folder):
                    self.folder.mkdir(parents=True, exist_ok=True)
                    busy = (
                        f"another run is at work in {self.folder}, and one at a time may be: let "
                        "it end, or name another folder"
                    )
                    held.enter_context(Lock(self.folder / LOCK, busy))
            self._plain = held.enter_context(plain(self.folder))
            self._pool = held.enter_context(ThreadPoolExecutor(1, "checkpoint"))
            self._held = held.pop_all()

    def restore(self, like: TrainState) -> tuple[TrainState, Progress] | None:
        """The newest whole checkpoint, or None where there is none.

        One that is damaged is told by a warning and set aside. Raises ValueError for a checkpoint
        of another run, with everything that differs.
        """
        return self._newest(lambda folder, about: read(folder, self._net, like, about))

    def restore_run(self, like: Callable[[Mapping[str, Any]], Any]) -> tuple[Any, Any] | None:
        """The arrays and the progress of the newest whole checkpoint of a run; None without one.

        A damaged one is reported by a warning and moved aside.

        Args:
            like: maps the progress to a pytree of arrays or `jax.ShapeDtypeStruct`.

        Raises ValueError for a checkpoint of another run, with everything that differs.
        """

        def found(folder: Path, about: Mapping[str, Any]) -> tuple[Any, Any]:
            if about["schema"] != RUN_SCHEMA:
                raise ValueError(
                    f"{folder} was written by train.fit(net, task, optimizer, ...), not by a run "
                    "of a program; name another folder"
                )
            return read_tree(folder, repr(self._net), like(about), about), about

        return self._newest(found)

    def _newest(self, reader: Callable[[Path, Mapping[str, Any]], Any]) -> Any:
        for step, folder in sorted(steps(self.folder), reverse=True):
            try:
                check_seal(folder)
                about = progress_of(folder)
                differ, versions = self._changes(folder, about)
                restored = reader(folder, about)
            except Damaged as error:
                aside = _set_aside(folder) if self._first else folder
                warnings.warn(
                    f"the checkpoint after step {step:,} is damaged ({error}), so it is not used "
                    f"and stands aside as {aside}; the one before it is looked for",
                    RuntimeWarning,
                    stacklevel=2,
                )
                continue
            self._forced = about["forced"]
            self._warn(folder, differ, versions)
            self.saved = step
            return restored
        return None

    def _changes(self, folder: Path, about: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """What differs from the run that wrote the checkpoint, and from its environment.

        Raises ValueError if another run wrote it, unless `force` is set.
        """
        recorded, now = dict(about["identity"]), dict(self._identity)
        if not self._first:  # it may read a share of the data, and the first recorded its own
            recorded.pop("data", None)
            now.pop("data", None)
        differ, versions = changes(recorded, now, about["versions"])
        differ, versions = ([printable(one) for one in lines] for lines in (differ, versions))
        if differ and not self.settings.force:
            raise ValueError(
                f"{folder} is a checkpoint of another run:\n  "
                + "\n  ".join([*differ, *(f"versions/{line}" for line in versions)])
                + "\nTo resume that run, pass what it recorded. To start this one, write "
                "Checkpoints(...) with another folder. To continue that run as this one, write "
                "Checkpoints(..., force=True)."
            )
        return differ, versions

    def _warn(self, folder: Path, differ: list[str], versions: list[str]) -> None:
        """Warn about another run, which later checkpoints record, and about another environment."""
        if differ:
            self._forced = [*self._forced, differ]
            warnings.warn(
                f"resumed {folder}, a checkpoint of another run, because of force=True:\n  "
                + "\n  ".join(differ),
                RuntimeWarning,
                stacklevel=2,
            )
        if versions:
            warnings.warn(
                f"{folder} was written with other versions, so that the numbers may differ from "
                f"those of an uninterrupted run: {'; '.join(versions)}",
                RuntimeWarning,
                stacklevel=2,
            )

    def save(self, ts: TrainState, progress: Progress, score: float | None = None) -> None:
        """Save the state after its last step; `score` is larger for a better one."""
        self.save_tree(int(ts.step), ts, dataclasses.asdict(progress), score)

    def save_tree(
        self, step: int, tree: Any, progress: Mapping[str, Any], score: float | None = None
    ) -> None:
        """Save a pytree of arrays after a step.

        Args:
            step: the number of steps that are done.
            tree: the arrays.
            progress: what else the run needs to resume, as JSON.
            score: larger for a better one; None if it is not the best so far.
        """
        self.wait()
        if step == self.saved:
            return
        if jax.process_count() > 1:  # all processes write their part, in step with each other
            self._write(step, tree, progress, score)
            return
        # A copy: the next step takes the memory of the state, on a CPU that of these arrays.
        host = jax.tree.map(lambda leaf: jnp.copy(leaf) if is_key(leaf) else np.array(leaf), tree)
        self._writing = self._pool.submit(self._write, step, host, progress, score)

    def wait(self) -> None:
        """Wait until what is being written is written; warn where it could not be."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def close(self) -> None:
        """Wait for what is being written, and let others write here."""
        try:
            self.wait()
            if self._manager is not None:
                with ORBAX:
                    self._manager.close()
        finally:
            self._held.close()

    def _write(self, step: int, ts: Any, progress: Mapping[str, Any], score: float | None) -> None:
        import orbax.checkpoint as ocp

        arrays = {path: leaf for path, leaf in by_path(ts)}
        about = {
            "schema": self._schema,
            "network": repr(self._net),
            "arrays": {path: describe(leaf) for path, leaf in arrays.items()},
            "identity": self._identity,
            "versions": environment(),
            "forced": self._forced,
            **progress,
        }
        # Orbax warns where there are none.
        metrics = {
            "score": -math.inf if score is None else score,
            "metric": self.settings.best,
            "maximize": self.settings.maximize,
        }
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays), progress=ocp.args.JsonSave(about)
        )
        try:
            with ORBAX, quiet():
                self._opened().save(step, args=items, metrics=metrics, force=True)
                self._manager.wait_until_finished()
            if self._first:
                seal(self.folder / str(step))
            self.saved = step
        except Exception as error:
            if is_peer_lost(error):
                raise
            self._drop()
            before = "none" if self.saved is None else f"the one after step {self.saved:,}"
            warnings.warn(
                f"the checkpoint after step {step:,} could not be written in {self.folder} "
                f"({cause(error)}): the run goes on, and {before} is the newest whole one; make "
                "room, or name another folder",
                RuntimeWarning,
                stacklevel=2,
            )

    def _opened(self) -> Any:
        if self._manager is None:
            import orbax.checkpoint as ocp
            from orbax.checkpoint import checkpoint_managers as policies

            best, maximize = self.settings.best, self.settings.maximize

            def score(metrics: Any) -> float:
                return _score_by(metrics, best, maximize)

            kept: list[Any] = [policies.LatestN(self.settings.keep)]
            if self.settings.best is not None:
                kept.append(
                    policies.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False)
                )
            self._manager = ocp.CheckpointManager(
                self._plain,
                options=ocp.CheckpointManagerOptions(
                    best_fn=score if self.settings.best is not None else None,
                    preservation_policy=policies.AnyPreservationPolicy(kept),
                    cleanup_tmp_directories=True,
                ),
                item_names=("state", "progress"),
            )
        return self._manager

    def _drop(self) -> None:
        """Leave a manager that has failed, which would go on telling of it."""
        with contextlib.suppress(Exception), ORBAX:
            self._manager.close()
        self._manager = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint, so that nothing takes it for one; what it holds stays.

    Raises OSError if the folder cannot be changed.
    """
    aside = folder.with_name(f"damaged-{folder.name}")
    number = 1
    while aside.exists():
        number += 1
        aside = folder.with_name(f"damaged-{folder.name}-{number}")
    folder.rename(aside)
    return aside


def _score(folder: Path, best: str | None, maximize: bool | None) -> float:
    try:
        metrics = read_json(folder / "metrics" / "metrics", finite=False)
        return _score_by(metrics, best or metrics["metric"], maximize)
    except (OSError, ValueError, KeyError, TypeError):
        return -math.inf


def _score_by(metrics: Any, best: str | None, maximize: bool | None) -> float:
    """The score of a checkpoint by a metric; -inf if it was scored by another, or the other way."""
    same = metrics["metric"] == best and maximize in (None, metrics["maximize"])
    score = float(metrics["score"]) if same else -math.inf
    return score if math.isfinite(score) else -math.inf


@contextlib.contextmanager
def _explained(folder: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if isinstance(error, Locked):
            raise
        cause = getattr(error, "strerror", None) or error
        raise OSError(
            f"cannot keep checkpoints in {folder}: {cause}. Nothing was trained; "
            "name another folder"
        ) from error
