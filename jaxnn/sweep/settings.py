"""What a sweep was asked to do: the options of the command, kept in the ledger."""

import dataclasses
from typing import Literal

from .cohort import By
from .halve import Bracket, hyperband, rungs

Halving = Literal["none", "successive", "hyperband", "population"]
# Searches that learn from one round for the next.
LEARNING = ("tpe", "cmaes", "gp")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of a sweep."""

    trials: int = 64
    """Configurations to try."""
    search: Literal["random", "grid", "sobol", "tpe", "cmaes", "gp"] = "random"
    """How the next trials are chosen; tpe, cmaes and gp learn from those before."""
    seeds: int = 1
    """Seeds a configuration: it is judged by their mean."""
    metric: str = ""
    """What trials are compared by, in the direction that the task declares; by default validation
    accuracy, or else validation loss."""
    maximize: str = ""
    """The metric to compare trials by, if more of it is better."""
    minimize: str = ""
    """The metric to compare trials by, if less of it is better."""
    halving: Halving = "none"
    """Whether trials stop early: by successive halving, Hyperband, or population-based training."""
    eta: int = 4
    """One trial in this many continues from a rung to the next."""
    least: int = 1
    """Epochs to the first rung; of population-based training, between two changes."""
    batch: int = 0
    """Trials asked for at a time; 0 for 32 where the search learns, else all."""
    points: int = 5
    """Points of a range in a grid."""
    lanes: int | Literal["auto"] = "auto"
    """Lanes of a call, on each device; auto measures what is fastest."""
    by: Literal["auto", "loop", "map", "vmap"] = "auto"
    """How lanes go through a program: one after the other, or together; auto measures."""
    exact: bool = False
    """Train each lane so that it is bitwise equal to a solo run."""
    max_groups: int = 16
    """The most programs to compile: trials of other static values need another."""
    search_seed: int = 0
    """Of the search; trials have the configuration's own."""

    def __post_init__(self) -> None:
        """Raise ValueError for options that no sweep can have."""
        for name in ("trials", "seeds", "least", "points", "max_groups", "batch", "lanes"):
            number, least = getattr(self, name), 0 if name == "batch" else 1
            if number != "auto" and number < least:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} is at least {least}, got {number}")
        named = {
            option: getattr(self, option)
            for option in ("metric", "maximize", "minimize")
            if getattr(self, option)
        }
        if len({*named.values()}) > 1 or {"maximize", "minimize"} <= {*named}:
            given = " and ".join(f"--{option} {metric}" for option, metric in named.items())
            raise ValueError(
                f"trials are compared by one metric in one direction, got {given}: write one of "
                "them"
            )
        if self.exact and self.by == "vmap":
            raise ValueError(
                "--exact and --by vmap contradict each other: lanes trained together round "
                "differently; leave one out"
            )

    @property
    def ranked(self) -> str:
        """The metric that the options name; empty if they name none."""
        return self.metric or self.maximize or self.minimize

    @property
    def maximized(self) -> bool | None:
        """Whether the options say that the metric is maximized; None if they do not say."""
        return None if not (self.maximize or self.minimize) else bool(self.maximize)

    @property
    def width(self) -> int:
        """Lanes of a call, 0 where they are to be measured."""
        return 0 if self.lanes == "auto" else self.lanes

    @property
    def ways(self) -> tuple[By, ...]:
        """The ways that a probe may choose among."""
        if self.by != "auto":
            return (self.by,)
        return ("loop", "map") if self.exact else ("loop", "map", "vmap")

    def rungs(self, epochs: int) -> list[int]:
        """The epochs at which trials are compared, the last of them the end."""
        match self.halving:
            case "none":
                return [epochs]
            case "population":
                return [*range(self.least, epochs, self.least), epochs]
            case _:
                return rungs(epochs, self.eta, self.least)

    def rounds(self, epochs: int) -> list[Bracket]:
        """How many trials each round asks for, and their rungs.

        >>> [bracket.count for bracket in Settings(trials=80, search="tpe").rounds(10)]
        [32, 32, 16]
        """
        if self.halving == "hyperband":
            return hyperband(epochs, self.eta, self.trials, self.least)
        size = self.batch or (32 if self.search in LEARNING else self.trials)
        if self.halving == "population":
            size = self.trials
        eta = 1 if self.halving in ("none", "population") else self.eta
        counts = [min(size, self.trials - done) for done in range(0, self.trials, size)]
        return [Bracket(count, tuple(self.rungs(epochs)), eta) for count in counts]
