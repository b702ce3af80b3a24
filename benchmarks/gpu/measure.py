"""Shared measurements: the speed of a step, the memory it takes, and lines of markdown."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Speed(NamedTuple):
    """The speed of a step, and what it took to get there.

    Args:
        seconds: the median of a step, once it is compiled.
        first: the seconds of the first step, which compiles.
        start: what the first step returned, as a float.
        end: what the last step returned, as a float.
    """

    seconds: float
    first: float
    start: float
    end: float


def speed(
    step: Callable[[], Any], wait: Callable[[Any], Any], small: bool, rounds: int = 7, each: int = 5
) -> Speed:
    """Time rounds of steps; the device is waited for at the end of each round.

    Args:
        step: runs one step and returns an array of one number, which need not be ready.
        wait: returns what it is given once it is ready.
        small: whether a few steps are enough.
        rounds: the number of rounds, whose median counts.
        each: the number of steps of a round.
    """
    rounds, each = (2, 1) if small else (rounds, each)
    began = time.perf_counter()
    start = end = float(wait(step()))
    first = time.perf_counter() - began
    wait(step())
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        value: Any = None
        for _ in range(each):
            value = step()
        end = float(wait(value))
        seconds.append((time.perf_counter() - began) / each)
    return Speed(statistics.median(seconds), first, start, end)


def torch_wait(value: Any) -> Any:
    """The value, once torch's device has computed it."""
    import torch  # pyright: ignore[reportMissingImports]

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return value


def memory() -> str:
    """The most memory that JAX's arrays and programs have taken in this process, as text."""
    import jax

    found: Mapping[str, Any] = jax.devices()[0].memory_stats() or {}
    peak = found.get("peak_bytes_in_use")
    return "" if peak is None else f"; peak memory {peak / 2**30:.1f} GiB"


def torch_memory() -> str:
    """The most memory that torch's tensors have taken in this process, as text."""
    import torch  # pyright: ignore[reportMissingImports]

    if not torch.cuda.is_available():
        return ""
    return f"; peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"


def failure(name: str, error: Exception) -> str:
    """A line for a variant that failed; the others of its part are still worth their time."""
    text = str(error).splitlines()
    return f"- {name}: failed: {type(error).__name__}: {text[0][:300] if text else ''}"
