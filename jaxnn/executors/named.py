"""Executors by name."""

import importlib.util
import shutil
from pathlib import Path

from ..explain.text import suggestion
from ..installation import missing
from ..validation import positive
from .base import InProcess, Pool
from .slurm import Submitit

NAMES = ("local", "dask", "ray", "slurm", "submitit:local")
PACKAGES = {"dask": "distributed", "ray": "ray", "slurm": "submitit", "submitit": "submitit"}


def create(text: str, workers: int | None = None, folder: str | Path | None = None) -> Pool:
    """Start the executor of a name.

    Options of Slurm come from its environment variables, such as SBATCH_PARTITION and
    SBATCH_TIMELIMIT (default: 24 hours). For other options create the executor yourself:
    `Submitit(submitit.AutoExecutor(...), workers=8)`.

    Args:
        text: "local", "dask", "ray", "slurm", or "submitit:local"; "dask:ADDRESS" and "ray:ADDRESS"
            for a running cluster.
        workers: Number of calls at the same time. Default: one per core, or what the cluster has.
        folder: Folder for the files of Slurm's jobs, on a disk that all machines share. Default:
            `runs/submitit` in the current folder.

    Returns:
        An executor that knows its `workers`. Its `shutdown` waits for the submitted calls, or
        cancels them with `wait=False`, and stops what was started here.

    Raises:
        ValueError: The name or number of workers is unknown.
        ImportError: A package is not installed.
        FileNotFoundError: This machine has no Slurm.
        ConnectionError: No cluster answers at the address.

    >>> with create("local") as executor:
    ...     executor.submit(pow, 2, 5).result()
    32
    """
    name, address = check_name(text, workers)
    if name == "dask":
        from .dask_cluster import Dask

        return Dask(address, workers)
    if name == "ray":
        from .ray_cluster import Ray

        return Ray(address, workers)
    if name == "local":
        return InProcess()
    return Submitit.on(address or "slurm", workers, Path(folder or Path("runs", "submitit")))


def check_name(text: str, workers: int | None) -> tuple[str, str]:
    """Return the name and the address of an executor, without starting or importing anything.

    Args:
        text: As for `create`.
        workers: As for `create`.

    Raises:
        ValueError: As `create` does. So do ImportError and FileNotFoundError.

    >>> check_name("local", None)
    ('local', '')
    """
    name, _, address = text.partition(":")
    if text not in NAMES and not (name in ("dask", "ray") and address):
        raise ValueError(
            f"no executor is named {text!r}; {suggestion(text, NAMES)} (Python also accepts any "
            "concurrent.futures.Executor)"
        )
    (None | positive)(workers, "workers")
    problem = ""
    if workers is not None and address and name != "submitit":
        problem = f"{text} has its own number of workers; leave out workers={workers}"
    elif name == "local" and workers not in (None, 1):
        problem = f"local runs one call at a time, got workers={workers}; write dask"
    elif name == "slurm" and workers is None:
        problem = "slurm needs the number of jobs to run at a time; write --workers 8"
    if name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None:
        extra = name.replace("submitit", "slurm")
        raise missing(f"the executor {text} needs", PACKAGES[name], extra)
    if problem:
        raise ValueError(problem)
    if name == "slurm" and shutil.which("srun") is None:
        raise FileNotFoundError(
            "this machine has no Slurm (no srun); run the sweep on a machine that submits jobs, "
            "or try submitit:local"
        )
    return name, address
