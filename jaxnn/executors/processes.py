"""Worker processes on this machine, each with a share of its cores and GPUs.

A worker is a new Python process, not a fork. It reads calls from a pipe, and ends when its parent
ends. If it dies during a call, the call is repeated in a new worker.
"""

import contextlib
import io
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from typing import Any, TypeVar

from ..installation import required
from .pools import Threaded, worker_died

GRACE = 10.0  # seconds that a worker may take to end by itself
PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"


class Processes(Threaded):
    """Worker processes on this machine, each with a share of its cores and GPUs.

    Args:
        workers: The number of processes. Default: None, one per core.

    >>> divided([0, 1, 2, 3, 4], 2), divided([0, 1], 3)
    ([[0, 1, 2], [3, 4]], [[0], [1], [0]])
    """

    def __init__(self, workers: int | None = None) -> None:
        cores, gpus = available(), visible_gpus()
        count = workers or len(cores)
        super().__init__(count, "processes")
        shares = zip(divided(cores, count), divided(gpus, count), strict=True)
        self._all = [_Worker(*share) for share in shares]
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._all:
            self._free.put(worker)

    def send(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Future[Any]:
        """Return the future of a call that a free worker runs.

        Raises:
            ValueError, ImportError: The call cannot be sent to another process.
        """
        message = pickled_call((fn, args, kwargs))
        return self.wait_for(lambda: self._call(message))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls, wait for the submitted ones or give them up, and stop the workers.

        Args:
            wait: As for `Threaded`. Default: True.
            cancel_futures: As for `Threaded`. Default: False.
        """
        super().shutdown(wait, cancel_futures=cancel_futures)
        for worker in self._all:
            worker.stop()

    def give_up(self) -> None:
        """Kill the workers."""
        for worker in self._all:
            worker.kill()

    def _call(self, message: bytes) -> Any:
        worker = self._free.get()  # there is one for each thread
        try:
            if not self._given_up.is_set():
                worker.start()
            if self._given_up.is_set():  # it may be set while the worker starts
                raise RuntimeError("the workers are being stopped")
            return worker.call(message)
        except RuntimeError as error:
            if not self._given_up.is_set():
                raise
            worker.kill()
            raise BrokenExecutor(str(error)) from error
        finally:
            self._free.put(worker)


class _Worker:
    """A worker process, which starts at its first call, and restarts after it died."""

    starting = threading.Lock()

    def __init__(self, cores: Sequence[int], gpus: Sequence[str]) -> None:
        self._cores = cores
        self._variables = worker_variables(gpus)
        self._process: Any = None
        self._connection: Any = None

    def call(self, message: bytes) -> Any:
        """Return the result of a call; raise BrokenExecutor if the process dies."""
        try:
            self._connection.send_bytes(message)
            succeeded, result = pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            code = self._exit_code()
            raise BrokenExecutor(f"a worker process died with exit code {code}") from error
        if succeeded:
            return result
        if worker_died(result):  # the error of the call would be mistaken for a dead worker
            raise RuntimeError(f"the call raised {result!r}") from result
        raise result

    def start(self) -> None:
        """Start the process unless it is running."""
        if self._process is not None and self._process.is_alive():
            return
        self.stop()
        context = multiprocessing.get_context("spawn")
        with self.starting:
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=serve, args=(theirs, self._cores), daemon=True)
            with child_environment(self._variables):  # it imports the program that was started
                self._process.start()
            theirs.close()  # so that the pipe closes when the process ends
        try:
            self._connection.recv_bytes()
        except (EOFError, OSError):
            raise RuntimeError(
                f"a worker process ended with exit code {self._exit_code()} before it was "
                "ready; it imports the program that was started, so a script that sweeps must "
                'do it inside `if __name__ == "__main__":`'
            ) from None

    def _exit_code(self) -> int | None:
        """Return the exit code of a process that is ending."""
        self._process.join(GRACE)
        return self._process.exitcode

    def kill(self) -> None:
        """End the process at once; a call that is running raises BrokenExecutor."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """Let the process exit, or kill it if it does not."""
        if self._process is None:
            return
        self._connection.close()
        self._process.join(GRACE)
        self.kill()
        self._process.join()
        self._process.close()
        self._process = None


def available() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def visible_gpus() -> list[str]:
    """Return the GPUs that CUDA shows to this process, without starting CUDA.

    They are those of `CUDA_VISIBLE_DEVICES`, in its order, or all that have a device file.
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [one.strip() for one in listed.split(",") if one.strip() not in ("", "-1")]
    return [str(index) for index, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


Resource = TypeVar("Resource")


def divided(resources: Sequence[Resource], workers: int) -> list[list[Resource]]:
    """Return the resources of each worker: equal shares, or one each if there are more workers.

    Args:
        resources: Cores or GPUs; without any, all shares are empty.
        workers: The number of workers.
    """
    if workers >= len(resources):
        return [
            [resources[index % len(resources)]] if resources else [] for index in range(workers)
        ]
    size, more = divmod(len(resources), workers)
    ends = [size * (index + 1) + min(index + 1, more) for index in range(workers)]
    return [list(resources[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]


def worker_variables(gpus: Sequence[str]) -> dict[str, str]:
    """Return the environment variables of a worker.

    Args:
        gpus: The GPUs that it may use, as `CUDA_VISIBLE_DEVICES` lists them.

    >>> worker_variables(["2", "3"])["CUDA_VISIBLE_DEVICES"]
    '2,3'
    """
    found = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
    if PREALLOCATE not in os.environ:  # the first of several processes would take all memory
        found[PREALLOCATE] = "false"
    return found


@contextlib.contextmanager
def child_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside, for child processes that begin there."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def serve(connection: Any, cores: Sequence[int]) -> None:
    """Run the calls that arrive through a pipe until it closes: the work of a worker process.

    Args:
        connection: The pipe.
        cores: The cores that the process may use; XLA starts a thread for each.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, too
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    connection.send_bytes(b"ready")
    functions: dict[bytes, Any] = {}
    while True:
        try:
            message = connection.recv_bytes()
        except EOFError:
            return
        try:
            fn, args, kwargs = _Loader(message, functions).load()
            reply: tuple[bool, Any] = True, fn(*args, **kwargs)
        except Exception as error:
            error.add_note(f"In a worker process:\n{traceback.format_exc()}")
            reply = False, error
        try:
            contents = pickle.dumps(reply)
        except Exception as error:
            text = f"{reply[1]!r:.200} cannot be sent from a worker process: {error!r:.200}"
            contents = pickle.dumps((False, RuntimeError(text)))
        try:
            connection.send_bytes(contents)
        except OSError:  # the parent process has died
            return


def pickled_call(call: Any) -> bytes:
    """Return a call as bytes: functions of modules by name, those of a notebook by value.

    Args:
        call: The function and its arguments.

    Raises:
        ValueError: It contains something that cannot be sent without cloudpickle.
    """
    main = sys.modules["__main__"]
    imported = hasattr(main, "__file__") or getattr(main, "__spec__", None) is not None
    try:
        if imported:
            return pickle.dumps(call)
    except (pickle.PicklingError, AttributeError, TypeError):
        pass  # a lambda or a local function
    what = "functions outside of modules are sent to worker processes by"
    cloudpickle = required("cloudpickle", what, "cloudpickle", "dask")
    pickler: type[Any] = type("ByValue", (_ByValue, cloudpickle.CloudPickler), {})
    contents = io.BytesIO()
    try:
        pickler(contents).dump(call)
    except Exception as error:
        raise ValueError(
            f"a call cannot be sent to a worker process ({error}): write what it needs into a "
            'module, or sweep with executor="local"'
        ) from error
    return contents.getvalue()


class _ByValue:
    """Pickles each function of a notebook separately, so that equal ones arrive as one object.

    Cohorts with the same function then share the programs that a worker compiled.
    """

    def persistent_id(self, obj: Any) -> bytes | None:
        """Return a function of a notebook as bytes."""
        if isinstance(obj, types.FunctionType) and obj.__module__ == "__main__":
            import cloudpickle

            return cloudpickle.dumps(obj)
        return None


class _Loader(pickle.Unpickler):
    """Unpickles the messages of the parent process.

    Args:
        message: What `pickled_call` returned.
        functions: The functions that were received before, by their bytes.
    """

    def __init__(self, message: bytes, functions: dict[bytes, Any]) -> None:
        super().__init__(io.BytesIO(message))
        self._functions = functions

    def persistent_load(self, pid: Any) -> Any:
        """Return the function of these bytes, the same object each time."""
        if pid not in self._functions:
            self._functions[pid] = pickle.loads(pid)
        return self._functions[pid]
