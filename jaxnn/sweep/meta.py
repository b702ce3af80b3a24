"""The meta data of a sweep: recorded when it begins, checked when it is resumed, and changed.

A resumed sweep must have the same code, data, and settings that determine its trials. Other
settings, such as the number of trials, the search, and the budget, may change; the ledger records
them in one transaction. A function of a configuration is swept as an experiment.
"""

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from ..experiment import sources
from ..experiment.configuration import from_plain, to_plain, to_record
from ..experiment.experiment import Experiment, Loaded, loaded
from ..files.reading import quoted
from ..fingerprint import fingerprint_differences
from ..html import count
from ..train import Program
from ..train.checkpoint import versions
from ..validation import Accepts, check_none, function, integer, require
from .known import Known, default_try, resolved, tries_of, warm_start
from .ledger import Ledger
from .plan import Planner
from .search import distinct, trial_key
from .settings import BLIND, CHANGEABLE, OBJECT, Settings
from .snapshot import read
from .space import Values
from .structure import check_experiment, space_of
from .tables import OPEN, to_text

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
    tries: Sequence[Any] = (),
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
    tries: Sequence[Any] = (),
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
    """Return what the results of a trial depend on besides its values: code, data, versions."""
    return {
        "modules": sources.modules(experiment),
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


# The experiment of a function

some_config: Accepts = Accepts(
    "a dataclass or an instance of it", lambda config: config is not None, TypeError
)


@dataclasses.dataclass(unsafe_hash=True)
class _WithoutData:
    """A function of a configuration as `Experiment.program`, a function of (config, data)."""

    program: Callable[[Any], Program]

    def __post_init__(self) -> None:
        functools.update_wrapper(self, self.program)

    def __call__(self, config: Any, data: Any) -> Program:
        return self.program(config)


class _GivenData:
    """Data as `Experiment.data`, a function of the configuration; equal if the data are."""

    def __init__(self, data: Any) -> None:
        self._data, self._identity = data, Loaded(data).identity

    def __call__(self, config: Any) -> Any:
        return self._data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _GivenData) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(repr(self._identity[0]))


def as_experiment(given: Any, config: Any, space: Any, data: Any) -> tuple[Experiment[Any], Any]:
    """Return the experiment with this space and data, and the configuration if one is given."""
    base = None if config is None or isinstance(config, type) else config
    kind: Any = config if base is None else type(base)
    if not isinstance(given, Experiment):
        function(given, "the experiment", "write an Experiment, or a function of a configuration")
        name = getattr(given, "__name__", type(given).__name__).strip("<>")
        hint = f"write sweep.run({name}, config=Config, space=...)"
        some_config(config, "the configuration of a function", hint)
        given = Experiment(name, kind, program=given if _takes_data(given) else _WithoutData(given))
    elif config is not None:
        what = f"{given.config.__name__}, the configuration of {given.name}, or an instance of it"
        require(kind is given.config, "config", what, config, error=TypeError)
    changes: dict[str, Any] = {} if space is None else {"space": space}
    if data is not None:
        changes["data"] = data if callable(data) else _GivenData(data)
    return dataclasses.replace(given, **changes) if changes else given, base


def _takes_data(program: Callable[..., Any]) -> bool:
    """Return whether a function can be called with a configuration and data."""
    try:
        inspect.signature(program).bind(None, None)
    except TypeError:
        return False
    return True
