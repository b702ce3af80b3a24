"""Measurements that need a new process each: imports, first compilations."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.timing import Sample, sample

ROOT = Path(__file__).parents[1]


def interleaved(sides: Mapping[str, Sequence[str]], *, rounds: int) -> dict[str, dict[str, Sample]]:
    """Run `python *arguments` once a round for every side, in turns.

    A side prints a JSON object of numbers, in seconds, as its last line. Returns, for each of these
    quantities, the samples by side. The first round warms the file cache and is not counted.
    """
    seconds: dict[str, dict[str, list[float]]] = {}
    for turn in range(rounds + 1):
        for name, arguments in sides.items():
            for quantity, value in _run(arguments).items():
                if turn:
                    seconds.setdefault(quantity, {}).setdefault(name, []).append(value)
    return {
        quantity: {name: sample(values) for name, values in by_side.items()}
        for quantity, by_side in seconds.items()
    }


def output(arguments: Sequence[str]) -> str:
    """What `python *arguments` prints; RuntimeError where it fails."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout


def _run(arguments: Sequence[str]) -> dict[str, float]:
    return json.loads(output(arguments).splitlines()[-1])
