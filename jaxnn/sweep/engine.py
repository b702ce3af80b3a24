"""Where the cohorts of a sweep run: any `concurrent.futures.Executor`, and four by name.

    local                        in this process, one after the other
    dask                         worker processes on this machine
    dask:tcp://10.0.0.1:8786     the workers of a Dask scheduler
    ray                          worker processes on this machine
    ray:10.0.0.1:6379            the workers of a Ray cluster
    slurm                        a Slurm job for each call, by submitit
    submitit:local               the same by processes of this machine, to try it out

Dask, Ray and `Submitit` run what a dead worker had begun once more, elsewhere. A worker may be
another machine: what travels is a function of a module and plain data.
"""

import concurrent.futures
import contextlib
import importlib.util
import os
import re
import shutil
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..explain.text import suggestion
from ..installation import missing

ENGINES = ("local", "dask", "ray", "slurm", "submitit:local")
TRIES = 3
"""How often a call whose worker dies is made again; `Submitit` submits one as often in all."""

PACKAGES = {"dask": "distributed", "ray": "ray", "slurm": "submitit", "submitit": "submitit"}

# By the package of an exception, since only a process that uses the package has it.
LOST = {
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


class Engine(Executor):
    """An executor that knows how many calls it runs at a time."""

    closed = False

    @property
    def workers(self) -> int:
        """How many calls run at a time."""
        return 1

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Send a call to a worker."""
        if self.closed:
            raise RuntimeError("this engine is shut down and takes no more calls")
        return self.sent(fn, args, kwargs)

    def sent(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Future[Any]:
        """The future of a call that is sent to a worker."""
        raise NotImplementedError

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; wait for those submitted, or give them up; stop the workers."""
        self.closed = True


def engine(text: str, workers: int | None = None, folder: str | Path | None = None) -> Engine:
    """The executor of that name, started.

    Args:
        text: `local`, `dask`, `ray`, `slurm` or `submitit:local`; `dask:ADDRESS` and `ray:ADDRESS`
            for a cluster that runs already.
        workers: how many calls run at a time; None for one a core, or for what a cluster has.
        folder: where Slurm's jobs keep their files, on a disk that all machines see; None for
            `runs/submitit` below the current folder.

    Returns:
        An executor that knows its `workers`. Its `shutdown` waits for what was submitted, or with
        `wait=False` gives it up, and stops what was started here.

    Options of Slurm come from its environment variables, such as SBATCH_PARTITION and
    SBATCH_TIMELIMIT (24 hours where it is not set); for others make the executor and pass it:
    `Submitit(submitit.AutoExecutor(...), workers=8)`.

    Raises ValueError for an unknown name or number of workers, ImportError where a package is not
    there, FileNotFoundError without Slurm, ConnectionError where nothing answers at the address.

    >>> with engine("local") as executor:
    ...     executor.submit(pow, 2, 5).result()
    32
    """
    name, address = checked(text, workers)
    if name == "local":
        return Local()
    if name == "dask":
        return _Dask(address, workers)
    if name == "ray":
        return _Ray(address, workers)
    return _submitit(address or "slurm", workers, Path(folder or Path("runs", "submitit")))


def checked(text: str, workers: int | None) -> tuple[str, str]:
    """The name and the address, '' without one, of an engine; starts nothing, imports nothing.

    Raises what `engine` does, but for a cluster that does not answer.

    >>> checked("local", None)
    ('local', '')
    """
    name, _, address = text.partition(":")
    if text not in ENGINES and not (name in ("dask", "ray") and address):
        raise ValueError(
            f"no engine is called {text!r}; {suggestion(text, ENGINES)} (in Python also any "
            "concurrent.futures.Executor)"
        )
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise ValueError(f"an engine has at least 1 worker, got workers={workers!r}")
    if workers is not None and address and name != "submitit":
        raise ValueError(f"{text} has the workers that it has; leave out workers={workers}")
    if name == "local" and workers not in (None, 1):
        raise ValueError(f"local runs one call at a time, got workers={workers}; try dask")
    if name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None:
        extra = name.replace("submitit", "slurm")
        raise missing(f"the engine {text} needs", PACKAGES[name], extra)
    if name == "slurm" and workers is None:
        raise ValueError("slurm runs as many jobs at a time as it is told; write --workers 8")
    if name == "slurm" and shutil.which("srun") is None:
        raise FileNotFoundError(
            "there is no Slurm on this machine (no srun); run the sweep where jobs are submitted, "
            "or try submitit:local"
        )
    return name, address


def lost(error: BaseException) -> bool:
    """Whether it says that a worker died, so that the call may be run again, and not that the call
    raised.

    After a `BrokenExecutor`, as from the standard library's process pool, only a new executor
    helps.

    >>> lost(concurrent.futures.BrokenExecutor()), lost(ValueError("from the work"))
    (True, False)
    """
    names: dict[str, set[str]] = {}
    for cls in type(error).__mro__:
        names.setdefault(cls.__module__.partition(".")[0], set()).add(cls.__name__)
    if any(names.get(package, set()) & raised for package, raised in RAISED.items()):
        return False
    if isinstance(error, concurrent.futures.BrokenExecutor | concurrent.futures.CancelledError):
        return True
    return any(names.get(package, set()) & died for package, died in LOST.items())


def retried(
    call: Callable[[], Any], tries: int, given_up: Callable[[], bool] = lambda: False
) -> Any:
    """The result of a call, which is made again if its worker dies, up to so many times in all."""
    while True:
        tries -= 1
        try:
            return call()
        except Exception as error:
            if tries <= 0 or not lost(error) or given_up():
                raise


def answer(executor: Executor, function: Callable[..., Any], argument: Any) -> Any:
    """The result of a call, which is made again if its worker dies: `TRIES` times at most.

    >>> answer(Local(), abs, -3)
    3
    """
    return retried(lambda: executor.submit(function, argument).result(), TRIES + 1)


class Local(Engine):
    """Runs each call at once, where it is submitted: a future of it is done.

    >>> Local().submit(divmod, 7, 2).done()
    True
    """

    def sent(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Future[Any]:
        """Run it, and return a future that has its result or what it raised."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # a Ctrl-C goes through
            future.set_exception(error)
        return future


class _Remote(Engine):
    """What Dask and Ray share: the futures that are not done, and how they end."""

    def __init__(self) -> None:
        self._futures: set[Future[Any]] = set()
        self._stack = contextlib.ExitStack()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Send a call to a worker."""
        future = super().submit(fn, *args, **kwargs)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; wait for those submitted, or give them up; stop the workers."""
        super().shutdown()
        if not wait or cancel_futures:
            for future in list(self._futures):
                future.cancel()
        concurrent.futures.wait(list(self._futures))
        self._stack.close()


class _Dask(_Remote):
    def __init__(self, address: str, workers: int | None) -> None:
        super().__init__()
        import distributed

        if not address:
            options: dict[str, Any] = {
                "n_workers": workers or os.cpu_count() or 1,
                "threads_per_worker": 1,
                "memory_limit": 0,  # or Dask would stop a worker whose compiler takes much
                "dashboard_address": "127.0.0.1:0",  # a free port, this machine only
                "silence_logs": "ERROR",  # a worker that starts again is no news for a live table
            }
            cluster: Any = self._stack.enter_context(distributed.LocalCluster(**options))
            address = cluster.scheduler_address
        try:
            client = distributed.Client(address, timeout=10, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConnectionError(
                f"no Dask scheduler answers at {address}; start one by `dask scheduler`, and on "
                "each machine `dask worker ADDRESS`"
            ) from error
        self._client: Any = self._stack.enter_context(client)
        # Not pure: Dask would answer a call that is made again with what it answered before.
        self._executor = client.get_executor(pure=False)

    @property
    def workers(self) -> int:
        return max(1, sum(self._client.nthreads().values()))

    def sent(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Future[Any]:
        import dask.config

        # The lanes of a cohort go to one worker, once: nothing to scatter, nothing to warn of.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
            return self._executor.submit(_called, fn, args, kwargs)


class _Ray(_Remote):
    def __init__(self, address: str, workers: int | None) -> None:
        super().__init__()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent unasked
        import ray  # pyright: ignore[reportMissingImports]

        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if ray.is_initialized():
            if address or workers:
                raise ValueError("Ray runs in this process already; write engine('ray') to use it")
        elif address:
            try:
                ray.init(address, **options)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ConnectionError(
                    f"no Ray cluster answers at {address}; start one by `ray start --head`, and "
                    "on each machine `ray start --address=ADDRESS`"
                ) from error
            self._stack.callback(ray.shutdown)
        else:
            with warnings.catch_warnings():
                # Ray's processes replace themselves at once and never touch what JAX holds.
                warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
                ray.init("local", num_cpus=workers, include_dashboard=False, **options)
            self._stack.callback(ray.shutdown)
        self._ray = ray
        # A call gets a separate device if there are any, else Ray would hide them.
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        self._resource = "GPU" if gpus else "CPU"
        self._task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=TRIES)(_called)

    @property
    def workers(self) -> int:
        return max(1, int(self._ray.cluster_resources().get(self._resource, 0)))

    def sent(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Future[Any]:
        reference = self._task.remote(fn, args, kwargs)
        future = reference.future()
        future.add_done_callback(
            lambda done: self._ray.cancel(reference, force=True) if done.cancelled() else None
        )
        return future


class Submitit(Engine):
    """A submitit executor as one of `concurrent.futures`: each call is a separate job.

    A job that dies is submitted again, three times in all; the files of one that ends well are
    removed.

    Args:
        executor: a `submitit.AutoExecutor` with its parameters set.
        workers: how many jobs there are at a time.
        poll: seconds between two looks at a job.
    """

    def __init__(self, executor: Any, workers: int, poll: float = 1.0) -> None:
        self._workers = workers
        self._executor, self._poll = executor, poll
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="submitit")
        self._given_up = threading.Event()
        self._one_at_a_time = threading.Lock()  # submitit says nothing about threads

    @property
    def workers(self) -> int:
        """How many jobs there are at a time."""
        return self._workers

    def sent(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Future[Any]:
        """Submit a job as soon as there are less than `workers`."""
        given_up = self._given_up.is_set
        return self._pool.submit(retried, lambda: self._ran(fn, args, kwargs), TRIES, given_up)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; wait for those submitted, or give them up and cancel their jobs."""
        super().shutdown()
        if not wait:
            self._given_up.set()
        self._pool.shutdown(wait=True, cancel_futures=cancel_futures or not wait)

    def _ran(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        with self._one_at_a_time:
            job = self._executor.submit(fn, *args, **kwargs)
        while not job.done():
            if self._given_up.wait(self._poll):
                job.cancel(check=False)
                until = time.monotonic() + 10.0
                while not job.done() and time.monotonic() < until:
                    time.sleep(0.1)
                raise concurrent.futures.CancelledError(f"job {job.job_id} was given up")
        result = job.result()
        paths = job.paths
        data = (paths.submitted_pickle, paths.result_pickle, paths.submission_file)
        for file in (*data, paths.stdout, paths.stderr):
            file.unlink(missing_ok=True)
        return result


def _submitit(cluster: str, workers: int | None, folder: Path) -> Submitit:
    import submitit  # pyright: ignore[reportMissingImports]

    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    limit = os.environ.get("SBATCH_TIMELIMIT", "1-0") if cluster == "slurm" else "1-0"
    executor.update_parameters(timeout_min=_minutes(limit), name="jaxnn")
    return Submitit(executor, workers or os.cpu_count() or 1)


def _minutes(text: str) -> int:
    """Slurm's time limit (M, M:S, H:M:S, D-H, D-H:M or D-H:M:S) in minutes.

    submitit has to know it: a job stopped earlier would count as preempted, and start over.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not found:
        raise ValueError(
            f"SBATCH_TIMELIMIT={text!r} is not a time limit; write minutes, H:M:S or D-H:M:S, "
            "SBATCH_TIMELIMIT=4:00:00"
        )
    days, *parts = found.groups()
    a, b, c = (int(part or 0) for part in parts)
    if days is None and parts[2] is None:
        a, b, c = 0, a, b
    return max(1, 24 * 60 * int(days or 0) + 60 * a + b + (c > 0))


def _called(fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return fn(*args, **kwargs)
