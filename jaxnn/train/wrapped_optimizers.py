"""Optimizers that wrap others: `partition`, with one per group of parameters, and `with_ema`."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax import lax

from ..core import paths
from ..validation import Accepts, check_none, instance, is_number
from .optimizer import (
    Optimizer,
    SlowState,
    as_pytree,
    optimizer_like,
    states_of,
    updated,
    with_slow_params,
)
from .program import Trained, TrainState, trained_like
from .weights import Weights


def by_pattern(*groups: tuple[str, Any]) -> Any:
    """Return the optimizer of `partition` from pairs of a pattern and its optimizer."""
    optimizers: Any = {str(i): _as_optax(one) for i, (_, one) in enumerate(groups)}
    patterns = [pattern for pattern, _ in groups]
    return optax.partition(optimizers, functools.partial(_labels, patterns))


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
    return Optimizer(by_pattern, *optimizers.items())


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
    if optimizer.factory is not by_pattern:
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
    # Parameters under `nn.Inference`, which no optimizer receives, are None.
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
    hint = (
        f"the trained parameters are {', '.join(groups) or 'none'}; the first pattern that matches "
        'is used, and "**" matches all: train.partition({..., "**": optimizer})'
    )
    check_none(lines, "partition: the patterns do not match the parameters", hint)
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


class AverageState(NamedTuple):
    """The state of the optimizer inside, the average, and the number of steps in it."""

    inner: Any
    average: Any
    steps: jax.Array


class Averaged:
    """The optimizer that `with_ema` makes."""

    inner: Any
    decay: Any

    def __init__(self, optimizer: Any, decay: Any) -> None:
        self.inner, self.decay = as_pytree(optimizer), decay

    def init(self, params: Any) -> AverageState:
        """Return the optimizer's state, and the parameters as their average."""
        # Copy, because a step donates parameters and state, which must not share memory.
        average = jax.tree.map(
            lambda p: jnp.array(p, jnp.promote_types(p.dtype, jnp.float32)), params
        )
        return AverageState(self.inner.init(params), average, jnp.zeros((), jnp.int32))

    def update(
        self, updates: Any, state: AverageState, params: Any = None, **extra: Any
    ) -> tuple[Any, AverageState]:
        """Return the optimizer's updates, and the average with the parameters after them."""
        if params is None:
            raise ValueError(
                "train.with_ema needs the parameters: write "
                "optimizer.update(gradients, opt_state, params)"
            )
        updates, inner = updated(self.inner, updates, state.inner, params, **extra)
        count = state.steps + 1
        # (1 - decay) / (1 - decay**count): the weight of the newest parameters.
        decay = jnp.asarray(self.decay)
        below = jnp.where(decay < 1, decay, jnp.zeros_like(decay))
        share = (1 - below) / -jnp.expm1(count * jnp.log(below))
        share = jnp.where(decay < 1, share, 1 / count.astype(share.dtype))  # the limit
        alone = (count == 1) | (decay == 0)

        def moved(mean: jax.Array, p: jax.Array) -> jax.Array:
            new = p.astype(mean.dtype)
            # 0 * NaN is NaN, so a mean with weight 0 is left out.
            return jnp.where(alone, new, mean + share.astype(mean.dtype) * (new - mean))

        average = jax.tree.map(moved, state.average, optax.apply_updates(params, updates))
        return updates, AverageState(inner, average, count)


def with_ema(optimizer: Any, decay: Any = 0.999) -> Optimizer:
    """Return the optimizer, which also keeps an exponential moving average of the parameters.

    After n steps the average of p_1 .. p_n, the parameters after each, is

        sum_i decay**(n - i) p_i * (1 - decay) / (1 - decay**n)

    as in `optax.ema` with debias=True. The weights sum to 1 at every n, and the initial parameters
    are not included. The average is kept in the optimizer's state, in at least float32;
    `train.ema_params(ts)` returns it. Apply this function to the complete optimizer, because it
    averages the parameters after all updates. Apply `train.dynamic_loss_scale` or
    `train.apply_if_finite` afterwards, so that skipped steps do not change the average.

    Args:
        optimizer: An optax optimizer or a `train.Optimizer`.
        decay: A number in [0, 1). Default: 0.999.

    Raises:
        ValueError: `decay` is out of range.

    Reference: Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992.

    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxnn as nn
    >>> from jaxnn import train
    >>> batch, optimizer = (jnp.ones((4, 2)), jnp.ones(4)), with_ema(optax.adam(1e-3), decay=0.9)
    >>> program = train.Supervised(nn.Dense(1), train.Regression(), optimizer)
    >>> state, step = program.init(jax.random.key(0), batch), train.make_step(program)
    >>> for _ in range(3):
    ...     state, _ = step(state, batch)
    >>> jax.tree.map(jnp.shape, train.ema_params(state).params)
    {'b': (1,), 'w': (2, 1)}
    """
    optimizer_like(optimizer, "with_ema.optimizer")
    _decay(decay, "with_ema.decay")
    return Optimizer(Averaged, optimizer, decay=decay)


def ema_params(ts: TrainState) -> Weights:
    """Return the averaged parameters, in the parameters' types, and the network's state.

    Before the first step, the average equals the parameters. The network's state, such as the
    running statistics of a batch norm, is not averaged.

    Args:
        ts: A state of a program whose optimizer is `train.with_ema`.

    Raises:
        TypeError: `ts` is not a `TrainState`; for example, it is a pytree of parameters.
        ValueError: The optimizer keeps no average, or more than one.
    """
    instance(TrainState, "a train.TrainState", "write ema_params(state) with the state of a run")(
        ts, "ema_params.ts"
    )
    states = states_of(ts.opt_state, AverageState)
    if len(states) != 1:
        found = f"{len(states)} averages" if states else "no average"
        raise ValueError(
            f"the optimizer's state holds {found}; write train.with_ema(optimizer, decay=0.999) "
            "around the whole optimizer, for training too"
        )
    average = _EVALUATED[AverageState](states[0], ts.params)
    params = jax.tree.map(lambda mean, p: mean.astype(p.dtype), average, ts.params)
    return Weights(params, ts.state)


def evaluation_params(trained: Trained) -> Any:
    """Return the parameters with which a network is evaluated, as its optimizer defines them.

    They are the average for `train.with_ema`, the slow parameters for `optax.lookahead`,
    `optax.contrib.schedule_free_eval_params` for schedule-free optimizers, the unperturbed
    parameters for `optax.contrib.sam`, and the parameters themselves for everything else.
    Validation during training, `evaluate`, and `predict` use these parameters.

    Args:
        trained: A `TrainState`; the parameters of other values are returned as they are.

    Returns:
        A pytree like `trained.params`, in the same types.

    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxnn as nn
    >>> from jaxnn import train
    >>> optimizer = optax.contrib.schedule_free_sgd(0.1)
    >>> program = train.Supervised(nn.Dense(1), train.Regression(), optimizer)
    >>> state = program.init(jax.random.key(0), (jnp.ones((4, 2)), jnp.ones(4)))
    >>> jax.tree.map(jnp.shape, evaluation_params(state))
    {'b': (1,), 'w': (2, 1)}
    """
    trained_like(trained, "evaluation_params.trained")
    if not isinstance(trained, TrainState):
        return trained.params
    params = trained.params
    for state in states_of(trained.opt_state, tuple(_EVALUATED)):
        params = _EVALUATED[type(state)](state, params)
    return jax.tree.map(lambda leaf, p: leaf.astype(p.dtype), params, trained.params)


def _schedule_free(state: Any, params: Any) -> Any:
    # Leaf by leaf, because a partition masks the parameters of other optimizers.
    return _where_present(
        lambda z, y: optax.contrib.schedule_free_eval_params(state._replace(z=z), y),
        state.z,
        params,
    )


def _unperturbed(state: Any, params: Any) -> Any:
    if state.cache is None:  # opaque mode keeps no perturbed parameters
        return params
    synchronized = state.steps_since_sync == 0
    return _where_present(lambda c, p: jnp.where(synchronized, p, c), state.cache, params)


def _where_present(function: Any, tree: Any, params: Any) -> Any:
    """Return function(leaf, p), or p if the tree has None or a masked node in place of a leaf.

    It has None in place of parameters under `nn.Inference`.
    """

    def absent(node: Any) -> bool:
        return node is None or isinstance(node, optax.MaskedNode)

    return jax.tree.map(
        lambda leaf, p: p if absent(leaf) else function(leaf, p), tree, params, is_leaf=absent
    )


_EVALUATED: dict[type, Any] = {
    AverageState: lambda state, params: _where_present(lambda a, _: a, state.average, params),
    SlowState: lambda state, params: _where_present(lambda s, _: s, state.slow, params),
    optax.contrib.ScheduleFreeState: _schedule_free,
    optax.contrib.SAMState: _unperturbed,
}


_decay = Accepts(
    "a number in [0, 1)", lambda value: is_number(value) and 0 <= value < 1, traced=True
)
