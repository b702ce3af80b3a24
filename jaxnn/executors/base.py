"""Executors that know their number of workers, and calls that are repeated if a worker dies."""

import abc
import concurrent.futures
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

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
