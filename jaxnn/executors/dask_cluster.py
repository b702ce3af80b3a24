"""Calls on the workers of Dask."""

import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from .base import Pool, call


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
        try:
            client = distributed.Client(address, timeout=10, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConnectionError(
                f"no Dask scheduler answers at {address}; start one with `dask scheduler`, and on "
                "each machine `dask worker ADDRESS`"
            ) from error
        self._client: Any = self.resources.enter_context(client)
        # With pure=True, Dask would answer a repeated call with its first result.
        self._executor = client.get_executor(pure=False)

    @property
    def workers(self) -> int:
        """The number of calls that run at the same time."""
        return max(1, sum(self._client.nthreads().values()))

    def send(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Future[Any]:
        """Return the future of a call that is sent to a worker."""
        import dask.config

        # The lanes of a cohort go to one worker, once: Dask's advice to scatter does not apply.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
            return self._executor.submit(call, fn, args, kwargs)
