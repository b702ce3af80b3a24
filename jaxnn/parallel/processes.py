"""Several processes that train one program together, each with its own devices."""

import atexit
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import jax

from ..train.interruption import is_peer_lost, peer_lost
from ..validation import Accepts, integer, positive

_ADDRESS = Accepts(
    '"host:port"', lambda text: isinstance(text, str) and bool(re.fullmatch(r".+:\d+", text))
)
_DIGITS = Accepts("the digits of an int >= 0", str.isdecimal)


def initialize(
    coordinator: str | None = None, processes: int | None = None, index: int | None = None
) -> None:
    """Connect the processes of a run, so that `jax.devices()` lists the devices of all processes.

    Every process calls this function once, before any other use of JAX, and then runs the same
    code: it creates the same mesh, state, and steps, with its own rows of each batch
    (`parallel.shard_batch`). Metrics are the same in all processes. `parallel.is_first()` is True
    in one process, which writes files and prints.

    Without arguments, the values are read from the environment: from `JAX_COORDINATOR_ADDRESS`,
    `JAX_NUM_PROCESSES`, and `JAX_PROCESS_ID` (or `JOB_COMPLETION_INDEX`, which Kubernetes sets in
    an Indexed Job); otherwise from Slurm's variables, under `srun` with several tasks; otherwise
    from the API of Kubernetes, which needs the package `kubernetes`. If none of these is available,
    the run has one process, and the function does nothing.

    If one process dies, the others cannot continue. Each of them reports it in one line instead of
    a traceback, and exits with status 1 at once: JAX would wait for the dead process.

    Args:
        coordinator: "host:port" of the process with index 0; the port must be free on that host.
            Default: None, from the environment.
        processes: The number of processes. Default: None, from the environment.
        index: The index of this process, from 0. Default: None, from the environment.

    Raises:
        ValueError: Only some of the arguments are given, or their values are not valid.
        RuntimeError: JAX has been used already, or this has been called before.

    Reference: `jax.distributed.initialize`, which it calls.
    """
    given = coordinator, processes, index
    found: Any = from_environment(os.environ) if given == (None, None, None) else given
    if found is None:
        return
    if found:
        hint = (
            'write parallel.initialize("host:1234", processes=2, index=0), or '
            "parallel.initialize() if the environment states them"
        )
        _ADDRESS(found[0], "coordinator", hint)
        integer(0, positive(found[1], "processes", hint) - 1)(found[2], "index", hint)
    jax.distributed.initialize(*found)
    if jax.process_count() > 1:
        _report_lost_peers()


def is_first() -> bool:
    """Return whether this is the process with index 0, or the only one.

    >>> is_first()
    True
    """
    return jax.process_index() == 0


def from_environment(
    environment: Mapping[str, str],
) -> tuple[str, int, int] | tuple[()] | None:
    """Return coordinator, processes, and index; () if JAX finds them; None for a single process.

    >>> from_environment({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2",
    ...                   "JOB_COMPLETION_INDEX": "1"})
    ('a:1', 2, 1)
    >>> from_environment({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"})
    ()
    """
    names = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
    coordinator, processes, index = map(environment.get, names)
    index = environment.get("JOB_COMPLETION_INDEX") if index is None else index
    if coordinator is not None and processes is not None and index is not None:
        counts = {"JAX_NUM_PROCESSES": processes, "JAX_PROCESS_ID": index}
        count, own = (_DIGITS(text, name) for name, text in counts.items())
        return coordinator, int(count), int(own)
    # Under sbatch alone there is one process, whatever the number of tasks.
    slurm = {"SLURM_JOB_ID", "SLURM_PROCID", "SLURM_NTASKS"} <= set(environment)
    several = slurm and environment["SLURM_NTASKS"] != "1"
    pods = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= set(environment)
    return () if several or pods else None


def _report_lost_peers() -> None:
    """Report the death of another process in one line; other errors as before."""
    before = sys.excepthook

    def report(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not is_peer_lost(error):
            return before(kind, error, trace)
        print(f"error: {peer_lost(error)}", file=sys.stderr)
        # Registered last, it runs first: before JAX waits for the dead process, and aborts.
        atexit.register(_leave)

    sys.excepthook = report


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
