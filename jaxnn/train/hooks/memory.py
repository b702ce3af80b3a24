"""The memories of hooks: pytrees of arrays and numbers that checkpoints save and restore."""

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ...explain.text import brief
from ...files.reading import listed
from ..state import by_path, differences


def checked_memory(memory: Any) -> Any:
    """The memory of a hook; TypeError for leaves other than arrays and numbers."""
    for where, leaf in by_path(memory):
        if not isinstance(leaf, bool | int | float | jax.Array | np.ndarray | np.generic):
            raise TypeError(
                "a hook's memory is a pytree of arrays and numbers, which checkpoints can save, "
                f"got {brief(leaf)}{f' at {where}' if where else ''}; keep other values in the "
                "hook that open(run) yields"
            )
    return memory


def check_like(memory: Any, before: Any) -> None:
    """Raise TypeError for a memory of another structure, shapes, or types than the one before."""
    if lines := differences(before, memory, "the memory"):
        checked_memory(memory)
        raise TypeError(
            "a hook's memory keeps its structure, shapes, and types, since checkpoints restore it "
            f"by those that begin(state) returns, but {'; '.join(lines[:3])}; return the whole "
            "memory from begin, with zeros for what is not known yet"
        )


def split(
    memories: Mapping[str, Any], numbers: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The leaves of the hooks' memories by path, as (arrays, numbers).

    Args:
        memories: by label, of arrays and Python numbers, or of shapes.
        numbers: which paths are numbers, if the leaves are shapes.
    """
    leaves = dict(by_path(memories))
    if numbers is None:
        numbers = {path: leaf for path, leaf in leaves.items() if isinstance(leaf, int | float)}
    arrays = {path: leaf for path, leaf in leaves.items() if path not in numbers}
    return arrays, {path: leaf for path, leaf in leaves.items() if path in numbers}


def begun(label: str, hook: Any, state: Any, kept: Mapping[str, Any]) -> Any:
    """The memory of a hook as a checkpoint kept it; as it begins if the checkpoint has none.

    Args:
        label: the hook's name in checkpoints.
        hook: the hook, opened.
        state: the state that the run begins with.
        kept: the arrays and the numbers of all hooks, by path; empty for a new run.

    A memory of another structure in the checkpoint is a warning.
    """
    saved = {**kept.get("arrays", {}), **kept.get("numbers", {})}
    found = {name: leaf for name, leaf in saved.items() if f"{name}/".startswith(f"{label}/")}
    if not found:
        return checked_memory(hook.begin(state))
    begun = jax.eval_shape(hook.begin, state)  # without a second copy of a state
    names = [name for name, _ in by_path({label: begun})]
    if found.keys() != set(names):
        warnings.warn(
            f"the checkpoint has {listed(sorted(found))} of the memory of {hook!r:.200}, which "
            f"begins with {listed(sorted(names)) or 'none'}: it begins again, as in a new run",
            RuntimeWarning,
            stacklevel=2,
        )
        return checked_memory(hook.begin(state))
    return jax.tree.unflatten(jax.tree.structure(begun), [found[name] for name in names])
