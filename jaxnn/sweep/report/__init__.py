"""The report of a sweep: one HTML file under 1.5 MB, written completely or not at all.

`write_report` writes `report.html` to the folder of a sweep; `sweep_report` returns its text. Each
module has some of its sections: `result` (gain, best trials, all trials, programs, settings),
`scores` (best so far, curves, Pareto front, rungs), and `parameters` (importance, parameters,
failures). The script of the page draws the numbers of `plots`.
"""

from pathlib import Path

from ...files import replace_file
from ...html import count, document, escaped, label
from ..snapshot import Sweep
from .parameters import (
    Importance,
    failures,
    importance,
    importance_of,
    parameters,
    shown_order,
)
from .plots import data_of
from .result import headline, programs, settings, trials
from .scores import front, progress, survival

__all__ = ["sweep_report", "write_report"]

FILE = "report.html"


def sweep_report(sweep: Sweep) -> str:
    """Return the report of a sweep as HTML. Equal sweeps have equal reports."""
    found = importance_of(sweep)
    known = isinstance(found, Importance)
    names = shown_order(sweep, found.shares if isinstance(found, Importance) else {})
    data = data_of(sweep, names)
    body = (
        headline(sweep),
        front(sweep),
        progress(sweep),
        importance(found, sweep) if sweep.best else "",
        parameters(sweep, names, known),
        trials(sweep, len(data["trials"]["number"])),
        survival(sweep),
        failures(sweep),
        programs(sweep),
        settings(sweep),
    )
    seeds = f" of {count(sweep.seeds, 'seed')}" if sweep.seeds > 1 else ""
    facts = [
        count(len(sweep.trials), "trial") + seeds,
        f"up to {count(sweep.epochs, 'epoch')}",
        f"{count(len(sweep.dimensions), 'parameter')} by {sweep.facts.get('search', '?')}",
        f"compared by {label(sweep.metric)}",
        sweep.facts.get("device") or "",
    ]
    subtitle = " · ".join(escaped(fact) for fact in facts if fact)
    footer = f"Made from the ledger in {escaped(sweep.folder)}."
    return document(f"Sweep of {sweep.name}", subtitle, "".join(body), footer, data)


def write_report(sweep: Sweep) -> Path:
    """Write `report.html` into the folder of a sweep, and return its path.

    Args:
        sweep: The sweep, as `snapshot.read` returns it.

    Raises:
        OSError: The file cannot be written.
    """
    return replace_file(sweep.folder / FILE, sweep_report(sweep).encode())
