"""Surgery: a network made from another one."""

from .replacement import replace

__all__ = ["replace"]
