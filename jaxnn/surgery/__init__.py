"""Surgery: functions that make a network from another one."""

from .function_preserving import stack_layers, unstack_layers, widen, with_cache
from .replacement import add_lora, merge_lora, replace

__all__ = [
    "add_lora",
    "merge_lora",
    "replace",
    "stack_layers",
    "unstack_layers",
    "widen",
    "with_cache",
]
