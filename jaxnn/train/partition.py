"""partition: an optimizer for each group of parameters, by the patterns of their paths."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import optax
from jax import lax

from ..core import paths
from .optimizer import Optimizer, updated, with_slow_params


class Groups:
    """What `partition` gives: pairs of a pattern and its optimizer."""

    def __init__(self, *groups: tuple[str, Any]) -> None:
        patterns = [pattern for pattern, _ in groups]
        self.inner = optax.partition(
            {
                str(number): optax.set_to_zero() if optimizer is None else _as_optax(optimizer)
                for number, (_, optimizer) in enumerate(groups)
            },
            lambda params: _labels(patterns, params),
        )

    def init(self, params: Any) -> Any:
        """The states of all groups."""
        return self.inner.init(params)

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        """The updates of all groups, and their states."""
        return self.inner.update(updates, state, params, **extra)


def partition(optimizers: Mapping[str, Any]) -> Optimizer:
    """Each parameter by the optimizer of the first pattern that its path fits; None freezes.

    In a pattern `*` stands for any text in one segment and `**` for any segments. What is frozen
    has no update, no weight decay and no memory in the optimizer, and a training step computes no
    gradient for it. Raises ValueError where a path fits no pattern, and where a pattern is left
    without any, since nothing fits it or patterns before it take all that do.

    >>> import jax, optax, jax.numpy as jnp, jaxnn as nn
    >>> net = nn.Sequential(nn.Dense(4), nn.LayerNorm())
    >>> params = net.init(jax.random.key(0), jnp.ones((1, 2)))
    >>> optimizer = partition({
    ...     "0/b": None,
    ...     "**/w": optax.adamw(1e-3, weight_decay=0.1),
    ...     "**": optax.adam(1e-3),
    ... })
    >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
    >>> updates[0]["b"].tolist()
    [0.0, 0.0, 0.0, 0.0]
    """
    if not isinstance(optimizers, Mapping) or not optimizers:
        raise TypeError(
            f"partition takes a dict of optimizers by path pattern, got {optimizers!r}; write "
            'train.partition({"**/b": None, "**": optax.adam(1e-3)})'
        )
    for pattern, one in optimizers.items():
        if not isinstance(pattern, str):
            raise TypeError(f"partition: a path pattern is text such as '**/w', got {pattern!r}")
        if one is not None and not (hasattr(one, "init") and hasattr(one, "update")):
            raise TypeError(
                f"partition: {pattern!r} wants an optimizer, or None to freeze; got {one!r}"
            )
    return Optimizer(Groups, *optimizers.items())


def frozen(optimizer: Any, names: Iterable[str]) -> set[str]:
    """The paths among `names` for which an optimizer, or one inside of it, computes nothing."""
    if not isinstance(optimizer, Optimizer):
        return set()
    names = list(names)
    if optimizer.factory is not Groups:
        inside = jax.tree.leaves(
            (optimizer.parts, optimizer.arguments), is_leaf=lambda item: isinstance(item, Optimizer)
        )
        return {name for one in inside for name in frozen(one, names)}
    groups = optimizer.parts
    first = {name: _first([pattern for pattern, _ in groups], name) for name in names}
    found: set[str] = set()
    for number, (_, one) in enumerate(groups):
        mine = [name for name in names if first[name] == number]
        found |= set(mine) if one is None else frozen(one, mine)
    return found


def without_gradient(optimizer: Any, params: Any) -> Any:
    """The parameters, as constants where the optimizer freezes them."""
    still = frozen(optimizer, (paths.text(path) for path, _ in paths.walk(params)))
    if not still:
        return params
    return paths.map_with_path(
        lambda path, leaf: lax.stop_gradient(leaf) if paths.text(path) in still else leaf, params
    )


def _first(patterns: list[str], name: str) -> int | None:
    fits = (i for i, pattern in enumerate(patterns) if paths.matches(pattern, name))
    return next(fits, None)


def _labels(patterns: list[str], params: Any) -> Any:
    """The number of each parameter's group, as text; ValueError where groups and paths miss."""
    names = [paths.text(path) for path, leaf in paths.walk(params) if leaf is not None]
    still = [paths.text(path) for path, leaf in paths.walk(params) if leaf is None]
    first = {name: _first(patterns, name) for name in names}
    lines = [f"{name} fits no pattern" for name in names if first[name] is None]
    for number, pattern in enumerate(patterns):
        if number in first.values():
            continue
        others = [name for name in names if paths.matches(pattern, name)]
        if others:
            lines.append(
                f"{pattern!r} comes after patterns that take all it fits: {', '.join(others)}"
            )
        elif any(paths.matches(pattern, name) for name in still):
            lines.append(
                f"{pattern!r} fits only parameters under nn.Inference, which no optimizer "
                "receives: leave it out"
            )
        else:
            lines.append(f"{pattern!r} fits no parameter")
    if lines:
        raise ValueError(
            "partition: patterns and parameters do not fit each other:\n  "
            + "\n  ".join(lines)
            + f"\nThere are the parameters {', '.join(names) or 'none'}; the first pattern that "
            'fits wins, and "**" fits all: train.partition({..., "**": optimizer})'
        )
    return paths.map_with_path(
        lambda path, leaf: None if leaf is None else str(first[paths.text(path)]), params
    )


def _as_optax(optimizer: Any) -> Any:
    """An optimizer in optax's own form, that takes any further arguments by name."""
    optimizer = with_slow_params(optimizer)
    return optax.GradientTransformationExtraArgs(
        optimizer.init, functools.partial(updated, optimizer)
    )
