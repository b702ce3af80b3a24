"""Validation shared by models. Only concrete numbers are checked; traced ones pass."""

from collections.abc import Collection
from typing import Any

from ..fields import is_traced


def check_sizes(config: Any, least: int, *names: str) -> None:
    """Raise ValueError unless each field is an int >= `least`, or a tuple of such ints."""
    for name in names:
        value = getattr(config, name)
        several = isinstance(value, tuple)
        sizes = value if several else (value,)
        if not sizes or not all(is_traced(n) or (_is_int(n) and n >= least) for n in sizes):
            wanted = f"a tuple of ints >= {least}" if several else f"an int >= {least}"
            raise ValueError(f"{type(config).__name__}.{name} must be {wanted}, got {value!r}")


def check_choice(config: Any, name: str, choices: Collection[str]) -> None:
    """Raise ValueError unless a field is one of the choices."""
    if getattr(config, name) not in choices:
        raise ValueError(
            f"{type(config).__name__}.{name} must be {' or '.join(map(repr, choices))}, got "
            f"{getattr(config, name)!r}"
        )


def check_heads(config: Any) -> None:
    """Raise ValueError unless the width is a multiple of the number of heads."""
    if config.width % config.num_heads:
        raise ValueError(
            f"{type(config).__name__}.num_heads must divide the width, got {config.num_heads} for "
            f"a width of {config.width}"
        )


def _is_int(n: Any) -> bool:
    return isinstance(n, int) and not isinstance(n, bool)
