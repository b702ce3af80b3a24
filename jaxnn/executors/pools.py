"""Executors that know their number of workers: this process, jobs of Slurm, Dask, and Ray.

A call is repeated if its worker dies. `processes` has the workers on this machine.
"""

import abc
import concurrent.futures
import contextlib
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..validation import Accepts

TRIES = 3
"""Number of attempts of a call whose worker dies."""

# Names of exceptions by package, because only a process that uses the package has the classes.
DEATHS = {
    "distributed": {"KilledWorker", "CommClosedError"},
    "ray": {
        "LocalRayletDiedError",
        "NodeDiedError",
        "ObjectLostError",
        "OutOfMemoryError",
        "WorkerCrashedError",
    },
    "submitit": {"UncompletedJobError"},
}
RAISED = {"ray": {"RayTaskError"}, "submitit": {"FailedJobError"}}


def worker_died(error: BaseException) -> bool:
    """Return whether an error means that a worker died, rather than that the call raised it.

    The call may then be repeated, but after a `BrokenExecutor` of the standard library's process
    pool only on a new executor.

    Args:
        error: The exception of a future.

    >>> worker_died(concurrent.futures.BrokenExecutor()), worker_died(ValueError("of the call"))
    (True, False)
    """

    def is_one_of(names: dict[str, set[str]]) -> bool:
        return any(
            cls.__name__ in names.get(cls.__module__.partition(".")[0], ())
            for cls in type(error).__mro__
        )

    if is_one_of(RAISED):
        return False
    broken = concurrent.futures.BrokenExecutor, concurrent.futures.CancelledError
    return isinstance(error, broken) or is_one_of(DEATHS)


def retried(
    call: Callable[[], Any], tries: int = TRIES + 1, given_up: Callable[[], bool] = lambda: False
) -> Any:
    """Return the result of a call, which is repeated if its worker dies.

    Args:
        call: Makes the call and waits for it.
        tries: Maximum number of calls. Default: 4.
        given_up: Returns True if the call must not be repeated again.
    """
    while True:
        tries -= 1
        try:
            return call()
        except Exception as error:
            if tries <= 0 or not worker_died(error) or given_up():
                raise


def result_of(executor: Executor, function: Callable[[Any], Any], argument: Any) -> Any:
    """Return the result of a call on a worker, which is repeated if the worker dies.

    Args:
        executor: Any executor.
        function: A function of a module.
        argument: Its argument, plain data.

    >>> result_of(InProcess(), abs, -3)
    3
    """
    return retried(lambda: executor.submit(function, argument).result())


class Pool(Executor, abc.ABC):
    """Base of executors that know how many calls run at a time, and stop their workers."""

    def __init__(self) -> None:
        self.closed: bool = False
        self.resources: contextlib.ExitStack[bool | None] = (
            contextlib.ExitStack()
        )  # what `shutdown` closes
        self._unfinished: set[Future[Any]] = set()

    @property
    def workers(self) -> int:
        """The number of calls that run at the same time."""
        return 1

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Send a call to a worker."""
        if self.closed:
            raise RuntimeError("this executor is shut down and accepts no more calls")
        future = self.send(fn, args, kwargs)
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)
        return future

    @abc.abstractmethod
    def send(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Future[Any]:
        """Return the future of a call that is sent to a worker."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls, wait for the submitted ones or cancel them, and stop the workers.

        Args:
            wait: Whether to wait for the submitted calls. Default: True.
            cancel_futures: Whether to cancel those that have not ended. Default: False.
        """
        self.closed = True
        if not wait or cancel_futures:
            for future in list(self._unfinished):
                future.cancel()
        concurrent.futures.wait(list(self._unfinished))
        self.resources.close()


class InProcess(Pool):
    """Runs each call immediately, in the process and thread that submits it.

    >>> InProcess().submit(divmod, 7, 2).done()
    True
    """

    def send(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Future[Any]:
        """Run the call, and return a future with its result or exception."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # Ctrl-C is raised here
            future.set_exception(error)
        return future


def call(fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call a function, whose keyword arguments may have the names of an executor's options."""
    return fn(*args, **kwargs)


class Threaded(Pool):
    """Base of pools in which a thread waits for each call, which is repeated if its worker dies.

    Args:
        workers: Number of calls at the same time.
        name: Name of the threads.
    """

    def __init__(self, workers: int, name: str) -> None:
        super().__init__()
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._given_up = threading.Event()

    @property
    def workers(self) -> int:
        """The number of calls that run at the same time."""
        return self._workers

    def wait_for(self, run: Callable[[], Any]) -> Future[Any]:
        """Return the future of a function that makes a call and waits for it."""
        return self._threads.submit(retried, run, TRIES, self._given_up.is_set)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls, and wait for the submitted ones or give them up.

        Args:
            wait: Whether to wait for the submitted calls; otherwise running ones are ended.
                Default: True.
            cancel_futures: Whether to cancel those that have not begun. Default: False.
        """
        if not wait:
            self._given_up.set()
            self.give_up()
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._threads.shutdown()

    def give_up(self) -> None:
        """End what runs, if it does not end by itself."""


class Submitit(Threaded):
    """A submitit executor with the interface of `concurrent.futures`: each call is a separate job.

    A job that dies is submitted again, at most three times. The files of a job that succeeds are
    removed.

    Args:
        executor: A `submitit.AutoExecutor` with its parameters set.
        workers: Number of jobs at the same time.
        poll: Seconds between two checks of a job. Default: 1.
    """

    def __init__(self, executor: Any, workers: int, poll: float = 1.0) -> None:
        super().__init__(workers, "submitit")
        self._executor, self._poll = executor, poll
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

    def send(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Future[Any]:
        """Return the future of a call that is submitted when fewer than `workers` jobs run."""
        return self.wait_for(lambda: self._run(fn, args, kwargs))

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


TIME_LIMIT = r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?"
a_time_limit: Accepts = Accepts(
    "a time limit in minutes, or as H:M:S or D-H:M:S",
    lambda text: re.fullmatch(TIME_LIMIT, text) is not None,
    hint="write SBATCH_TIMELIMIT=4:00:00 for four hours",
)


def minutes(text: str) -> int:
    """Return a time limit of Slurm (M, M:S, H:M:S, D-H, D-H:M, or D-H:M:S) in minutes.

    submitit needs it: a job that is stopped earlier counts as preempted and is restarted.

    Args:
        text: The time limit.

    >>> minutes("1-12:30")
    2190
    """
    a_time_limit(text, "SBATCH_TIMELIMIT")
    days, *parts = re.fullmatch(TIME_LIMIT, text).groups()  # type: ignore[union-attr]
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
