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
from .page import page

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
