"""What XLA states of the compiled programs of `models`: counts, exact on a busy machine, too."""

import re
from typing import Any

import jax

from benchmarks.models import CAPTIONS, offered_networks
from benchmarks.networks.sizes import batch
from benchmarks.report import Result

COLUMNS = (
    "GFLOP", "MB read and written", "MB temporary", "MB new outputs", "kernels", "copies",
    "operations before XLA",
)  # fmt: skip
KERNEL = re.compile(
    r" = .*? (fusion|dot|convolution|copy|custom-call|reduce|scatter|gather|sort)\("
)


def run() -> Result:
    """Count in the forward pass and the step of every library that is written in JAX."""
    rows = []
    for kind in CAPTIONS:
        sides, _ = offered_networks(kind)
        x, y = jax.device_put(batch(kind))
        for name, side in sides.items():
            if side.lower is None:
                continue
            for what, lowered in side.lower(x, y).items():
                if what == "forward" and "donat" in name and name.rpartition(", ")[0] in sides:
                    continue  # nothing is donated: it is that of the other side
                rows.append([kind, what, name, *map(_text, facts(lowered))])
    head = ["network", "program", "library", *COLUMNS]
    lines = [head, ["---"] * 3 + ["---:"] * len(COLUMNS), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return Result(
        "The compiled programs of `models`, by XLA's own account: operations, memory traffic, "
        "temporary memory, and outputs that do not reuse the memory of an input; the kernels that "
        "run and the copies among them, of which the body of a loop (`Repeat`, recurrent "
        "networks) counts once, as do its operations; and the operations that XLA is given."
        f"\n\n{table}",
        [],
    )


def facts(lowered: Any) -> list[float]:
    """Return the numbers of `COLUMNS` for a lowered function."""
    compiled = lowered.compile()
    costs, memory = compiled.cost_analysis(), compiled.memory_analysis()
    run = kernels(compiled.as_text())
    return [
        costs["flops"] / 1e9,
        costs["bytes accessed"] / 1e6,
        memory.temp_size_in_bytes / 1e6,
        (memory.output_size_in_bytes - memory.alias_size_in_bytes) / 1e6,
        len(run),
        run.count("copy"),
        len(re.findall(r" = \"?stablehlo\.", lowered.as_text())),
    ]


def kernels(text: str) -> list[str]:
    """Return the kinds of the instructions that run as kernels, of an optimized program's text."""
    found, fused = [], False
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            fused = "fused_computation" in line.split(" ", 1)[0]
        elif not fused and (match := KERNEL.search(line)):
            found.append(match[1])
    return found


def _text(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 or number == int(number) else f"{number:.3g}"
