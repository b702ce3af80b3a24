"""Searches that learn from scores: Optuna's samplers, and covariance matrix adaptation.

TPE and the Gaussian process get a new study in memory each round, with the best and the newest
trials, which bounds the cost of asking. An `OptunaSampler` keeps one study, as Optuna does.

CMA-ES is replayed from the whole history by the library `cmaes`, because Optuna's sampler of that
name keeps the state of the search in the study and learns only from the first trials of a batch.
TPE and the Gaussian process ignore failed trials; CMA-ES ranks them last.

References: Bergstra et al., Algorithms for hyper-parameter optimization, 2011. Hansen, The CMA
evolution strategy: a tutorial, 2016.
"""

import abc
import contextlib
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..explain.text import suggestion
from ..installation import required
from .dimensions import Choice, Dimension, Grid
from .ranges import Int, LogNormal, Normal
from .score import constrained, ranked
from .search import PROPOSALS, STARTUP, Observation, SobolSearch, trial_key
from .space import Space, Values
from .swept import SweptField

TPE_HISTORY = 1000
"""Number of values, over all dimensions, that TPE gets: its time per trial grows with it.

TPE gets at least 200 trials; with only 100, its results are much worse.
"""

GP_HISTORY = 100
"""Number of trials that the Gaussian process gets: its time per trial grows with the cube."""


class _OptunaSearch(SobolSearch):
    """A sampler of Optuna on a new study in memory; a Sobol sequence until there are scores."""

    @abc.abstractmethod
    def sampler(self, seed: int, bounded: bool) -> Any:
        """Return a new sampler; `bounded` if trials violate constraints."""

    @abc.abstractmethod
    def most(self) -> int:
        """Return how many observations the sampler gets."""

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """Return the next trials."""
        scored = [one for one in history if one.is_scored]
        if len(scored) < STARTUP:
            return super().ask(count, round, history)
        optuna = optuna_library()
        kinds = {name: parameter(one) for name, one in self.space.dimensions.items()}
        with quiet():
            sampler = self.sampler(self._random_seed(round), any(one.violation for one in scored))
            directions = ["minimize"] * max(1, len(scored[0].scores))
            study = optuna.create_study(sampler=sampler, directions=directions)
            for one in best_and_newest(scored, self.most()):
                scores = one.scores or (one.score,)
                study.add_trial(completed(kinds, one.values, scores, one.violation))
            instead = self._instead(round)
            return [
                self.space.allowed_or(
                    lambda: proposed(self.space, study, kinds)[1], PROPOSALS, instead
                )
                for _ in range(count)
            ]


class TPESearch(_OptunaSearch):
    """Tree Parzen estimators with the defaults of Optuna, after a Sobol sequence.

    They are joint estimators of all dimensions that every trial has, and one for each of the others
    and with several objectives. A trial of the round that is being drawn counts as a bad one, which
    spreads the round: a constant liar (Ginsbourger et al., Kriging is well-suited to parallelize
    optimization, 2010).
    """

    name = "tpe"
    needs: ClassVar[tuple[str, ...]] = ("optuna",)

    def most(self) -> int:
        """Return how many observations the sampler gets."""
        return max(200, TPE_HISTORY // len(self.space.dimensions))

    def sampler(self, seed: int, bounded: bool) -> Any:
        """Return a new sampler; `bounded` if trials violate constraints."""
        options: dict[str, Any] = {"constraints_func": violation_of} if bounded else {}
        return optuna_library().samplers.TPESampler(seed=seed, n_startup_trials=0, **options)


class GPSearch(_OptunaSearch):
    """A Gaussian process with expected improvement, for runs that take longer than the search.

    Dimensions inside of branches are sampled by tree Parzen estimators.
    """

    name = "gp"
    needs: ClassVar[tuple[str, ...]] = ("optuna", "torch", "scipy")

    def most(self) -> int:
        """Return how many observations the sampler gets."""
        return GP_HISTORY

    def sampler(self, seed: int, bounded: bool) -> Any:
        """Return a new sampler; `bounded` if trials violate constraints."""
        samplers = optuna_library().samplers
        inside = samplers.TPESampler(seed=seed, multivariate=False, n_startup_trials=0)
        options = {"warn_independent_sampling": False, "n_startup_trials": 0}
        options |= {"constraints_func": violation_of} if bounded else {}
        return samplers.GPSampler(seed=seed, independent_sampler=inside, **options)


class OptunaSampler:
    """A sampler of Optuna as an object with `ask` and `tell`: a study in memory.

    Args:
        space: The search space.
        sampler: The sampler.
        objectives: Number of objectives. Default: 1.
    """

    def __init__(self, space: Space, sampler: Any, objectives: int = 1) -> None:
        self.space: Space = space
        self._objectives = objectives
        self._bounded = getattr(sampler, "_constraints_func", None) is violation_of
        self._kinds = {name: parameter(one) for name, one in space.dimensions.items()}
        with quiet():
            directions = ["minimize"] * objectives
            self._study = optuna_library().create_study(sampler=sampler, directions=directions)
        self._asked: dict[Any, list[Any]] = {}

    def ask(self, count: int) -> list[Values]:
        """Return the next trials.

        Args:
            count: The number of trials.
        """
        with quiet():
            return [
                self.space.allowed_or(self._proposed, PROPOSALS, self._instead)
                for _ in range(count)
            ]

    def _proposed(self) -> Values:
        """Return the next trial of the study, and keep it until its score is known."""
        trial, values = proposed(self.space, self._study, self._kinds)
        if trial is not None:
            self._asked.setdefault(trial_key(values), []).append(trial)
        return values

    def _instead(self) -> Values:
        """Return a random trial, used if all proposals are forbidden."""
        return self.space.sample(np.random.default_rng(len(self._study.trials)))

    def tell(self, values: Values, score: Any, violation: float = 0.0) -> None:
        """Complete a trial with these values, or add one; without a score, it is failed.

        Args:
            values: The values.
            score: The score, a tuple of those of several objectives, or None.
            violation: How far the trial violates the constraints. A sampler that knows no
                constraints gets the trial as failed. Default: 0.
        """
        asked = self._asked.get(trial_key(values))
        if violation and not self._bounded:
            score = None
        scores = None if score is None else score if isinstance(score, tuple) else (score,)
        with quiet():
            if asked:
                trial = asked.pop(0)
                trial.set_user_attr("violation", violation)
                failed = optuna_library().trial.TrialState.FAIL if scores is None else None
                self._study.tell(trial, scores, state=failed)
            else:
                self._study.add_trial(completed(self._kinds, values, scores, violation))


def violation_of(trial: Any) -> tuple[float]:
    """Return the total violation of an Optuna trial; a `constraints_func`."""
    return (trial.user_attrs.get("violation", 0.0),)


def sampler_named(name: str, seed: int, **options: Any) -> Any:
    """Return a sampler of Optuna by its name, with further options."""
    samplers = optuna_library().samplers
    known = [one for one in dir(samplers) if one.endswith("Sampler") and one != "BaseSampler"]
    if name not in known:
        raise ValueError(f"Optuna has no sampler {name!r}; {suggestion(name, known)}")
    try:
        with quiet():
            made = getattr(samplers, name)
            bounded = "constraints_func" in inspect.signature(made).parameters
            options |= {"constraints_func": violation_of} if bounded else {}
            return made(seed=seed, **options)
    except TypeError as error:
        raise ValueError(
            f"{name} needs arguments ({error}): pass it to sweep.run(..., search={name}(...))"
        ) from None


def best_and_newest(scored: Sequence[Observation], most: int) -> list[Observation]:
    """Return at most `most` observations in order: the newest half, and the best before them.

    Args:
        scored: Observations with scores.
        most: The most to return.

    >>> history = [Observation({}, score) for score in (3.0, 1.0, 2.0, 9.0, 8.0)]
    >>> [one.score for one in best_and_newest(history, 4)]
    [1.0, 2.0, 9.0, 8.0]
    """
    if len(scored) <= most:
        return list(scored)
    older = scored[: len(scored) - most // 2]
    if older[0].scores or any(one.violation for one in older):
        points = [one.scores or (one.score,) for one in older]
        best = ranked(points, [one.violation for one in older])[: most - len(scored) + len(older)]
    else:
        order = sorted(range(len(older)), key=lambda i: older[i].score)  # type: ignore[arg-type]
        best = order[: most - len(scored) + len(older)]
    return [scored[i] for i in (*sorted(best), *range(len(older), len(scored)))]


# Optuna


def optuna_library() -> Any:
    """Return Optuna, or raise ImportError with the command that installs it."""
    return required("optuna", "this is done by", "optuna", "sweep")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Turn off Optuna's warnings about its arguments."""
    optuna = optuna_library()
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


class Parameter(NamedTuple):
    """A dimension as a parameter of Optuna.

    Optuna does not distinguish 1 from True, so options are their indices. It has no priors and no
    logarithmic steps, so their parameter is the position in the unit interval, where a prior is
    uniform.

    Args:
        distribution: A distribution of Optuna.
        there: Returns the value of the parameter for a value of the dimension.
        back: Returns the value of the dimension for a value of the parameter.
    """

    distribution: Any
    there: Callable[[Any], Any]
    back: Callable[[Any], Any]


def parameter(dimension: Dimension) -> Parameter:
    """Return a dimension as a parameter of Optuna.

    Args:
        dimension: The dimension.
    """
    kinds = optuna_library().distributions
    if isinstance(dimension, Choice | Grid):
        numbers = range(len(dimension.options))
        kind = kinds.CategoricalDistribution(numbers)
        if isinstance(dimension, Grid):
            kind = kinds.IntDistribution(0, numbers[-1])
        return Parameter(kind, dimension.index, dimension.options.__getitem__)
    if isinstance(dimension, Normal | LogNormal) or (
        dimension.log and dimension.step not in (None, 1)
    ):
        return Parameter(kinds.FloatDistribution(0.0, 1.0), dimension.unit, dimension.at)
    return Parameter(distribution(dimension), lambda value: value, dimension.nearest)


def completed(kinds: Mapping[str, Parameter], values: Values, scores: Any, violation: float) -> Any:
    """Return a trial of Optuna that has ended; without scores, it failed."""
    trials = optuna_library().trial
    return trials.create_trial(
        values=scores,
        state=trials.TrialState.FAIL if scores is None else trials.TrialState.COMPLETE,
        params={name: kinds[name].there(value) for name, value in values.items()},
        distributions={name: kinds[name].distribution for name in values},
        system_attrs={"constraints": [violation]},
    )


def suggested(space: Space, trial: Any, kinds: Mapping[str, Parameter]) -> Values:
    """Return the values that a trial of Optuna suggests for the parameters of a space."""
    integers = optuna_library().distributions.IntDistribution

    def choose(swept: SweptField) -> Any:
        name, (kind, _, back) = swept.name, kinds[swept.name]
        if hasattr(kind, "choices"):
            return back(trial.suggest_categorical(name, kind.choices))
        suggest = trial.suggest_int if isinstance(kind, integers) else trial.suggest_float
        return back(suggest(name, kind.low, kind.high, step=kind.step, log=kind.log))

    return space.built(choose)


def proposed(space: Space, study: Any, kinds: Mapping[str, Parameter]) -> tuple[Any, Values]:
    """Return the next trial of a study and its values.

    None is returned for a trial that `where` forbids. It is completed as pruned, from which TPE
    learns that such trials are bad. Of failed ones it would learn nothing, and propose the like
    until a random trial is used instead.

    Args:
        space: The search space.
        study: The study.
        kinds: The parameter of each dimension.
    """
    trial = study.ask()
    values = suggested(space, trial, kinds)
    if space.allows(values):
        return trial, values
    study.tell(trial, state=optuna_library().trial.TrialState.PRUNED)
    return None, values


def distribution(dimension: Dimension) -> Any:
    """Return a dimension as a distribution of Optuna that contains its values.

    Args:
        dimension: The dimension.
    """
    kinds = optuna_library().distributions
    if isinstance(dimension, Choice | Grid):
        options = [str(one) if isinstance(one, tuple) else one for one in dimension.options]
        return kinds.CategoricalDistribution(options)
    if isinstance(dimension, Normal | LogNormal):
        return kinds.FloatDistribution(dimension.at(0.0), dimension.at(1.0), dimension.log)
    if isinstance(dimension, Int):
        step = 1 if dimension.log else dimension.step  # with `log` Optuna has no other steps
        return kinds.IntDistribution(dimension.low, dimension.last, dimension.log, step)
    return kinds.FloatDistribution(dimension.low, dimension.last, dimension.log, dimension.step)


class CMAESSearch(SobolSearch):
    """Covariance matrix adaptation in the unit cube of all dimensions.

    An option or an integer becomes a random point of its interval, and a dimension that the trial
    does not have becomes a random point of [0, 1), which preserves the spread of the distribution.
    A batch is up to three generations of at least 16 trials; batches of 16 learn the most per
    trial. If the distribution has shrunk to a point, the search restarts elsewhere. Trials of
    earlier sweeps determine the first distribution (Nomura et al., Warm starting CMA-ES, 2021).
    """

    name = "cmaes"
    needs: ClassVar[tuple[str, ...]] = ("cmaes",)

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """Return the next trials."""
        earlier = [one for one in history if one.round is None and one.is_scored]
        trials = [one for one in history if one.round is not None]
        if not earlier and not any(one.is_scored for one in trials):
            return super().ask(count, round, history)
        batch = max(1, len(trials) // round if round else count + len(trials))
        strategy = self._replayed(max(4, batch // 3, min(batch, 16)), earlier, trials)
        strategy.reseed_rng(self._random_seed(round))
        below_1 = np.nextafter(1.0, 0.0)
        return [
            self.space.allowed_or(
                lambda: self.space.from_unit(np.minimum(strategy.ask(), below_1)),
                PROPOSALS,
                self._instead(round),
            )
            for _ in range(count)
        ]

    def _replayed(
        self, size: int, earlier: Sequence[Observation], trials: Sequence[Observation]
    ) -> Any:
        """Return the strategy after generations of `size` trials."""
        rng = np.random.default_rng(self.seed)
        strategy = self._first(size, earlier, rng)
        for start in range(0, len(trials) - size + 1, size):
            some = trials[start : start + size]
            scores = constrained([one.score for one in some], [one.violation for one in some])
            generation = [
                (self.space.to_unit(one.values, rng), score if one.is_scored else math.inf)
                for one, score in zip(some, scores, strict=True)
            ]
            if all(score == math.inf for _, score in generation):
                continue  # their order has no meaning
            strategy.tell(generation)
            if strategy.should_stop():
                strategy = self._start(size, rng.random(len(self.space.dimensions)))
        return strategy

    def _first(self, size: int, earlier: Sequence[Observation], rng: np.random.Generator) -> Any:
        """Return the first strategy: in the middle, or fitted to the best of other sweeps."""
        if not earlier:
            return self._start(size, 0.5)
        import cmaes

        ranked = sorted(earlier, key=lambda one: one.score)  # type: ignore[arg-type, return-value]
        best = [
            (self.space.to_unit(one.values, rng), one.score)
            for one in ranked[: max(1, len(ranked) // 10)]
        ]
        mean, sigma, cov = cmaes.get_warm_start_mgd(best, gamma=1.0)  # type: ignore[arg-type]
        return self._start(size, mean, sigma, cov)

    def _start(self, size: int, mean: Any, sigma: float = 0.25, cov: Any = None) -> Any:
        import cmaes

        dimensions = len(self.space.dimensions)
        return cmaes.CMA(
            mean=np.broadcast_to(mean, dimensions).astype(float),
            sigma=sigma,
            cov=cov,
            bounds=np.tile([0.0, 1.0], (dimensions, 1)),
            population_size=size,
            seed=0,  # it is set again before it is asked
        )
