"""Inspection of networks: sizes and FLOPs from shapes, and values and compilations of a run."""

from .recompiled import Explained, why_recompiled
from .statistics import Moments, Statistics, statistics
from .summary import Row, Summary, flops, summary
from .value_checks import checkify, first_nonfinite

__all__ = [
    "Explained",
    "Moments",
    "Row",
    "Statistics",
    "Summary",
    "checkify",
    "first_nonfinite",
    "flops",
    "statistics",
    "summary",
    "why_recompiled",
]
