"""The report's file: there whole, or as it was before."""

from pathlib import Path
from typing import Any

from ..files import replace
from ..reading import read
from .page import page

NAME = "report.html"


def write(ledger: Any) -> Path:
    """Write `report.html` into the folder of the ledger, whole or not at all; returns its path.

    Raises OSError, with the file and the cause, where it cannot be written.
    """
    sweep = read(ledger)
    return replace(sweep.folder / NAME, page(sweep).encode())
