"""parallel.fit: the loop of one device, on any mesh, and on from another mesh's checkpoint."""

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
from tests.parallel.on_meshes import NET, OPTIMIZER, OPTIONS, SOURCES, TASK, examples, told
from tests.parallel.test_processes import TOLD, free_port

EPOCHS = 4


def run(devices, *arguments, processes=1, module=on_meshes, every=False):
    """What the first of the processes prints, or every one."""
    flags = f"--xla_force_host_platform_device_count={devices} " + os.environ.get("XLA_FLAGS", "")
    outside = {name: text for name, text in os.environ.items() if not name.startswith(TOLD)}
    address = f"localhost:{free_port()}"
    ends = [[address, str(processes), str(i)] for i in range(processes)] if processes > 1 else [[]]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", module.__name__, *map(str, arguments), *end],
            env=outside | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for end in ends
    ]
    try:
        said = [process.communicate(timeout=180) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * len(running), said
    lines = [line for out, _ in said for line in out.splitlines() if line.startswith("{")]
    if every:
        return [json.loads(line) for line in lines]
    assert len(lines) == 1
    return json.loads(lines[0])


@functools.cache
def alone(source):
    ts, history = train.fit(
        NET, TASK, OPTIMIZER, SOURCES[source](1), key=jax.random.key(0), validation=examples(),
        epochs=EPOCHS, **OPTIONS,
    )  # fmt: skip
    return told(ts.params, history)


def assert_as_alone(found, alone):
    for one, other in zip(found["records"], alone["records"], strict=True):
        assert one.keys() == other.keys()
        # Sums over the rows in another order, over 24 steps of Adam.
        np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-4, atol=1e-5)
    for one, other in zip(found["params"], alone["params"], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_a_run_goes_on_on_another_mesh_as_on_one_device(tmp_path):
    run(8, tmp_path, 2, "host arrays", 8, 1)
    found = run(8, tmp_path, EPOCHS, "host arrays", 2, 4)
    assert_as_alone(found, alone("host arrays"))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, EPOCHS + 1))


@pytest.mark.parametrize("source", ["host arrays", pytest.param("grain", marks=pytest.mark.slow)])
def test_two_processes_train_keep_and_go_on_as_one(tmp_path, source):
    run(2, tmp_path, 2, source, 2, 2, processes=2)
    assert_as_alone(run(2, tmp_path, EPOCHS, source, 2, 2, processes=2), alone(source))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    # The fifth dispatch after the twelfth step, when the processes look at their clocks.
    assert sorted(one.name for one in (tmp_path / "checkpoints").iterdir()) == [
        "22", "24", "run.lock"
    ]  # fmt: skip
