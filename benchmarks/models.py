"""Networks in every library: forward pass, training step, and compiling the step of a GPT.

ResNet-18, a GPT, and an LSTM as each library writes them; BERT-base and ConvNeXt-T as published,
with the memory of their steps; and Mamba-2, of which no library of JAX has layers.

`python -m benchmarks.models PEER SIDE` measures compiling in the process it runs in.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import jax

from benchmarks import fresh
from benchmarks.networks.sizes import (
    CHARACTERS,
    IMAGES,
    LAYERS,
    MAMBA_LAYERS,
    MAMBA_WIDTH,
    PAIRS,
    PHOTOS,
    STACKED,
    TOKENS,
    Sides,
    batch,
)
from benchmarks.peers import offered
from benchmarks.report import Bar, Result, Table
from benchmarks.timing import Sample, fastest, interleaved, sample, seconds_of

BY = ("jaxnn_", "flax_nnx", "flax_linen", "equinox_", "torch_", "transformers_")
OURS, TORCH = "jaxnn", ("torch", "transformers, torch")
ROUNDS = {"resnet": 7, "gpt": 11, "lstm": 15, "bert": 7, "convnext": 7, "mamba": 7}
PUBLISHED = ("bert", "convnext", "mamba")
"""Networks that are to be as fast as in any library, with memory at most that of any of JAX."""
COMPILATIONS = 3
CAPTIONS = {
    "resnet": f"ResNet-18 for CIFAR, {IMAGES[0]} images of {IMAGES[1]} x {IMAGES[2]}",
    "gpt": f"GPT of {LAYERS} layers, 384 wide, {TOKENS[0]} sequences of {TOKENS[1]}",
    "lstm": f"LSTM of {STACKED} layers, 256 wide, {CHARACTERS[0]} sequences of {CHARACTERS[1]}",
    "bert": f"BERT-base with a classifier, {PAIRS[0]} texts of {PAIRS[1]} tokens",
    "convnext": f"ConvNeXt-T, {PHOTOS[0]} images of {PHOTOS[1]} x {PHOTOS[2]}",
    "mamba": f"Mamba-2 of {MAMBA_LAYERS} layers, {MAMBA_WIDTH} wide, {TOKENS[0]} sequences of "
    f"{TOKENS[1]}",
}


def run() -> Result:
    """Measure the networks in every library that is installed."""
    tables = [table for kind in CAPTIONS for table in _tables(kind)]
    return Result(
        "The same networks, softmax cross entropy and Adam in each library, as its "
        "documentation writes them: inference of a batch, a training step, and for the GPT, in new "
        "processes, tracing and compiling the step: its first call less the second. The peers "
        "write their blocks in a Python loop; jaxnn repeats one block, or has the blocks in a row, "
        "by nn.unstack_layers. BERT-base and ConvNeXt-T are the published networks, "
        "without dropout; the memory of their steps is that of arguments, outputs, and temporary "
        "arrays, by XLA's account. Mamba-2 is compared with the plain operations of torch in "
        "transformers.",
        [*tables, _compiling()],
    )


def measure(peer: str, side: str) -> dict[str, float]:
    """Seconds that the first step of the GPT takes longer than the second, in this process."""
    step = offered_networks("gpt", (peer,))[0][side].step
    x, y = jax.device_put(batch("gpt"))
    first, second = (seconds_of(lambda: jax.block_until_ready(step(x, y))) for _ in range(2))
    return {"compiling": first - second}


def _compiling() -> Table:
    sides = {
        side: ["-m", "benchmarks.models", peer, side]
        for peer in BY
        if peer not in ("torch_", "transformers_")
        for side in offered_networks("gpt", (peer,))[0]
    }
    samples = fresh.interleaved(sides, rounds=COMPILATIONS)["compiling"]
    caption = f"{CAPTIONS['gpt']}: tracing and compiling the step"
    bars = _bars(samples, 0.5)
    return Table(caption, "s", samples, OURS, bars, offered_networks("gpt", BY)[1])


def _tables(kind: str) -> list[Table]:
    sides, missing = offered_networks(kind, BY)
    x, y = batch(kind)
    x_, y_ = jax.device_put((x, y))
    tables = []
    what: dict[str, Callable[[Sides, Any, Any], Any]] = {
        "forward": lambda side, x, y: side.forward(x),
        "training step": lambda side, x, y: side.step(x, y),
    }
    for title, call in what.items():
        runs = {
            name: lambda side=side, name=name, call=call: jax.block_until_ready(
                call(side, *((x, y) if name in TORCH else (x_, y_)))
            )
            for name, side in sides.items()
        }
        samples = interleaved(runs, rounds=ROUNDS[kind])
        bars = _bars(samples, 1.0, () if kind in PUBLISHED else TORCH)
        tables.append(Table(f"{CAPTIONS[kind]}: {title}", "ms", samples, OURS, bars, missing))
    if kind in PUBLISHED:
        lowered = {name: side.lower for name, side in sides.items() if side.lower}
        used = {name: sample([memory(lower(x_, y_)["step"])]) for name, lower in lowered.items()}
        caption = f"{CAPTIONS[kind]}: memory of the step"
        tables.append(Table(caption, "MB", used, OURS, _bars(used, 1.0)))
    return tables


def memory(lowered: Any) -> float:
    """Bytes of arguments, outputs, and temporary arrays of a lowered function, by XLA's account."""
    found = lowered.compile().memory_analysis()
    outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    return found.argument_size_in_bytes + outputs + found.temp_size_in_bytes


def _bars(samples: dict[str, Sample], limit: float, without: tuple[str, ...] = TORCH) -> list[Bar]:
    """Our sides over the least of the peers, by default of those in JAX; none without peers."""
    ours = [side for side in samples if side.startswith(OURS)]
    rivals = [side for side in samples if side not in (*ours, *without)]
    if not rivals:
        return []
    rival, least = fastest(samples, rivals)
    title = f"over the least of {'JAX' if without else 'all'} ({rival})"
    return [Bar(f"{side} {title}", samples[side].over(least), limit) for side in ours]


def offered_networks(kind: str, by: tuple[str, ...] = BY) -> tuple[dict[str, Sides], list[str]]:
    """Return a network of `CAPTIONS` in every library of `by`, and those that are missing."""
    return offered(kind, by=by, within="benchmarks.networks")


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
