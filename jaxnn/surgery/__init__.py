"""Surgery: a network made from another one."""

from .cached import cached
from .replacement import replace

__all__ = ["cached", "replace"]
