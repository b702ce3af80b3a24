"""Surgery: functions that make a network from another one."""

from .caching import with_cache
from .replacement import add_lora, merge_lora, replace
from .reshaping import stack_layers, unstack_layers, widen

__all__ = [
    "add_lora",
    "merge_lora",
    "replace",
    "stack_layers",
    "unstack_layers",
    "widen",
    "with_cache",
]
