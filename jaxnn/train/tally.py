"""What the steps between two records add up to."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..files.reading import FileError
from .task import Metrics


class Tally:
    """The sums of the metrics over the steps since the last record.

    Args:
        sums: those of a resumed run; none by default.
        count: the number of steps in them.
        source: the checkpoint that holds them, for an error.
    """

    def __init__(
        self, sums: dict[str, float] | None = None, count: int = 0, source: str = ""
    ) -> None:
        self.count = count
        self._source = source
        self._sums: Metrics = {
            name: jnp.asarray(number, jnp.float32) for name, number in (sums or {}).items()
        }

    def add(self, sums: Metrics, count: int) -> None:
        """Sums over `count` further steps, which may still be being computed."""
        if self._sums and self._sums.keys() != sums.keys():
            recorded, given = (", ".join(sorted(one)) for one in (self._sums, sums))
            raise FileError(
                f"{self._source} has sums of the metrics {recorded}, and the task has {given}; "
                "restore it from a copy, or name another folder"
            )
        self._sums = jax.tree.map(jnp.add, self._sums, sums) if self._sums else sums
        self.count += count

    def means(self) -> dict[str, float]:
        """The mean of each metric, once it is computed; over the steps that were not skipped."""
        return {name: float(mean) for name, mean in means_of(self.plain(), self.count).items()}

    def plain(self) -> dict[str, float]:
        """The sums as JSON, which holds float32 exactly."""
        return {name: float(total) for name, total in self._sums.items()}

    def is_finite(self) -> bool:
        """Whether the loss is so far."""
        return not self._sums or math.isfinite(float(self._sums["loss"]))


def means_of(sums: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The means of metrics over the steps that were not skipped, and how many were skipped.

    Args:
        sums: of each metric over the steps that were not skipped, a number or an array of runs.
        count: of all steps.

    A mean over no step is NaN.

    >>> means_of({"loss": 3.0, "skipped": 1.0}, 4)["loss"].item()
    1.0
    """
    skipped = sums.get("skipped", 0)
    made = np.where(count > np.asarray(skipped), count - np.asarray(skipped), np.nan)
    means = {name: total / made for name, total in sums.items()}
    return means | ({"skipped": skipped} if "skipped" in sums else {})
