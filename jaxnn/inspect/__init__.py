"""Inspection of networks: parameters, bytes, and FLOPs from shapes alone; and, while they run,
statistics, wrong values, and the reasons of compilations."""

from .checkify import checkify
from .flops import flops
from .nonfinite import first_nonfinite
from .recompiled import Explained, why_recompiled
from .statistics import Moments, Statistics, statistics
from .summary import Row, Summary, summary

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
