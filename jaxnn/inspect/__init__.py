"""What a network is, before it runs: rows, parameters, bytes and FLOPs, from shapes alone; and
what is wrong in it as it runs."""

from .checked import checked
from .flops import flops
from .summary import Row, Summary, summary

__all__ = ["Row", "Summary", "checked", "flops", "summary"]
