"""The communication of devices in a compiled program, read from its text."""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

# An asynchronous operation counts when it is done.
_KIND = (
    r"(?:ragged-)?all-to-all|all-gather|all-reduce|reduce-scatter|collective-(?:permute|broadcast)"
)
_OPERATION = re.compile(rf"= (?P<shape>.*?) (?P<kind>{_KIND})(?:-done)?\(")
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_CALLED = re.compile(
    r"(?:body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_BODY = re.compile(r"body=%?([\w.\-]+)")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SHAPE = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """The number of exchanges of one kind, and the total bytes that each device receives.

    Args:
        times: The number of exchanges.
        bytes: The number of bytes.
    """

    times: int
    bytes: int


def collectives(compiled: Any) -> dict[str, Collective]:
    """Return the communication in one call of a compiled program, by XLA's name of each kind.

    An exchange inside a loop counts as often as the loop runs, or once if XLA does not know the
    number; each branch of a condition counts. Several arrays that are exchanged together count as
    one exchange. XLA may choose another kind on other devices: an `all-reduce` whose result is
    split becomes a `reduce-scatter` on a GPU or TPU.

    Args:
        compiled: The compiled program, from `jax.jit(f).lower(...).compile()`.

    >>> import jax, jax.numpy as jnp
    >>> collectives(jax.jit(jnp.sum).lower(jnp.ones(4)).compile())
    {}
    """
    lines = list(_lines(compiled.as_text()))
    times = _times(lines)
    found: dict[str, list[int]] = {}
    for computation, line in lines:
        if match := _OPERATION.search(line):
            counts = found.setdefault(match["kind"], [0, 0])
            counts[0] += times[computation]
            counts[1] += times[computation] * _bytes(match["shape"])
    return {kind: Collective(*counts) for kind, counts in sorted(found.items())}


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Yield each instruction with the name of its computation."""
    computation = ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            computation = "ENTRY" if line.startswith("ENTRY") else match[1]
        elif computation:
            yield computation, line


def _times(lines: list[tuple[str, str]]) -> dict[str, int]:
    """Return how often each computation runs."""
    calls: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for computation, line in lines:
        called = [*_CALLED.findall(line)]
        for names in _BRANCHES.findall(line):
            called += [name.strip().lstrip("%") for name in names.split(",")]
        turns, body = _TURNS.search(line), _BODY.search(line)
        for name in called:
            loops = turns is not None and body is not None and name == body[1]
            calls[computation].append((name, int(turns[1]) if turns and loops else 1))
    times: dict[str, int] = defaultdict(int)

    def run(computation: str, count: int) -> None:
        times[computation] += count
        for name, turns in calls[computation]:
            run(name, count * turns)

    run("ENTRY", 1)
    return times


def _bytes(shape: str) -> int:
    """Return the bytes of arrays written as `f32[16,4]{1,0}`, alone or several in parentheses."""
    total = 0
    for kind, sizes in _SHAPE.findall(re.sub(r"/\*.*?\*/", "", shape)):
        bits = 8 if kind == "pred" else int(next(iter(re.findall(r"\d+", kind)), 0))
        total += math.prod(int(size) for size in sizes.split(",") if size) * bits // 8
    return total
