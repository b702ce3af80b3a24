"""Calls on the workers of Ray."""

import os
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from .base import TRIES, Pool, call


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
            try:
                with warnings.catch_warnings():
                    # Ray's processes replace themselves at once and never touch JAX's state.
                    warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
                    if not address:
                        options |= {"num_cpus": workers, "include_dashboard": False}
                    ray.init(address or "local", **options)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ConnectionError(
                    f"no Ray cluster answers at {address or 'local'} ({error}); start one with "
                    "`ray start --head`, and on each machine `ray start --address=ADDRESS`"
                ) from error
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
        """The number of calls that run at the same time."""
        return max(1, int(self._ray.cluster_resources().get(self._resource, 0)))

    def send(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Future[Any]:
        """Return the future of a call that is sent to a worker."""
        reference = self._task.remote(fn, args, kwargs)
        future = reference.future()
        future.add_done_callback(
            lambda done: self._ray.cancel(reference, force=True) if done.cancelled() else None
        )
        return future
