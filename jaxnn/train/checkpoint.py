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
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np

from ..core.declarations import describe
from ..core.layer import Layer
from ..core.signatures import suggestion
from ..core.values import Value
from ..files.lock import Lock, Locked
from ..files.plain import plain
from ..files.reading import printable, read_json
from .agreement import is_peer_lost
from .checkpoint_files import (
    SCHEMA,
    Damaged,
    Progress,
    by_path,
    cause,
    check_seal,
    progress_of,
    quiet,
    read,
    seal,
    steps,
)
from .directions import badness, is_maximized, stated
from .every import Every
from .identity import changes, environment
from .state import TrainState, is_key

LOCK = "run.lock"


class Checkpoints(Value):
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
    every: Every = Every(minutes=5.0)
    keep: int = 3
    best: str | None = None
    maximize: bool | None = None
    at_end: bool = True
    force: bool = False
    larger: bool | None = None

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

    def open(self, net: Layer, identity: Mapping[str, Any] | None = None) -> "CheckpointFolder":
        """The folder, for one run of `net`: a context manager.

        Args:
            net: the network.
            identity: what determines the run's numbers, as `identity.identity` describes it;
                checkpoints keep it, and only a run with an equal one is resumed.

        Raises OSError where another run is at work in it or it cannot be written.
        """
        return CheckpointFolder(self, net, identity or {})

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


class CheckpointFolder:
    """The checkpoints of the run that is at work: `restore` once, `save` now and then.

    Each is written by a thread of its own, from a copy on the host, so that the next step need not
    wait. One that cannot be written is told by a warning, and the run goes on.
    """

    def __init__(self, settings: Checkpoints, net: Layer, identity: Mapping[str, Any]) -> None:
        self.settings, self._net, self._identity = settings, net, identity
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
        for step, folder in sorted(steps(self.folder), reverse=True):
            try:
                check_seal(folder)
                about = progress_of(folder)
                differ, versions = self._changes(folder, about)
                restored = read(folder, self._net, like, about)
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
        step = int(ts.step)
        self.wait()
        if step == self.saved:
            return
        if jax.process_count() > 1:  # all processes write their part, in step with each other
            self._write(step, ts, progress, score)
            return
        # A copy: the next step takes the memory of the state, on a CPU that of these arrays.
        host = jax.tree.map(lambda leaf: jnp.copy(leaf) if is_key(leaf) else np.array(leaf), ts)
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
                self._manager.close()
        finally:
            self._held.close()

    def _write(self, step: int, ts: Any, progress: Progress, score: float | None) -> None:
        import orbax.checkpoint as ocp

        arrays = {path: leaf for path, leaf in by_path(ts)}
        about = {
            "schema": SCHEMA,
            "network": repr(self._net),
            "arrays": {path: describe(leaf) for path, leaf in arrays.items()},
            "identity": self._identity,
            "versions": environment(),
            "forced": self._forced,
            **dataclasses.asdict(progress),
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
            with quiet():
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
        with contextlib.suppress(Exception):
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
