"""The report's file: there whole, or as it was before."""

import contextlib
import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...files.replacing import replace
from ...page import drawing
from ..reading import read
from ..studies import without_library
from .page import page

NAME = "report.html"


def untold(dimensions: int) -> str:
    """What a report of so many dimensions cannot tell here, and why; '' where it can tell all.

    Raises ImportError where it could not be drawn. Imports nothing: that takes seconds.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise drawing.without_library()
    if dimensions > 1 and importlib.util.find_spec("optuna") is None:
        return f"the report will not say which parameters matter; {without_library()}"
    return ""


@contextlib.contextmanager
def prepared(dimensions: int) -> Iterator[None]:
    """Import what a report of so many dimensions is drawn by, beside what goes on inside.

    It takes seconds, which a sweep can spend on compiling, and is waited for at the end: Python
    must not end within an import. What is not installed is told by `untold`.
    """

    def imported() -> None:
        with contextlib.suppress(ImportError):
            importlib.import_module("matplotlib.backends.backend_svg")
            if dimensions > 1:
                importlib.import_module("optuna.importance")

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
