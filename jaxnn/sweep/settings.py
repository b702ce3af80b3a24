"""The options of a sweep, which the ledger records."""

import dataclasses
from typing import Annotated, Literal

from ..validation import check_fields, integer, natural, positive
from .compiled import By
from .halving import Bracket, hyperband, rungs
from .score import rule_of_score

# Searches that learn from one round for the next.
LEARNING = ("tpe", "cmaes", "gp")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of a sweep."""

    trials: Annotated[int, positive] = 64
    """Configurations to try."""
    search: Literal["random", "grid", "sobol", "tpe", "cmaes", "gp"] = "random"
    """The search that chooses the next trials; tpe, cmaes, and gp learn from earlier ones."""
    seeds: Annotated[int, positive] = 1
    """Seeds per configuration; the score is the mean over them."""
    metric: str = ""
    """The metric for comparing trials, in the direction that it or the task declares. Without one,
    the validation accuracy is used, otherwise the validation loss."""
    maximize: str = ""
    """The metric for comparing trials, if larger is better."""
    minimize: str = ""
    """The metric for comparing trials, if smaller is better."""
    score: Annotated[str, rule_of_score] = "last"
    """The score of a trial: the last value of the metric, the best one, or mean:5 for the mean over
    the last 5 epochs."""
    keep: Annotated[int, natural] = 1
    """Number of best trials whose weights are kept."""
    patience: Annotated[int | None, None | positive] = None
    """Stop a trial after this number of epochs without a better metric, as in a single run."""
    halving: Literal["none", "successive", "hyperband", "population"] = "none"
    """Whether trials stop early: by successive halving, Hyperband, or population-based training."""
    eta: Annotated[int, integer(2)] = 4
    """One trial in this many continues from a rung to the next."""
    least: Annotated[int, positive] = 1
    """Epochs to the first rung; with population-based training, between two changes."""
    batch: Annotated[int, natural] = 0
    """Trials per round of the search; 0 for 32 if the search learns, otherwise all."""
    points: Annotated[int, positive] = 5
    """Points per range in a grid."""
    lanes: int | Literal["auto"] = "auto"
    """Lanes per call on each device; auto selects the fastest number by measurement."""
    by: Literal["auto", "loop", "map", "vmap"] = "auto"
    """Whether lanes run in sequence or together; auto selects the fastest way by measurement."""
    exact: bool = False
    """Train each lane so that it is bitwise identical to a single run."""
    max_groups: Annotated[int, positive] = 16
    """Maximum number of programs to compile; each combination of static values needs one."""
    search_seed: int = 0
    """Seed of the search; trials have the seed of the configuration."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.lanes != "auto":
            positive(self.lanes, "Settings.lanes")
        named = {option: getattr(self, option) for option in ("metric", "maximize", "minimize")}
        named = {option: metric for option, metric in named.items() if metric}
        problem = ""
        if len({*named.values()}) > 1 or {"maximize", "minimize"} <= {*named}:
            given = " and ".join(f"--{option} {metric}" for option, metric in named.items())
            problem = (
                f"trials are compared by one metric in one direction, got {given}: write one of "
                "them"
            )
        elif self.exact and self.by == "vmap":
            problem = (
                "--exact and --by vmap contradict each other: lanes that train together round "
                "differently; leave one out"
            )
        elif self.patience is not None and self.halving != "none":
            problem = (
                f"--patience {self.patience} stops a trial by its own values, and --halving "
                f"{self.halving} by those of others: leave one out"
            )
        if problem:
            raise ValueError(problem)

    @property
    def chosen_metric(self) -> str:
        """The metric that the options name; "" if they name none."""
        return self.metric or self.maximize or self.minimize

    @property
    def chosen_direction(self) -> bool | None:
        """Whether the options ask to maximize the metric; None if they leave it open."""
        return bool(self.maximize) if self.maximize or self.minimize else None

    @property
    def width(self) -> int:
        """Lanes per call; 0 if they are to be measured."""
        return 0 if self.lanes == "auto" else self.lanes

    @property
    def ways(self) -> tuple[By, ...]:
        """The ways that a probe may choose from."""
        if self.by != "auto":
            return (self.by,)
        return ("loop", "map") if self.exact else ("loop", "map", "vmap")

    def rungs(self, epochs: int) -> list[int]:
        """Return the epochs at which trials are compared, the last of them the end.

        Args:
            epochs: Epochs of a whole run.
        """
        match self.halving:
            case "none":
                return [epochs]
            case "population":
                return [*range(self.least, epochs, self.least), epochs]
            case _:
                return rungs(epochs, self.eta, self.least)

    def rounds(self, epochs: int) -> list[Bracket]:
        """Return how many trials each round asks for, and their rungs.

        Args:
            epochs: Epochs of a whole run.

        >>> [bracket.count for bracket in Settings(trials=80, search="tpe").rounds(10)]
        [32, 32, 16]
        """
        if self.halving == "hyperband":
            return hyperband(epochs, self.eta, self.trials, self.least)
        size = self.batch or (32 if self.search in LEARNING else self.trials)
        if self.halving == "population":
            size = self.trials
        eta = self.eta if self.halving == "successive" else 1
        counts = [min(size, self.trials - done) for done in range(0, self.trials, size)]
        return [Bracket(count, tuple(self.rungs(epochs)), eta) for count in counts]
