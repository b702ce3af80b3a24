"""The folder of a run's checkpoints, which orbax writes during the training.

    checkpoints/
        run.lock            held by the one run that writes here
        1200/               the checkpoint after step 1,200, put in place by one rename
            state/          the arrays of the state and of what hooks remember, by path
            progress/       what else the run needs to resume, as JSON, and which run it is
            seal.json       the SHA-256 of each file above

A checkpoint that lacks a file, or whose files do not match their checksums, is renamed
`damaged-1200`, and the one before it is used. Any other error is raised, and the folder stays as it
is. So is a difference between the run that wrote the checkpoint and the one that resumes it.
"""

import contextlib
import math
import os
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..explain.text import describe
from ..files.lock import Lock, Locked
from ..files.plain import plain
from ..files.reading import printable, read_json
from .agreement import is_peer_lost
from .checkpoint_files import (
    ORBAX,
    SCHEMA,
    Damaged,
    cause,
    check_seal,
    progress_of,
    quiet,
    read_tree,
    seal,
    steps,
)
from .identity import changes, environment
from .state import by_path, is_key

LOCK = "run.lock"


class CheckpointFolder:
    """The checkpoints of a run: `restore` once, `save` now and then.

    Each is written by a thread, from a copy on the host, so that the next step need not wait. If
    one cannot be written, that is a warning, and the run continues.

    Args:
        settings: the `train.Checkpoints`.
        title: the program in a line, which checkpoints keep for errors.
        identity: what determines the numbers of the run.
    """

    def __init__(self, settings: Any, title: str, identity: Mapping[str, Any]) -> None:
        self.settings, self._title, self._identity = settings, title, identity
        self._forced: list[list[str]] = []
        self.folder = Path(settings.folder).absolute()
        self._manager: Any = None
        self._writing: Future[None] | None = None
        self.saved: int | None = None  # the step of the newest whole one
        self._first = jax.process_index() == 0
        with contextlib.ExitStack() as held:
            if self._first:
                with explained(self.folder):
                    self.folder.mkdir(parents=True, exist_ok=True)
                    busy = (
                        f"another run works in {self.folder}; wait until it ends, or name another "
                        "folder"
                    )
                    held.enter_context(Lock(self.folder / LOCK, busy))
            self._plain = held.enter_context(plain(self.folder))
            self._pool = held.enter_context(ThreadPoolExecutor(1, "checkpoint"))
            self._held = held.pop_all()

    def restore(self, like: Callable[[Mapping[str, Any]], Any]) -> tuple[Any, Any] | None:
        """The arrays and the progress of the newest whole checkpoint; None without one.

        A damaged one is reported by a warning and moved aside.

        Args:
            like: maps the progress to a pytree of arrays or `jax.ShapeDtypeStruct`.

        Raises ValueError for a checkpoint of another run, with everything that differs.
        """
        for step, folder in sorted(steps(self.folder), reverse=True):
            try:
                check_seal(folder)
                about = progress_of(folder)
                differ, versions = self._changes(folder, about)
                restored = read_tree(folder, self._title, like(about), about), about
            except Damaged as error:
                aside = _move_aside(folder) if self._first else folder
                warnings.warn(
                    f"the checkpoint after step {step:,} is damaged ({error}), so it is not used "
                    f"and was moved to {aside}; the one before it is used",
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

    def save(
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
        """Wait until the checkpoint that is being written is complete."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def close(self) -> None:
        """Wait for the checkpoint that is being written, and unlock the folder."""
        try:
            self.wait()
            if self._manager is not None:
                with ORBAX:
                    self._manager.close()
        finally:
            self._held.close()

    def _write(
        self, step: int, tree: Any, progress: Mapping[str, Any], score: float | None
    ) -> None:
        import orbax.checkpoint as ocp

        arrays = {path: leaf for path, leaf in by_path(tree)}
        about = {
            "schema": SCHEMA,
            "program": self._title,
            "arrays": {path: describe(leaf) for path, leaf in arrays.items()},
            "identity": self._identity,
            "versions": environment(),
            "forced": self._forced,
            **progress,
        }
        # Orbax warns if there are none.
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
                f"({cause(error)}): the run continues, and {before} is the newest whole one; make "
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
        """Close a manager that has failed, which would raise its error again."""
        with contextlib.suppress(Exception), ORBAX:
            self._manager.close()
        self._manager = None


def _move_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint, so that it is not found as one, and keep its files.

    Raises OSError if the folder cannot be changed.
    """
    aside = folder.with_name(f"damaged-{folder.name}")
    number = 1
    while aside.exists():
        number += 1
        aside = folder.with_name(f"damaged-{folder.name}-{number}")
    folder.rename(aside)
    return aside


def score_of(folder: Path, best: str | None, maximize: bool | None) -> float:
    """The score of a checkpoint by a metric, larger for better; -inf if it has none.

    Args:
        folder: the checkpoint.
        best: the metric; None for the one that it was saved by.
        maximize: whether a larger value is better; None for either.
    """
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
def explained(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of the system say what to do about the folder of checkpoints."""
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
