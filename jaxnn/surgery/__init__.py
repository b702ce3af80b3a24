"""Surgery: a network made from another one."""

from .cached import cached
from .replacement import replace
from .stacking import stacked, unstacked

__all__ = ["cached", "replace", "stacked", "unstacked"]
