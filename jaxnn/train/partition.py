"""partition: an optimizer for each group of parameters, by patterns of their paths."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import optax
from jax import lax

from ..core import paths
from ..validation import Accepts
from .optimizer import Optimizer, optimizer_like, updated, with_slow_params


class Groups:
    """The optimizer that `partition` makes, of pairs of a pattern and its optimizer."""

    inner: Any

    def __init__(self, *groups: tuple[str, Any]) -> None:
        patterns = [pattern for pattern, _ in groups]
        self.inner = optax.partition(
            {str(number): _as_optax(optimizer) for number, (_, optimizer) in enumerate(groups)},
            functools.partial(_labels, patterns),
        )

    def init(self, params: Any) -> Any:
        """Return the states of all groups."""
        return self.inner.init(params)

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        """Return the updates of all groups, and their states."""
        return self.inner.update(updates, state, params, **extra)


def partition(optimizers: Mapping[str, Any]) -> Optimizer:
    """Return an optimizer that updates each parameter by the first pattern that matches its path.

    In a pattern, `*` matches any text in one segment, and `**` matches any number of segments.
    Frozen parameters have no updates, no weight decay, and no state in the optimizer, and a
    training step does not compute gradients for them.

    Args:
        optimizers: Dict of optimizers by path pattern. None freezes the parameters.

    Raises:
        TypeError: `optimizers` is not a dict of optimizers or None by pattern.
        ValueError: In `init` or `update`: no pattern matches a path, no path matches a pattern, or
            all paths of a pattern match an earlier one.

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
    _groups(optimizers, "partition.optimizers")
    return Optimizer(Groups, *optimizers.items())


_groups = Accepts(
    "a dict of optimizers by path pattern, None to freeze",
    lambda groups: (
        isinstance(groups, Mapping)
        and bool(groups)
        and all(isinstance(pattern, str) for pattern in groups)
        and all(one is None or optimizer_like.test(one) for one in groups.values())
    ),
    TypeError,
    'write train.partition({{"**/b": None, "**": optax.adam(1e-3)}})',
)


def without_gradient(optimizer: Any, params: Any) -> Any:
    """Return the parameters, of which those that the optimizer freezes are constants."""
    names = [paths.text(path) for path, _ in paths.walk(params)]
    frozen = _frozen(optimizer, names)
    if not frozen:
        return params
    return paths.map_with_path(
        lambda path, leaf: lax.stop_gradient(leaf) if paths.text(path) in frozen else leaf, params
    )


def _frozen(optimizer: Any, names: Iterable[str]) -> set[str]:
    """Return the paths for which an optimizer, or one inside it, computes nothing."""
    if optimizer is None:
        return set(names)
    if not isinstance(optimizer, Optimizer):
        return set()
    if optimizer.factory is not Groups:
        inside = jax.tree.leaves(
            (optimizer.parts, optimizer.arguments), is_leaf=lambda item: isinstance(item, Optimizer)
        )
        return set().union(*(_frozen(one, names) for one in inside))
    patterns = [pattern for pattern, _ in optimizer.parts]
    groups = {name: _first(patterns, name) for name in names}
    return set().union(*(
        _frozen(one, [name for name in names if groups[name] == number])
        for number, (_, one) in enumerate(optimizer.parts)
    ))  # fmt: skip


def _first(patterns: list[str], name: str) -> int | None:
    """Return the number of the first pattern that a path matches."""
    return next((i for i, pattern in enumerate(patterns) if paths.matches(pattern, name)), None)


def _labels(patterns: list[str], params: Any) -> Any:
    """Return the number of each parameter's group, as text."""
    # None is in place of parameters under `nn.Inference`, which no optimizer receives.
    groups = {paths.text(path): None for path, leaf in paths.walk(params) if leaf is not None}
    groups = {name: _first(patterns, name) for name in groups}
    lines = [f"{name} matches no pattern" for name, group in groups.items() if group is None]
    for number, pattern in enumerate(patterns):
        if number not in groups.values():
            others = [name for name in groups if paths.matches(pattern, name)]
            lines.append(
                f"{pattern!r} comes after patterns that match all its parameters: "
                f"{', '.join(others)}"
                if others
                else f"{pattern!r} matches no trained parameter; nn.Inference freezes its own"
            )
    if lines:
        raise ValueError(
            "partition: the patterns do not match the parameters:\n  "
            + "\n  ".join(lines)
            + f"\nThe trained parameters are {', '.join(groups) or 'none'}; the first pattern that "
            'matches is used, and "**" matches all: train.partition({..., "**": optimizer})'
        )
    return paths.map_with_path(
        lambda path, leaf: None if leaf is None else str(groups[paths.text(path)]), params
    )


def _as_optax(optimizer: Any) -> Any:
    """Return an optimizer in optax's form that takes any further arguments by name."""
    if optimizer is None:
        return optax.set_to_zero()
    optimizer = with_slow_params(optimizer)
    return optax.GradientTransformationExtraArgs(
        optimizer.init, functools.partial(updated, optimizer)
    )
