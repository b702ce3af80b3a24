"""External searches: any Optuna sampler, and any object with `ask` and `tell`.

    sweep.run(EXPERIMENT, search=optuna.samplers.NSGAIISampler(seed=0), trials=256)
    sweep.run(EXPERIMENT, search=MySearch(), trials=256)

The state of such an object is not saved. A resumed sweep therefore replays the recorded history: it
calls `ask` and `tell` of a copy of the passed object in the order of the ledger, and the copy must
propose the recorded trials. The results are then bitwise identical to those of an uninterrupted
sweep. If the copy proposes other trials, ValueError is raised.
"""

import copy
import dataclasses
import importlib
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from ..installation import install
from ..validation import Accepts, one_of
from .samplers import CMAESSearch, GPSearch, OptunaSampler, TPESearch, sampler_named
from .search import (
    GridSearch,
    NoSearch,
    Observation,
    RandomSearch,
    Search,
    SobolSearch,
    distinct,
    trial_key,
)
from .settings import OBJECT
from .space import Space, Values, valued


class AskTell(Protocol):
    """The protocol of an object that chooses trials and learns from their scores.

    It must be deterministic and support `copy.deepcopy`: the sweep uses a copy, and repeats all
    calls when it is resumed.
    """

    def ask(self, count: int) -> Sequence[Mapping[str, Any]]:
        """Return the next trials, each a dict of values by dotted path, within the space.

        Args:
            count: The number of trials. The list may be shorter; the sweep ends if it is empty.
        """
        ...

    def tell(self, values: Mapping[str, Any], score: Any) -> None:
        """Receive the score of a trial after its round.

        Args:
            values: The values of a trial: one that `ask` returned, a configuration that the user
                gave, or a trial of an earlier sweep.
            score: Its score (smaller is better), or a tuple of scores if there are several
                objectives; None if the trial failed, diverged, or violates a constraint.
        """
        ...


def _has(search: Any, *methods: str) -> bool:
    """Return whether an object has all these methods; False for a class."""
    named = [getattr(search, name, None) for name in methods]
    return not isinstance(search, type) and all(map(callable, named))


a_search_object: Accepts = Accepts(
    "a name, an Optuna sampler, or an object with the methods ask(count) and tell(values, score)",
    lambda search: _has(search, "sample_independent") or _has(search, "ask", "tell"),
    TypeError,
)


proposals: Accepts = Accepts(
    "a list of dicts of values by dotted path",
    lambda given: isinstance(given, Sequence) and all(isinstance(one, Mapping) for one in given),
    TypeError,
)


@dataclasses.dataclass(frozen=True)
class External(Search):
    """The search of an object with `ask` and `tell`, replayed from the history if necessary.

    Args:
        space: The search space.
        seed: Seed of the random points that replace repeated trials. Default: 0.
        points: Not used.
        given: The object, which is not changed.
        label: Its name in the ledger.
        objectives: Number of objectives. Default: 1.
    """

    given: Any = None
    label: str = ""
    objectives: int = 1
    name: ClassVar[str] = "external"
    _replay: "list[_Replay]" = dataclasses.field(default_factory=list, init=False, compare=False)

    @classmethod
    def of(cls, search: Any, space: Space, seed: int, objectives: int = 1) -> "External":
        """Return the search of an Optuna sampler, its name, or an object with `ask` and `tell`.

        Args:
            search: The sampler, its name, or the object.
            space: The search space.
            seed: Seed of a sampler that is given by name.
            objectives: Number of objectives. Default: 1.

        Raises:
            ValueError: There is no such sampler, or it has no seed.
            TypeError: It is an object of another kind.
        """
        label = search if isinstance(search, str) else f"{OBJECT}{type(search).__name__}"
        if search == "nsga2":  # a population as large as a round
            search = sampler_named("NSGAIISampler", seed, population_size=32)
        elif isinstance(search, str):
            search = sampler_named(search, seed)
        a_search_object(search, "search")
        found = cls(space, seed, given=search, label=label, objectives=objectives)
        if _has(search, "sample_independent") and found.copied().ask(1) != found.copied().ask(1):
            name = type(search).__name__
            raise ValueError(
                f"{name} draws other trials each time, so that the sweep could not be resumed: "
                f"write {name}(seed=0)"
            )
        return found

    def copied(self) -> Any:
        """Return a copy of the object; an Optuna sampler is wrapped as an `OptunaSampler`."""
        state = copy.deepcopy(self.given)
        return (
            state if hasattr(state, "tell") else OptunaSampler(self.space, state, self.objectives)
        )

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """Return the next trials; they may repeat earlier ones.

        Raises:
            TypeError: The object does not return a list of dicts.
            ValueError: The object proposes trials outside of the space, or, during a replay, trials
                that differ from the recorded ones.
        """
        if not self._replay or not self._replay[0].continues(history):
            self._replay[:] = [_Replay(self)]
        return self._replay[0].ask(count, round, history)


class _Replay:
    """A copy of an object with `ask` and `tell`, and its position in the history.

    Args:
        search: The search.
    """

    def __init__(self, search: External) -> None:
        self.space, self.label = search.space, search.label.removeprefix(OBJECT)
        self._state = search.copied()
        self._past: list[Values] = []  # of all that the copy has received
        self._last: tuple[int, list[Values]] | None = None  # what it asked for last

    def continues(self, history: Sequence[Observation]) -> bool:
        """Return whether the copy has received the beginning of this history."""
        past = [one.values for one in history[: len(self._past)]]
        return past == self._past and len(history) >= len(self._past)

    def ask(self, count: int, round: int, history: Sequence[Observation]) -> list[Values]:
        """Pass the rest of the history to the copy, and return the trials that it proposes next."""
        rest = list(history[len(self._past) :])
        for number, group in itertools.groupby(rest, key=lambda one: one.round):
            trials = list(group)
            if number == round:
                break  # of this round, which is not over
            own = [one.values for one in trials if one.own]
            if own and (self._last is None or self._last[0] != number):
                self._check(number, self._asked(number, len(own)), own)
            asked = self._last[1] if self._last and self._last[0] == number else []
            self._receive(trials, asked, history)
            self._past += [one.values for one in trials]
        return self._asked(round, count)

    def _asked(self, round: int | None, count: int) -> list[Values]:
        """Return the trials that the copy proposes, as values of the space."""
        call = f"{self.label}.ask({count})"
        proposed = proposals(self._state.ask(count), call)
        asked = [valued(self.space, values, call) for values in proposed][:count]
        self._last = (round or 0, asked)
        return asked

    def _check(self, round: int | None, asked: list[Values], own: list[Values]) -> None:
        """Raise ValueError unless a replayed round begins like the recorded one."""
        known = {trial_key(values) for values in self._past}
        new = distinct(asked, set(known))
        if asked == own or new == own[: len(new)]:
            return
        wrong = next((a, b) for a, b in zip(new, own, strict=False) if a != b)
        raise ValueError(
            f"the search {self.label} chooses other trials than before, so that the sweep cannot "
            f"be resumed bitwise: in round {round} it chose {wrong[1]}, now {wrong[0]}. Pass an "
            "equal object, whose choices do not change, such as a sampler with the same seed; or "
            'continue with another search, such as search="tpe"'
        )

    def _receive(
        self, trials: list[Observation], asked: list[Values], history: Sequence[Observation]
    ) -> None:
        """Pass the scores of a round to the copy, at least once for each trial that it proposed."""
        scores = {trial_key(one.values): one for one in reversed(history)}
        left = Counter(trial_key(one.values) for one in trials)
        for values in asked:
            if left[trial_key(values)] > 0:
                left[trial_key(values)] -= 1
            else:  # it was tried before
                trials = [*trials, scores.get(trial_key(values), Observation(values, None))]
        for one in trials:
            score = one.told if one.is_scored else None
            if isinstance(self._state, OptunaSampler):
                self._state.tell(one.values, score, one.violation)
            else:
                self._state.tell(dict(one.values), None if one.violation else score)


SEARCHES: dict[str, type[Search]] = {
    kind.name: kind
    for kind in (RandomSearch, GridSearch, SobolSearch, TPESearch, CMAESSearch, GPSearch, NoSearch)
}


def searcher(
    search: Any, space: Space, *, seed: int = 0, points: int = 5, objectives: int = 1
) -> Search:
    """Return the search over a space that a name or an object specifies.

    Args:
        search: "random", "grid", "sobol", "none", "tpe", "cmaes", "gp", or "nsga2"; the name of an
            Optuna sampler; such a sampler; or an `external.AskTell`.
        space: The search space.
        seed: Seed of all random choices. Default: 0.
        points: Points per range in a grid. Default: 5.
        objectives: Number of objectives. Default: 1.

    Raises:
        ValueError: The name is unknown, or a sampler has no seed.
        TypeError: It is an object of another kind.
        ImportError: A library that the search needs is not installed.

    >>> from jaxnn.experiment import SGD
    >>> from jaxnn.sweep import Grid, Uniform
    >>> space = Space(SGD, {"learning_rate": Grid(0.1, 0.3), "momentum": Uniform(0.5, 0.9)})
    >>> searcher("grid", space, points=3).ask(2, round=0, history=[])
    [{'learning_rate': 0.1, 'momentum': 0.5}, {'learning_rate': 0.1, 'momentum': 0.7}]
    """
    if isinstance(search, str) and search.startswith(OBJECT):
        raise ValueError(
            f"the search of this sweep is an {search}, which Python code passed: continue it with "
            "sweep.run(..., search=..., folder=...), or with another search, such as tpe"
        )
    if not isinstance(search, str) or search.endswith("Sampler") or search == "nsga2":
        return External.of(search, space, seed, objectives)
    one_of(*SEARCHES, "nsga2")(search, "search")
    for module in SEARCHES[search].needs:
        try:
            importlib.import_module(module)
        except ImportError as error:
            others = ("torch",) if module == "torch" else ()  # in no extra, because it is large
            raise ImportError(
                f"the search {search!r} needs {module}, which is not installed: write another "
                f"search, such as 'sobol', or {install('sweep', *others)}"
            ) from error
    return SEARCHES[search](space, seed, points)
