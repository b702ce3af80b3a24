"""The score of a trial by its learning curves, and the order of trials.

The score is a function of the metric after each epoch, the mean over the lanes of the trial. It is
the same everywhere: in the search, at rungs, in the ranking, and in the report.

    last      the value after the last epoch
    best      the best value of all epochs
    mean:5    the mean over the last five epochs, or over all if there are fewer

With several objectives or constraints, the order of trials, `ranked`, follows Deb's rules:

1. A trial that satisfies all constraints precedes one that does not; of two that do not, the one
   with the smaller total violation, relative to the bounds, is first.
2. Trials of the Pareto front are first: no other trial is as good in all objectives and better in
   one. Then come those of the front of the remaining trials, and so on.
3. Within a front, the trial nearest to the ideal point is first. That point has the best value of
   each objective; distances are Euclidean, with each objective scaled to [0, 1] on the front.

   Of equal trials, the one that is better in the first objective is first, then the earlier one.

So `:best` is the most balanced trial of the front. With one objective it is the best trial.

References: Deb et al., A fast and elitist multiobjective genetic algorithm: NSGA-II, 2002. Zhang et
al., An efficient approach to nondominated sorting, 2015.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from ..explain.text import suggestion
from ..html import format_number
from ..train.metrics import badness
from ..validation import Accepts, integer
from .tables import Cohort, Group, Trial

rule_of_score: Accepts = Accepts(
    "'last', 'best', or 'mean:N' for the mean over the last N epochs, such as 'mean:5'",
    lambda rule: isinstance(rule, str) and bool(re.fullmatch(r"last|best|mean:[1-9]\d{0,6}", rule)),
)


def curve_score(values: Sequence[float], rule: str, maximize: bool) -> float:
    """Return the score of a learning curve; NaN if it has none.

    Values that are not finite are never the best, and a mean over them is NaN.

    Args:
        values: The metric after each epoch.
        rule: "last", "best", or "mean:N".
        maximize: Whether a larger value is better.

    >>> [curve_score([0.5, 0.9, 0.7, 0.8], rule, True) for rule in ("last", "best", "mean:2")]
    [0.8, 0.9, 0.75]
    """
    if rule == "best":
        values = [value for value in values if math.isfinite(value)]
        return (max if maximize else min)(values, default=math.nan)
    last = values[-1:] if rule == "last" else values[-int(rule.removeprefix("mean:")) :]
    return mean(last) if len(last) and all(map(math.isfinite, last)) else math.nan


def mean(numbers: Sequence[float]) -> float:
    """Return the mean of numbers; it is finite if they are, even if their sum is not.

    Args:
        numbers: At least one number.
    """
    if len(numbers) == 1:  # of a hundred thousand trials NumPy's mean would take seconds
        return float(numbers[0])
    with np.errstate(over="ignore"):
        found = float(np.mean(numbers))
    return found if math.isfinite(found) else float(np.sum(np.divide(numbers, len(numbers))))


class SeedMean(NamedTuple):
    """The mean over `n` seeds, and half of its 95 % interval; None for a single seed."""

    mean: float
    half: float | None
    n: int

    def __str__(self) -> str:
        if self.half is None:
            return format_number(self.mean)
        if not 0 < self.half < math.inf:
            return f"{format_number(self.mean)} ± {format_number(self.half)}"
        digits = max(0, 1 - math.floor(math.log10(self.half)))
        if digits > 7 or self.half >= 1e6:
            return f"{format_number(self.mean)} ± {format_number(self.half, 2)}"
        return f"{self.mean:.{digits}f} ± {self.half:.{digits}f}"


def seed_mean(each: Sequence[float]) -> SeedMean:
    """Return the mean over seeds and its 95 % t interval, t(0.975, n - 1) * s / sqrt(n).

    It assumes that the scores of seeds are normally distributed.

    >>> str(seed_mean([0.90, 0.92, 0.94])), str(seed_mean([0.5]))
    ('0.920 ± 0.050', '0.5')
    """
    n, middle = len(each), mean(each)
    if n < 2:
        return SeedMean(middle, None, n)
    from scipy.special import stdtrit  # imports half a second faster than scipy.stats

    size = max(1.0, *map(abs, each)) if max(map(abs, each)) > 1e150 else 1.0  # squares overflow
    spread = float(np.std(np.divide(each, size), ddof=1)) * size
    return SeedMean(middle, float(stdtrit(n - 1, 0.975)) * spread / math.sqrt(n), n)


def lane_scores(
    curves: Iterable[Mapping[int, float | None]],
    changed: Sequence[int],
    rule: str,
    maximize: bool,
    end: float = math.inf,
) -> list[float]:
    """Return the score of each lane of a trial; NaN for one that has none.

    Args:
        curves: The metric of each lane by epoch, at least one value each.
        changed: The epochs at which the trial took the state of another.
        rule: As for `curve_score`.
        maximize: Whether a larger value is better.
        end: The last epoch that counts; lanes may end before. Default: all count.
    """
    found = []
    for curve in curves:
        last = int(min(end, max(curve)))
        values = own_values(curve, changed, last) if last in curve else []
        found.append(curve_score(values, rule, maximize))
    return found


def own_values(curve: Mapping[int, float | None], changed: Iterable[int], end: int) -> list[float]:
    """Return the values of a curve after the last epoch at which the trial took another's state.

    Args:
        curve: The metric by epoch.
        changed: The epochs at which the trial took the state of another.
        end: The last epoch that counts.
    """
    begin = max((at for at in changed if at < end), default=0)
    return [finite(curve[at]) for at in sorted(curve) if begin < at <= end]


def finite(value: float | None) -> float:
    """Return a value of a curve; NaN if it is not finite, so that means over it are NaN."""
    return math.nan if value is None or not math.isfinite(value) else value


@dataclasses.dataclass(frozen=True)
class Keep:
    """Which trials to keep: the best ones by their score, of equal scores those asked first.

    Args:
        count: The number of trials to keep.
        metric: The metric that trials are compared by.
        maximize: Whether a larger value is better.
        rule: The score of a trial, as for `curve_score`.
    """

    count: int
    metric: str
    maximize: bool
    rule: str

    def badness(self, curves: Sequence[Sequence[float]]) -> float:
        """Return the score of a trial, the mean over the curves of its lanes; smaller is better.

        Args:
            curves: The metric after each epoch, for each lane.
        """
        each = [curve_score(curve, self.rule, self.maximize) for curve in curves]
        return badness(mean(each), self.maximize)

    def best(self, scores: Mapping[int, Any]) -> list[int]:
        """Return the numbers of the trials to keep, the best first.

        Args:
            scores: The result of `badness` by number of the trial; one that is not finite is not
                kept.
        """
        ranked = sorted((score, n) for n, score in scores.items() if math.isfinite(score))
        return [number for _, number in ranked[: self.count]]


# Several objectives and constraints

CONFIGURED = {
    "parameters": "numbers that the program trains",
    "bytes": "memory of these numbers",
    "flops": "floating-point operations of a training step for each row, as XLA counts them",
    "seconds": "wall time of training, without compiling, shared among the lanes of a cohort",
}
"""Metrics of every trial, independent of what its program reports; smaller is better."""


class Objective(NamedTuple):
    """A metric that trials are compared by."""

    metric: str
    maximize: bool

    def __str__(self) -> str:
        return f"{self.metric} ({'more' if self.maximize else 'less'} is better)"


class Constraint(NamedTuple):
    """A bound on a metric of a trial, written `METRIC <= NUMBER` or `METRIC >= NUMBER`."""

    metric: str
    sign: str
    bound: float

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the constraint that a text describes; raise ValueError for another text.

        >>> Constraint.of("parameters <= 1e6")
        Constraint(metric='parameters', sign='<=', bound=1000000.0)
        """
        a_constraint(text, "a constraint")
        metric, sign, bound = re.split("(<=|>=)", text)
        return cls(metric.strip(), sign, float(bound))

    def violation(self, value: float | None) -> float:
        """Return by how much a value violates the bound, relative to the bound; 0 if it does not.

        Args:
            value: Value of the metric. None or NaN, if the trial has none, violates it infinitely.

        >>> Constraint.of("parameters <= 1000").violation(1500)
        0.5
        """
        if value is None or math.isnan(value):
            return math.inf
        beyond = value - self.bound if self.sign == "<=" else self.bound - value
        return max(beyond, 0.0) / (abs(self.bound) or 1.0)

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {self.bound:g}"


def _is_constraint(text: Any) -> bool:
    parts = re.fullmatch(
        r"\s*([^\s<>=]+)\s*(?:<=|>=)\s*(\S+)\s*", text if type(text) is str else ""
    )
    try:
        return parts is not None and math.isfinite(float(parts[2]))
    except ValueError:
        return False


a_constraint: Accepts = Accepts(
    'a bound by <= or >= on a metric, such as "parameters <= 1e6" or "validation_accuracy >= 0.9"',
    _is_constraint,
)


def known_metrics(
    trials: Sequence[Trial], groups: Sequence[Group], cohorts: Sequence[Cohort]
) -> dict[int, dict[str, float]]:
    """Return the metrics of `CONFIGURED` by trial; those of its structure are in its group's probe.

    Args:
        trials: The trials.
        groups: Their groups.
        cohorts: The cohorts that ran.
    """
    accounts = {group.name: group.probe.get("metrics", {}) for group in groups}
    found = {trial.number: dict(accounts.get(trial.group or "", {})) for trial in trials}
    for cohort in cohorts:
        share = max(cohort.seconds - cohort.compile_seconds, 0.0) / len(cohort.lanes)
        for number, _ in cohort.lanes:
            found[number]["seconds"] = found[number].get("seconds", 0.0) + share
    return found


def violation(constraints: Sequence[Constraint], values: Mapping[str, float | None]) -> float:
    """Return the total violation of some constraints; 0 if a trial is feasible.

    Args:
        constraints: The constraints.
        values: Values of the metrics of the trial.
    """
    return math.fsum(one.violation(values.get(one.metric)) for one in constraints)


def fronts(points: Any) -> np.ndarray[Any, Any]:
    """Return the front of each point: 0 for those that no point dominates, 1 for the next, ...

    A point dominates another one if no coordinate is larger and one is smaller.

    Args:
        points: float (points, objectives), smaller is better.

    >>> fronts([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    array([0, 0, 1, 2])
    """
    points = np.asarray(points, float)
    found = np.zeros(len(points), int)
    members: list[list[np.ndarray[Any, Any]]] = []
    for index in np.lexsort(points.T[::-1]):  # only earlier points dominate later ones
        point = points[index]
        low, high = 0, len(members)
        while low < high:
            middle = (low + high) // 2
            # of two objectives the last member of a front has the least second coordinate
            last = members[middle][-1:] if len(point) == 2 else members[middle]
            others = np.asarray(last)
            dominated = ((others <= point).all(1) & (others < point).any(1)).any()
            low, high = (middle + 1, high) if dominated else (low, middle)
        if low == len(members):
            members.append([])
        members[low].append(point)
        found[index] = low
    return found


def constrained(scores: Sequence[float | None], violations: Sequence[float]) -> list[float | None]:
    """Return scores in the order of `ranked`: if a trial violates a bound, places in that order.

    Args:
        scores: One for each trial, smaller is better; None or not finite for none.
        violations: The total violation of the constraints by each trial.

    >>> constrained([0.3, 0.1, None], [0.0, 2.0, 0.0]), constrained([0.3, 0.1], [0.0, 0.0])
    ([0.0, 1.0, None], [0.3, 0.1])
    """
    if not any(violations):
        return list(scores)
    scored = [i for i, score in enumerate(scores) if score is not None and math.isfinite(score)]
    order = ranked([[scores[i]] for i in scored], [violations[i] for i in scored])
    places: dict[int, float] = {scored[i]: float(place) for place, i in enumerate(order)}
    return [places.get(i) for i in range(len(scores))]


def ranked(points: Any, violations: Sequence[float]) -> list[int]:
    """Return the indices of trials, the best first, by the rules of this module.

    Args:
        points: float (trials, objectives), smaller is better.
        violations: The total violation of the constraints by each trial.

    >>> ranked([[0.0, 9.0], [1.0, 1.0], [9.0, 0.0], [2.0, 2.0]], [0.0, 0.0, 0.0, 0.0])
    [1, 0, 2, 3]
    """
    points, violations = np.asarray(points, float), list(violations)
    feasible = [i for i, v in enumerate(violations) if v == 0]
    beyond = [i for i, v in enumerate(violations) if v != 0]
    others = sorted(beyond, key=lambda i: (violations[i], *points[i]))
    if not feasible:
        return others
    inside = points[feasible]
    front, distance = fronts(inside), np.zeros(len(inside))
    for number in set(front.tolist()):
        here = front == number
        low, high = inside[here].min(0), inside[here].max(0)
        scaled = (inside[here] - low) / np.where(high > low, high - low, 1.0)
        distance[here] = np.sqrt(np.square(scaled).sum(1))
    order = np.lexsort((np.arange(len(inside)), inside[:, 0], distance, front))
    return [feasible[i] for i in order] + others


def keep(scores: Iterable[float | None], count: int) -> np.ndarray[Any, Any]:
    """Return the indices of the `count` best scores, the best first.

    There are exactly `count` of them, even if some of their scores are None or not finite.

    Args:
        scores: One for each trial.
        count: The number of indices, at most the number of scores.

    >>> keep([0.3, None, 0.1, 0.3], count=2)
    array([2, 0])
    """
    numbers = _numbers(scores)
    integer(0, len(numbers))(count, "count")
    return np.argsort(numbers, kind="stable")[:count]  # a stable sort, which puts NaN last


def population(scores: Sequence[float | None], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return the member whose weights each member continues with, by truncation selection.

    Each of the worst members continues from a random one of the best. The worst are a fifth of the
    members, rounded down, but at least one, and also all that failed or diverged; the best are the
    same number, without any that failed. Always draws n random numbers.

    Args:
        scores: One for each member.
        rng: Draws the sources.

    Reference: Jaderberg et al., Population based training of neural networks, 2017.

    >>> population([0.5, 0.1, None, 0.3], np.random.default_rng(0))
    array([0, 1, 1, 3])
    """
    numbers = _numbers(scores)
    n, worst, draws = len(numbers), np.isnan(numbers), rng.random(len(numbers))
    cut, ranked = min(max(n // 5, 1), n // 2), keep(scores, n)
    best = ranked[: min(max(cut, 1), n - worst.sum())]
    worst[ranked[n - cut :]] = True
    worst[best] = False
    drawn = best[(draws * len(best)).astype(int)] if len(best) else ranked
    return np.where(worst & (len(best) > 0), drawn, np.arange(n))


def _numbers(scores: Iterable[float | None]) -> np.ndarray[Any, Any]:
    """Return the scores with NaN for missing and infinite ones: an infinity would win otherwise."""
    numbers = np.array([np.nan if score is None else score for score in scores], np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def undirected(metric: str, maximize: bool | None, names: Sequence[str]) -> str:
    """Return why trials cannot be compared by a metric; "" if they can."""
    if not metric:
        return (
            f"trials are compared by one metric of {', '.join(names)}; write --maximize "
            f"{names[-1]} or --minimize {names[-1]}, or Experiment(..., maximize={names[-1]!r})"
        )
    if metric not in names and metric not in CONFIGURED:
        known = suggestion(metric, [*names, *CONFIGURED])
        return f"the program reports no metric {metric!r}; {known}"
    if maximize is None:
        return (
            f"the direction of {metric!r} is unknown: write --maximize {metric} or --minimize "
            f"{metric}, or declare it in the metric by train.Mean(value, maximize=True) or "
            "train.Ratio(sum, count, maximize=True)"
        )
    return ""
