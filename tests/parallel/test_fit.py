"""A run on any mesh, also one that resumes on another, gives the numbers of one device."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxnn import train
from tests.parallel import on_meshes
from tests.parallel.on_meshes import OPTIONS, PROGRAM, SOURCES, examples, results
from tests.parallel.test_processes import VARIABLES, free_port

EPOCHS, STEPS = 4, 24


def run(devices, *arguments, processes=1):
    """What each of the processes prints."""
    flags = f"--xla_force_host_platform_device_count={devices} " + os.environ.get("XLA_FLAGS", "")
    outside = {name: text for name, text in os.environ.items() if not name.startswith(VARIABLES)}
    address = f"localhost:{free_port()}"
    ends = [[address, str(processes), str(i)] for i in range(processes)] if processes > 1 else [[]]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", on_meshes.__name__, *map(str, arguments), *end],
            env=outside | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for end in ends
    ]
    try:
        printed = [process.communicate(timeout=180) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * len(running), printed
    # Gloo, which carries what is exchanged, prints too.
    lines = [line for out, _ in printed for line in out.splitlines() if line.startswith("{")]
    assert len(lines) == processes
    return [json.loads(line) for line in lines]


@functools.cache
def alone(source):
    key = jax.random.key(0)
    state, history = train.fit(PROGRAM, SOURCES[source](1), key=key, epochs=EPOCHS, **OPTIONS)
    return results(state.params, history, train.predict(PROGRAM, state, examples()[0][:5]))


def assert_as_alone(found, alone):
    for one, other in zip(found["records"], alone["records"], strict=True):
        assert one.keys() == other.keys()
        # Sums over the rows in another order, over 24 steps of Adam.
        np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-4, atol=1e-5)
    for one, other in zip(found["params"], alone["params"], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["predictions"], alone["predictions"], rtol=1e-3, atol=1e-5)


def assert_logged_once(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(2, STEPS + 1, 2))


@pytest.mark.slow  # the program of test_placement.py resumes on one device and on eight
def test_a_run_resumes_on_another_mesh_as_on_one_device(tmp_path):
    run(8, tmp_path, 2, "host arrays", 8, 1, 0)
    (found,) = run(8, tmp_path, EPOCHS, "host arrays", 2, 4, 0)
    assert_as_alone(found, alone("host arrays"))
    assert_logged_once(tmp_path)


@pytest.mark.slow  # the next test, too, compares two processes with one, and resumes
@pytest.mark.parametrize(
    ("source", "before"),  # the epochs of a first run
    [("host arrays", 0), *((source, 2) for source in SOURCES)],
)
def test_two_processes_train_and_resume_as_one(tmp_path, source, before):
    if before:
        run(2, tmp_path, before, source, 2, 2, 0, processes=2)
    first, second = run(2, tmp_path, EPOCHS, source, 2, 2, 0, processes=2)
    assert first == second
    assert_as_alone(first, alone(source))
    assert_logged_once(tmp_path)
    # The processes compare their clocks at every fifth step of a run, which begins at step 0 or 12.
    kept = sorted(one.name for one in (tmp_path / "checkpoints").iterdir())
    assert kept == ["22" if before else "20", "24", "run.lock"]


def test_two_processes_stop_at_one_signal_and_resume_as_one(tmp_path):
    # It comes after step 2, and the processes ask each other at every fifth dispatch.
    stopped = run(2, tmp_path, EPOCHS, "host arrays", 2, 2, 2, processes=2)
    folder = tmp_path / "checkpoints"
    (reason,) = {one["interrupted"] for one in stopped}
    assert reason.startswith(
        "SIGTERM: the run stopped after step 5 of 24; the checkpoint after step 5 is in "
        f"{folder}, and the same call "
    )
    first, second = run(2, tmp_path, EPOCHS, "host arrays", 2, 2, 0, processes=2)
    assert first == second
    assert_as_alone(first, alone("host arrays"))
    assert_logged_once(tmp_path)
