"""What a search is told, and what it is: the interface between the driver and the searches."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from .space import Values


class Observation(NamedTuple):
    """A trial that was asked: its values, and its score.

    Smaller scores are better, whatever the direction of the metric; one that is None or not finite
    is of a trial that failed, diverged, or is not done.
    """

    values: Values
    score: float | None


class Search(Protocol):
    """Says which trials to run next."""

    @property
    def name(self) -> str:
        """Its name, as `searcher` takes it."""
        ...

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """The next `count` trials after those of `history`, which has all trials asked before.

        Fewer only where a grid ends. Pure: the same arguments give the same trials.
        """
        ...
