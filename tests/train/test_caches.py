"""Compiled programs are kept up to a number, so a process that fits many does not grow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import gc, json, os
import jax, jax.numpy as jnp
from jaxnn import train

class Power(train.Program):
    n: int
    def init(self, key, batch):
        return jnp.float32(1)
    def step(self, state, batch):
        return state * self.n / 2, {"loss": state}

found = []
for n in range(1, 301):
    train.fit(Power(n), key=jax.random.key(0), steps=4, progress=False)
    if n in (150, 300):
        gc.collect()
        pages = int(open("/proc/self/statm").read().split()[1])
        kept = len(jax.devices()[0].client.live_executables())
        found.append((kept, pages * os.sysconf("SC_PAGESIZE")))
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_three_hundred_programs_in_one_process():
    """128 programs are kept, with a few of JAX's own. From there on nothing grows: 150 further
    programs take less than 20 MB, and a loop of jitted functions written by hand takes 0.1 MB."""
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    (executables, before), (more, after) = json.loads(run.stdout)
    assert executables < 128 + 16
    assert more <= executables
    assert after - before < 20e6
