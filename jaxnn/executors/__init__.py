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

import shutil
from pathlib import Path

from ..explain.text import check_known
from ..installation import check_installed
from ..validation import one_of, positive
from .pools import TRIES, Dask, InProcess, Pool, Ray, Submitit, result_of, worker_died
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
    addressed = bool(address) and name in ("dask", "ray")
    more = " (Python also accepts any concurrent.futures.Executor)"
    check_known(text, (text,) if addressed else NAMES, f"no executor is named {text!r}", more)
    if name in PACKAGES:
        package, extra = PACKAGES[name], name.replace("submitit", "slurm")
        check_installed(package, f"the executor {text} needs", package, extra)
    if addressed:
        one_of(None)(workers, "workers", f"{text} has its own number of workers")
    elif name == "slurm":
        hint = "slurm needs the number of jobs to run at a time; write --workers 8"
        positive(workers, "workers", hint)
    else:
        (None | positive)(workers, "workers")
    if name == "slurm" and shutil.which("srun") is None:
        raise FileNotFoundError(
            "this machine has no Slurm (no srun); run the sweep on a machine that submits jobs, "
            "or try submitit:local"
        )
    return name, address
