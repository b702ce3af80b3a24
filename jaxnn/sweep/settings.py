"""The options of a sweep, which the ledger records."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

from ..experiment.experiment import Experiment
from ..train import EarlyStopping
from ..validation import (
    Accepts,
    a_duration,
    check_fields,
    instance,
    integer,
    natural,
    number,
    one_of,
    positive,
    seconds,
    tuple_of,
)
from .compiled import By
from .score import Constraint, Objective, a_constraint, rule_of_score, undirected

# Searches that ignore the results of earlier trials; all others learn from one round for the next.
BLIND = ("random", "grid", "sobol", "none")
NAMES = ("random", "grid", "sobol", "tpe", "cmaes", "gp", "nsga2", "none")
OBJECT = "object "
"""Prefix of the name of a search that Python code passed as an object."""

CHANGEABLE = ("trials", "search", "batch", "points", "max_groups", "search_seed", "defaults")
CHANGEABLE += ("repeat", "budget", "keep")
"""Settings that may change when a sweep is continued."""


a_search: Accepts = Accepts(
    f"{one_of(*NAMES).what}, or the name of an Optuna sampler such as 'NSGAIISampler'",
    lambda name: (
        name in NAMES
        or (isinstance(name, str) and (name.endswith("Sampler") or name.startswith(OBJECT)))
    ),
)


@dataclasses.dataclass(frozen=True)
class Budget:
    """Limits after which a sweep ends; without a limit, all trials run.

    A sweep that reaches a limit finishes the cohorts that are running, writes its report, and
    records why it ended. A sweep that is resumed with a larger budget continues.

    >>> Budget(time="2h", target=0.98).time
    7200.0
    """

    time: Annotated[float | str | None, None | a_duration] = None
    """Wall time of training, in seconds or as text such as 90s, 2h, or 1h30m; time between sessions
    does not count."""
    epochs: Annotated[int | None, None | positive] = None
    """Epochs of all lanes in total."""
    target: Annotated[float | None, None | number()] = None
    """A value of the metric; the sweep ends when a trial reaches it."""
    patience: Annotated[int | None, None | positive] = None
    """End the sweep after this number of consecutive trials without a better score."""

    def __post_init__(self) -> None:
        check_fields(self)
        if isinstance(self.time, str):
            object.__setattr__(self, "time", seconds(self.time))

    def __bool__(self) -> bool:
        """Return whether there is a limit."""
        return self != Budget()


any_length: range = range(1000)  # none, too
names: Accepts = tuple_of(
    Accepts("a name", lambda name: isinstance(name, str) and name != ""),
    "the name of a metric, or a tuple of them",
    any_length,
)
bounds: Accepts = tuple_of(
    a_constraint, f"{a_constraint.what}, a tuple of them, or a dict of bounds by metric", any_length
)


def rungs(epochs: int, eta: int, least: int = 1) -> list[int]:
    """Return the epochs after which trials are compared: floor(epochs / eta^k), the smallest first.

    Args:
        epochs: Epochs of a whole run, at least 1; the last rung.
        eta: One in `eta` trials continues from a rung; at least 2.
        least: The smallest rung, at most `epochs`. Default: 1.

    >>> rungs(81, eta=3), rungs(10, eta=4, least=2)
    ([1, 3, 9, 27, 81], [2, 10])
    """
    positive(epochs, "epochs")
    integer(2)(eta, "eta")
    integer(1, epochs)(least, "least", hint=f"a run has {epochs} epochs")
    found, rung = [], epochs
    while rung >= least:
        found.append(rung)
        rung //= eta  # the floor of a floor is the floor of the whole
    return found[::-1]


def kept(count: int, eta: int) -> int:
    """Return how many of `count` trials continue from a rung: floor(count / eta), at least one.

    >>> kept(64, eta=4), kept(10, eta=4), kept(3, eta=4)
    (16, 2, 1)
    """
    return max(count // eta, min(count, 1))


@dataclasses.dataclass(frozen=True)
class Bracket:
    """Trials that start together and are compared at the same rungs.

    Args:
        count: Number of trials at the start.
        rungs: Epochs after which they are compared, the last of them the end.
        eta: One in `eta` trials continues from a rung to the next.

    >>> Bracket(64, (1, 4, 16), eta=4).counts
    [64, 16, 4]
    """

    count: int
    rungs: tuple[int, ...]
    eta: int

    @property
    def counts(self) -> list[int]:
        """The number of trials that train up to each rung."""
        counts = [self.count]
        for _ in self.rungs[1:]:
            counts.append(kept(counts[-1], self.eta))
        return counts

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The first and the last epoch of the training to each rung."""
        return list(itertools.pairwise((0, *self.rungs)))

    @property
    def epochs(self) -> int:
        """Epochs that all trials train, in total."""
        parts = zip(self.counts, self.spans, strict=True)
        return sum(count * (end - begin) for count, (begin, end) in parts)


def hyperband(epochs: int, eta: int, least: int = 1) -> list[Bracket]:
    """Return the brackets of Hyperband, from the one that halves most to the one that never does.

    With s + 1 rungs, a bracket starts ceil(n * eta^s / (s + 1)) trials, where n is the number of
    brackets, so that all brackets train for about the same number of epochs.

    Args:
        epochs: Epochs of a whole run.
        eta: One in `eta` trials continues from a rung to the next.
        least: The smallest rung. Default: 1.

    Reference: Li et al., Hyperband: a novel bandit-based approach to hyperparameter optimization,
    JMLR 18, 2018.

    >>> [bracket.counts for bracket in hyperband(27, eta=3)]
    [[27, 9, 3, 1], [12, 4, 1], [6, 2], [4]]
    """
    all_rungs = tuple(rungs(epochs, eta, least))
    n = len(all_rungs)
    return [
        Bracket(-(-n * eta**s // (s + 1)), all_rungs[n - 1 - s :], eta) for s in reversed(range(n))
    ]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of a sweep."""

    trials: Annotated[int, positive] = 64
    """Configurations to try."""
    search: Annotated[str, a_search] = "random"
    """The search algorithm: random, grid, or sobol; tpe, cmaes, gp, or nsga2, which learn from
    earlier trials; the name of an Optuna sampler; or none, to try only given configurations."""
    seeds: Annotated[int, positive] = 1
    """Number of seeds per configuration; the score is the mean over them."""
    folds: Annotated[int, positive] = 1
    """Number of folds for cross-validation, stratified by class; the score is the mean over
    them."""
    metric: str = ""
    """The metric for comparing trials, in the direction that it or the task declares. By default
    that of the experiment, otherwise the validation accuracy or loss."""
    maximize: Annotated[tuple[str, ...], names] = ()
    """Metrics for which larger is better. With several, including those of minimize, trials are
    compared by their Pareto front."""
    minimize: Annotated[tuple[str, ...], names] = ()
    """Metrics for which smaller is better; also parameters, bytes, flops, and seconds, which all
    programs have."""
    constraints: Annotated[tuple[str, ...], bounds] = ()
    """Bounds on metrics, such as "parameters <= 1e6"; trials that satisfy them rank first."""
    score: Annotated[str, rule_of_score] = "last"
    """The score of a trial: the last value of the metric, the best one, or mean:5 for the mean over
    the last 5 epochs."""
    keep: Annotated[int, natural] = 1
    """Number of best trials whose weights are kept. With several objectives or constraints, all
    weights are kept unless it is 0."""
    patience: Annotated[int | None, None | positive] = None
    """Stop a trial after this number of epochs in which its metric did not improve."""
    halving: Literal["none", "successive", "hyperband", "population"] = "none"
    """How to stop trials early: successive halving, Hyperband, or population-based training."""
    eta: Annotated[int, integer(2)] = 4
    """One trial in this many continues from a rung to the next."""
    least: Annotated[int, positive] = 1
    """Epochs to the first rung; with population-based training, between two changes."""
    batch: Annotated[int, natural] = 0
    """Trials per round of the search; 0 for 32 if the search learns, otherwise all. Rounds of tpe
    without halving have 16 trials at first, and then 8 to 32, an eighth of the trials so far."""
    points: Annotated[int, positive] = 5
    """Points per range in a grid."""
    lanes: int | Literal["auto"] = "auto"
    """Lanes per call on each device; auto selects the fastest number by measurement."""
    by: Literal["auto", "loop", "map", "vmap"] = "auto"
    """How lanes run: in sequence (loop, map) or together (vmap); auto measures the fastest."""
    exact: bool = False
    """Train each lane so that it is bitwise identical to a single run."""
    max_groups: Annotated[int, positive] = 16
    """Maximum number of programs to compile; each combination of static values needs one."""
    search_seed: Annotated[int, natural] = 0
    """Seed of the search; trials use the seed of the configuration."""
    defaults: bool = True
    """Whether the first trial is the configuration itself, if the space contains it."""
    repeat: bool = False
    """Allow configurations that were already tried."""
    budget: Annotated[Budget, instance(Budget, "a Budget")] = Budget()
    """Limits after which the sweep ends."""

    def __post_init__(self) -> None:
        for field in ("maximize", "minimize", "constraints"):
            given = getattr(self, field)
            if isinstance(given, Mapping):
                given = tuple(f"{metric} {bound}" for metric, bound in given.items())
            single = (given,) if isinstance(given, str) and given else given or ()
            object.__setattr__(self, field, tuple(single) if isinstance(single, list) else single)
        check_fields(self)
        if self.lanes != "auto":
            positive(self.lanes, "Settings.lanes")
        directed = [*self.maximize, *self.minimize]
        problem = ""
        if twice := [metric for metric, count in Counter(directed).items() if count > 1]:
            problem = (
                f"{twice[0]} is an objective twice, of --maximize {' '.join(self.maximize)} and "
                f"--minimize {' '.join(self.minimize)}: write it once"
            )
        elif self.exact and self.by == "vmap":
            problem = (
                "--exact and --by vmap contradict each other: lanes that train together round "
                "differently; leave one out"
            )
        elif self.seeds > 1 and self.folds > 1:
            problem = (
                f"--seeds {self.seeds} and --folds {self.folds} both repeat each trial: leave one "
                "out"
            )
        elif len(self.chosen) > 1 and self.halving != "none":
            problem = (
                f"--halving {self.halving} compares trials by one metric, got "
                f"{', '.join(self.chosen)}: sweep without --halving, or keep one and bound the "
                "others by --constraints"
            )
        elif len(self.chosen) > 1 and self.search in ("cmaes", "gp"):
            problem = (
                f"--search {self.search} has one objective, got {', '.join(self.chosen)}: write "
                "--search tpe or nsga2"
            )
        elif self.patience is not None and self.halving != "none":
            problem = (
                f"--patience {self.patience} stops a trial by its own values, and --halving "
                f"{self.halving} by those of others: leave one out"
            )
        if problem:
            raise ValueError(problem)

    @property
    def chosen(self) -> dict[str, bool | None]:
        """Whether to maximize each metric that the options name; None if they do not specify it."""
        found: dict[str, bool | None] = {self.metric: None} if self.metric else {}
        return found | dict.fromkeys(self.maximize, True) | dict.fromkeys(self.minimize, False)

    def objectives(
        self, names: Sequence[str], maximized: Callable[[str], bool | None], usual: str
    ) -> list[Objective]:
        """Return the metrics that trials are compared by, those that the program reports first.

        Args:
            names: The metrics that the program reports.
            maximized: Function of a name that returns whether the metric is maximized; None if that
                is not declared.
            usual: The metric of the experiment; "" for none.

        Raises:
            ValueError: No metric is reported, one of them is unknown, or its direction is.
        """
        held = [name for name in names if name.startswith("validation_")]
        known = [name for name in ("validation_accuracy", "validation_loss") if name in names]
        directed = [name for name in held or names if maximized(name) is not None]
        by_default = [usual] if usual else known or (directed if len(directed) == 1 else [""])
        found, problem = [], ""
        for metric, larger in (self.chosen or {by_default[0]: None}).items():
            if larger is None and metric in names:
                larger = maximized(metric)
            problem = problem or undirected(metric, larger, names)
            found.append(Objective(metric, bool(larger)))
        reported = [one for one in found if one.metric in names]
        if problem or not reported:
            raise ValueError(
                problem
                or f"{found[0].metric} is known before training: add a metric that the "
                f"program reports, one of {', '.join(names)}, such as --metric {names[-1]}"
            )
        return [*reported, *(one for one in found if one not in reported)]

    def stopping(
        self, experiment: Experiment[Any], metrics: Collection[str], ranking: tuple[str, bool]
    ) -> EarlyStopping | None:
        """Return the hook that stops a lane early, as in a single run; None without a patience.

        Args:
            experiment: The experiment, whose metric a single run monitors; a metric that the
                settings name is monitored instead.
            metrics: The metrics of the program.
            ranking: The metric that trials are compared by, and whether larger is better.
        """
        if self.patience is None:
            return None
        own = not self.chosen and experiment.ranked[0] in metrics
        metric, maximize = experiment.ranked if own else ranking
        return EarlyStopping(metric, self.patience, maximize=maximize)

    @property
    def repeats(self) -> int:
        """Lanes per trial: its seeds, or its folds."""
        return max(self.seeds, self.folds)

    @property
    def bounds(self) -> tuple[Constraint, ...]:
        """The constraints on results."""
        return tuple(map(Constraint.of, self.constraints))

    @property
    def width(self) -> int:
        """Lanes per call; 0 to measure the fastest number."""
        return 0 if self.lanes == "auto" else self.lanes

    @property
    def ways(self) -> tuple[By, ...]:
        """The ways that a probe may choose from."""
        if self.by != "auto":
            return (self.by,)
        return ("loop", "map") if self.exact else ("loop", "map", "vmap")

    def rungs(self, epochs: int) -> list[int]:
        """Return the epochs at which trials are compared, the last of which is the end.

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

    @property
    def learns(self) -> bool:
        """Whether the search learns from the results of earlier trials."""
        return self.search not in BLIND

    def bracket(self, index: int, count: int | None, epochs: int) -> Bracket:
        """Return the bracket of a round: the number of trials, and the epochs that compare them.

        Args:
            index: Number of the round.
            count: Number of its trials; None for the number that it asks for.
            epochs: Epochs of a whole run.
        """
        if self.halving == "hyperband":
            once = hyperband(epochs, self.eta, self.least)  # rounds cycle through these brackets
            bracket = once[index % len(once)]
            return bracket if count is None else dataclasses.replace(bracket, count=count)
        size = self.batch or (32 if self.learns else self.trials)
        if self.search == "tpe" and self.halving == "none" and not self.batch:
            size = growing(index)
        if self.halving == "population":
            size = self.trials
        eta = self.eta if self.halving == "successive" else 1
        return Bracket(size if count is None else count, tuple(self.rungs(epochs)), eta)

    def rounds(self, epochs: int, asked: Sequence[int] = ()) -> list[Bracket]:
        """Return how many trials each round asks for, and their rungs.

        Args:
            epochs: Epochs of a whole run.
            asked: The numbers of trials of the earlier rounds. Default: none.

        >>> [bracket.count for bracket in Settings(trials=80, search="cmaes").rounds(10)]
        [32, 32, 16]
        """
        found = [self.bracket(index, count, epochs) for index, count in enumerate(asked)]
        left = self.trials - sum(asked)
        while left > 0:
            bracket = self.bracket(len(found), None, epochs)
            found.append(dataclasses.replace(bracket, count=min(bracket.count, left)))
            left -= bracket.count
        return found


def growing(index: int) -> int:
    """Return the default number of trials of a round of `tpe`: an eighth of those before it.

    All trials of a round are chosen by what is known before it. While that is little, a long round
    is mostly lost, later it is not, so rounds may grow with what is known (Gao et al., Batched
    multi-armed bandits problem, 2019). They have at least 8 trials and at most 32. The first is a
    Sobol sequence, which is most even if its length is a power of two: 16.

    Args:
        index: Number of the round.

    >>> [growing(index) for index in (0, 1, 7, 8, 9, 100)]
    [16, 8, 8, 9, 10, 32]
    """
    known, size = 0, 16
    for _ in range(index):
        known += size
        if (size := min(max(8, known // 8), 32)) == 32:
            break
    return size
