"""What a sweep knows before its search asks: configurations to try first, and earlier sweeps.

    tries       the configuration itself, and those that the user gives; they are trials
    warm start  the trials of earlier sweeps; they are observations of the search only

Both are values of the space by dotted path. The ledger records them, so that a sweep that is
resumed does not depend on the folders that it started from.
"""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..explain.text import check_known, suggestion
from ..html import count
from ..train.metrics import badness
from ..validation import Accepts
from .ledger import Ledger
from .ranges import Int
from .score import CONFIGURED, Constraint, Objective, violation
from .search import Observation, distinct, matching, trial_key
from .snapshot import Sweep, read
from .space import Space, Values
from .swept import SweptField
from .tables import OPEN, Trial, frozen

a_dict: Accepts = Accepts(
    "a dict of values by dotted path", lambda given: isinstance(given, Mapping)
)
a_value: Accepts = Accepts(
    "PATH=VALUE", lambda text: re.fullmatch(r"(?s)\s*[^\s=][^=]*=.*\S.*", text) is not None
)


@dataclasses.dataclass(frozen=True)
class Known:
    """What the ledger records about known configurations and earlier sweeps.

    Args:
        tries: Configurations to try first, in order.
        earlier: The trials of earlier sweeps.
        begin: The number of the first trial that the current search may choose; another search
            chose the earlier ones.
    """

    tries: Sequence[Values] = ()
    earlier: Sequence[Observation] = ()
    begin: int = 0

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> Self:
        """Return what the meta data of a ledger record.

        Args:
            meta: The meta data.
        """
        earlier = meta.get("warm_start", {}).get("trials", [])
        searches = meta.get("searches", [["", 0]])
        observations = [
            Observation(_frozen(values), score, None, False, *map(frozen, more))
            for values, score, *more in earlier
        ]
        return cls([*map(_frozen, meta.get("tries", []))], observations, searches[-1][1])

    def waiting(self, trials: Sequence[Trial]) -> list[Values]:
        """Return the configurations that are not among these trials, in order.

        Args:
            trials: The trials of the sweep.
        """
        if not self.tries:
            return []
        match = matching(self.tries)
        done = Counter(match(trial.values) for trial in trials)
        found = []
        for values in self.tries:
            if done[trial_key(values)] > 0:
                done[trial_key(values)] -= 1
            else:
                found.append(values)
        return found

    @functools.cached_property
    def given(self) -> set[Any]:
        """The keys (`trial_key`) of the configurations to try first."""
        return {trial_key(values) for values in self.tries}

    def observations(
        self,
        trials: Sequence[Trial],
        scores: Sequence[tuple[float, ...]],
        violations: Sequence[float],
    ) -> list[Observation]:
        """Return what the search learns from these trials.

        Args:
            trials: The trials.
            scores: The scores of each by all objectives, smaller is better; () for none.
            violations: How far each violates the constraints.
        """
        found, match = [], matching(self.tries)
        for trial, each, far in zip(trials, scores, violations, strict=True):
            own = trial.number >= self.begin and match(trial.values) is None
            score, several = each[0] if each else None, each if len(each) > 1 else ()
            found.append(Observation(trial.values, score, trial.round, own, several, far))
        return found


def _frozen(values: Mapping[str, Any]) -> Values:
    """Return values that JSON held."""
    return {name: frozen(value) for name, value in values.items()}


# Configurations as values of a space


def valued(space: Space, given: Mapping[str, Any], where: str, base: Any = None) -> Values:
    """Return the values of a trial.

    Args:
        space: The search space.
        given: Values by the name of the dimension, or by dotted path; a class by its name.
        where: Their source, for error messages.
        base: The configuration that supplies missing values. Default: None, no value may be
            missing.

    Raises:
        ValueError: A value is missing or not in the space, or a path is not swept.

    >>> from jaxnn.experiment import SGD
    >>> from jaxnn.sweep import Grid, Uniform
    >>> space = Space(SGD, {"learning_rate": Uniform(0.0, 0.5), "momentum": Grid(0.5, 0.9)})
    >>> valued(space, {"momentum": 0.5}, "tries[0]", SGD(learning_rate=0.1))
    {'learning_rate': 0.1, 'momentum': 0.5}
    """
    left, values, problem = dict(given), {}, ""
    for swept in space.swept:
        if problem or not swept.active(values):
            continue
        name = swept.name if swept.name in left else ".".join(swept.path)
        if name in left:
            value = left.pop(name)
        elif base is None:
            problem = f"has no value for {swept.name}, got {dict(given)}"
            continue
        else:
            value = functools.reduce(getattr, swept.path, space.configured(base, values))
        values[swept.name] = value = _converted(swept, value)
        if not swept.dimension.has(value):
            problem = f"sets {swept.name} to {value!r}, which is not in {swept.dimension}"
    if left and not problem:
        name = next(iter(left))
        problem = f"sets {name}, which a trial with {values} does not sweep; "
        problem += suggestion(name, [*values])
    elif not problem and not (space if base is None else space.around(base)).allows(values):
        problem = f"is {values}, which the `where` of the space does not allow"
    if problem:
        raise ValueError(f"{where} {problem}")
    return values


def _converted(swept: SweptField, value: Any) -> Any:
    """Return a value in the type of the dimension, even if it is outside of the dimension."""
    dimension = swept.dimension
    if swept.classes:
        kind = value if isinstance(value, type) else type(value)
        value = value if isinstance(value, str) else "None" if value is None else kind.__name__
        value = next((one for one in dimension.grid(1) if str(one).lower() == value.lower()), value)
    value = value.item() if isinstance(value, np.generic) else frozen(value)
    found = _as_option(value, dimension.options) if hasattr(dimension, "options") else value  # type: ignore[union-attr]
    if type(found) is int and not hasattr(dimension, "options") and not isinstance(dimension, Int):
        return float(found)
    return found


def _as_option(value: Any, options: Sequence[Any]) -> Any:
    """Return the option that equals a value, 1 and 1.0 alike, but not True."""
    alike = [
        one for one in options if one == value and isinstance(one, bool) is (type(value) is bool)
    ]
    return next((one for one in alike if type(one) is type(value)), alike[0] if alike else value)


def parsed(space: Space, text: str) -> dict[str, Any]:
    """Return the values that a text such as "model.width=64,rate=0.1" gives, by dotted path.

    Args:
        space: The search space, whose dimensions determine the types.
        text: The text: PATH=VALUE, separated by commas.

    Raises:
        ValueError: The text has a different form.

    >>> from jaxnn.experiment import SGD
    >>> from jaxnn.sweep import Grid, Uniform
    >>> space = Space(SGD, {"learning_rate": Uniform(0.0, 0.5), "momentum": Grid(0.5, 0.9)})
    >>> parsed(space, "momentum=0.9,learning_rate=1e-2")
    {'momentum': 0.9, 'learning_rate': 0.01}
    """
    first, found = next(iter(space.dimensions)), {}
    hint = f"write for example --try {first}=..., and commas between several"
    for part in re.split(r",(?=\s*[\w.:]+=)", text):
        name, _, word = (one.strip() for one in a_value(part, "--try", hint).partition("="))
        name = name.replace("-", "_")
        fields = [one for one in space.swept if name in (one.name, ".".join(one.path))]
        values = [_from_text(one, word) for one in fields]
        pairs = zip(fields, values, strict=True)
        fitting = [value for one, value in pairs if one.dimension.has(value)]
        found[name] = next(iter(fitting or values), word)
    return found


def _from_text(swept: SweptField, text: str) -> Any:
    """Return a text as a value of a dimension, or the text if it is not one."""
    options = getattr(swept.dimension, "options", ())
    try:
        number: Any = int(text) if isinstance(swept.dimension, Int) else float(text)
    except ValueError:
        number = text
    written = (one for one in options if text.lower() in (str(one).lower(), repr(one).lower()))
    return next(written, _as_option(number, options) if options else number)


def tries_of(space: Space, base: Any, tries: Sequence[Any], repeat: bool = False) -> list[Values]:
    """Return the configurations that the user gives, as values of the space.

    Args:
        space: The search space.
        base: The configuration, which has the values that a try does not give.
        tries: Dicts by dotted path, or texts as for `parsed`.
        repeat: Whether equal ones are kept. Default: False.

    Raises:
        ValueError: A value is not in the space, or a path is not swept.
    """
    found = []
    for number, one in enumerate(tries):
        text = isinstance(one, str)
        given, where = (parsed(space, one), f"--try {one}") if text else (one, f"tries[{number}]")
        a_dict(given, where)
        found.append(valued(space, given, where, base))
    return found if repeat else distinct(found, set())


def default_try(space: Space, base: Any) -> tuple[list[Values], str]:
    """Return the configuration itself as a trial and "", or no trial and the reason.

    Args:
        space: The search space.
        base: The configuration.
    """
    try:
        return [valued(space, {}, "it", base)], ""
    except ValueError as error:
        return [], (
            f"the configuration itself is not tried, because {error}: write --no-defaults, in "
            "Python defaults=False, to sweep without it, or widen the space"
        )


# Earlier sweeps


def warm_start(
    space: Space,
    folders: Sequence[Path | str],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint] = (),
    rule: str = "last",
) -> dict[str, Any]:
    """Return the trials of earlier sweeps as plain data, with notes about mismatches.

    Args:
        space: The search space.
        folders: The folders of earlier sweeps; each counts once.
        objectives: The metrics that trials are compared by.
        constraints: The bounds on metrics. Default: none.
        rule: The score of a trial, as for `score.curve_score`. Default: "last".

    Returns:
        "folders"; "trials", lists of values and score, smaller is better, followed by the scores of
        all objectives and the violation if there are several objectives or constraints; and
        "notes", sentences.

    Raises:
        ValueError: An earlier sweep did not record a metric.
        LedgerError: A folder contains no sweep.
    """
    trials: list[Any] = []
    notes = []
    metrics = dict.fromkeys(one.metric for one in (*objectives, *constraints))
    for folder in resolved(folders).values():
        with Ledger.open(folder) as ledger:
            sweep = read(ledger)
        for name in metrics:
            unknown = f"{folder} did not record {name}, by which this sweep compares trials"
            check_known(name, {*sweep.curves, *CONFIGURED}, unknown)
        facts = {**sweep.facts, "settings": {**sweep.facts.get("settings", {}), "score": rule}}
        sweep = dataclasses.replace(sweep, **objectives[0]._asdict(), facts=facts)
        ended = [trial for trial in sweep.trials if trial.status not in OPEN]
        problems: Counter[str] = Counter()
        used = 0
        for trial in ended:
            values, problem = _translated(space, sweep, trial)
            pairs = [(name, sweep.measured(trial.number, name)) for name in metrics]
            found = {name: value for name, value in pairs if value is not None}
            scored = trial.number in sweep.scores
            if scored and not problem and len(found) < len(metrics):
                problem = f"because they have no {next(n for n in metrics if n not in found)}"
            if problem:
                problems[problem] += 1
                continue
            scores = [badness(found[o.metric], o.maximize) for o in objectives if scored]
            far = violation(constraints, found) if scored else 0.0
            more = [scores if len(scores) > 1 else [], far]
            several = len(objectives) > 1 or constraints
            trials.append([values, scores[0] if scored else None, *(more if several else [])])
            used += 1
        lost = sorted({_path(name) for name in sweep.dimensions} - space.fields)
        notes.append(f"{folder}: {used} of {count(len(ended), 'trial')} as observations")
        notes += [f"{folder}: {name} was swept there, and is not swept here" for name in lost]
        notes += [f"{folder}: {count(n, 'trial')} left out, {why}" for why, n in problems.items()]
    return {"folders": list(resolved(folders)), "trials": trials, "notes": notes}


def resolved(folders: Sequence[Path | str]) -> dict[str, str]:
    """Return the folders by absolute path, each once, in order."""
    return {str(Path(folder).resolve()): str(folder) for folder in folders}


def _path(name: str) -> str:
    """Return the dotted path of a dimension: its name without the classes of branches."""
    return re.sub(r":[^.]+", "", name)


def _translated(space: Space, sweep: Sweep, trial: Trial) -> tuple[Values, str]:
    """Return the values of an earlier trial in this space, and why they do not fit, or ""."""
    by_path = {_path(name): value for name, value in trial.values.items()}
    values: Values = {}
    for swept in space.swept:
        if not swept.active(values):
            continue
        path = ".".join(swept.path)
        value = trial.values.get(swept.name, by_path.get(path, _constant(sweep.config, path)))
        if value is _constant:
            return values, f"because they have no {path}"
        if isinstance(value, dict):  # a class, of which the configuration has an instance
            value = value.get("type")
        values[swept.name] = value = _converted(swept, value)
        if not swept.dimension.has(value):
            return values, f"because {swept.name} is not in {swept.dimension}"
    return values, ""


def _constant(config: Mapping[str, Any], path: str) -> Any:
    """Return the value of a field of a recorded configuration; `_constant` if it has none."""
    found: Any = config
    for name in path.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return _constant
        found = found[name]
    return found
