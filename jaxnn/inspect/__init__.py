"""What a network is, before it runs: rows, parameters, bytes and FLOPs, from shapes alone."""

from .flops import flops
from .summary import Row, Summary, summary

__all__ = ["Row", "Summary", "flops", "summary"]
