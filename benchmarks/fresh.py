"""Measurements in new processes: imports, first compilations, whole commands."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.timing import Sample, sample

ROOT = Path(__file__).parents[1]


def interleaved(
    sides: Mapping[str, Sequence[str]], *, rounds: int, warm_up: int = 1
) -> dict[str, dict[str, Sample]]:
    """Run `python *arguments` once in each round for every side, in turns.

    A side prints a JSON object of numbers, in seconds or bytes, as its last line.

    Args:
        sides: Arguments of Python by side.
        rounds: Number of rounds.
        warm_up: Number of further rounds before, which warm the file cache and are not counted.
            Default: 1.

    Returns:
        For each of these quantities, the samples by side.
    """
    seconds: dict[str, dict[str, list[float]]] = {}
    for turn in range(warm_up + rounds):
        for name, arguments in sides.items():
            for quantity, value in _run(arguments).items():
                if turn >= warm_up:
                    seconds.setdefault(quantity, {}).setdefault(name, []).append(value)
    return {
        quantity: {name: sample(values) for name, values in by_side.items()}
        for quantity, by_side in seconds.items()
    }


def timed(
    arguments: Sequence[str], marks: str, variables: Mapping[str, str] | None = None
) -> tuple[float, float, str]:
    """Return the seconds until a program prints a line, the seconds until its end, and the line.

    Args:
        arguments: Arguments of Python.
        marks: A part of the line; RuntimeError if the program fails or prints no such line.
        variables: Further variables of the environment. Default: None.
    """
    began = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=os.environ | dict(variables or {}),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        seen = None
        for line in process.stdout or ():
            if seen is None and marks in line:
                seen = time.perf_counter() - began, line
        code = process.wait()
        ended = time.perf_counter() - began
        if code or seen is None:
            errors.seek(0)
            why = f"failed:\n{errors.read()}" if code else f"printed no line with {marks!r}"
            raise RuntimeError(f"python {' '.join(arguments)} {why}")
    return seen[0], ended, seen[1]


def output(arguments: Sequence[str]) -> str:
    """Return the output of `python *arguments`; RuntimeError if it fails.

    Args:
        arguments: Arguments of Python.
    """
    # Users import compiled files, which the warm-up writes.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout


def _run(arguments: Sequence[str]) -> dict[str, float]:
    return json.loads(output(arguments).splitlines()[-1])
