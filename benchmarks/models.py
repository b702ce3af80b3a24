"""ResNet-18, a GPT and an LSTM: forward pass, training step, and compiling the step."""

import time
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.networks.sizes import CHARACTERS, IMAGES, LAYERS, STACKED, TOKENS, Sides, batch
from benchmarks.peers import offered
from benchmarks.report import Bar, Result, Table
from benchmarks.timing import Sample, fastest, interleaved, sample

BY = ("jaxnn_", "flax_nnx", "flax_linen", "equinox_", "torch_")
OURS = "jaxnn"
ROUNDS = {"resnet": 7, "gpt": 11, "lstm": 15}
CAPTIONS = {
    "resnet": f"ResNet-18 for CIFAR, {IMAGES[0]} images of {IMAGES[1]} x {IMAGES[2]}",
    "gpt": f"GPT of {LAYERS} layers, 384 wide, {TOKENS[0]} sequences of {TOKENS[1]}",
    "lstm": f"LSTM of {STACKED} layers, 256 wide, {CHARACTERS[0]} sequences of {CHARACTERS[1]}",
}


def run() -> Result:
    """Measure the three networks in every library that is installed."""
    tables = [table for kind in CAPTIONS for table in _tables(kind)]
    return Result(
        "The same three networks, softmax cross entropy and Adam in each library, as its "
        "documentation writes them: inference of a batch, a training step, and for the GPT the "
        "first call of the step, which traces and compiles (and runs once). The peers write the "
        "layers of the GPT in a Python loop; jaxnn repeats one block.",
        tables,
    )


def _tables(kind: str) -> list[Table]:
    found, missing = offered(kind, by=BY, within="benchmarks.networks")
    sides: dict[str, Sides] = dict(found)  # type: ignore[arg-type]
    x, y = batch(kind)
    x_, y_ = jax.device_put(x), jax.device_put(y)
    tables = []
    if kind == "gpt":
        first = {
            name: _first(lambda side=side: side.step(x_, y_))
            for name, side in sides.items()
            if name != "torch"
        }
        rival, time_of_rival = fastest(first, (name for name in first if name != OURS))
        bar = Bar(f"jaxnn over the fastest ({rival})", first[OURS].over(time_of_rival), 0.5)
        tables.append(Table(f"{CAPTIONS[kind]}: first step", "s", first, OURS, [bar], missing))
    what: dict[str, Callable[[Sides, Any, Any], Any]] = {
        "forward": lambda side, x, y: side.forward(x),
        "training step": lambda side, x, y: side.step(x, y),
    }
    for title, call in what.items():
        runs = {
            name: lambda side=side, name=name, call=call: jax.block_until_ready(
                call(side, *((x, y) if name == "torch" else (x_, y_)))
            )
            for name, side in sides.items()
        }
        samples = interleaved(runs, rounds=ROUNDS[kind])
        rival, time_of_rival = fastest(samples, (n for n in samples if n not in (OURS, "torch")))
        claim = f"jaxnn over the fastest of JAX ({rival})"
        bar = Bar(claim, samples[OURS].over(time_of_rival), 1.0)
        tables.append(Table(f"{CAPTIONS[kind]}: {title}", "ms", samples, OURS, [bar], missing))
    return tables


def _first(run: Callable[[], Any]) -> Sample:
    began = time.perf_counter()
    jax.block_until_ready(run())
    return sample([time.perf_counter() - began])
