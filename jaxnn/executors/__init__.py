"""Executors of the cohorts of a sweep: any `concurrent.futures.Executor`, and these by name.

    local                        in this process; with several workers, in worker processes
    processes                    worker processes that divide the cores and GPUs of this machine
    dask                         worker processes on this machine
    dask:tcp://10.0.0.1:8786     the workers of a Dask scheduler
    ray                          worker processes on this machine
    ray:10.0.0.1:6379            the workers of a Ray cluster
    slurm                        a Slurm job for each call, by submitit
    submitit:local               the same with local processes, to try it out

All except `local` repeat a call if its worker dies. Workers may be on other machines, so a call
consists of a function of a module and plain data.
"""

from .base import TRIES, InProcess, Pool, result_of, worker_died
from .clusters import Submitit, check_name, create
from .processes import Processes

__all__ = [
    "TRIES",
    "InProcess",
    "Pool",
    "Processes",
    "Submitit",
    "check_name",
    "create",
    "result_of",
    "worker_died",
]
