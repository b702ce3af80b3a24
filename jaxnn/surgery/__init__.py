"""Surgery: a network made from another one."""

from .caching import with_cache
from .replacement import add_lora, merge_lora, replace
from .stacking import stack_layers, unstack_layers
from .widening import widen

__all__ = [
    "add_lora",
    "merge_lora",
    "replace",
    "stack_layers",
    "unstack_layers",
    "widen",
    "with_cache",
]
