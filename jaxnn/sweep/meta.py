"""The meta data of a sweep: recorded when it begins, checked when it is resumed, and changed.

A resumed sweep must have the same code, data, and settings that determine its trials. Other
settings, such as the number of trials, the search, and the budget, may change; the ledger records
them in one transaction.

Before its search asks, a sweep tries the configuration itself and those that the user gives, and
its search observes the trials of earlier sweeps (a warm start). Both are values of the space by
dotted path, which the ledger records, so that a sweep that is resumed does not depend on the
folders that it started from.
"""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from ..experiment import sources
from ..experiment.configuration import from_plain, to_plain, to_record
from ..experiment.experiment import Experiment, loaded
from ..explain.text import check_known
from ..files.reading import quoted
from ..fingerprint import fingerprint, fingerprint_differences
from ..html import count
from ..train.checkpoint import versions
from ..train.metrics import badness
from ..validation import Accepts, check_none, integer
from .ledger import Ledger
from .plan import Planner
from .score import CONFIGURED, Constraint, Objective, violation
from .search import Known, distinct, trial_key
from .settings import BLIND, CHANGEABLE, OBJECT, Settings
from .snapshot import Sweep, read
from .space import Space, Values, converted, valued
from .structure import check_experiment, space_of
from .swept import parsed
from .tables import OPEN, Trial, to_text

tried_alone: Accepts = Accepts(
    "configurations to try",
    bool,
    hint="search='none' tries only these: write tries=[{{...}}], or --try",
)
a_learning_search: Accepts = Accepts(
    "a search that learns from earlier sweeps, such as 'tpe'", lambda name: name not in BLIND
)


def planned(
    experiment: Experiment[Any],
    base: Any,
    settings: Mapping[str, Any],
    search: Any = None,
    tries: Any = (),
    folders: Sequence[Path | str] = (),
) -> tuple[Planner, dict[str, Any]]:
    """Return the plan of a new sweep, and its meta data of tries and earlier sweeps.

    Args:
        experiment: The experiment.
        base: The configuration that trials change.
        settings: Settings.
        search: The search, if it is an object. Default: None.
        tries: As for `run`. Default: ().
        folders: As `warm_start` of `run`. Default: ().

    Returns:
        The planner, and "tries", "searches", "warm_start", and "notes", sentences for the user.
    """
    chosen, space = Settings(**settings), space_of(experiment)
    first, note = default_try(space, base) if chosen.defaults else ([], "")
    known = [*first, *tries_of(space, base, tries, chosen.repeat)]
    if not chosen.repeat:
        known = distinct(known, set())
    if chosen.search == "none":
        tried_alone(known, "tries")
        chosen = dataclasses.replace(chosen, trials=settings.get("trials", len(known)))
    given = f"there are {count(len(known), 'configuration')} to try first, with that of the "
    integer(len(known))(chosen.trials, "trials", f"{given}experiment")
    if folders:
        a_learning_search(chosen.search, "search", "otherwise leave out the warm start")
    planner = Planner(experiment, base, chosen, search=search)
    warm = warm_start(space, folders, planner.objectives, planner.constraints, chosen.score)
    cut = left_out(planner, known)
    notes = [*filter(None, [cut, note]), *warm["notes"]]
    facts: dict[str, Any] = {"tries": known, "searches": [[chosen.search, 0]], "notes": notes}
    facts |= {"left_out": cut} if cut else {}
    return planner, facts | ({"warm_start": warm} if folders else {})


def left_out(planner: Planner, tries: Sequence[Values] = ()) -> str:
    """Return a description of the grid points that are not tried; "" if all are.

    Args:
        planner: The planner of the sweep.
        tries: The configurations that are tried first. Default: none.
    """
    settings, space = planner.settings, planner.space
    size = space.grid_size(settings.points) if settings.search == "grid" else 0
    if size + len(tries) <= settings.trials or not size:
        return ""
    grid = {trial_key(point) for point in space.grid(settings.points)}
    others = len([values for values in tries if trial_key(values) not in grid])
    if size + others <= settings.trials:
        return ""
    return (
        f"the grid has {size} points, of which --trials {settings.trials} tries the first "
        f"{settings.trials - others}: write --trials {size + others} to try all"
    )


def resumed(
    experiment: Experiment[Any],
    ledger: Ledger,
    base: Any = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
    force: bool = False,
    tries: Any = (),
    folders: Sequence[Path | str] = (),
) -> None:
    """Check that a ledger is of this sweep, and record what changes.

    Args:
        experiment: The experiment.
        ledger: The ledger, open for writing.
        base: The configuration that trials change. Default: None, that of the sweep.
        settings: The settings that the caller gave. Default: none.
        force: As for `run`. Default: False.
        tries: As for `run`. Default: ().
        folders: As `warm_start` of `run`, which cannot change. Default: ().

    Raises:
        ValueError: It is a different sweep, or something differs that cannot change.
    """
    meta, trials = ledger.meta, ledger.trials()
    _check_resumable(experiment, ledger, base, settings, force, folders)
    old: Settings = from_plain(Settings, meta["settings"], f"{ledger.folder}: settings")
    new, space = dataclasses.replace(old, **settings), space_of(experiment)
    config = from_plain(experiment.config, dict(meta["config"]), f"{ledger.folder}: config")
    facts: dict[str, Any] = {}
    known = Known.of(meta)
    asked = tries_of(space, config, tries, new.repeat)
    if new.defaults and not old.defaults:
        asked += default_try(space, config)[0]
    added = distinct(asked, set() if new.repeat else {trial_key(t.values) for t in trials})
    added = [values for values in added if trial_key(values) not in known.given]
    if new.search == "none" and "trials" not in settings:
        more = len(trials) + len(known.waiting(trials)) + len(added)
        new = dataclasses.replace(new, trials=max(old.trials, more))
    had = f"{ledger.folder} has {count(len(trials), 'trial')} already"
    integer(len(trials))(new.trials, "trials", had)
    if added:
        facts["tries"] = [*meta.get("tries", []), *added]
    if (old.search, old.search_seed) != (new.search, new.search_seed):
        facts["searches"] = [*meta.get("searches", [[old.search, 0]]), [new.search, len(trials)]]
    if new != old:
        facts |= {"settings": to_plain(new), "search": new.search, "seed": new.search_seed}
    longer = getattr(base, "epochs", None) if base is not None else None
    if longer is not None and longer != config.epochs:
        changed = dataclasses.replace(config, epochs=longer)
        planner = Planner(experiment, changed, new, meta.get("traced"), _search_of(new))
        facts |= {"config": to_plain(changed), "epochs": planner.epochs}
        facts["rungs"] = new.rungs(planner.epochs)
        ledger.restart(facts | {"ended": ""})
    elif facts:
        Planner(experiment, config, new, meta.get("traced"), _search_of(new))  # raises for others
        ledger.set_meta(facts | {"ended": ""})


def _search_of(settings: Settings) -> Any:
    """Return a search for checks: the one of the settings, unless it is an object."""
    return "none" if settings.search.startswith(OBJECT) else None


def meta_of(experiment: Experiment[Any], planner: Planner) -> dict[str, Any]:
    """Return what the ledger records about the whole sweep.

    Args:
        experiment: The experiment.
        planner: The planner of the sweep.
    """
    settings = planner.settings
    return {
        "experiment": sources.module_of(experiment),
        "name": experiment.name,
        "config": to_record(planner.base),
        "settings": to_plain(settings),
        "space": planner.space.to_plain(),
        "traced": planner.found,
        "metric": planner.metric,
        "maximize": planner.maximize,
        **({"objectives": planner.objectives} if len(planner.objectives) > 1 else {}),
        "seeds": settings.repeats,
        "epochs": planner.epochs,
        "rungs": settings.rungs(planner.epochs),
        "search": settings.search,
        "seed": settings.search_seed,
        "exact": settings.exact,
        "sources": _sources(experiment, planner.base),
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
    }


def _sources(experiment: Experiment[Any], base: Any) -> dict[str, Any]:
    """Return what the trials depend on besides their values: code, data, versions, and `where`.

    The space of a notebook, or of a function, may have a `where` that no module contains.
    """
    return {
        "modules": sources.modules(experiment),
        "where": fingerprint(space_of(experiment).where),
        "data": loaded(experiment, base).checksums(),
        "versions": {name: text for name, text in versions().items() if name != "python"},
    }


def _check_resumable(
    experiment: Experiment[Any],
    ledger: Ledger,
    base: Any,
    settings: Mapping[str, Any],
    force: bool,
    folders: Sequence[Path | str],
) -> None:
    """Raise ValueError unless the ledger is of this sweep, and record what `force` accepts.

    Args:
        experiment: The experiment.
        ledger: The ledger, open for writing.
        base: The configuration that trials change; None, that of the ledger.
        settings: The settings that were given; the others are those of the ledger.
        force: Whether changed code and data are accepted.
        folders: The folders of a warm start.
    """
    meta, folder = ledger.meta, ledger.folder
    read(ledger)  # which checks all that it contains
    check_experiment(folder, meta["experiment"], experiment)
    asked: dict[str, Any] = {"space": _by_name(space_of(experiment).to_plain())}
    recorded = {"space": _by_name(meta["space"])}
    if base is not None:
        asked["config"], recorded["config"] = json.loads(to_text(to_plain(base))), meta["config"]
        for plain in (asked, recorded):
            plain["config"] = {k: v for k, v in plain["config"].items() if k != "epochs"}
    now = to_plain(Settings(**settings))
    fixed = [name for name in settings if name not in CHANGEABLE]
    asked["settings"] = {name: now[name] for name in fixed}
    recorded["settings"] = {name: meta["settings"].get(name) for name in fixed}
    earlier = meta.get("warm_start", {}).get("folders", [])
    if folders and resolved(folders).keys() != resolved(earlier).keys():  # in any order
        asked["warm_start"], recorded["warm_start"] = [str(folder) for folder in folders], earlier
    differ = fingerprint_differences(recorded, asked)
    before, trials = meta["settings"], settings.get("trials", meta["settings"]["trials"])
    if before["halving"] == "population" and trials != before["trials"]:
        differ.append("settings/trials: the number of members of a population is fixed")
    if base is not None and getattr(base, "epochs", 0) < meta["config"].get("epochs", 0):
        differ.append("config/epochs: they can only grow")
    old = from_plain(experiment.config, dict(meta["config"]), f"{folder}: config")
    current = _sources(experiment, old)
    if "where" not in meta.get("sources", {}):  # a sweep that began before this was recorded
        del current["where"]
    changed = sources.changes_since(meta.get("sources"), current, f"the ledger in {folder}")
    check_none(
        differ,
        f"{folder} contains another sweep",
        "the trials that it has were chosen, trained, and compared by these, which cannot change: "
        "write another folder, or leave out these arguments to continue that sweep",
    )
    check_none(
        [] if force else changed,
        "the experiment changed since this sweep began, so that its trials would not compare",
        f"begin another sweep, or write resume {quoted(folder)} --force, in Python force=True",
    )
    if changed:
        after = sum(trial.status not in OPEN for trial in ledger.trials())
        forced = [*meta.get("forced", []), {"after trials": after, "changes": changed}]
        ledger.set_meta({"sources": current, "forced": forced})


def _by_name(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the rows of a space by the names of its dimensions, as JSON has them."""
    return {row["name"]: row for row in json.loads(to_text(rows))}


# Configurations to try first, and earlier sweeps


a_dict: Accepts = Accepts(
    "a dict of values by dotted path", lambda given: isinstance(given, Mapping)
)


def tries_of(space: Space, base: Any, tries: Any, repeat: bool = False) -> list[Values]:
    """Return the configurations that the user gives, as values of the space.

    Args:
        space: The search space.
        base: The configuration, which has the values that a try does not give.
        tries: A dict by dotted path, a text as for `swept.parsed`, or a sequence of these.
        repeat: Whether equal ones are kept. Default: False.

    Raises:
        ValueError: A value is not in the space, or a path is not swept.
    """
    found = []
    for number, one in enumerate([tries] if isinstance(tries, Mapping | str) else tries):
        text = isinstance(one, str)
        given: Any = parsed(space.swept, one) if text else one
        where = f"--try {one}" if text else f"tries[{number}]"
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
        values[swept.name] = value = converted(swept, value)
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
