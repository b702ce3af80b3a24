"""Two processes of two devices give the numbers of one; and how processes find each other."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxnn import parallel, train
from jaxnn.parallel.mesh import from_environment
from jaxnn.train.hooks.stopping import is_peer_lost
from tests.parallel import on_two
from tests.parallel.on_two import PROGRAM, SHAPES, STEPS

# What a scheduler may have set for the tests themselves.
VARIABLES = ("JAX_COORDINATOR", "JAX_NUM", "JAX_PROCESS", "JOB_COMPLETION", "SLURM", "KUBERNETES")


def free_port():
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


def processes(starts):
    """What the first of the processes prints, given the arguments and variables of each."""
    flags = "--xla_force_host_platform_device_count=2 " + os.environ.get("XLA_FLAGS", "")
    outside = {name: text for name, text in os.environ.items() if not name.startswith(VARIABLES)}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", on_two.__name__, *arguments],
            env=outside | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags} | variables,
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for arguments, variables in starts
    ]
    try:
        given = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * len(running), given
    # Gloo, which carries what is exchanged, prints too. The first process alone writes results.
    lines = [[line for line in out.splitlines() if line.startswith("{")] for out, _ in given]
    assert [len(own) for own in lines] == [1] + [0] * (len(lines) - 1)
    return json.loads(lines[0][0])


def assert_as_alone(found):
    """It has the numbers of one process with one device."""
    state = PROGRAM.init(jax.random.key(0), SHAPES)
    step, metrics = train.make_step(PROGRAM), {}
    for _ in range(STEPS):
        state, metrics = step(state, on_two.data())
    for name, item in metrics.items():
        np.testing.assert_allclose(found["metrics"][name], float(item), rtol=1e-5)
    # Sums in another order, in float32, over three steps of Adam.
    for leaf, wanted in zip(found["params"], jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(leaf, wanted, atol=1e-6)


def test_two_processes_of_two_devices_are_one():
    address = f"localhost:{free_port()}"
    given = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    found = processes([((address, "2", "0"), {}), ((), given)])
    assert (found["processes"], found["devices"]) == (2, 4)
    assert_as_alone(found)


def test_the_survivor_of_two_processes_reports_it_in_one_line(tmp_path):
    address = f"localhost:{free_port()}"
    flags = "--xla_force_host_platform_device_count=2 " + os.environ.get("XLA_FLAGS", "")
    began = time.monotonic()
    survivor, dying = (
        subprocess.Popen(
            [sys.executable, "-m", "tests.parallel.on_one_of_two", address, str(i), str(tmp_path)],
            env=dict(os.environ) | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    )
    try:
        _, error = survivor.communicate(timeout=90)
    finally:
        for process in (survivor, dying):
            process.kill()
            process.communicate()
    assert dying.returncode == -signal.SIGKILL
    assert survivor.returncode == 1, error
    # JAX would wait 100 seconds for the dead process, and abort.
    assert time.monotonic() - began < 90
    assert "Traceback" not in error
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert line.startswith(
        "error: another process of this run died, and process 0 of 2 cannot continue without it ("
    )
    checkpoint = tmp_path / "checkpoints" / "4"
    assert line.endswith(f"and start all 2 again; they resume from the checkpoint {checkpoint}")


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ("UNKNOWN: Gloo AllReduce failed: Connection closed by peer [127.0.0.1]:1", True),
        ("NCCL operation ncclAllReduce failed: remote process exited or network error", True),
        ("UNAVAILABLE: Failed to send RPC to coordination service. Either the leader", True),
        ("batch 3 of the Grain pipeline cannot be read: Connection reset by peer", False),
        ("the training loss is nan after step 3", False),
    ],
)
def test_which_errors_are_of_another_process(monkeypatch, said, lost):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert is_peer_lost(ValueError(said)) is lost
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    assert not is_peer_lost(ValueError(said))


@pytest.mark.slow
def test_processes_that_slurm_starts():
    slurm = {
        # JAX takes the port from the number of the job.
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
    }
    tasks = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
    found = processes([((), slurm | task) for task in tasks])
    assert found["processes"] == 2
    assert_as_alone(found)


@pytest.mark.slow
def test_the_same_program_runs_alone():
    found = processes([((), {})])
    assert (found["processes"], found["devices"]) == (1, 2)
    assert_as_alone(found)


def test_the_variables_of_schedulers():
    given = {"JAX_COORDINATOR_ADDRESS": "node:1234", "JAX_NUM_PROCESSES": "4"}
    assert from_environment(given | {"JAX_PROCESS_ID": "3"}) == ("node:1234", 4, 3)
    # An Indexed Job of Kubernetes counts its pods.
    assert from_environment(given | {"JOB_COMPLETION_INDEX": "2"}) == ("node:1234", 4, 2)
    assert from_environment(given) is None
    assert from_environment({}) is None
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}
    assert from_environment(slurm) is None  # sbatch alone
    assert from_environment(slurm | {"SLURM_PROCID": "0"}) == ()
    assert from_environment(slurm | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) is None
    cluster = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert from_environment(cluster) is None  # a pod alone
    assert from_environment(cluster | {"JOB_COMPLETION_INDEX": "0"}) == ()
    with pytest.raises(
        ValueError, match="JAX_NUM_PROCESSES must be the digits of an int >= 0, got 'four'"
    ):
        from_environment(given | {"JAX_NUM_PROCESSES": "four", "JAX_PROCESS_ID": "3"})


def test_starts_that_cannot_be():
    with pytest.raises(
        ValueError, match=r"processes must be an int >= 1, got None; write parallel.in"
    ):
        parallel.initialize("localhost:1234")
    with pytest.raises(
        ValueError, match=r'coordinator must be "host:port", got \'localhost\'; write'
    ):
        parallel.initialize("localhost", 2, 0)
    with pytest.raises(ValueError, match=r"index must be an int from 0 to 1, got 2"):
        parallel.initialize("localhost:1234", 2, 2)
    jax.devices()
    with pytest.raises(RuntimeError, match=r"must be called before any JAX calls"):
        parallel.initialize("localhost:1234", 2, 0)


def test_a_single_process_initializes_nothing(monkeypatch):
    for name in list(os.environ):
        if name.startswith(VARIABLES):
            monkeypatch.delenv(name)
    parallel.initialize()
    assert parallel.is_first()
