"""One call of a step whose state is split over eight simulated devices, against raw `jax.jit`.

The devices are those of a CPU, so the time of the step itself means little: the comparison is about
the cost of a call before the program runs, which raw jit has too. It runs in a separate process,
since the number of devices is fixed when JAX starts.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import jaxnn as nn
from benchmarks.report import Bar, Result, Table
from benchmarks.timing import Sample, interleaved
from jaxnn import parallel, train

DEVICES = 8
WIDTH, BATCH = 16, 32
# Calls to one measurement, by depth.
CALLS = {4: 20, 32: 5}
ROUNDS = 101
RAW = "raw jax.jit with the same shardings"
OURS = "jaxnn train.make_step with a placement"


def run(rounds: int = ROUNDS) -> Result:
    """Measure in a process with eight devices."""
    flags = f"--xla_force_host_platform_device_count={DEVICES} {os.environ.get('XLA_FLAGS', '')}"
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.sharded", str(rounds)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(child.stdout)
    return Result(
        f"A training step with FSDP (Adam, softmax cross entropy) at width {WIDTH}, batch {BATCH}, "
        f"on {DEVICES} simulated devices of a CPU, always on the same batch: `train.make_step` "
        "with a `parallel.Placement`, and the same mathematics and state written by hand in "
        "`jax.jit` with donation and the same shardings. *Dispatched* is the time until a call "
        "returns, with the end of each step awaited before the next; *done* is that of steps that "
        "follow each other, which is mostly that of the devices, several of which share a core.",
        [_table(caption, samples) for caption, samples in found.items()],
    )


def _table(caption: str, samples: dict[str, list[float]]) -> Table:
    read = {name: Sample(*sample) for name, sample in samples.items()}
    bar = Bar("jaxnn over raw jit", read[OURS].over(read[RAW]), 1.05)
    return Table(caption, "us a step", read, RAW, [bar])


def _measured(rounds: int) -> dict[str, dict[str, list[float]]]:
    found = {}
    for depth, calls in CALLS.items():
        sides = _sides(depth)
        for what in ("dispatched", "done"):
            runs = {name: _repeated(step, calls, what) for name, step in sides.items()}
            samples = interleaved(runs, rounds=rounds, per=calls if what == "done" else 1)
            found[f"Depth {depth}, {what}"] = {
                name: [one.median, one.low, one.high] for name, one in samples.items()
            }
    return found


def _repeated(step: Callable[[], Any], calls: int, what: str) -> Callable[[], object]:
    def dispatched() -> float:
        seconds = 0.0
        for _ in range(calls):
            began = time.perf_counter()
            value = step()
            seconds += time.perf_counter() - began
            jax.block_until_ready(value)
        return seconds / calls

    def done() -> None:
        value = None
        for _ in range(calls):
            value = step()
        jax.block_until_ready(value)

    return dispatched if what == "dispatched" else done


def _sides(depth: int) -> dict[str, Callable[[], Any]]:
    """Each side as a function that runs one step of a held state and returns its loss."""
    net = nn.Sequential(
        *[layer for _ in range(depth - 1) for layer in (nn.Dense(WIDTH), jax.nn.relu)],
        nn.Dense(WIDTH),
    )
    optimizer = optax.adam(1e-3)
    mesh, rules = parallel.mesh(data=DEVICES), parallel.FSDP
    random = np.random.default_rng(0)
    x = random.normal(size=(BATCH, WIDTH)).astype(np.float32)
    y = random.integers(WIDTH, size=BATCH).astype(np.int32)
    program, placement = train.Supervised(net, _loss, optimizer), parallel.Placement(mesh, rules)
    batch = parallel.shard_batch((x, y), mesh)
    state = parallel.init(program, jax.random.key(0), batch, placement)
    places = jax.tree.map(lambda array: array.sharding, state)
    compiled = train.make_step(program, placement=placement)

    def by_hand(held: Any, x: Any, y: Any) -> Any:
        params, opt_state, count, key = held

        def loss(params: Any) -> jax.Array:
            hidden = x
            for number in range(depth):
                layer = params[2 * number]
                w, b = jax.lax.with_sharding_constraint((layer["w"], layer["b"]), whole)
                hidden = hidden @ w + b
                hidden = hidden if number == depth - 1 else jax.nn.relu(hidden)
            return _loss(hidden, y)

        value, gradients = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, count + 1, key), value

    whole = placement.whole
    put = places.params, places.opt_state, places.step, places.key
    raw = jax.jit(by_hand, donate_argnums=0, out_shardings=(put, whole))
    held = jax.tree.map(
        lambda array: array.copy(), (state.params, state.opt_state, state.step, state.key)
    )

    def run_raw() -> jax.Array:
        nonlocal held
        held, value = raw(held, *batch)
        return value

    def run_ours() -> jax.Array:
        nonlocal state
        state, metrics = compiled(state, batch)
        return metrics["loss"]

    return {RAW: run_raw, OURS: run_ours}


def _loss(outputs: Any, targets: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()


if __name__ == "__main__":
    print(json.dumps(_measured(int(sys.argv[1]))))
