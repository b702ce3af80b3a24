"""Calls as jobs of Slurm, by submitit."""

import concurrent.futures
import os
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .base import TRIES, Pool, retried


class Submitit(Pool):
    """A submitit executor as one of `concurrent.futures`: each call is a separate job.

    A job that dies is submitted again, three times in all. The files of a job that ends well are
    removed.

    Args:
        executor: A `submitit.AutoExecutor` with its parameters set.
        workers: Number of jobs at the same time.
        poll: Seconds between two checks of a job. Default: 1.
    """

    def __init__(self, executor: Any, workers: int, poll: float = 1.0) -> None:
        super().__init__()
        self._workers, self._executor, self._poll = workers, executor, poll
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="submitit")
        self._given_up = threading.Event()
        self._one_at_a_time = threading.Lock()  # submitit does not claim to be thread-safe

    @classmethod
    def on(cls, cluster: str, workers: int | None, folder: Path) -> "Submitit":
        """Return an executor for a cluster, whose jobs have the time limit of the environment.

        Args:
            cluster: "slurm" or "local".
            workers: Number of jobs at the same time; None for one per core.
            folder: Folder for the files of jobs.
        """
        import submitit  # pyright: ignore[reportMissingImports]

        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        limit = os.environ.get("SBATCH_TIMELIMIT", "1-0") if cluster == "slurm" else "1-0"
        executor.update_parameters(timeout_min=minutes(limit), name="jaxnn")
        return cls(executor, workers or os.cpu_count() or 1)

    @property
    def workers(self) -> int:
        """The number of jobs that run at the same time."""
        return self._workers

    def send(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Future[Any]:
        """Return the future of a call that is submitted when fewer than `workers` jobs run."""
        run = lambda: self._run(fn, args, kwargs)  # noqa: E731
        return self._threads.submit(retried, run, TRIES, self._given_up.is_set)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls, and wait for the submitted ones or cancel their jobs.

        Args:
            wait: Whether to wait for the submitted calls. Default: True.
            cancel_futures: Whether to cancel those that have not begun. Default: False.
        """
        if not wait:
            self._given_up.set()
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._threads.shutdown()

    def _run(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        with self._one_at_a_time:
            job = self._executor.submit(fn, *args, **kwargs)
        while not job.done():
            if self._given_up.wait(self._poll):
                job.cancel(check=False)
                until = time.monotonic() + 10.0
                while not job.done() and time.monotonic() < until:
                    time.sleep(0.1)
                raise concurrent.futures.CancelledError(f"job {job.job_id} was canceled")
        result = job.result()
        paths = job.paths
        data = (paths.submitted_pickle, paths.result_pickle, paths.submission_file)
        for file in (*data, paths.stdout, paths.stderr):
            file.unlink(missing_ok=True)
        return result


def minutes(text: str) -> int:
    """Return a time limit of Slurm (M, M:S, H:M:S, D-H, D-H:M, or D-H:M:S) in minutes.

    submitit has to know it: a job that is stopped earlier counts as preempted and starts again.

    Args:
        text: The time limit.

    >>> minutes("1-12:30")
    2190
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not found:
        raise ValueError(
            f"SBATCH_TIMELIMIT={text!r} is not a time limit; write minutes, H:M:S, or D-H:M:S, "
            "for example SBATCH_TIMELIMIT=4:00:00"
        )
    days, *parts = found.groups()
    a, b, c = (int(part or 0) for part in parts)
    if days is None and parts[2] is None:
        a, b, c = 0, a, b
    return max(1, 24 * 60 * int(days or 0) + 60 * a + b + (c > 0))
