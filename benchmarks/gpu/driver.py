"""Run the parts of the GPU benchmark in processes, and keep what they found in RESULTS-GPU.md."""

import datetime
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).parents[1] / "RESULTS-GPU.md"
WHOLE = 465.0
"""Seconds that all parts may take together."""


LIMIT = "JAXNN_BENCHMARK_SECONDS"
"""The environment variable from which a part may read how long it may take."""


class Part(NamedTuple):
    """A part by the module that has it, and the seconds it may take."""

    module: str
    limit: float


PARTS: Mapping[str, Part] = {
    "device": Part("correctness", 25),
    "gpt2_jaxnn": Part("training", 65),
    "gpt2_torch": Part("training", 55),
    "gpt2_flax_nnx": Part("training", 65),
    "gpt2_jaxnn_default": Part("training", 60),
    "resnet_jaxnn": Part("images", 75),
    "resnet_torch": Part("images", 60),
    "decode_jaxnn": Part("sequences", 55),
    "thousand": Part("trials", 60),
    "lstm_jaxnn": Part("sequences", 35),
    "lstm_torch": Part("sequences", 25),
    "gpt2_equinox": Part("training", 40),
    "cases": Part("correctness", 110),
    "decode_torch": Part("sequences", 60),
    "gpt2_ablation": Part("training", 90),
    "resnet_flax_nnx": Part("images", 75),
    "attention": Part("layers", 30),
    "first_network": Part("layers", 30),
    "lanes": Part("layers", 30),
    "sums": Part("correctness", 30),
}
"""Those first whose numbers are wanted most: the last ones run if there is time left."""

HEADER = """\
# Results on a GPU

Written by `python -m benchmarks gpu`. Each part runs in its own process; times are medians after
compilation, which is stated separately.
"""


def main(
    parts: Mapping[str, Part] = PARTS,
    *,
    small: bool = False,
    results: Path = RESULTS,
    whole: float = WHOLE,
    show: Callable[[str], None] = print,
) -> int:
    """Run the parts, and return the number of those that failed.

    Args:
        parts: what to run, in order.
        small: whether to use sizes for a CPU.
        results: the file to write.
        whole: seconds that all parts may take.
        show: receives each line as it is found.
    """
    began, failed, sections = time.monotonic(), 0, [HEADER]
    for name, part in parts.items():
        left = whole - (time.monotonic() - began)
        lines = ["not run: the time for all parts was over"]
        status: int | None = None
        show(f"## {name}")
        if left > 5:
            lines, status = _run(name, part, min(part.limit, left), small, show)
        failed += status != 0
        sections.append("\n".join([f"## {name}", "", *lines, ""]))
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        seconds = time.monotonic() - began
        results.write_text("\n".join([*sections, f"*{date}; {seconds:.0f} s so far*", ""]))
    show(f"written to {results}; {failed} of {len(parts)} parts failed")
    return failed


def _run(
    name: str, part: Part, limit: float, small: bool, show: Callable[[str], None]
) -> tuple[list[str], int | None]:
    """The lines that a part prints within its limit, and its exit status; None if it hung."""
    command = [sys.executable, "-u", "-m", "benchmarks.gpu.driver", part.module, name]
    process = subprocess.Popen(
        [*command, *(["small"] if small else [])],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", LIMIT: str(limit)},
    )
    lines: list[str] = []
    errors: list[str] = []

    def read() -> None:
        for line in process.stdout or ():
            lines.append(line.rstrip("\n"))
            show(lines[-1])

    threads = [
        threading.Thread(target=read, daemon=True),
        threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        status: int | None = process.wait(limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        status = None
    for thread in threads:
        thread.join(5)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    if status != 0:
        why = "stopped after its time" if status is None else f"failed with status {status}"
        last = next((line.strip() for line in reversed(errors) if line.strip()), "")
        lines.append(f"- **{name} {why}** {last[:300]}".rstrip())
        show(lines[-1])
    return lines, status


def _part(module: str, name: str, small: bool) -> None:
    import importlib

    for line in getattr(importlib.import_module(f"benchmarks.gpu.{module}"), name)(small):
        print(line, flush=True)


if __name__ == "__main__":
    _part(sys.argv[1], sys.argv[2], sys.argv[3:] == ["small"])
