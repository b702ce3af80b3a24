"""Executors by name: jobs of Slurm by submitit, and the workers of Dask and Ray."""

import concurrent.futures
import contextlib
import os
import re
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..explain.text import suggestion
from ..installation import check_installed
from ..validation import positive
from .base import TRIES, InProcess, Pool, call, retried
from .processes import Processes


class Submitit(Pool):
    """A submitit executor with the interface of `concurrent.futures`: each call is a separate job.

    A job that dies is submitted again, at most three times. The files of a job that succeeds are
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

    submitit needs it: a job that is stopped earlier counts as preempted and is restarted.

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


@contextlib.contextmanager
def _answered(problem: str, start: str) -> Iterator[None]:
    """Add to an error of a connection that a cluster does not answer, and how to start one."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise ConnectionError(f"{problem}; start one with {start} ({error})") from error


class Dask(Pool):
    """The workers of a Dask scheduler.

    Args:
        address: Address of a running scheduler; "" starts worker processes on this machine.
        workers: Number of processes to start; None starts one per core.

    Raises:
        ConnectionError: No scheduler answers at the address.
    """

    def __init__(self, address: str = "", workers: int | None = None) -> None:
        super().__init__()
        import distributed

        if not address:
            options: dict[str, Any] = {
                "n_workers": workers or os.cpu_count() or 1,
                "threads_per_worker": 1,
                "memory_limit": 0,  # otherwise Dask stops a worker whose compiler uses much
                "dashboard_address": "127.0.0.1:0",  # a free port, this machine only
                "silence_logs": "ERROR",  # messages about restarts would break a live table
            }
            cluster: Any = self.resources.enter_context(distributed.LocalCluster(**options))
            address = cluster.scheduler_address
        start = "`dask scheduler`, and on each machine `dask worker ADDRESS`"
        with _answered(f"no Dask scheduler answers at {address}", start):
            client = distributed.Client(address, timeout=10, set_as_default=False)
        self._client: Any = self.resources.enter_context(client)
        # With pure=True, Dask would answer a repeated call with its first result.
        self._executor = client.get_executor(pure=False)

    @property
    def workers(self) -> int:
        """How many calls run at a time."""
        return max(1, sum(self._client.nthreads().values()))

    def send(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Future[Any]:
        """Return the future of a call that is sent to a worker."""
        import dask.config

        # The lanes of a cohort go to one worker, once: Dask's advice to scatter does not apply.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
            return self._executor.submit(call, fn, args, kwargs)


class Ray(Pool):
    """The workers of a Ray cluster, or of Ray in this process if it already runs.

    Args:
        address: Address of a running cluster; "" starts worker processes on this machine.
        workers: Number of processes to start; None starts one per core.

    Raises:
        ConnectionError: No cluster answers at the address.
    """

    def __init__(self, address: str = "", workers: int | None = None) -> None:
        super().__init__()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports
        import ray  # pyright: ignore[reportMissingImports]

        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if not ray.is_initialized():
            start = "`ray start --head`, and on each machine `ray start --address=ADDRESS`"
            silence = warnings.catch_warnings()
            with silence, _answered(f"no Ray cluster answers at {address or 'local'}", start):
                # Ray's processes replace themselves at once and never touch JAX's state.
                warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
                if not address:
                    options |= {"num_cpus": workers, "include_dashboard": False}
                ray.init(address or "local", **options)
            self.resources.callback(ray.shutdown)
        elif address or workers:
            raise ValueError(
                "Ray already runs in this process; write executors.create('ray') to use it"
            )
        self._ray = ray
        # Each call gets a separate device if there are any; otherwise Ray would hide them.
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        self._resource = "GPU" if gpus else "CPU"
        self._task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=TRIES)(call)

    @property
    def workers(self) -> int:
        """How many calls run at a time."""
        return max(1, int(self._ray.cluster_resources().get(self._resource, 0)))

    def send(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Future[Any]:
        """Return the future of a call that is sent to a worker."""
        reference = self._task.remote(fn, args, kwargs)
        future = reference.future()
        future.add_done_callback(
            lambda done: self._ray.cancel(reference, force=True) if done.cancelled() else None
        )
        return future


NAMES = ("local", "processes", "dask", "ray", "slurm", "submitit:local")
PACKAGES = {"dask": "distributed", "ray": "ray", "slurm": "submitit", "submitit": "submitit"}


def create(text: str, workers: int | None = None, folder: str | Path | None = None) -> Pool:
    """Start an executor by name.

    Options of Slurm come from its environment variables, such as SBATCH_PARTITION and
    SBATCH_TIMELIMIT (default: 24 hours). For other options, create the executor yourself:
    `Submitit(submitit.AutoExecutor(...), workers=8)`.

    Args:
        text: "local", "processes", "dask", "ray", "slurm", or "submitit:local"; "dask:ADDRESS" and
            "ray:ADDRESS" for a running cluster.
        workers: Number of calls that run at the same time. Default: one per core, or the number of
            workers of the cluster. "local" runs one in this process, and starts processes for more.
        folder: Folder for the files of Slurm's jobs, on a disk that all machines share. Default:
            `runs/submitit` in the current folder.

    Returns:
        An executor that knows its `workers`. Its `shutdown` waits for the submitted calls, or
        cancels them with `wait=False`, and stops what was started here.

    Raises:
        ValueError: The name is unknown, or the number of workers is invalid.
        ImportError: A package is not installed.
        FileNotFoundError: Slurm is not installed on this machine.
        ConnectionError: No cluster answers at the address.

    >>> with create("local") as executor:
    ...     executor.submit(pow, 2, 5).result()
    32
    """
    name, address = check_name(text, workers)
    if name == "dask":
        return Dask(address, workers)
    if name == "ray":
        return Ray(address, workers)
    if name == "processes" or ((workers or 1) > 1 and name == "local"):
        return Processes(workers)
    if name == "local":
        return InProcess()
    return Submitit.on(address or "slurm", workers, Path(folder or Path("runs", "submitit")))


def check_name(text: str, workers: int | None) -> tuple[str, str]:
    """Return the name and the address of an executor, without starting or importing anything.

    Args:
        text: As for `create`.
        workers: As for `create`.

    Raises:
        ValueError, ImportError, FileNotFoundError: As for `create`.

    >>> check_name("local", None)
    ('local', '')
    """
    name, _, address = text.partition(":")
    (None | positive)(workers, "workers")
    problem = ""
    known = text in NAMES or (name in ("dask", "ray") and address)
    if not known:
        problem = (
            f"no executor is named {text!r}; {suggestion(text, NAMES)} (Python also accepts any "
            "concurrent.futures.Executor)"
        )
    elif workers is not None and address and name != "submitit":
        problem = f"{text} has its own number of workers; leave out workers={workers}"
    elif name == "slurm" and workers is None:
        problem = "slurm needs the number of jobs to run at a time; write --workers 8"
    if known and name in PACKAGES:
        package, extra = PACKAGES[name], name.replace("submitit", "slurm")
        check_installed(package, f"the executor {text} needs", package, extra)
    if problem:
        raise ValueError(problem)
    if name == "slurm" and shutil.which("srun") is None:
        raise FileNotFoundError(
            "this machine has no Slurm (no srun); run the sweep on a machine that submits jobs, "
            "or try submitit:local"
        )
    return name, address
