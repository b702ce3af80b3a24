"""Several processes that train one network, each with devices of its own."""

import atexit
import os
import sys
from collections.abc import Mapping
from typing import Any

import jax

from ..train.agreement import is_peer_lost, peer_lost


def initialize(
    coordinator: str | None = None, processes: int | None = None, index: int | None = None
) -> None:
    """Join the processes of a run, so that `jax.devices()` are those of all of them.

    Every process calls it once, before anything else of JAX, and then runs the same program: makes
    the same mesh, the same state and the same steps, each with its own rows of a batch
    (`parallel.shard_batch`). Metrics are the same in all of them; `parallel.is_first()` says which
    one writes files and prints.

    Without arguments the environment tells: `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID` (or `JOB_COMPLETION_INDEX`, which Kubernetes sets in an Indexed Job); else
    Slurm's variables, under `srun` with several tasks; else the API of Kubernetes, which needs the
    package `kubernetes`. Where none of these is there, it is a run of one process, and nothing is
    done: the same program runs on one machine.

    If one process dies, the others cannot continue. Each of them reports that in one line instead
    of a traceback, and exits with status 1 at once: JAX would wait for the dead process.

    Args:
        coordinator: "host:port" of the process with index 0, a port that is free there.
        processes: how many there are.
        index: which one this is, from 0.

    Raises:
        ValueError: some of the arguments are given and not all, or are no such numbers.
        RuntimeError: JAX has been used already, or this has been called before.

    Reference: `jax.distributed.initialize`, which it calls.
    """
    given = {"coordinator": coordinator, "processes": processes, "index": index}
    missing = [name for name, item in given.items() if item is None]
    if 0 < len(missing) < len(given):
        raise ValueError(
            f"parallel.initialize was given no {' and no '.join(missing)}: write "
            'parallel.initialize("host:1234", processes=2, index=0), or parallel.initialize() if '
            "the environment has them"
        )
    if jax.distributed.is_initialized():
        raise RuntimeError("parallel.initialize was called before in this process: call it once")
    if coordinator is None or processes is None or index is None:
        found = from_environment(os.environ)
        if found is None:
            return
        if found:
            coordinator, processes, index = found
    if coordinator is not None and processes is not None and index is not None:
        _check(coordinator, processes, index)
    try:
        jax.distributed.initialize(coordinator, processes, index)
    except RuntimeError as error:
        if "before any JAX calls" not in str(error):
            raise
        raise RuntimeError(
            "parallel.initialize comes before all else of JAX, which has its devices already: call "
            "it in the first line of the program, before arrays and keys are made"
        ) from error
    if jax.process_count() > 1:
        _report_lost_peers()


def is_first() -> bool:
    """Whether this is the process that writes: the one with index 0, or the only one.

    >>> is_first()
    True
    """
    return jax.process_index() == 0


def from_environment(
    environment: Mapping[str, str],
) -> tuple[str, int, int] | tuple[()] | None:
    """Coordinator, processes and index; () where JAX finds them out by itself; None for none.

    >>> from_environment({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2",
    ...                   "JOB_COMPLETION_INDEX": "1"})
    ('a:1', 2, 1)
    >>> from_environment({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"})
    ()
    """
    index = environment.get("JAX_PROCESS_ID", environment.get("JOB_COMPLETION_INDEX"))
    texts = environment.get("JAX_COORDINATOR_ADDRESS"), environment.get("JAX_NUM_PROCESSES"), index
    coordinator, processes, index = texts
    if coordinator is not None and processes is not None and index is not None:
        if not processes.isdecimal() or not index.isdecimal():
            raise ValueError(
                f"JAX_NUM_PROCESSES is {processes!r} and the index of the process {index!r}; both "
                "are ints >= 0"
            )
        return coordinator, int(processes), int(index)
    # Under sbatch alone there is one process, whatever the tasks are: srun sets the step.
    slurm = {"SLURM_JOB_ID", "SLURM_PROCID", "SLURM_NTASKS"} <= set(environment)
    if slurm and environment["SLURM_NTASKS"] != "1":
        return ()
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= set(environment):
        return ()
    return None


def _report_lost_peers() -> None:
    """Report the death of another process in one line; other errors as before."""
    before = sys.excepthook

    def report(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not is_peer_lost(error):
            before(kind, error, trace)
            return
        print(f"error: {peer_lost(error)}", file=sys.stderr)
        # Registered last, it runs first: before JAX waits for the dead process, and aborts.
        atexit.register(_leave)

    sys.excepthook = report


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _check(coordinator: str, processes: int, index: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f'the coordinator is "host:port", got {coordinator!r}')
    if processes < 1 or not 0 <= index < processes:
        raise ValueError(
            f"the index of a process is from 0 to below their number; got index={index} of "
            f"processes={processes}"
        )
