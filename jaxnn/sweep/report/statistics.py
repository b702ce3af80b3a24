"""How sure a mean over seeds is."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...page.words import number
from ..reading import mean


class Mean(NamedTuple):
    """A mean over `n` seeds, and half of its 95 % interval; None for a single seed."""

    mean: float
    half: float | None
    n: int

    def __str__(self) -> str:
        if self.half is None:
            return number(self.mean)
        if not 0 < self.half < math.inf:
            return f"{number(self.mean)} ± {number(self.half)}"
        digits = max(0, 1 - math.floor(math.log10(self.half)))
        if digits > 7 or self.half >= 1e6:
            return f"{number(self.mean)} ± {number(self.half, 2)}"
        return f"{self.mean:.{digits}f} ± {self.half:.{digits}f}"


def seed_mean(each: Sequence[float]) -> Mean:
    """The mean over seeds and its 95 % t interval, t(0.975, n - 1) * s / sqrt(n).

    It holds what another n seeds' mean would be near to, where seeds scatter as a normal law does.

    >>> str(seed_mean([0.90, 0.92, 0.94])), str(seed_mean([0.5]))
    ('0.920 ± 0.050', '0.5')
    """
    n, middle = len(each), mean(each)
    if n < 2:
        return Mean(middle, None, n)
    from scipy.special import stdtrit  # half a second less to import than scipy.stats

    size = max(1.0, *map(abs, each)) if max(map(abs, each)) > 1e150 else 1.0  # squares overflow
    spread = float(np.std(np.divide(each, size), ddof=1)) * size
    return Mean(middle, float(stdtrit(n - 1, 0.975)) * spread / math.sqrt(n), n)
