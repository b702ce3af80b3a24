"""The report's file: there whole, or as it was before."""

import contextlib
import importlib
import threading
from pathlib import Path
from typing import Any

from ..files import replace
from ..reading import read
from .page import page

NAME = "report.html"


def prepare(dimensions: int) -> threading.Thread:
    """Import what a report of so many dimensions is drawn by, beside what goes on meanwhile.

    It takes seconds, which a sweep can spend on compiling. What is not installed is told by
    `write`.
    """

    def imported() -> None:
        with contextlib.suppress(ImportError):
            importlib.import_module("matplotlib.backends.backend_svg")
            if dimensions > 1:
                importlib.import_module("optuna.importance")

    thread = threading.Thread(target=imported, daemon=True)
    thread.start()
    return thread


def write(ledger: Any) -> Path:
    """Write `report.html` into the folder of the ledger, whole or not at all; returns its path.

    Raises OSError, with the file and the cause, where it cannot be written.
    """
    sweep = read(ledger)
    return replace(sweep.folder / NAME, page(sweep).encode())
