"""Surgery: a network made from another one."""

from .adapters import adapted, merged
from .cached import cached
from .replacement import replace, replaced
from .stacking import stacked, unstacked
from .widening import widened

__all__ = [
    "adapted",
    "cached",
    "merged",
    "replace",
    "replaced",
    "stacked",
    "unstacked",
    "widened",
]
