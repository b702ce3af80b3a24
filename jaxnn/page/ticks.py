"""Round numbers along the axes of a figure."""

import math
from collections.abc import Sequence
from typing import Any

from .words import number


def set_ticks(axis: Any, at: Sequence[float]) -> None:
    """Ticks at these numbers and nowhere else."""
    from matplotlib.ticker import NullLocator

    axis.set_minor_locator(NullLocator())
    axis.set_ticks(at, [number(float(value), 6) for value in at])


def linear_ticks(low: float, high: float, most: int = 6, whole: bool = False) -> list[float]:
    """Round numbers from low to high, at most about so many.

    >>> linear_ticks(0.0, 0.5), linear_ticks(0, 4, whole=True)
    ([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [0.0, 1.0, 2.0, 3.0, 4.0])
    """
    from matplotlib.ticker import MaxNLocator

    slack = 1e-9 * (high - low)
    found = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10], integer=whole).tick_values(low, high)
    size = max(abs(low), abs(high), high - low)
    digits = 12 - math.floor(math.log10(size)) if size else 12
    return [round(float(v), digits) for v in found if low - slack <= v <= high + slack]


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Powers of ten from low to high, with their doubles and fives where those are few.

    >>> log_ticks(1e-4, 1e-1), log_ticks(8, 128)
    ([0.0001, 0.001, 0.01, 0.1], [10.0, 20.0, 50.0, 100.0])
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    inside = lambda v: low * (1 - 1e-9) <= v <= high * (1 + 1e-9)  # noqa: E731
    decades = [power for power in range(first, last + 1) if inside(10.0**power)]
    if len(decades) >= 3:
        return [10.0**power for power in decades[:: -(-len(decades) // most)]]
    finer = [m * 10.0**power for power in range(first, last + 1) for m in (1, 2, 5)]
    finer = [float(f"{v:.12g}") for v in finer if inside(v)]
    return finer if len(finer) >= 2 else linear_ticks(low, high, most)
