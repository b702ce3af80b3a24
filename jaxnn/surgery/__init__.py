"""Surgery: a network made from another one."""

from .adapters import add_lora, merge_lora
from .caching import with_cache
from .replacement import replace
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
