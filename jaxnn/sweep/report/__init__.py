"""The report of a sweep: one HTML file under a megabyte, written completely or not at all.

`write_report` puts `report.html` into the folder of a sweep; `sweep_report` returns its text. Its
sections are in a file each: `result` (best trials, programs, settings), `front` (several
objectives), `scores` (best so far, curves), `parameters` (importance, slices, pairs, parallel
coordinates), `rungs` (survival, failures).
"""

import contextlib
import importlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...files.writing import replace_file
from ...html.charts import check_library
from ...html.page import count, document, escaped, label
from ..snapshot import Sweep, read
from .front import front
from .parameters import Importance, importance, importance_of, parameters
from .result import headline, programs, settings
from .rungs import failures, survival
from .scores import progress

__all__ = ["drawing_imports", "sweep_report", "write_report"]

FILE = "report.html"


def sweep_report(sweep: Sweep) -> str:
    """Return the report of a sweep as HTML. Equal sweeps give equal text.

    Raises:
        ImportError: matplotlib is not installed.
    """
    check_library()
    found = importance_of(sweep)
    body = (
        headline(sweep),
        front(sweep),
        progress(sweep),
        importance(found, sweep) if sweep.best else "",
        parameters(sweep, found.shares if isinstance(found, Importance) else {}),
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
    return document(f"Sweep of {sweep.name}", subtitle, "".join(body), footer)


def write_report(ledger: Any) -> Path:
    """Write `report.html` into the folder of a sweep, and return its path.

    Args:
        ledger: Ledger of the sweep, or the sweep that `reading.read` returned.

    Raises:
        OSError: The file cannot be written.
    """
    sweep = ledger if isinstance(ledger, Sweep) else read(ledger)
    return replace_file(sweep.folder / FILE, sweep_report(sweep).encode())


@contextlib.contextmanager
def drawing_imports() -> Iterator[None]:
    """Import what draws a report while the body of the `with` statement runs.

    The import takes seconds, in which a sweep can compile. The end waits for it, since Python must
    not exit during an import.
    """

    def load() -> None:
        with contextlib.suppress(ImportError):
            importlib.import_module("matplotlib.backends.backend_svg")

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()
