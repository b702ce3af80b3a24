"""The seconds from a command to its result, without and with programs that an earlier one compiled.

`python -m benchmarks.startup` prints how many programs `train.fit` compiles in a new process.
"""

import json
import tempfile
from typing import Any

import jax
import numpy as np
import optax

import jaxnn as nn
from benchmarks import fresh
from benchmarks.report import Bar, Result, Table
from benchmarks.timing import Sample, sample
from jaxnn import train

ROUNDS = 5
COMMAND = ["-m", "experiments.mnist_mlp", "--epochs", "1"]
PROGRAMS = 8
COMPILED = "/jax/core/compile/backend_compile_duration"


def run() -> Result:
    """Measure the first and the second start of the seed experiment, and count programs."""
    with tempfile.TemporaryDirectory() as folder:
        cold, warm = [], []
        for turn in range(1 + ROUNDS):
            environment = {"XDG_CACHE_HOME": f"{folder}/cache{turn}"}
            for times, name in ((cold, "cold"), (warm, "warm")):
                where = ["--folder", f"{folder}/{name}{turn}"]
                _, seconds, _ = fresh.timed([*COMMAND, *where], "Look at it", environment)
                if turn:
                    times.append(seconds)
    samples: dict[str, Sample] = {"first start": sample(cold), "second start": sample(warm)}
    ratio = samples["second start"].over(samples["first start"])
    compiled = json.loads(fresh.output(["-m", "benchmarks.startup"]).splitlines()[-1])
    bars = [
        Bar("second start over the first", ratio, 1.0),
        Bar("programs that `train.fit` compiles", compiled, PROGRAMS),
    ]
    return Result(
        "`python -m experiments.mnist_mlp --epochs 1`, each in a new process: with an empty "
        "compilation cache, and again with what the first start kept.",
        [Table("Command", "s", samples, "first start", bars)],
    )


def programs() -> int:
    """Return how many programs a fit of the seed network compiles in this process."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(1280, 784)).astype("float32"), random.integers(10, size=1280)
    net = nn.Sequential(nn.Dense(128), jax.nn.relu, nn.Dense(10))
    optimizer = optax.adamw(optax.cosine_decay_schedule(1e-3, 100))
    program = train.Supervised(net, train.Classification(10), optimizer)
    key, names = jax.random.key(0), []

    def listen(event: str, duration_secs: float, **details: Any) -> None:
        if event == COMPILED:
            names.append(details)

    jax.monitoring.register_event_duration_secs_listener(listen)
    held_out = x[:256], y[:256]
    train.fit(
        program, (x, y), key=key, epochs=2, batch_size=128, validation=held_out, progress=False
    )
    return len(names)


if __name__ == "__main__":
    print(json.dumps(programs()))
