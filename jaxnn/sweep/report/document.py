"""The whole page, one file that opens from disk and needs no other; written whole or not at all."""

import contextlib
import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...files.replacing import replace
from ...page import drawing
from ...page.document import document
from ...page.words import count, escaped, label
from ..reading import Sweep, read
from .headline import headline
from .importance import Importance, importance, importance_of
from .machine import groups, settings
from .parameters import parameters
from .progress import progress
from .rungs import failures, survival


def page(sweep: Sweep) -> str:
    """The report of a sweep as HTML.

    The same sweep gives the same text. Raises ImportError if matplotlib is not installed.
    """
    drawing.library()
    found = importance_of(sweep)
    weights = found.shares if isinstance(found, Importance) else {}
    body = "".join(
        (
            headline(sweep),
            progress(sweep),
            importance(found, sweep) if sweep.best else "",
            parameters(sweep, weights),
            survival(sweep),
            failures(sweep),
            groups(sweep),
            settings(sweep),
        )
    )
    footer = f"Made from the ledger in {escaped(sweep.folder)}."
    return document(f"Sweep of {sweep.name}", subtitle(sweep), body, footer)


def subtitle(sweep: Sweep) -> str:
    """The sweep on a line."""
    facts = [
        count(len(sweep.trials), "trial")
        + (f" of {count(sweep.seeds, 'seed')}" if sweep.seeds > 1 else ""),
        f"up to {count(sweep.epochs, 'epoch')}",
        f"{len(sweep.dimensions)} parameters by {escaped(sweep.facts.get('search', '?'))}",
        f"compared by {escaped(label(sweep.metric))}",
        escaped(sweep.facts.get("device") or ""),
    ]
    return " · ".join(fact for fact in facts if fact)


NAME = "report.html"


def check_library() -> None:
    """Raise ImportError if a report could not be drawn. Imports nothing: that takes seconds."""
    if importlib.util.find_spec("matplotlib") is None:
        raise drawing.without_library()


@contextlib.contextmanager
def prepared() -> Iterator[None]:
    """Import what a report is drawn by, while the body of the `with` statement runs.

    It takes seconds, which a sweep can spend on compiling. The end waits for it, since Python must
    not exit within an import.
    """

    def imported() -> None:
        with contextlib.suppress(ImportError):
            importlib.import_module("matplotlib.backends.backend_svg")

    thread = threading.Thread(target=imported, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def write(ledger: Any) -> Path:
    """Write `report.html` into the folder of the ledger, whole or not at all; returns its path.

    Raises OSError, with the file and the cause, where it cannot be written.
    """
    sweep = read(ledger)
    return replace(sweep.folder / NAME, page(sweep).encode())
