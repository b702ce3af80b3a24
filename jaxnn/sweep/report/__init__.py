"""The report of a sweep: one HTML file under a megabyte, which opens from disk."""

from .document import prepared, report, write

__all__ = ["prepared", "report", "write"]
