"""Inspection of networks: sizes and FLOPs from shapes, and values and compilations of a run."""

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
